"""Whose messages a sender's are: Endpoint resources of the registry, read into a list that is asked for every message.

FHIR R4: endpoint. An Endpoint for HL7v2 has the connection type hl7v2-mllp, a managing organization, and identifiers
that name the sending application (MSH-3), the sending facility (MSH-4) and client certificates; how to take its
messages stands in the extension endpoint-hl7v2. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fhirserver.fhir import Resource
from fhirserver.rules.endpoint import (
    APPLICATION,
    CERTIFICATE,
    CODES,
    CONNECTION,
    EXTENSION,
    FACILITY,
    SUBJECT,
    fingerprint,
    identified,
    settings,
)


@dataclass(frozen=True, slots=True)
class Sender:
    """One Endpoint as intake sees it. Empty application or facility: any; `default`: what no other Endpoint names."""

    endpoint: str
    organization: str
    application: str = ""
    facility: str = ""
    default: bool = False
    timezone: str = ""
    charset: str = ""
    acknowledgment: str = "msh"
    point: str = "stored"
    merge: str = ""
    certificates: frozenset[str] = frozenset()
    subjects: tuple[frozenset[str], ...] = ()
    authorities: Mapping[str, str] = field(default_factory=dict)

    @property
    def bound(self) -> bool:
        """Whether it is for those only who show a certificate that it names."""
        return bool(self.certificates or self.subjects)

    def shows(self, certificate: str, subject: frozenset[str]) -> bool:
        """Whether it names this certificate: its fingerprint, or parts of its subject."""
        return certificate in self.certificates or any(wanted <= subject for wanted in self.subjects)


def endpoint_resource(
    organization: str, application: str, facility: str, default: bool, timezone: str = ""
) -> Resource:
    """The Endpoint resource that says a sender's messages belong to an organization."""
    identifiers = [{"system": s, "value": v} for s, v in ((APPLICATION, application), (FACILITY, facility)) if v]
    resource: Resource = {
        "resourceType": "Endpoint",
        "status": "active",
        "connectionType": dict(CONNECTION),
        "name": "HL7v2 from " + (" at ".join(v for v in (application, facility) if v) or "any sender"),
        "managingOrganization": {"reference": f"Organization/{organization}"},
        "payloadType": [{"text": "HL7v2"}],
        "address": "mllp://listener",
    }
    if identifiers:
        resource["identifier"] = identifiers
    said: list[Resource] = [{"url": "default", "valueBoolean": True}] if default else []
    said += [{"url": "timezone", "valueString": timezone}] if timezone else []
    if said:
        resource["extension"] = [{"url": EXTENSION, "extension": said}]
    return resource


def sender(resource: Resource) -> Sender | None:
    """The Sender of an Endpoint; None for one that is not active, not for HL7v2, or belongs to nobody."""
    reference = resource.get("managingOrganization", {}).get("reference", "")
    if resource.get("status") != "active" or resource.get("connectionType", {}).get("code") != CONNECTION["code"]:
        return None
    if not reference.startswith("Organization/"):
        return None
    said = settings(resource)
    codes = {name: [each for each in said.get(name, ()) if each in known] for name, known in CODES.items()}
    return Sender(
        endpoint=str(resource["id"]),
        organization=reference.removeprefix("Organization/"),
        application=next(iter(identified(resource, APPLICATION)), ""),
        facility=next(iter(identified(resource, FACILITY)), ""),
        default=True in said.get("default", ()),
        timezone=next(iter(said.get("timezone", ())), ""),
        charset=next(iter(said.get("charset", ())), ""),
        acknowledgment=next(iter(codes["acknowledgment"]), "msh"),
        point=next(iter(codes["acknowledgment-point"]), "stored"),
        merge=next(iter(codes["merge"]), ""),
        certificates=frozenset(fingerprint(value) for value in identified(resource, CERTIFICATE)),
        subjects=tuple(parts_of(value) for value in identified(resource, SUBJECT)),
        authorities=_pairs(said.get("authority", ())),
    )


def parts_of(subject: str) -> frozenset[str]:
    """The parts of a certificate's subject, such as `CN=adt.lakeside.example` and `O=Lakeside`, in any order."""
    parts = (part.partition("=") for part in subject.split(","))
    return frozenset(f"{name.strip()}={value.strip()}" for name, _, value in parts)


class Senders:
    """All senders known, the strictest match first; of two alike the one made first, so that nobody takes another's
    over.
    """

    def __init__(self, endpoints: Iterable[Resource]) -> None:
        found = [one for one in map(sender, endpoints) if one is not None]
        found.sort(key=lambda s: (-_strictness(s), s.endpoint))
        self._bound = [one for one in found if one.bound]
        self._free = [one for one in found if not one.bound]

    def __len__(self) -> int:
        return len(self._bound) + len(self._free)

    def of(self, organization: str) -> Senders:
        """The senders of one organization, where the way in (an authorized HTTP call) says already whose the messages
        are; what no Endpoint names is taken as from any sender."""
        own = Senders(())
        anyone = Sender(endpoint="", organization=organization, default=True)
        own._free = [*(one for one in self._free if one.organization == organization), anyone]
        return own

    def find(
        self, application: Iterable[str], facility: Iterable[str], certificate: str = "", subject: str = ""
    ) -> Sender | None:
        """The sender of a message by what MSH-3 and MSH-4 may be called (namespace id, universal id) and the SHA-256
        fingerprint and subject of the client certificate ("" for none). Whose certificate an Endpoint names is taken
        by such an Endpoint only, whatever the message says. None where nobody claims it."""
        applications, facilities = {a for a in application if a}, {f for f in facility if f}
        parts = parts_of(subject) if subject else frozenset()
        shown = [one for one in self._bound if one.shows(certificate, parts)] if certificate else []
        for one in shown or self._free:
            if one.application and one.application not in applications:
                continue
            if one.facility and one.facility not in facilities:
                continue
            if one.application or one.facility or one.default or one.bound:
                return one
        return None


def _strictness(one: Sender) -> int:
    return 8 * one.bound + 4 * bool(one.application) + 2 * bool(one.facility) - bool(one.default)


def _pairs(texts: Iterable[Any]) -> dict[str, str]:
    pairs = (str(text).partition("=") for text in texts)
    return {name.strip(): uri.strip() for name, _, uri in pairs if name.strip() and uri.strip()}
