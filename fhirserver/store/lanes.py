"""What waits in lanes of incoming messages, in its order: asked before and after every message, so in one command, and
of an index that holds what waits and nothing else.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from pymongo import ASCENDING

from fhirserver.store.database import Database, Document, translated
from fhirserver.store.model import Stored
from fhirserver.store.resources import PROJECTION, stored

TYPE, LANE, ORDER = "InboundMessage", "s.lane", "k.sequence.lo"
MOST_STALE = 20_000
"""Messages that are looked at for the lanes in which they wait."""


def waiting(database: Database, organization: str, lanes: Collection[str], most: int) -> list[Stored]:
    """At most so many messages of these lanes that are `received`, in order. Raises Problem where the store is away."""
    filter = {"o": organization, "x": None, LANE: {"$in": sorted(lanes)}, "s.status": "received"}
    with translated():
        found = database.current(TYPE).find(filter, PROJECTION, max_time_ms=database.query_limit_ms).hint("waiting")
        return [stored(TYPE, document) for document in found.sort(ORDER, ASCENDING).limit(most)]


def which(database: Database, organization: str, lanes: Collection[str], most: int) -> frozenset[str]:
    """The lanes among these in which a message waits; all of them where more than `most` messages do. Raises Problem
    where the store is away.
    """
    filter = {"o": organization, "x": None, LANE: {"$in": sorted(lanes)}, "s.status": "received"}
    with translated():
        found = database.current(TYPE).find(filter, {LANE: 1, "_id": 0}, max_time_ms=database.query_limit_ms)
        waiting = [each["s"]["lane"] for each in found.hint("waiting").limit(most)]
    held = frozenset(lanes)
    return held if len(waiting) == most else held & {lane for each in waiting for lane in each}


def stale(database: Database, organization: str, before: datetime, most: int) -> list[str]:
    """At most so many lanes in which a message waits that was taken in before this instant. Raises Problem where the
    store is away.
    """
    taken = f"{int(before.timestamp() * 1_000_000) * 1_000:020d}"
    filter = {"o": organization, "x": None, "s.status": "received", ORDER: {"$lt": taken}}
    lane = f"${LANE}"
    steps: list[Document] = [{"$match": filter}, {"$limit": MOST_STALE}, {"$unwind": lane}, {"$group": {"_id": lane}}]
    with translated():
        found = database.current(TYPE).aggregate(
            [*steps, {"$limit": most}], hint="waiting", maxTimeMS=database.query_limit_ms
        )
        return sorted(each["_id"] for each in found)
