"""Leases with fencing tokens: one process at a time drains a lane, and a late one can be told from the present one.

The time is the database's (`$$NOW`), so processes with different clocks agree on who holds a lease.
"""

from __future__ import annotations

from datetime import UTC, datetime

from pymongo import ReturnDocument

from fhirserver.fhir.problem import Problem
from fhirserver.store.database import Database, translated

LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


def take(database: Database, name: str, owner: str, seconds: float) -> int | None:
    """The fencing token of the lease now held by `owner` (it grows with every taking), or None while another holds
    it.
    """
    until = {"$add": ["$$NOW", int(seconds * 1000)]}
    free = {"$or": [{"$lte": [{"$ifNull": ["$until", LONG_AGO]}, "$$NOW"]}, {"$eq": ["$owner", owner]}]}
    taken = {"owner": owner, "fence": {"$add": [{"$ifNull": ["$fence", 0]}, 1]}, "until": until}
    changes = {name: {"$cond": [free, value, f"${name}"]} for name, value in taken.items()}
    for attempt in (1, 2):
        try:
            with translated():
                document = database.collection("leases").find_one_and_update(
                    {"_id": name}, [{"$set": changes}], upsert=True, return_document=ReturnDocument.AFTER
                )
            return int(document["fence"]) if document and document["owner"] == owner else None
        except Problem as fault:  # two made it at the same time: it is there now
            if fault.issues[0].code != "conflict" or attempt == 2:
                raise
    return None


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
