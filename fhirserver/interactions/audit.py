"""Who did what: the facts of an interaction as it happens, and the AuditEvent they become. FHIR R4: auditevent; IHE
BALP 1.1.

A read, a search and a refusal leave their facts in the spool of the process; a write's facts travel in its pending
event, so that no committed write lacks its record. The relay makes the AuditEvents of both. No clinical content is in
one: of a search the query that was sent (BALP wants it), of a read what was read.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from fhirserver.auth.principal import Principal
from fhirserver.fhir import Resource
from fhirserver.fhir.problem import Problem
from fhirserver.interactions.model import Request, Response
from fhirserver.rules.model import CANONICAL

REST = {
    "system": "http://terminology.hl7.org/CodeSystem/audit-event-type",
    "code": "rest",
    "display": "RESTful Operation",
}
INTERACTION = "http://hl7.org/fhir/restful-interaction"
OPERATION = f"{CANONICAL}/CodeSystem/operation"
"""The system of operation names, like $approve, in a record's subtypes."""
DCM = "http://dicom.nema.org/resources/ontology/DCM"
ENTITY = "http://terminology.hl7.org/CodeSystem/audit-entity-type"
ROLE = "http://terminology.hl7.org/CodeSystem/object-role"
REQUEST_ID = {"system": "https://profiles.ihe.net/ITI/BALP/CodeSystem/BasicAuditEntityType", "code": "XrequestId"}
BALP = "https://profiles.ihe.net/ITI/BALP/StructureDefinition"
MOST_SEEN = 1_000
MOST_QUERY = 65_536
"""Characters: as many as a search may have."""
MOST_NAME = 64
OWN = frozenset({"t", "k", "r", "seen", "q", "request", "method", "path"})
"""The facts that are another request's in each record; see `common`."""

# Interaction -> (action, BALP profile, BALP profile where a patient is concerned, role of the client, role of the
# server)
DESTINATION, SOURCE, APPLICATION = "110152", "110153", "110150"
KINDS: Mapping[str, tuple[str, str, str, str, str]] = {
    "read": ("R", "IHE.BasicAudit.Read", "IHE.BasicAudit.PatientRead", DESTINATION, SOURCE),
    "search": ("E", "IHE.BasicAudit.Query", "IHE.BasicAudit.PatientQuery", SOURCE, DESTINATION),
    "create": ("C", "IHE.BasicAudit.Create", "IHE.BasicAudit.PatientCreate", SOURCE, DESTINATION),
    "update": ("U", "IHE.BasicAudit.Update", "IHE.BasicAudit.PatientUpdate", SOURCE, DESTINATION),
    "delete": ("D", "IHE.BasicAudit.Delete", "IHE.BasicAudit.PatientDelete", APPLICATION, SOURCE),
    "operation": ("E", "", "", SOURCE, DESTINATION),
}
# The interaction codes of the table that are none of FHIR's -> FHIR's.
CODES = {"conditional-update": "update", "conditional-patch": "patch", "conditional-delete": "delete"}
CODES |= {"search-compartment": "search-type"}
# Whose success is told elsewhere: writes by their pending event, Bundles by each entry; discovery needs no record.
TOLD_ELSEWHERE = frozenset({"create", "update", "patch", "delete", *CODES, "transaction", "capabilities"}) - {
    "search-compartment"
}


def facts(request: Request, result: Response | Problem, now: datetime) -> dict[str, Any] | None:
    """What is kept of an interaction, None where its record is made elsewhere. JSON, small; keys are short, many
    are written.
    """
    refused = isinstance(result, Problem)
    if not refused and request.interaction in TOLD_ELSEWHERE:
        return None
    found: dict[str, Any] = {
        "t": now.isoformat(),
        "o": request.organization,
        "i": request.interaction,
        "k": request.type,
        "r": request.id and request.id[:MOST_NAME],
        "op": request.operation and request.operation[:MOST_NAME],
        "who": who(request.principal),
        **request.facts,
    }
    if request.query:
        found["q"] = _bounded(request.query)
    if isinstance(result, Problem):
        found["s"] = result.status
        found["why"] = result.issues[0].code
    else:
        found["s"] = result.status
        found["seen"] = list(result.seen[:MOST_SEEN])
    return found


def _bounded(query: Sequence[tuple[str, str]]) -> list[list[str]]:
    """The pairs as far as a record has room: whoever asks must not choose how large it is."""
    kept, room = [], MOST_QUERY
    for name, value in query:
        if room <= 0:
            break
        kept.append([name[:room], value[: max(room - len(name), 0)]])
        room -= len(name) + len(value)
    return kept


def facts_of_change(pending: Mapping[str, Any], change: Mapping[str, Any], organization: str) -> dict[str, Any]:
    """The facts of one change of a pending event: who asked is in the event, written with the change."""
    asked = pending.get("request") or {}
    patched = change["action"] == "update" and asked.get("method") == "PATCH"
    return {
        "who": {"kind": "system", "name": pending.get("message") or "the server"},
        **asked,
        "t": pending["t"],
        "o": organization,
        "i": "patch" if patched else change["action"],
        "k": change["type"],
        "r": change["id"],
        "s": 200,
    }


def who(principal: Principal) -> dict[str, str]:
    """What a record says of who asked."""
    named = {"kind": principal.kind, "id": principal.id, "name": principal.name, "client": principal.client}
    return {key: value for key, value in named.items() if value}


def common(found: Mapping[str, Any], concerned: bool, server: str) -> Resource:
    """The elements of the AuditEvent of facts that are the same for whatever the same caller does in the same way: made
    of nothing in `OWN`. `concerned`: whether a patient is; `server`: the URL of this one.
    """
    interaction = CODES.get(found["i"], found["i"])
    action, profile, patient_profile, client_role, server_role = KINDS[_kind(interaction)]
    name = patient_profile if concerned else profile
    failed = found.get("s", 200) >= 400
    elements: Resource = {}
    if name and not failed:
        elements["meta"] = {"profile": [f"{BALP}/{name}"]}
    elements |= {
        "type": REST,
        "subtype": [coded(INTERACTION, interaction), *([coded(OPERATION, found["op"])] if found.get("op") else [])],
        "action": action,
        "outcome": outcome_code(found.get("s", 200)),
    }
    if failed:
        elements["outcomeDesc"] = f"refused with {found['s']}: {found.get('why', 'error')}"
    elements["agent"] = list(_agents(found, client_role, server_role, server))
    elements["source"] = {"observer": {"display": server}}
    return elements


def _kind(interaction: str) -> str:
    if interaction in ("read", "vread", "history-instance"):
        return "read"
    if interaction.startswith(("search", "history")):
        return "search"
    return {"patch": "update"}.get(interaction, interaction if interaction in KINDS else "operation")


def outcome_code(status: int) -> str:
    """FHIR's outcome codes: success, minor failure (the caller's), serious failure (ours)."""
    return "0" if status < 400 else "4" if status < 500 else "8"


def _agents(found: Mapping[str, Any], client_role: str, server_role: str, server: str) -> Iterator[dict[str, Any]]:
    asked = found.get("who", {})
    yield agent_of(found, {"system": DCM, "code": client_role})
    yield {
        "type": {"coding": [{"system": DCM, "code": server_role}]},
        "who": {"display": server},
        "requestor": False,
        "network": {"address": server, "type": "5"},
    }
    if asked.get("kind") == "user":
        yield {
            "type": {
                "coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ParticipationType", "code": "IRCP"}]
            },
            "who": {"identifier": {"value": f"User/{asked.get('id')}"}, "display": asked.get("name", "")},
            "requestor": True,
        }


def agent_of(found: Mapping[str, Any], kind: Mapping[str, str]) -> dict[str, Any]:
    """The agent that asked: the client, else whoever it was, and its address."""
    asked = found.get("who", {})
    client = asked.get("client") or (asked.get("id") if asked.get("kind") == "client" else "")
    return {
        "type": {"coding": [dict(kind)]},
        "requestor": True,
        "who": _client(client, asked),
        "network": {"address": found.get("address") or "unknown", "type": "2"},
    }


def _client(client: str, asked: Mapping[str, str]) -> dict[str, Any]:
    if client:
        return {"identifier": {"value": f"ClientApplication/{client}"}, "display": asked.get("name") or client}
    return {"display": asked.get("name") or asked.get("kind") or "anonymous"}


def entities(found: Mapping[str, Any], patients: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What an AuditEvent is about: the patients concerned ("Patient/1"), what was asked for."""
    interaction, person = found["i"], {"type": entity_type("1"), "role": role("1")}
    for patient in patients:
        yield {"what": {"reference": patient}, **person}
    if interaction.startswith(("search", "history")) and not found.get("r"):
        text = f"{found.get('method', 'GET')} {found.get('path', '')}"
        pairs = "&".join(f"{name}={value}" for name, value in found.get("q", ()))
        query = b64encode(f"{text}?{pairs}".encode()).decode()
        yield {"type": entity_type("2"), "role": role("24"), "query": query}
    elif found.get("k") and found.get("r") and f"{found['k']}/{found['r']}" not in patients:
        yield {"what": {"reference": f"{found['k']}/{found['r']}"}, "type": entity_type("2"), "role": role("4")}
    if found.get("request"):
        yield {"what": {"identifier": {"value": found["request"]}}, "type": REQUEST_ID}


def coded(system: str, code: str, display: str = "") -> dict[str, str]:
    """A Coding."""
    return {"system": system, "code": code, **({"display": display} if display else {})}


def entity_type(code: str) -> dict[str, str]:
    """A Coding of FHIR's entity types: 1 a person, 2 a thing of the system."""
    return {"system": ENTITY, "code": code}


def role(code: str) -> dict[str, str]:
    """A Coding of FHIR's object roles: 1 patient, 4 resource, 13 security token, 24 query."""
    return {"system": ROLE, "code": code}
