"""Leases with fencing tokens: one process at a time drains a lane, and a late one can be told from the present one.

The time is the database's (`$$NOW`), so processes with different clocks agree on who holds a lease.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime

from pymongo import ReturnDocument, errors

from fhirserver.store.database import Database, translated

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


def take(database: Database, name: str, owner: str, seconds: float) -> int | None:
    """The fencing token of the lease now held by `owner` (it grows with every taking), or None while another holds
    it.
    """
    with translated():
        fence = _taken(database, name, owner, seconds)
        if fence is None and database.collection("leases").find_one({"_id": name}) is None:
            _make(database, name)
            fence = _taken(database, name, owner, seconds)
    return fence


def _taken(database: Database, name: str, owner: str, seconds: float) -> int | None:
    free = {"$or": [{"$lte": ["$until", "$$NOW"]}, {"$eq": ["$owner", owner]}]}
    until = {"$add": ["$$NOW", int(seconds * 1000)]}
    document = database.collection("leases").find_one_and_update(
        {"_id": name, "$expr": free},
        [{"$set": {"owner": owner, "fence": {"$add": ["$fence", 1]}, "until": until}}],
        return_document=ReturnDocument.AFTER,
    )
    return int(document["fence"]) if document else None


def _make(database: Database, name: str) -> None:
    """A lease that nobody holds; several may try to make it."""
    with suppress(errors.DuplicateKeyError):
        database.collection("leases").insert_one({"_id": name, "owner": "", "fence": 0, "until": LONG_AGO})


def renew(database: Database, name: str, owner: str, seconds: float) -> bool:
    """Whether `owner` still held the lease; then it holds it for `seconds` from now."""
    with translated():
        result = database.collection("leases").update_one(
            {"_id": name, "owner": owner, "$expr": {"$gt": ["$until", "$$NOW"]}},
            [{"$set": {"until": {"$add": ["$$NOW", int(seconds * 1000)]}}}],
        )
    return bool(result.matched_count)


def release(database: Database, name: str, owner: str) -> None:
    """Ends the lease if `owner` holds it. The document stays: its fence must keep growing."""
    with translated():
        database.collection("leases").update_one({"_id": name, "owner": owner}, [{"$set": {"until": "$$NOW"}}])
