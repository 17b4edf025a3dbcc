"""Records of what is no FHIR interaction: tokens, sign-ins, credentials refused, messages taken in, notifications sent.

IHE IUA ITI-71 in the form of BALP (IUA.71), DICOM PS3.15 A.5. Nothing secret is taken: of a token request only the
parameters named here, of a token its id.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from fhirserver.fhir import Resource
from fhirserver.interactions.audit import DCM, agent_of, coded, entity_type, outcome_code, role

IHE_EVENT = "urn:ihe:event-type-code"
V2_EVENT = "http://terminology.hl7.org/CodeSystem/v2-0003"
LIFECYCLE = "http://terminology.hl7.org/CodeSystem/iso-21089-lifecycle"
IHE_AGENT = "https://profiles.ihe.net/ITI/BALP/CodeSystem/UserAgentTypes"
ITI_71 = "https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.IUA.71"

ASKED = ("grant_type", "client_id", "scope", "redirect_uri", "aud", "client_assertion_type", "token_type_hint")
"""The parameters of a token request that are recorded: none of them is a secret."""
MOST_TEXT = 1_000
OWN = frozenset({"t", "k", "r", "seen", "asked", "token", "request"})
"""The facts that are others in each record; see `common`."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of record: its type, subtype, action, and what the asking side and this server are in it."""

    type: Mapping[str, str]
    subtype: Mapping[str, str]
    action: str
    asking: Mapping[str, str]
    server: Mapping[str, str]
    profile: str = ""


_AUTHENTICATION = coded(DCM, "110114", "User Authentication")
_APPLICATION = coded(DCM, "110150", "Application")
_SOURCE, _DESTINATION = coded(DCM, "110153", "Source Role ID"), coded(DCM, "110152", "Destination Role ID")
_AUTHORITY = coded(IHE_AGENT, "AuthzOauthService", "OAuth authorization service")

KINDS: Mapping[str, Kind] = {
    "token": Kind(_AUTHENTICATION, coded(IHE_EVENT, "ITI-71"), "E", _APPLICATION, _AUTHORITY, ITI_71),
    "revocation": Kind(_AUTHENTICATION, coded(DCM, "110137", "User Security Attributes Changed"), "E", _APPLICATION,
                       _AUTHORITY),
    "introspection": Kind(_AUTHENTICATION, coded(IHE_EVENT, "ITI-102"), "E", _APPLICATION, _AUTHORITY),
    "login": Kind(_AUTHENTICATION, coded(DCM, "110122", "Login"), "E", _APPLICATION, _AUTHORITY),
    "logout": Kind(_AUTHENTICATION, coded(DCM, "110123", "Logout"), "E", _APPLICATION, _AUTHORITY),
    "consent": Kind(_AUTHENTICATION, coded(DCM, "110136", "Security Roles Changed"), "E", _APPLICATION, _AUTHORITY),
    "password": Kind(_AUTHENTICATION, coded(DCM, "110137", "User Security Attributes Changed"), "E", _APPLICATION,
                     _AUTHORITY),
    "keys": Kind(coded(DCM, "110113", "Security Alert"), coded(DCM, "110132", "Use of a Restricted Function"), "C",
                 _APPLICATION, _AUTHORITY),
    "credentials": Kind(_AUTHENTICATION, coded(DCM, "110126", "Node Authentication"), "E", _APPLICATION, _AUTHORITY),
    "purge": Kind(coded(LIFECYCLE, "destroy", "Destroy/Delete Record Lifecycle Event"),
                  coded(DCM, "110110", "Patient Record"), "D", _APPLICATION, _APPLICATION),
    "message": Kind(coded(DCM, "110107", "Import"), coded(V2_EVENT, "unknown"), "C", _SOURCE, _DESTINATION),
    "delivery": Kind(coded(DCM, "110106", "Export"), coded(IHE_EVENT, "notification"), "R", _DESTINATION, _SOURCE),
}  # fmt: skip


def security_facts(kind: str, now: datetime, organization: str, **more: Any) -> dict[str, Any]:
    """The facts of one record, as they go into the spool. Raises KeyError for a kind that there is not.

    status: as HTTP has it (default 200); why: a code for a refusal, never a text that somebody typed; who: kind, id,
    name and client of who asked; address: whence or whither; asked: a token request's parameters, of which only the
    harmless are kept; token: the id of a token issued; type, id: the resource concerned; seen: others, as Type/id;
    event: an HL7v2 event; request: the request's id.
    """
    assert kind in KINDS, kind
    asked = more.pop("asked", None)
    found = {"t": now.isoformat(), "o": organization, "i": "security", "sec": kind, "s": more.pop("status", 200)}
    for name, key in (("type", "k"), ("id", "r")):
        if name in more:
            found[key] = more.pop(name)
    found |= {name: value for name, value in more.items() if value}
    if asked:
        found["asked"] = [[name, str(asked[name])[:MOST_TEXT]] for name in ASKED if asked.get(name)]
    return found


def common(found: Mapping[str, Any], concerned: bool, server: str) -> Resource:
    """The elements of the AuditEvent of such facts that are made of nothing in `OWN`."""
    kind, status = KINDS[found["sec"]], int(found.get("s", 200))
    elements: Resource = {}
    if kind.profile and status < 400:
        elements["meta"] = {"profile": [kind.profile]}
    elements |= {
        "type": dict(kind.type),
        "subtype": [coded(V2_EVENT, found["event"]) if found.get("event") else dict(kind.subtype)],
        "action": kind.action,
        "outcome": outcome_code(status),
    }
    if status >= 400:
        elements["outcomeDesc"] = f"refused with {status}: {found.get('why', 'error')}"
    elif found.get("why"):
        elements["outcomeDesc"] = str(found["why"])
    elements["agent"] = [
        agent_of(found, kind.asking),
        {
            "type": {"coding": [dict(kind.server)]},
            "who": {"display": server},
            "requestor": False,
            "network": {"address": server, "type": "5"},
        },
    ]
    elements["source"] = {"observer": {"display": server}}
    return elements


def entities(found: Mapping[str, Any], patients: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What such an AuditEvent is about: the patients concerned ("Patient/1"), a token, what was asked for."""
    for patient in patients:
        yield {"what": {"reference": patient}, "type": entity_type("1"), "role": role("1")}
    if found.get("asked"):
        query = b64encode(urlencode([tuple(pair) for pair in found["asked"]]).encode()).decode()
        yield {"type": entity_type("2"), "role": role("24"), "query": query}
    if found.get("token"):
        what = {"identifier": {"value": f"urn:ietf:params:oauth:jti:{found['token']}"}}
        yield {"what": what, "type": entity_type("2"), "role": role("13")}
    names = [f"{found['k']}/{found['r']}"] if found.get("k") and found.get("r") else []
    for name in dict.fromkeys([*names, *found.get("seen", ())]):
        if name not in patients:
            yield {"what": {"reference": name}, "type": entity_type("2"), "role": role("4")}
