"""Leases with fencing tokens: one process at a time drains a lane, and a late one can be told from the present one.

The time is the database's (`$$NOW`), so processes with different clocks agree on who holds a lease.
"""

from __future__ import annotations

from pymongo import ReturnDocument, errors

from fhirserver.store.database import Database, translated


def take(database: Database, name: str, owner: str, seconds: float) -> int | None:
    """The fencing token of the lease now held by `owner` (it grows with every taking), or None while another holds
    it.
    """
    free = {"$or": [{"$lte": ["$until", "$$NOW"]}, {"$eq": ["$owner", owner]}]}
    with translated():
        try:
            document = database.collection("leases").find_one_and_update(
                {"_id": name, "$expr": free},
                [
                    {
                        "$set": {
                            "owner": owner,
                            "fence": {"$add": [{"$ifNull": ["$fence", 0]}, 1]},
                            "until": {"$add": ["$$NOW", int(seconds * 1000)]},
                        }
                    }
                ],
                upsert=True,
                return_document=ReturnDocument.AFTER,
            )
        except errors.DuplicateKeyError:
            return None  # The upsert met the holder's document: the lease is taken.
    return int(document["fence"]) if document else None


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
