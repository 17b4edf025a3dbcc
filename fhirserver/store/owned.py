"""The audit records of an application provider: the private part of each names its client and, as `owner`, the
organization that manages it. An index in order of time answers a provider's search, however many clients it has.
"""

from __future__ import annotations

from fhirserver.store.database import CLIENT, OWNER, SEALED, Database, translated

NOTE = "audit-owners"


def give(database: Database, client: str, owner: str) -> int:
    """Has all records of a client be that organization's; answers how many were not yet. No seal is of this."""
    with translated():
        found = database.current(SEALED).update_many(
            {CLIENT: client, OWNER: {"$ne": owner}}, {"$set": {OWNER: owner}}, hint="client"
        )
    return found.modified_count


def clients(database: Database) -> list[str]:
    """Every client that there are records of."""
    with translated():
        grouped = database.current(SEALED).aggregate(
            [{"$match": {CLIENT: {"$exists": True}}}, {"$group": {"_id": f"${CLIENT}"}}], hint="client"
        )
        return sorted(str(each["_id"]) for each in grouped)


def known(database: Database) -> bool:
    """Whether every record has its owner: those from before there were owners have got theirs."""
    with translated():
        return database.collection("installation").find_one({"_id": NOTE}) is not None


def note(database: Database) -> None:
    """Every record has its owner from now on."""
    with translated():
        database.collection("installation").update_one({"_id": NOTE}, {"$set": {}}, upsert=True)
