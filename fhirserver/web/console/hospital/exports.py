"""Exports: what applications take out as files, how far they are, and the end of one."""

from __future__ import annotations

from collections.abc import Mapping

from flask import Response as HttpResponse

from fhirserver.fhir import Resource
from fhirserver.rules.bulk_export import OPEN, TYPE
from fhirserver.rules.model import target
from fhirserver.web.console.common.exports import NEWEST, client_of, counted, filters, held, standing, what
from fhirserver.web.console.here import Here

AUTHORIZATION = "ClientAuthorization"
ENDED = {**dict.fromkeys(OPEN, "end"), "completed": "discard"}
"""State -> what $cancel does to an export in it; nothing to one that has ended."""
CLIENTS_OFFERED = 200


def exports(here: Here) -> HttpResponse:
    """All of them, the newest first."""
    latest = _authorizations(here, ("_sort", "-_lastUpdated"), ("_count", str(CLIENTS_OFFERED)))
    wanted = here.asked.get("client", "")
    known = {**latest, **_named(here, {wanted} - {""} - set(latest))}
    names = {client: str(each["clientName"]) for client, each in known.items()}
    offered = dict(sorted(names.items(), key=lambda pair: pair[1].casefold()))
    found = here.list(TYPE, NEWEST, base=here.organization, filters=filters(here, offered))
    known |= _named(here, {client_of(each) for each in found.entries} - {""} - set(known))
    groups = _groups(here, found.entries)
    return here.page(
        "hospital/exports.html",
        found=found,
        known=known,
        what=lambda each: what(here, each, groups),
        client_of=client_of,
        counted=counted,
    )


def export(here: Here) -> HttpResponse:
    """One: who asked for what, how it stands; its end by a form."""
    found = here.read(TYPE, here.values["id"], base=here.organization)
    if here.posted:
        with here.trying():
            here.operate(TYPE, found["id"], "cancel", base=here.organization)
            said = f"hospital.export.said_{ENDED.get(found['status'], 'end')}"
            return here.go(here.url("hospital.export", id=found["id"]), said)
    client = client_of(found)
    return here.page(
        "hospital/export.html",
        title=what(here, found, _groups(here, [found])),
        one=found,
        held=held(found),
        client=_named(here, {client}).get(client) if client else None,
        stands=standing(here, found, here.organization),
        end=ENDED.get(found["status"], "") if here.place and here.place.role == "admin" else "",
    )


def latest_of(here: Here, client: str, most: int) -> list[tuple[Resource, str]]:
    """The newest exports of a client, each with what it is of in words."""
    query = (("client:identifier", client), NEWEST, ("_count", str(most)))
    found = here.found(TYPE, *query, base=here.organization)
    groups = _groups(here, found)
    return [(each, what(here, each, groups)) for each in found]


def _named(here: Here, clients: set[str]) -> dict[str, Resource]:
    """Client id -> its authorization."""
    if not clients:
        return {}
    names = ",".join(f"ClientApplication/{client}" for client in sorted(clients))
    return _authorizations(here, ("client", names), ("_count", str(len(clients))))


def _authorizations(here: Here, *query: tuple[str, str]) -> dict[str, Resource]:
    asked = (("organization", f"Organization/{here.organization}"), *query)
    found = here.found(AUTHORIZATION, *asked, ("_elements", "client,clientName,providerName"))
    return {target(each["client"], "ClientApplication"): each for each in found}


def _groups(here: Here, found: list[Resource]) -> Mapping[str, str]:
    """The names of the groups that these are of, by id."""
    ids = sorted({target(each["group"], "Group") for each in found if "group" in each})
    query = (("_id", ",".join(ids)), ("_elements", "name"), ("_count", str(len(ids))))
    groups = here.found("Group", *query, base=here.organization) if ids else []
    return {each["id"]: str(each.get("name", "")) for each in groups}
