"""The audit record repository: who did what here, which application saw which patient, whether the seals hold."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
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
_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")


def records(here: Here) -> HttpResponse:
    """All records, the newest first."""
    words = {code: here.t(f"hospital.records.kinds.{code.rpartition('|')[2]}") for code in (REST, *KINDS)}
    kind = Filter("kind", "type", (REST, *KINDS), "hospital.records.kind", words)
    client = _client(here)
    filters = (client, PATIENT, kind, ACTION, OUTCOME, FROM, TO)
    found = here.list(TYPE, LATEST, base=here.organization, filters=filters)
    return here.page("hospital/records.html", found=found, told=told_of, names=client.words)


def record(here: Here) -> HttpResponse:
    """One record, in words and as it is stored."""
    found = here.read(TYPE, here.values["id"], base=here.organization)
    return here.page("hospital/record.html", one=told_of(found), resource=found)


def patient(here: Here) -> HttpResponse:
    """Which applications and people saw a patient, who is named by id or by a number."""
    asked = here.asked.get("patient", "").strip().removeprefix("Patient/")[:64]
    found, client, known = Listing(here.url("hospital.patient")), _client(here), _patients(here, asked)
    if known or _ID.fullmatch(asked):
        about = f"Patient/{known[0]['id'] if known else asked}"
        asking = Filter("patient", "", (), "hospital.records.patient", typed="text")
        found = here.list(TYPE, ("patient", about), LATEST, base=here.organization, filters=(client,))
        found = replace(found, filters=(asking,), chosen={**found.chosen, "patient": asked})
    return here.page(
        "hospital/patient.html",
        asked=asked,
        known=known,
        found=found,
        who=_seen_by(found, client.words),
        told=told_of,
        names=client.words,
        named=_named,
    )


def _patients(here: Here, asked: str) -> list[Resource]:
    """The patients that a text may mean: the one with this id, else those with this number."""
    if not asked:
        return []
    base, few = here.organization, ("_count", "5")
    by_id = here.found("Patient", ("_id", asked), base=base) if _ID.fullmatch(asked) else []
    return by_id or here.found("Patient", ("identifier", _plain(asked)), few, base=base)


def _plain(text: str) -> str:
    return "".join(f"\\{sign}" if sign in ",|$\\" else sign for sign in text)


def _named(patient: Resource) -> str:
    """The name of a patient for a person's eyes."""
    for name in patient.get("name", ()):
        text = name.get("text") or " ".join([*name.get("given", ()), name.get("family", "")]).strip()
        if text:
            return str(text)
    return f"Patient/{patient['id']}"


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


def _seen_by(found: Listing, names: Mapping[str, str]) -> dict[str, int]:
    """Who is in the records of a page: name -> how often."""
    who: dict[str, int] = {}
    for each in map(told_of, found.entries):
        client = names.get(f"ClientApplication/{each.client}", each.who)
        key = " / ".join(dict.fromkeys(name for name in (client, each.person) if name))
        if not key.startswith("InboundMessage/"):
            who[key] = who.get(key, 0) + 1
    return dict(sorted(who.items(), key=lambda one: -one[1]))


def _client(here: Here) -> Filter:
    """The choice of an application: those that ever asked to be let in, those decided on or asking lately first."""
    asked = here.found(
        "ClientAuthorization",
        ("organization", f"Organization/{here.organization}"),
        ("_sort", "-_lastUpdated"),
        ("_count", str(MOST_CLIENTS)),
        ("_elements", "client,clientName"),
    )
    words = {str(each["client"]["reference"]): str(each["clientName"]) for each in asked}
    return Filter("client", "agent:identifier", tuple(words), "hospital.records.client", words)


def _count(here: Here) -> int | None:
    text = here.asked.get("count", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 5 else None
