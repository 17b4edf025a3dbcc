"""What the database says of the installation's own state: is it there, does the relay hold its lease, what waits in the
outbox, when was the last seal made. Every look is bounded.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from fhirserver.store.database import SEALED, Database, translated
from fhirserver.store.model import REGISTRY
from fhirserver.store.resources import Store

MOST_COUNTED, MOST_OPEN = 10_000, 1_000


@dataclass(frozen=True, slots=True)
class Waiting:
    """Things that wait: how many (at most MOST_COUNTED are counted), and since when the oldest does."""

    count: int
    oldest: datetime | None = None


@dataclass(frozen=True, slots=True)
class Sealed:
    """The last seal on audit records: of which organization, its number, the time of the last record it names."""

    organization: str
    number: int
    through: datetime


def reach(database: Database) -> tuple[float, str, int]:
    """Milliseconds to the database and back, its version, the bytes it stores. Raises Problem(transient)."""
    with translated():
        begin = time.perf_counter()
        database.raw.command("ping")
        took = (time.perf_counter() - begin) * 1e3
        version = str(database.raw.command("buildInfo").get("version", ""))
        return took, version, int(database.raw.command("dbStats").get("storageSize", 0))


def held(database: Database, name: str) -> bool:
    """Whether some process holds a lease now, by the database's clock."""
    now = {"_id": name, "$expr": {"$gt": ["$until", "$$NOW"]}}
    with translated():
        return database.collection("leases").find_one(now, {"_id": 1}) is not None


def outbox(database: Database) -> Waiting:
    """The documents with pending events that the relay has not taken yet."""
    count, oldest = 0, None
    pending = {"ev": {"$exists": True}}
    with translated():
        for type in database.existing_types():
            found = database.current(type)
            count += found.count_documents(pending, limit=MOST_COUNTED, hint="ev")
            first = next(iter(found.find(pending, {"ev.t": 1}).hint("ev").sort("ev.t", 1).limit(1)), None)
            since = first["ev"][0]["t"] if first else None
            oldest = min(filter(None, (oldest, since)), default=None)
    return Waiting(min(count, MOST_COUNTED), oldest)


def unsealed(database: Database) -> Waiting:
    """The audit records that no seal names yet."""
    waiting = {"z": 0}
    with translated():
        records = database.current(SEALED)
        count = records.count_documents(waiting, limit=MOST_COUNTED, hint="unsealed")
        first = next(iter(records.find(waiting, {"t": 1}).hint("unsealed").limit(1)), None)
    return Waiting(count, first["t"] if first else None)


def last_seal(database: Database) -> Sealed | None:
    """The seal that was made last, of whichever organization; None before the first."""
    with translated():
        seals = database.collection(f"{SEALED}.seals").find({"n": {"$gt": 0}}, {"o": 1, "n": 1, "t": 1})
        made = next(iter(seals.sort("$natural", -1).limit(1)), None)
    return Sealed(made["o"], int(made["n"]), made["t"]) if made else None


def indexing(database: Database, most: int) -> list[tuple[str, str, int, int]]:
    """What is being indexed anew: type, search parameter, documents done, documents there were."""
    with translated():
        found = database.collection("reindex").find({"ready": False}).sort("_id", 1).limit(most)
        return [(each["type"], each["parameter"], int(each["done"]), int(each["total"])) for each in found]


def kept(database: Database, collection: str) -> int:
    """How many documents one of the server's own collections has, bounded."""
    with translated():
        return database.collection(collection).count_documents({}, limit=MOST_COUNTED)


def open_work(store: Store, type: str, statuses: Sequence[str]) -> Iterator[tuple[str, str, Waiting]]:
    """Of each organization, the registry too, for which resources of a type have one of these statuses: its key, the
    status, how many (at most MOST_OPEN are counted) and since when the one has it that was written the longest ago.
    """
    database = store.database
    store.indexes.ensure(type, [("s.status",)])
    with translated():
        kept = database.current("Organization").find({"o": REGISTRY, "x": None}, {"i": 1}).limit(MOST_COUNTED)
        for organization in (REGISTRY, *(each["i"] for each in kept)):
            wanted = {"o": organization, "x": None, "s.status": {"$in": list(statuses)}}
            if database.current(type).find_one(wanted, {"_id": 1}) is None:
                continue
            for status in statuses:
                found = database.current(type).find(wanted | {"s.status": status}, {"t": 1}).limit(MOST_OPEN)
                times = [each["t"] for each in found]
                if times:
                    yield organization, status, Waiting(len(times), min(times))
