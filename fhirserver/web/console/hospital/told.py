"""An AuditEvent as a row that people read: who did what to what, and how it ended."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

INTERACTION = "http://hl7.org/fhir/restful-interaction"
OPERATION = "https://fhirserver.example/fhir/CodeSystem/operation"
PATIENT_ROLE = "1"
MOST_QUERY, MOST_NAMED = 500, 20


@dataclass(frozen=True, slots=True)
class Told:
    """One audit record. `client` is the id of the ClientApplication that acted, "" where none did."""

    id: str
    when: str
    what: str
    """The code of the subtype that names it best: an interaction, or what the record's type is."""
    operation: str
    who: str
    client: str
    person: str
    address: str
    outcome: str
    said: str
    query: str
    patients: tuple[str, ...]
    about: tuple[str, ...]
    more: int
    """How many more things it names than are shown."""


def told_of(resource: Mapping[str, Any]) -> Told:
    """What a record says."""
    agents = [each for each in resource.get("agent", ()) if each.get("requestor")]
    asking = agents[0] if agents else {}
    people = [str(each.get("who", {}).get("display", "")) for each in agents[1:]]
    identifier = str(asking.get("who", {}).get("identifier", {}).get("value", ""))
    entities = resource.get("entity", ())
    named = [
        (str(each["what"]["reference"]), _role(each)) for each in entities if each.get("what", {}).get("reference")
    ]
    patients = [reference for reference, role in named if role == PATIENT_ROLE and reference.startswith("Patient/")]
    about = [reference for reference, _ in named if reference not in patients]
    codes = {each.get("system"): str(each.get("code", "")) for each in resource.get("subtype", ())}
    return Told(
        id=str(resource["id"]),
        when=str(resource.get("recorded", "")),
        what=codes.get(INTERACTION) or str(resource.get("type", {}).get("code", "")),
        operation=codes.get(OPERATION, ""),
        who=str(asking.get("who", {}).get("display") or identifier),
        client=identifier.removeprefix("ClientApplication/") if identifier.startswith("ClientApplication/") else "",
        person=", ".join(dict.fromkeys(each for each in people if each)),
        address=str(asking.get("network", {}).get("address", "")),
        outcome=str(resource.get("outcome", "")),
        said=str(resource.get("outcomeDesc", "")),
        query=next((_query(each) for each in entities if each.get("query")), ""),
        patients=tuple(patients[:MOST_NAMED]),
        about=tuple(about[:MOST_NAMED]),
        more=max(len(patients) - MOST_NAMED, 0) + max(len(about) - MOST_NAMED, 0),
    )


def _role(entity: Mapping[str, Any]) -> str:
    return str(entity.get("role", {}).get("code", ""))


def _query(entity: Mapping[str, Any]) -> str:
    try:
        text = base64.b64decode(str(entity["query"]), validate=True).decode("utf-8", "replace")
    except (binascii.Error, ValueError):
        return ""
    return text if len(text) <= MOST_QUERY else f"{text[:MOST_QUERY]}…"
