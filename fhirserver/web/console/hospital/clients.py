"""Client management: every application that asked to be let in, what it asks for, the decision, what it did here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Response as HttpResponse

from fhirserver.fhir import Resource
from fhirserver.fhir.problem import Problem, problem
from fhirserver.rules.authorization import MORE, STEPS
from fhirserver.rules.model import target
from fhirserver.web.console.here import Here
from fhirserver.web.console.hospital.exports import latest_of
from fhirserver.web.console.hospital.permissions import permissions
from fhirserver.web.console.hospital.records import FROM, OUTCOME, TO
from fhirserver.web.console.hospital.told import told_of
from fhirserver.web.console.listing import Filter

TYPE = "ClientAuthorization"
STATUSES = ("waiting-for-approval", "approved", "disabled", "rejected", "withdrawn", "removed")
KINDS = ("production", "test")
FILTERS = (
    Filter("status", "status", STATUSES, "common.status"),
    Filter("kind", "kind", KINDS, "hospital.kind"),
    Filter("more", "pending", ("true",), "hospital.more"),
)
SHOWN = ("approve", "reject", "disable", "enable")
RECENT, FEW = 8, 5


def clients(here: Here) -> HttpResponse:
    """One list of all authorizations of this organization."""
    found = here.list(
        TYPE,
        ("organization", f"Organization/{here.organization}"),
        ("_sort", "-_lastUpdated"),
        find="name:contains",
        filters=FILTERS,
    )
    return here.page("hospital/clients.html", found=found)


def client(here: Here) -> HttpResponse:
    """One client: who asks, why and for what; the decision; the steps so far."""
    authorization = own(here)
    if here.posted:
        action = here.form.get("action", "")
        if action not in SHOWN:
            raise problem("value", here.t("common.error.form"))
        with here.trying():
            here.operate(TYPE, authorization["id"], action, note=here.form.get("note", "").strip())
        if not here.refused:
            name = authorization["clientName"]
            return here.go(here.url("hospital.client", id=authorization["id"]), f"hospital.said.{action}", name=name)
    recent = _recent(here, authorization)
    return here.page(
        "hospital/client.html",
        title=authorization["clientName"],
        one=authorization,
        rows=permissions(here, authorization),
        steps=list(reversed(authorization.get("decision", ()))),
        can=_possible(authorization) if here.place and here.place.role == "admin" else frozenset(),
        recent=None if recent is None else [told_of(each) for each in recent],
        subscriptions=_subscriptions(here, authorization),
        exports=latest_of(here, target(authorization["client"], "ClientApplication"), FEW),
    )


def activity(here: Here) -> HttpResponse:
    """What the client did here: its audit records, the newest first."""
    authorization = own(here)
    found = here.list(
        "AuditEvent",
        ("agent:identifier", _agent(authorization)),
        ("_sort", "-_lastUpdated"),
        base=here.organization,
        filters=(OUTCOME, FROM, TO),
    )
    title = here.t("hospital.activity.of", name=authorization["clientName"])
    return here.page("hospital/activity.html", title=title, one=authorization, found=found, told=told_of)


def own(here: Here) -> Resource:
    """The authorization of the address. Raises Problem(not-found) for that of another organization."""
    found = here.read(TYPE, here.values["id"])
    if target(found.get("organization"), "Organization") != here.organization:
        raise problem("not-found", here.t("common.error.no_page"))
    return found


def _possible(authorization: Mapping[str, Any]) -> frozenset[str]:
    """The steps that its state lets this side take."""
    tables = (STEPS, MORE) if authorization.get("pendingScope") else (STEPS,)
    return frozenset(
        step.name
        for table in tables
        for step in table.values()
        if step.side == "provider" and authorization["status"] in step.before
    )


def _agent(authorization: Mapping[str, Any]) -> str:
    return str(authorization["client"]["reference"])


def _recent(here: Here, authorization: Mapping[str, Any]) -> list[Resource] | None:
    """The last records of the client; None while the index for them is being built, which the first search asks for."""
    query = (("agent:identifier", _agent(authorization)), ("_count", str(RECENT)), ("_sort", "-_lastUpdated"))
    try:
        return here.found("AuditEvent", *query, base=here.organization)
    except Problem as trouble:
        if trouble.status != 503:
            raise
        return None


def _subscriptions(here: Here, authorization: Mapping[str, Any]) -> list[Resource]:
    client = target(authorization["client"], "ClientApplication")
    return here.found("Subscription", ("client:identifier", client), ("_count", "20"), base=here.organization)
