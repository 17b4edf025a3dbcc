"""The exports of an application provider's clients, where they lie: on the bases of the organizations whose data they
take out. How far they are, why one failed, and how its files are fetched.
"""

from __future__ import annotations

from flask import Response as HttpResponse

from fhirserver.rules.bulk_export import TYPE
from fhirserver.web.console.application.answers import id_of
from fhirserver.web.console.application.subscriptions import led, places
from fhirserver.web.console.common.exports import NEWEST, client_of, counted, filters, held, standing, what
from fhirserver.web.console.here import Here

CLIENTS_OFFERED = 200


def exports(here: Here) -> HttpResponse:
    """Leads to those of the organization chosen, or of the first; says so where there is none."""
    return led(here, "application.exports-at", "application/exports_none.html")


def exports_at(here: Here) -> HttpResponse:
    """Those of one organization, the newest first."""
    at = here.values["at"]
    clients = _clients(here, at)
    found = here.list(TYPE, NEWEST, base=at, filters=filters(here, clients))
    return here.page(
        "application/exports.html",
        found=found,
        base=at,
        places=places(here),
        clients=clients,
        what=lambda each: what(here, each),
        client_of=client_of,
        counted=counted,
    )


def export(here: Here) -> HttpResponse:
    """One: what was asked for, how far it is, how its files are fetched."""
    at, id = here.values["at"], here.values["export"]
    found = here.read(TYPE, id, base=at)
    client = client_of(found)
    return here.page(
        "application/export.html",
        title=what(here, found),
        one=found,
        held=held(found),
        base=at,
        place=dict(places(here)).get(at, at),
        client=client,
        clients=_clients(here, at, client),
        stands=standing(here, found, at),
        address=f"{here.server.base(at)}/bulk/{id}",
    )


def _clients(here: Here, at: str, client: str = "") -> dict[str, str]:
    """The names of one's clients, or of one, that an organization knows, by id."""
    query = [("provider", f"Organization/{here.organization}"), ("organization", f"Organization/{at}")]
    query += [("client", f"ClientApplication/{client}")] if client else []
    shown = (("_sort", "-requested"), ("_count", str(CLIENTS_OFFERED)), ("_elements", "client,clientName"))
    found = here.found("ClientAuthorization", *query, *shown)
    named = {id_of(each["client"]): str(each["clientName"]) for each in found}
    return dict(sorted(named.items(), key=lambda pair: pair[1].casefold()))
