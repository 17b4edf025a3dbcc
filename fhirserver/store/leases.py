"""Leases with fencing tokens: one process at a time drains a lane, and a late one can be told from the present one.

The time is the database's (`$$NOW`), so processes with different clocks agree on who holds a lease.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import UTC, datetime

from pymongo import ASCENDING, IndexModel, ReturnDocument, UpdateOne, errors

from fhirserver.fhir.problem import Problem
from fhirserver.store.database import Database, Document, Session, translated

HELD: Document = {"session": {"$type": "binData"}}
"""A lease that names the session of its holder."""
UNNAMED = {"$set": {"session": None}}
MOST_ENDED = 1_000
# Leases are as many as patients, of which few are held.
_INDEXES = (IndexModel([("session", ASCENDING)], name="session", partialFilterExpression=HELD),)
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


def take(database: Database, name: str, owner: str, seconds: float, session: Session | None = None) -> int | None:
    """The fencing token of the lease now held by `owner` (it grows with every taking), or None while another holds
    it. `session` is the one that `owner` writes with under it.

    Where a holder has let its lease run out, it may have been killed within a transaction, which would keep others off
    what it has touched until the database ends it: whoever takes the lease over ends that session first.
    """
    for attempt in (1, 2):
        try:
            with translated():
                document = database.collection("leases").find_one_and_update(
                    {"_id": name}, _taking(owner, seconds, session), upsert=True, return_document=ReturnDocument.AFTER
                )
            if document is None or document["owner"] != owner:
                return None
            _end(database, [document])
            return int(document["fence"])
        except Problem as fault:  # two made it at the same time: it is there now
            if fault.issues[0].code != "conflict" or attempt == 2:
                raise
    return None


def take_all(
    database: Database, names: Collection[str], owner: str, seconds: float, session: Session | None = None
) -> set[str]:
    """Those of these leases that are now held by `owner`, in two commands, as `take` does; another holds the rest."""
    changes = [UpdateOne({"_id": name}, _taking(owner, seconds, session), upsert=True) for name in sorted(names)]
    with translated():
        collection = database.collection("leases")
        try:
            collection.bulk_write(changes, ordered=False)
        except errors.BulkWriteError as error:  # another made one at the same time, and so holds it
            if any(each["code"] != 11000 for each in error.details["writeErrors"]):
                raise
        shown = {"_id": 1, "before": 1}
        found = list(collection.find({"_id": {"$in": sorted(names)}, "owner": owner}, shown))
    _end(database, found)
    return {each["_id"] for each in found}


def _end(database: Database, taken: Iterable[Document]) -> None:
    """Ends the sessions of those who held these leases before and did not give them back."""
    left = {each["before"] for each in taken if each.get("before")}
    if left:
        with translated():
            database.end_sessions(left)


def end_lapsed(database: Database) -> int:
    """Ends the sessions of holders whose leases have run out, in whose transactions others may be held up; answers how
    many leases that were.
    """
    late = {"$expr": {"$lt": ["$until", "$$NOW"]}}
    with translated():
        collection = database.indexed("leases", _INDEXES)
        found = list(collection.find({**HELD, **late}, {"session": 1}).limit(MOST_ENDED))
        if found:
            database.end_sessions({each["session"] for each in found})
            which = {"_id": {"$in": [each["_id"] for each in found]}}
            collection.update_many({**which, "session": {"$in": [each["session"] for each in found]}}, UNNAMED)
    return len(found)


def _taking(owner: str, seconds: float, session: Session | None) -> list[Document]:
    """What changes a lease where it is free, and leaves it as it is where it is not. A lease that was not given back
    names the session of whoever held it; that becomes `before`.
    """
    until = {"$add": ["$$NOW", int(seconds * 1000)]}
    free = {"$or": [{"$lte": [{"$ifNull": ["$until", LONG_AGO]}, "$$NOW"]}, {"$eq": ["$owner", owner]}]}
    before = {"$cond": [{"$eq": ["$owner", owner]}, None, {"$ifNull": ["$session", None]}]}
    taken: Document = {"owner": owner, "fence": {"$add": [{"$ifNull": ["$fence", 0]}, 1]}, "until": until}
    taken |= {"before": before, "session": session.session_id["id"] if session else None}
    return [{"$set": {name: {"$cond": [free, value, f"${name}"]} for name, value in taken.items()}}]


def renew(database: Database, names: Collection[str], owner: str, seconds: float) -> set[str]:
    """Those of these leases that `owner` still held; it holds them for `seconds` from now. One command, as each waits
    for the disk.
    """
    held = {"_id": {"$in": sorted(names)}, "owner": owner, "$expr": {"$gt": ["$until", "$$NOW"]}}
    until = {"$add": ["$$NOW", int(seconds * 1000)]}
    with translated():
        collection = database.collection("leases")
        if collection.update_many(held, [{"$set": {"until": until}}]).matched_count == len(names):
            return set(names)
        return {each["_id"] for each in collection.find(held, {"_id": 1})}


def release(database: Database, names: Collection[str], owner: str) -> None:
    """Ends those of the leases that `owner` holds. The documents stay: their fences must keep growing."""
    which = {"_id": {"$in": sorted(names)}, "owner": owner}
    with translated():
        database.collection("leases").update_many(which, [{"$set": {"until": "$$NOW", "session": None}}])
