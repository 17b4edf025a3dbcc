"""What of a type was last written long ago, the oldest first, and how far somebody has gone through it.

Whatever is written anew is young again, so one pass through the index by time meets everything once: the mark says
where the next pass begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from pymongo import ASCENDING, DESCENDING

from fhirserver.store.database import Database, Document, translated
from fhirserver.store.model import REGISTRY, Stored
from fhirserver.store.resources import PROJECTION, stored

INSTALLATION = "installation"


def bases(database: Database) -> list[str]:
    """The key of every base: the registry's, and those of all organizations."""
    with translated():
        return [REGISTRY, *(each["i"] for each in database.current("Organization").find({"o": REGISTRY}, {"i": 1}))]


def older(database: Database, type: str, organization: str, before: datetime, most: int) -> list[Stored]:
    """At most so many resources of a type on a base, written before an instant and after the mark, the oldest first."""
    with translated():
        mark = database.collection(INSTALLATION).find_one({"_id": _name(type, organization)})
        filter: Document = {"o": organization, "x": None, "t": {"$lt": before}}
        if mark:
            filter["$or"] = [{"t": {"$gt": mark["t"]}}, {"t": mark["t"], "_id": {"$lt": mark["last"]}}]
        # The index by time, backwards: its ids go the other way.
        cursor = database.current(type).find(filter, PROJECTION).sort([("t", ASCENDING), ("_id", DESCENDING)])
        return [stored(type, document) for document in cursor.hint("o_t").limit(most)]


def passed(database: Database, type: str, organization: str, seen: Sequence[Stored]) -> None:
    """Moves the mark behind what was seen."""
    last = seen[-1]
    mark = {"t": last.instant, "last": f"{organization}/{last.id}"}
    with translated():
        database.collection(INSTALLATION).update_one({"_id": _name(type, organization)}, {"$set": mark}, upsert=True)


def _name(type: str, organization: str) -> str:
    return f"aged/{type}/{organization}"
