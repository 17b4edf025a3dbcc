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

BASE = "https://fhirserver.example/fhir"
APPLICATION = f"{BASE}/NamingSystem/hl7v2-sending-application"
FACILITY = f"{BASE}/NamingSystem/hl7v2-sending-facility"
CERTIFICATE = f"{BASE}/NamingSystem/certificate-sha256"
EXTENSION = f"{BASE}/StructureDefinition/endpoint-hl7v2"
CONNECTION = {"system": "http://terminology.hl7.org/CodeSystem/endpoint-connection-type", "code": "hl7v2-mllp"}
MODES = ("msh", "original", "enhanced", "aa")
MERGES = ("re-point", "keep")


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
    merge: str = ""
    certificates: frozenset[str] = frozenset()
    authorities: Mapping[str, str] = field(default_factory=dict)


def endpoint_resource(organization: str, application: str, facility: str, default: bool) -> Resource:
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
    if default:
        resource["extension"] = [{"url": EXTENSION, "extension": [{"url": "default", "valueBoolean": True}]}]
    return resource


def sender(resource: Resource) -> Sender | None:
    """The Sender of an Endpoint; None for one that is not active, not for HL7v2, or belongs to nobody."""
    reference = resource.get("managingOrganization", {}).get("reference", "")
    if resource.get("status") != "active" or resource.get("connectionType", {}).get("code") != CONNECTION["code"]:
        return None
    if not reference.startswith("Organization/"):
        return None
    values = {system: _values(resource, system) for system in (APPLICATION, FACILITY, CERTIFICATE)}
    said = _settings(resource)
    mode = next(iter(said.get("acknowledgment", ())), "msh")
    return Sender(
        endpoint=str(resource["id"]),
        organization=reference.removeprefix("Organization/"),
        application=next(iter(values[APPLICATION]), ""),
        facility=next(iter(values[FACILITY]), ""),
        default=True in said.get("default", ()),
        timezone=next(iter(said.get("timezone", ())), ""),
        charset=next(iter(said.get("charset", ())), ""),
        acknowledgment=mode if mode in MODES else "msh",
        merge=next((each for each in said.get("merge", ()) if each in MERGES), ""),
        certificates=frozenset(value.lower().replace(":", "") for value in values[CERTIFICATE]),
        authorities=_pairs(said.get("authority", ())),
    )


class Senders:
    """All senders known, the strictest match first; of two alike the one made first, so that nobody takes another's
    over.
    """

    def __init__(self, endpoints: Iterable[Resource]) -> None:
        found = [one for one in map(sender, endpoints) if one is not None]
        self._all = sorted(found, key=lambda s: (-_strictness(s), s.endpoint))

    def __len__(self) -> int:
        return len(self._all)

    def of(self, organization: str) -> Senders:
        """The senders of one organization, where the way in (an authorized HTTP call) says already whose the messages
        are;
        what no Endpoint names is taken as from any sender."""
        own = Senders(())
        anyone = Sender(endpoint="", organization=organization, default=True)
        own._all = [*(one for one in self._all if one.organization == organization and not one.certificates), anyone]
        return own

    def find(self, application: Iterable[str], facility: Iterable[str], certificate: str = "") -> Sender | None:
        """The sender of a message by what MSH-3 and MSH-4 may be called (namespace id, universal id) and the SHA-256
        fingerprint of the client certificate ("" for none). None where nobody claims it."""
        applications, facilities = {a for a in application if a}, {f for f in facility if f}
        for one in self._all:
            if one.certificates and certificate not in one.certificates:
                continue
            if one.application and one.application not in applications:
                continue
            if one.facility and one.facility not in facilities:
                continue
            if one.application or one.facility or one.default or one.certificates:
                return one
        return None


def _strictness(one: Sender) -> int:
    return 8 * bool(one.certificates) + 4 * bool(one.application) + 2 * bool(one.facility) - bool(one.default)


def _values(resource: Resource, system: str) -> list[str]:
    identifiers = resource.get("identifier") or []
    return [i["value"] for i in identifiers if i.get("system") == system and i.get("value")]


def _settings(resource: Resource) -> dict[str, list[Any]]:
    said: dict[str, list[Any]] = {}
    for extension in resource.get("extension") or []:
        if extension.get("url") == EXTENSION:
            for part in extension.get("extension") or []:
                value = next((v for name, v in part.items() if name.startswith("value")), None)
                said.setdefault(part.get("url", ""), []).append(value)
    return said


def _pairs(texts: Iterable[Any]) -> dict[str, str]:
    pairs = (str(text).partition("=") for text in texts)
    return {name.strip(): uri.strip() for name, _, uri in pairs if name.strip() and uri.strip()}
