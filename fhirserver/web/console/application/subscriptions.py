"""The subscriptions of an application provider's clients, where they lie: on the bases of the organizations that
they are told of. Their state, what was delivered and what was not, and what an owner does about it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from flask import Response as HttpResponse

from fhirserver.auth.access import CLIENT_SYSTEM
from fhirserver.auth.sandbox import is_sandbox
from fhirserver.fhir import Resource
from fhirserver.rules.model import CANONICAL
from fhirserver.rules.subscription import decision, owner
from fhirserver.web.console.application.answers import id_of, parameters, values
from fhirserver.web.console.application.clients import named
from fhirserver.web.console.days import noon
from fhirserver.web.console.here import Here
from fhirserver.web.console.listing import Filter

STATUSES = ("requested", "active", "off", "error")
DELIVERED = ("queued", "retrying", "held", "delivered", "dead-letter", "skipped")
STEPS: Mapping[str, str] = {"pause": "off", "resume": "active"}
FHIRPATH = f"{CANONICAL}/StructureDefinition/subscription-fhirpath-criteria"
LOOKED, MOST_PLACES, MOST_SHOWN = 200, 10, 20
LEAST_BARS, MOST_BARS = 12, 31
SERIES = (
    ("delivered", "good", ("delivered",)),
    ("waiting", "info", ("queued", "retrying", "held")),
    ("dead-letter", "bad", ("dead-letter",)),
)
"""The series of the chart: name, colour, the statuses that it counts."""


def places(here: Here, client: str = "", status: str = "") -> list[tuple[str, str]]:
    """The organizations that clients have asked to be let in, by name: id and name."""
    query = [("provider", f"Organization/{here.organization}"), ("_sort", "-requested"), ("_count", "200")]
    query += [("client", f"ClientApplication/{client}")] if client else []
    query += [("status", status)] if status else []
    found = here.found("ClientAuthorization", *query, ("_elements", "organization,organizationName"))
    named_ = {id_of(each["organization"]): str(each.get("organizationName", "")) for each in reversed(found)}
    return sorted(named_.items(), key=lambda place: place[1].casefold())


def subscriptions(here: Here) -> HttpResponse:
    """Leads to those of the organization chosen, or of the first; says so where there is none."""
    return led(here, "application.subscriptions-at", "application/subscriptions_none.html")


def led(here: Here, screen: str, none: str) -> HttpResponse:
    """Leads to a screen of the organization chosen, or of the first; shows the template `none` where there is none."""
    known = places(here)
    wanted = here.asked.get("at", "")
    at = wanted if wanted in dict(known) else known[0][0] if known else ""
    return here.go(here.url(screen, at=at)) if at else here.page(none)


def subscriptions_at(here: Here) -> HttpResponse:
    """Those of one organization."""
    at = here.values["at"]
    found = here.list(
        "Subscription",
        ("_sort", "-_lastUpdated"),
        base=at,
        find="criteria:contains",
        filters=(Filter("status", "status", STATUSES, "common.status"),),
    )
    known = places(here)
    return here.page(
        "application/subscriptions.html", found=found, base=at, places=known, owners=_owners(here, found.entries)
    )


def _owners(here: Here, found: Iterable[Resource]) -> dict[str, str]:
    """The names of the clients whose subscriptions these are."""
    ids = sorted({owner(each) for each in found} - {""})
    clients = here.found("ClientApplication", ("_id", ",".join(ids)), ("_elements", "name")) if ids else []
    return {each["id"]: each["name"] for each in clients}


def of_client(here: Here) -> HttpResponse:
    """Those of one client, at every organization that knows it."""
    client = named(here)
    known = places(here, client["id"])
    mine = ("client:identifier", f"{CLIENT_SYSTEM}|{client['id']}")
    found = []
    for at, name in known[:MOST_PLACES]:
        query = [] if is_sandbox(at) else [mine]
        for each in here.found(
            "Subscription", *query, ("_sort", "-_lastUpdated"), ("_count", str(MOST_SHOWN)), base=at
        ):
            found.append({"at": at, "place": name, "subscription": each})
    return here.page(
        "application/client_subscriptions.html", client=client, found=found, places=known, most=MOST_PLACES,
        admin=here.may("update", "ClientApplication"),
    )  # fmt: skip


def subscription(here: Here, **told: Any) -> HttpResponse:
    """One: what was asked for, where it stands, what was delivered; `told` are answers to what was just done."""
    at, id = here.values["at"], here.values["subscription"]
    found = here.read("Subscription", id, base=at)
    whose = ("subscription", f"Subscription/{id}")
    listed = here.list(
        "NotificationDelivery",
        whose,
        ("_sort", "-queued"),
        base=at,
        filters=(Filter("status", "status", DELIVERED, "common.status"),),
    )
    latest = here.found(
        "NotificationDelivery", whose, ("_sort", "-queued"), ("_count", str(LOOKED)), ("_elements", "status,occurred"),
        base=at,
    )  # fmt: skip
    times, counted = chart(latest, here.zone)
    client = owner(found)
    return here.page(
        "application/subscription.html",
        title=found.get("criteria", id),
        subscription=found,
        base=at,
        place=dict(places(here)).get(at, at),
        client=client,
        owners=_owners(here, [found]),
        decision=decision(found),
        condition=condition(found),
        found=listed,
        times=times,
        series=[(name, tone, counted[name]) for name, tone, _ in SERIES],
        looked=len(latest),
        dead=sum(each["status"] == "dead-letter" for each in latest),
        tried=told.get("tried"),
        preview=told.get("preview"),
        why=told.get("why"),
        sandbox=is_sandbox(at),
        admin=here.may("update", "Subscription", base=at),
    )


def condition(subscription: Resource) -> str:
    """The FHIRPath that a subscription is narrowed by."""
    found = [each.get("valueString", "") for each in subscription.get("extension", ()) if each.get("url") == FHIRPATH]
    return str(found[0]) if found else ""


def chart(deliveries: Sequence[Resource], zone: tzinfo = UTC) -> tuple[list[str], dict[str, list[int]]]:
    """The deliveries over time, by the hour where they lie within a day and by the viewer's day otherwise: instants,
    and the numbers of each of SERIES.
    """
    instants = [datetime.fromisoformat(each["occurred"]).astimezone(zone) for each in deliveries]
    if not instants:
        return [], {name: [] for name, _, _ in SERIES}
    hourly = (max(instants) - min(instants)).total_seconds() <= 86_400
    bar = timedelta(hours=1) if hourly else timedelta(days=1)

    def cut(instant: datetime) -> str:
        return (
            instant.astimezone(UTC).isoformat()[:13] + ":30:00Z"
            if hourly
            else noon(instant.astimezone(zone).date(), zone)
        )

    counted = Counter((cut(instant), each["status"]) for instant, each in zip(instants, deliveries, strict=True))
    back = min(max(LEAST_BARS, (max(instants) - min(instants)) // bar + 2), MOST_BARS)
    bars = [cut(max(instants) - step * bar) for step in reversed(range(back))]
    numbers = {
        name: [sum(counted[start, status] for status in statuses) for start in bars] for name, _, statuses in SERIES
    }
    return bars, numbers


def act(here: Here) -> HttpResponse:
    """What an owner does with a subscription: pause, resume, test, preview, redeliver; in a sandbox, decides."""
    at, id = here.values["at"], here.values["subscription"]
    wanted = here.form.get("do", "")
    tried: Mapping[str, Any] | None = None
    preview: Mapping[str, Any] | None = None
    why: Mapping[str, Any] | None = None
    said = ""
    with here.trying():
        if wanted in STEPS:
            _set(here, at, id, STEPS[wanted])
            said = f"application.subscription.{wanted}d"
        elif wanted in ("approve", "reject"):
            here.operate("Subscription", id, wanted, base=at, note=here.form.get("note", ""))
            said = f"application.subscription.{wanted}ed"
        elif wanted == "test":
            tried = values(here.operate("Subscription", id, "test", base=at).get("parameter", ()))
        elif wanted == "preview":
            preview = values(here.operate("Subscription", id, "preview", base=at).get("parameter", ()))
        elif wanted == "why":
            told = here.operate("Subscription", id, "why", base=at, reference=here.form.get("reference", "").strip())
            why = {
                **values(told.get("parameter", ())),
                "checks": [values(p["part"]) for p in parameters(told, "check")],
            }
        elif wanted == "redeliver":
            told = values(here.operate("Subscription", id, "redeliver", base=at).get("parameter", ()))
            return here.go(_address(here), said="application.subscription.redelivered", count=told.get("queued", 0))
    if here.refused or not said:
        return subscription(here, tried=tried, preview=preview, why=why)
    return here.go(_address(here), said=said)


def _address(here: Here) -> str:
    return here.url("application.subscription", at=here.values["at"], subscription=here.values["subscription"])


def _set(here: Here, at: str, id: str, status: str) -> None:
    answer = here.ask("read", "Subscription", id, base=at)
    changed = {**(answer.content() or {}), "status": status}
    here.ask("update", "Subscription", id, base=at, body=changed, if_match=str(answer.version or ""))


def rotate(here: Here) -> HttpResponse:
    """Another signing secret, shown once."""
    at, id = here.values["at"], here.values["subscription"]
    with here.trying():
        told = values(here.operate("Subscription", id, "rotate-secret", base=at).get("parameter", ()))
    if here.refused:
        return subscription(here)
    return here.page(
        "application/subscription_secret.html", title=here.t("application.secret.title"), secret=told["secret"],
        until=told.get("previousUntil", ""), to=_address(here), made=False,
    )  # fmt: skip


def delete(here: Here) -> HttpResponse:
    """Ends a subscription, once DELETE was typed."""
    at, id = here.values["at"], here.values["subscription"]
    with here.trying():
        here.require_word("DELETE")
        here.ask("delete", "Subscription", id, base=at)
    if here.refused:
        return subscription(here)
    return here.go(here.url("application.subscriptions-at", at=at), said="application.subscription.deleted")


def delivery(here: Here) -> HttpResponse:
    """One notification: what it told of, and each attempt; sent once more by a form."""
    at, id = here.values["at"], here.values["delivery"]
    if here.posted:
        with here.trying():
            here.operate("NotificationDelivery", id, "redeliver", base=at)
        if not here.refused:
            return here.go(here.url(here.name, **here.values), said="application.delivery.queued")
    found = here.read("NotificationDelivery", id, base=at)
    return here.page(
        "application/delivery.html",
        title=here.t("application.delivery.of", number=found["number"]),
        delivery=found,
        back=_address(here),
        admin=here.may("update", "Subscription", base=at),
    )
