"""What waits in a lane of incoming messages, in its order: asked before and after every message, so in one command.

A search sorted by `sequence` would be two: it also looks for what has none.
"""

from __future__ import annotations

from pymongo import ASCENDING

from fhirserver.store.database import Database, translated
from fhirserver.store.indexes import Indexes
from fhirserver.store.model import Stored
from fhirserver.store.resources import PROJECTION, stored

TYPE, LANE, ORDER = "InboundMessage", "s.lane", "k.sequence.lo"


def waiting(database: Database, indexes: Indexes, organization: str, lane: str, most: int) -> list[Stored]:
    """At most so many messages of a lane that are `received`, in order. Raises Problem where the store is away."""
    indexes.ensure(TYPE, [(LANE,)])
    filter = {"o": organization, "x": None, LANE: lane, "s.status": "received"}
    with translated():
        cursor = database.collection(TYPE).find(filter, PROJECTION, max_time_ms=database.query_limit_ms)
        return [stored(TYPE, document) for document in cursor.sort(ORDER, ASCENDING).limit(most)]
