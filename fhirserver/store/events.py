"""The outbox: pending events ride on the documents that changed, and leave when their deliveries are written.

The change stream only wakes the relay (ids do not appear in commit order); the sweep of the partial index `ev` is what
is relied on, so a missed wake-up costs a second, never an event.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator

from pymongo import ReturnDocument, errors

from fhirserver.store.database import SEALED, Database, Document, Session, translated
from fhirserver.store.model import Pending

IDLE_SECONDS = 1.0
_WAKES: list[Document] = [
    {
        "$match": {
            "ns.coll": {"$ne": SEALED},  # records have no events, and are written in great numbers
            "$or": [
                {"operationType": "insert", "fullDocument.ev": {"$exists": True}},
                {"operationType": "update", "updateDescription.updatedFields.t": {"$exists": True}},
            ],
        }
    },
    {"$project": {"_id": 1, "ns": 1}},
]


def pending(
    database: Database, limit: int, types: Collection[str] | None = None, session: Session | None = None
) -> list[Pending]:
    """Pending events of these types (None: of all), the oldest first, at most `limit`.

    Who is going to clear them reads them in the same session: an event that is younger than the transaction's snapshot
    could be read outside it, but not cleared in it, and would be told twice.
    """
    found: list[Pending] = []
    fields = {"o": 1, "i": 1, "ev": 1}
    with translated(session):
        for type in database.existing_types() if types is None else types:
            cursor = (
                database.current(type)
                .find({"ev": {"$exists": True}}, fields, session=session, max_time_ms=database.query_limit_ms)
                .hint("ev")
                .sort("ev.t", 1)
                .limit(limit)
            )
            for document in cursor:
                found += [Pending(document["o"], type, document["i"], event) for event in document["ev"]]
    found.sort(key=lambda each: each.event["t"])
    return found[:limit]


def watch(database: Database, stop: Callable[[], bool]) -> Iterator[Collection[str] | None]:
    """Yields the types that pending events may have appeared in (None: look at all), until `stop()`.

    The first answer, and one at least every IDLE_SECONDS, is None. Survives a database that goes away and comes back.
    """
    changed: set[str] = set()
    wake = threading.Event()
    threading.Thread(target=_listen, args=(database, stop, changed, wake), daemon=True, name="outbox-watch").start()
    yield None
    while not stop():
        if wake.wait(IDLE_SECONDS):
            wake.clear()
            types = {changed.pop() for _ in range(len(changed))}
            yield types
        else:
            yield None


def _listen(database: Database, stop: Callable[[], bool], changed: set[str], wake: threading.Event) -> None:
    pause = threading.Event()
    while not stop():
        try:
            with database.raw.watch(_WAKES, max_await_time_ms=int(IDLE_SECONDS * 1000)) as stream:
                while not stop():
                    change = stream.try_next()
                    name = change["ns"]["coll"] if change else ""
                    if name[:1].isupper() and "." not in name:
                        changed.add(name)
                        wake.set()
        except errors.PyMongoError:
            pause.wait(IDLE_SECONDS)


def clear(database: Database, done: Collection[Pending], session: Session | None) -> None:
    """Takes events off their documents, all of one type with one command; the field goes with its last event, and so
    does the index entry.
    """
    for type in {pending.type for pending in done}:
        of_type = [pending for pending in done if pending.type == type]
        ids = [pending.event["id"] for pending in of_type]
        documents = [f"{pending.organization}/{pending.id}" for pending in of_type]
        remaining = {"$filter": {"input": "$ev", "cond": {"$not": {"$in": ["$$this.id", ids]}}}}
        drop_empty = {"$cond": [{"$eq": [{"$size": "$ev"}, 0]}, "$$REMOVE", "$ev"]}
        with translated(session):
            database.collection(type).update_many(
                {"_id": {"$in": documents}, "ev": {"$exists": True}},
                [{"$set": {"ev": remaining}}, {"$set": {"ev": drop_empty}}],
                session=session,
            )


def next_number(database: Database, name: str, count: int, session: Session) -> int:
    """The first of `count` numbers taken from a counter, which starts at 1."""
    document = database.collection("counters").find_one_and_update(
        {"_id": name}, {"$inc": {"n": count}}, upsert=True, return_document=ReturnDocument.AFTER, session=session
    )
    assert document is not None  # an upsert answers what it made
    return int(document["n"]) - count + 1
