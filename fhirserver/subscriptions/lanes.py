"""The ready list: one small document per subscription that has deliveries waiting, with the time it is due.

A job on the queue may be lost at any time; what stands here is looked at every few seconds and enqueued again. It also
holds the circuit breaker of the subscription's endpoint: how often it failed in a row, and until when it is left alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fhirserver.store.database import Database, translated

COLLECTION = "lanes"


@dataclass(frozen=True, slots=True)
class Breaker:
    """How often an endpoint failed in a row, since when, and until when it is left alone."""

    failures: int = 0
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """One subscription's entry. touched: moves with every event. breaker: of its endpoint. beat: a heartbeat is due."""

    organization: str
    subscription: str
    touched: int
    due: datetime
    breaker: Breaker
    beat: bool = False


class Lanes:
    """The ready list of an installation."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._prepared = False

    def prepare(self) -> None:
        """Makes the collection and its index exist; before the first transaction that touches it."""
        if not self._prepared:
            with translated():
                self._database.collection(COLLECTION).create_index("due")
            self._prepared = True

    def touch(self, keys: Iterable[tuple[str, str]], due: datetime) -> None:
        """New deliveries of these (organization, subscription) wait.

        It comes after their transaction and not into it: deliveries move this entry all the time, and each time would
        make the whole batch begin anew. What a crash in between leaves out, `rebuild` finds.
        """
        for organization, subscription in keys:
            self.wake(organization, subscription, due)

    def rebuild(self, type: str, due: datetime) -> int:
        """Touches every subscription that has a delivery waiting in the collection of `type`; answers how many."""
        found = self._database.collection(type).aggregate(
            [
                {"$match": {"s.waiting": {"$exists": True}}},
                {"$group": {"_id": {"o": "$o", "s": {"$first": "$s.waiting"}}}},
            ],
            allowDiskUse=True,
        )
        with translated():
            keys = [(each["_id"]["o"], each["_id"]["s"].partition("/")[2]) for each in found]
        self.touch(keys, due)
        return len(keys)

    def wake(self, organization: str, subscription: str, due: datetime, *, beat: bool = False) -> None:
        """The subscription is to be looked at: it was changed, or a heartbeat is due."""
        update: dict[str, Any] = {
            "$inc": {"n": 1},
            "$min": {"due": due},
            "$setOnInsert": {"o": organization, "i": subscription},
            **({"$set": {"beat": True}} if beat else {}),
        }
        with translated():
            self._database.collection(COLLECTION).update_one(
                {"_id": f"{organization}/{subscription}"}, update, upsert=True
            )

    def beaten(self, ready: Ready) -> None:
        """The heartbeat was sent."""
        key = {"_id": f"{ready.organization}/{ready.subscription}"}
        with translated():
            self._database.collection(COLLECTION).update_one(key, {"$unset": {"beat": ""}})

    def wake_all(self, organization: str, due: datetime) -> None:
        """The same for every subscription of an organization that has deliveries waiting."""
        with translated():
            self._database.collection(COLLECTION).update_many(
                {"o": organization}, {"$inc": {"n": 1}, "$min": {"due": due}}
            )

    def due(self, now: datetime, limit: int) -> list[tuple[str, str]]:
        """The (organization, subscription) that are due, those that have waited longest first."""
        with translated():
            found = self._database.collection(COLLECTION).find({"due": {"$lte": now}}, {"o": 1, "i": 1})
            return [(document["o"], document["i"]) for document in found.sort("due", 1).limit(limit)]

    def read(self, organization: str, subscription: str) -> Ready | None:
        """The entry, None where nothing waits."""
        with translated():
            found = self._database.collection(COLLECTION).find_one({"_id": f"{organization}/{subscription}"})
        if found is None:
            return None
        breaker = Breaker(found.get("f", 0), found.get("since"), found.get("until"))
        return Ready(organization, subscription, found.get("n", 0), found["due"], breaker, bool(found.get("beat")))

    def settle(self, ready: Ready, due: datetime | None, breaker: Breaker) -> bool:
        """Says when the subscription is due next; None: nothing waits any more, and the entry goes.

        Does nothing and answers False where new events came in since `ready` was read.
        """
        key: dict[str, Any] = {"_id": f"{ready.organization}/{ready.subscription}", "n": ready.touched}
        collection = self._database.collection(COLLECTION)
        with translated():
            if due is None:
                return bool(collection.delete_one(key).deleted_count)
            return bool(collection.update_one(key, {"$set": {"due": due, **_state(breaker)}}).matched_count)

    def trip(self, ready: Ready, breaker: Breaker) -> None:
        """Keeps the state of the breaker, whatever came in meanwhile."""
        key = {"_id": f"{ready.organization}/{ready.subscription}"}
        with translated():
            self._database.collection(COLLECTION).update_one(key, {"$set": _state(breaker)})


def _state(breaker: Breaker) -> dict[str, Any]:
    return {"f": breaker.failures, "since": breaker.since, "until": breaker.until}
