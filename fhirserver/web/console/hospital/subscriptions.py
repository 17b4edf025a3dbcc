"""Subscriptions: what applications want to be told of, where to, the decision, and what was delivered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Response as HttpResponse

from fhirserver.fhir import Resource
from fhirserver.fhir.problem import Problem, problem
from fhirserver.rules.subscription import DECISION, STEPS, owner
from fhirserver.web.console.here import Here
from fhirserver.web.console.listing import Filter

TYPE, DELIVERY = "Subscription", "NotificationDelivery"
STATUSES = ("requested", "active", "off", "error")
SENT = ("queued", "retrying", "held", "delivered", "dead-letter", "skipped")
FILTER_CRITERIA = "backport-filter-criteria"
FHIRPATH = "subscription-fhirpath-criteria"
PREVIEWED = 100


def subscriptions(here: Here) -> HttpResponse:
    """All of them, those that wait first where nothing is chosen."""
    found = here.list(
        TYPE,
        ("_sort", "-_lastUpdated"),
        base=here.organization,
        find="criteria:contains",
        filters=(Filter("status", "status", STATUSES, "common.status"),),
    )
    return here.page("hospital/subscriptions.html", found=found, names=_names(here, found.entries), owner=owner)


def subscription(here: Here) -> HttpResponse:
    """One subscription: who wants what, what it would have matched, the decision, a test, the last deliveries."""
    found = here.read(TYPE, here.values["id"], base=here.organization)
    tested: dict[str, Any] | None = None
    if here.posted:
        action = here.form.get("action", "")
        with here.trying():
            if action == "test":
                tested = _said(here.operate(TYPE, found["id"], "test", base=here.organization))
            elif action in STEPS:
                note = here.form.get("note", "").strip()
                here.operate(TYPE, found["id"], action, base=here.organization, note=note)
                said = f"hospital.said.subscription_{action}"
                return here.go(here.url("hospital.subscription", id=found["id"]), said)
            else:
                raise problem("value", here.t("common.error.form"))
    client = _client_of(here, found)
    return here.page(
        "hospital/subscription.html",
        title=str(found.get("criteria", "")),
        one=found,
        client=client,
        conditions=_conditions(found),
        decision=_decision(found),
        preview=_preview(here, found),
        tested=tested,
        recent=_deliveries(here, found["id"]),
        may=bool(here.place and here.place.role == "admin"),
    )


def deliveries(here: Here) -> HttpResponse:
    """What was sent for a subscription; its dead letters are sent once more by a form."""
    one = here.read(TYPE, here.values["id"], base=here.organization)
    if here.posted:
        with here.trying():
            said = _said(here.operate(TYPE, one["id"], "redeliver", base=here.organization))
            return here.go(here.url(here.name, id=one["id"]), "hospital.said.redeliver_all", count=said["queued"])
    found = here.list(
        DELIVERY,
        ("subscription", f"{TYPE}/{one['id']}"),
        ("_sort", "-queued"),
        base=here.organization,
        filters=(Filter("status", "status", SENT, "common.status"),),
    )
    return here.page("hospital/deliveries.html", one=one, found=found, may=_may_resend(here))


def delivery(here: Here) -> HttpResponse:
    """One delivery with its attempts; sent once more by a form."""
    found = here.read(DELIVERY, here.values["delivery"], base=here.organization)
    if found["subscription"]["reference"] != f"{TYPE}/{here.values['id']}":
        raise problem("not-found", here.t("common.error.no_page"))
    if here.posted:
        with here.trying():
            here.operate(DELIVERY, found["id"], "redeliver", base=here.organization)
            return here.go(here.url(here.name, **here.values), "hospital.said.redeliver")
    title = here.t("hospital.delivery.number", number=found["number"])
    return here.page("hospital/delivery.html", title=title, one=found, may=_may_resend(here))


def _may_resend(here: Here) -> bool:
    """$redeliver asks for the right to change the subscription."""
    return here.may("update", TYPE, base=here.organization)


def _preview(here: Here, subscription: Resource) -> dict[str, Any] | None:
    """What it would have matched of the last changes, while it waits; None where it does not wait or cannot be said."""
    if subscription["status"] != "requested":
        return None
    try:
        answer = here.operate(
            TYPE, subscription["id"], "preview", base=here.organization, method="GET", count=PREVIEWED
        )
    except Problem as refusal:
        return {"refused": refusal.issues[0].diagnostics}
    said = _said(answer)
    matches = [part["valueReference"]["reference"] for part in answer["parameter"] if part["name"] == "match"]
    return {"events": said["events"], "matched": said["matched"], "matches": matches}


def _deliveries(here: Here, id: str) -> list[Resource]:
    query = (("subscription", f"{TYPE}/{id}"), ("_sort", "-queued"), ("_count", "5"))
    return here.found(DELIVERY, *query, base=here.organization)


def _client_of(here: Here, subscription: Resource) -> Resource | None:
    """The authorization of the client whose subscription it is."""
    client = owner(subscription)
    return next(iter(_authorizations(here, [client])), None) if client else None


def _names(here: Here, found: list[Resource]) -> dict[str, Resource]:
    """Client id -> its authorization, of the subscriptions of one page."""
    clients = sorted({client for each in found if (client := owner(each))})
    known = _authorizations(here, clients)
    return {str(each["client"]["reference"]).removeprefix("ClientApplication/"): each for each in known}


def _authorizations(here: Here, clients: list[str]) -> list[Resource]:
    if not clients:
        return []
    return here.found(
        "ClientAuthorization",
        ("organization", f"Organization/{here.organization}"),
        ("client", ",".join(f"ClientApplication/{client}" for client in clients)),
        ("_count", str(len(clients))),
    )


def _conditions(subscription: Resource) -> list[tuple[str, str]]:
    """What narrows the criteria: (kind, text) of filters and FHIRPath conditions, wherever they stand."""
    found = []
    places = [subscription, subscription.get("_criteria") or {}, subscription.get("channel") or {}]
    for extension in (each for place in places for each in place.get("extension", ())):
        name = str(extension.get("url", "")).rpartition("/")[2]
        if name in (FILTER_CRITERIA, FHIRPATH):
            found.append((name, str(extension.get("valueString", ""))))
    return found


def _decision(subscription: Resource) -> dict[str, str]:
    found = [each for each in subscription.get("extension", ()) if each.get("url") == DECISION]
    return {part["url"]: str(_value(part)) for each in found for part in each.get("extension", ())}


def _said(answer: Resource) -> dict[str, Any]:
    return {part["name"]: _value(part) for part in answer.get("parameter", ())}


def _value(part: Mapping[str, Any]) -> Any:
    return next((value for name, value in part.items() if name.startswith("value")), None)
