"""The audit record repository: who did what here, which application saw which patient, whether the seals hold."""

from __future__ import annotations

from typing import Any

from flask import Response as HttpResponse

from fhirserver.fhir import Resource
from fhirserver.web.console.here import Here
from fhirserver.web.console.hospital.told import told_of
from fhirserver.web.console.listing import Filter, Listing

TYPE = "AuditEvent"
DCM = "http://dicom.nema.org/resources/ontology/DCM"
KINDS = tuple(f"{DCM}|{code}" for code in ("110107", "110106", "110114", "110113"))
REST = "http://terminology.hl7.org/CodeSystem/audit-event-type|rest"
OUTCOME = Filter("outcome", "outcome", ("0", "4", "8"), "hospital.outcome")
ACTION = Filter("action", "action", ("C", "R", "U", "D", "E"), "hospital.action")
PATIENT = Filter("patient", "patient", (), "hospital.records.patient", typed="text")
FROM = Filter("from", "date", (), "hospital.from", typed="date", prefix="ge")
TO = Filter("to", "date", (), "hospital.to", typed="date", prefix="le")
LATEST = ("_sort", "-_lastUpdated")
MOST_CLIENTS = 100


def records(here: Here) -> HttpResponse:
    """All records, the newest first."""
    words = {code: here.t(f"hospital.records.kinds.{code.rpartition('|')[2]}") for code in (REST, *KINDS)}
    kind = Filter("kind", "type", (REST, *KINDS), "hospital.records.kind", words)
    filters = (_client(here), PATIENT, kind, ACTION, OUTCOME, FROM, TO)
    found = here.list(TYPE, LATEST, base=here.organization, filters=filters)
    return here.page("hospital/records.html", found=found, told=told_of)


def record(here: Here) -> HttpResponse:
    """One record, in words and as it is stored."""
    found = here.read(TYPE, here.values["id"], base=here.organization)
    return here.page("hospital/record.html", one=told_of(found), resource=found)


def patient(here: Here) -> HttpResponse:
    """Which applications and people saw a patient."""
    asked = here.asked.get("patient", "").strip().removeprefix("Patient/")[:64]
    found, who = Listing(here.url("hospital.patient")), {}
    if asked:
        filters = (Filter("patient", "patient", (), "hospital.records.patient", typed="text"), _client(here))
        found = here.list(TYPE, LATEST, base=here.organization, filters=filters)
        who = _seen_by(found)
    return here.page("hospital/patient.html", asked=asked, found=found, who=who, told=told_of)


def seals(here: Here) -> HttpResponse:
    """Whether the last seals hold: the chain by which a change of the records shows."""
    answer: Resource = {}
    with here.trying():
        answer = here.operate(TYPE, None, "verify-seals", base=here.organization, method="GET", count=_count(here))
    said: dict[str, list[Any]] = {}
    for part in answer.get("parameter", ()):
        said.setdefault(part["name"], []).append(next(value for name, value in part.items() if name != "name"))
    once = {name: values[0] for name, values in said.items()}
    return here.page("hospital/seals.html", said=once, findings=said.get("finding", []))


def _seen_by(found: Listing) -> dict[tuple[str, str], int]:
    """Who is in the records of a page: (client's id or "", name) -> how often."""
    who: dict[tuple[str, str], int] = {}
    for each in map(told_of, found.entries):
        key = (each.client, " / ".join(dict.fromkeys(name for name in (each.who, each.person) if name)))
        who[key] = who.get(key, 0) + 1
    return who


def _client(here: Here) -> Filter:
    """The choice of an application: those that ever asked to be let in, the latest first."""
    asked = here.found(
        "ClientAuthorization",
        ("organization", f"Organization/{here.organization}"),
        ("_sort", "-requested"),
        ("_count", str(MOST_CLIENTS)),
        ("_elements", "client,clientName"),
    )
    words = {str(each["client"]["reference"]): str(each["clientName"]) for each in asked}
    return Filter("client", "agent:identifier", tuple(words), "hospital.records.client", words)


def _count(here: Here) -> int | None:
    text = here.asked.get("count", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 5 else None
