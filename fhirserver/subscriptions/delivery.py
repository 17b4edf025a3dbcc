"""NotificationDelivery resources: made by the relay, moved on by deliveries, found by subscription.

One lies in the database as any other resource, without a history. Its id is made of the subscription's and the event's
number, so that the deliveries of a subscription lie in their order in the index that is read to send them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fhirserver.auth.access import CLIENT_SYSTEM, everything
from fhirserver.fhir import Resource
from fhirserver.fhir.instants import instant_text
from fhirserver.interactions.model import Server
from fhirserver.interactions.versions import version_of
from fhirserver.search.query import References
from fhirserver.store.database import translated
from fhirserver.store.model import Change, Stored
from fhirserver.store.search import compile_search, find

TYPE = "NotificationDelivery"
UNFINISHED = ("queued", "retrying", "held")
MOST_ATTEMPTS = 20
REDELIVERY = "redelivery/"
"""How the lane of a delivery that stands outside the order begins."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A NotificationDelivery and the version that it was read in."""

    version: Stored
    resource: Resource

    @property
    def lane(self) -> str:
        """What it is in order with."""
        return str(self.resource["lane"])

    @property
    def number(self) -> int:
        """The event's number in its subscription."""
        return int(self.resource["number"])

    def due(self, now: datetime) -> bool:
        """Whether its next attempt has its time."""
        return str(self.resource.get("nextAttempt", "")) <= instant_text(now)


def delivery_id(subscription: str, number: int) -> str:
    """The id of a subscription's delivery of that number; ids sort as numbers do."""
    stem = subscription if len(subscription) <= 50 else hashlib.sha256(subscription.encode()).hexdigest()[:40]
    return f"{stem}.{number:012d}"


def counter(organization: str, subscription: str) -> str:
    """The name of the counter that numbers a subscription's events."""
    return f"{organization}/Subscription/{subscription}"


def last_number(server: Server, organization: str, subscription: str) -> int:
    """The number of a subscription's latest event, 0 before the first."""
    with translated():
        found = server.store.database.collection("counters").find_one({"_id": counter(organization, subscription)})
    return int(found["n"]) if found else 0


def instant(written: str) -> datetime:
    """The instant that a FHIR instant says."""
    return datetime.fromisoformat(written)


def new(
    subscription: str, client: str, number: int, event: Mapping[str, Any], focus: Sequence[str], **more: Any
) -> Resource:
    """A delivery that waits for its first attempt. `focus` are the references that matched; `more` goes in as it is."""
    changes = [
        {
            "reference": {"reference": f"{change['type']}/{change['id']}"},
            "version": change["version"],
            "action": change["action"],
            "focus": f"{change['type']}/{change['id']}" in focus,
        }
        for change in event["changes"]
    ]
    reference = {"type": "ClientApplication", "identifier": {"system": CLIENT_SYSTEM, "value": client}}
    return {
        "resourceType": TYPE,
        "id": delivery_id(subscription, number),
        "status": "queued",
        "subscription": {"reference": f"Subscription/{subscription}"},
        **({"client": reference} if client else {}),
        "number": number,
        "event": event["id"],
        "occurred": instant_text(event["t"]),
        **({"message": event["message"]} if event.get("message") else {}),
        **({"change": changes} if changes else {}),
        **more,
    }


def change(server: Server, organization: str, resource: Resource, previous: Stored | None, now: datetime) -> Change:
    """The write of a delivery's first or next version."""
    instant = now.replace(microsecond=now.microsecond // 1000 * 1000)
    return version_of(server, organization, resource, previous, instant, keep_previous=False)


def waiting(server: Server, organization: str, subscription: str, page: int = 100) -> Iterator[Delivery]:
    """The unfinished deliveries of a subscription in their order, read page by page as they are asked for."""
    clause = References("waiting", frozenset({f"Subscription/{subscription}"}))
    search = compile_search(server.store, everything(organization), TYPE, [clause], None)
    assert search is not None
    after: Sequence[Any] | None = None
    while True:
        found = find(server.store, search, (), page, after=after)
        for version in found.matches:
            yield Delivery(version, version.resource())
        after = found.after
        if after is None:
            return


def finished(resource: Resource, status: str, reason: str = "") -> Resource:
    """The delivery at its end: delivered, dead-letter or skipped, with the reason."""
    kept = {name: value for name, value in resource.items() if name not in ("nextAttempt", "statusReason")}
    return {**kept, "status": status, **({"statusReason": reason} if reason else {})}


def attempted(resource: Resource, attempt: Mapping[str, Any]) -> Resource:
    """The delivery with one more attempt; of many, the latest are kept."""
    attempts = [*resource.get("attempt", ()), attempt][-MOST_ATTEMPTS:]
    return {**resource, "attempts": int(resource.get("attempts", 0)) + 1, "attempt": attempts}


def postponed(resource: Resource, status: str, until: datetime, reason: str = "") -> Resource:
    """The delivery that waits until then: retrying or held."""
    kept = {name: value for name, value in resource.items() if name != "statusReason"}
    return {
        **kept,
        "status": status,
        "nextAttempt": instant_text(until),
        **({"statusReason": reason} if reason else {}),
    }
