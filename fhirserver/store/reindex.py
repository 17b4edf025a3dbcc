"""Progress of reindexing: one record per (type, search parameter as it was defined), and batches of documents to
index anew.

A search parameter that is added or changed at run time applies to what is written from then on; what was there before
is indexed in the background, by `_id`, so that it goes on after a restart where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pymongo import UpdateOne

from fhirserver.search.index import Entry
from fhirserver.store.database import Database, Document, translated

COLLECTION = "reindex"
BATCH = 200


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a parameter is on a type: `done` of `total` documents; `ready` when all are."""

    type: str
    parameter: str
    done: int
    total: int
    ready: bool


def record_id(type: str, parameter: str, defined: str) -> str:
    """The record of a parameter on a type; `defined` is the SearchParameter's id and version, so that a change is
    another.
    """
    return f"{type}/{parameter}/{defined}"


def begin(database: Database, type: str, parameter: str, defined: str, now: datetime) -> None:
    """Makes the record, if it is not there."""
    with translated():
        total = database.current(type).estimated_document_count()
        database.collection(COLLECTION).update_one(
            {"_id": record_id(type, parameter, defined)},
            {
                "$setOnInsert": {
                    "type": type,
                    "parameter": parameter,
                    "after": "",
                    "done": 0,
                    "total": total,
                    "ready": False,
                    "t": now,
                }
            },
            upsert=True,
        )


def without_contained(database: Database) -> list[str]:
    """The types that may have contained resources whose values are not indexed. Looks at every document: for once."""
    text = {"$or": [{"d": {"$regex": '"contained":'}}, {"d": {"$type": "binData"}}]}
    with translated():
        return [
            type
            for type in database.existing_types()
            if database.collection(type).find_one({"c": {"$exists": False}, **text}, {"_id": 1})
        ]


def waiting(database: Database) -> list[str]:
    """The types with records that are not ready."""
    with translated():
        return sorted(database.collection(COLLECTION).distinct("type", {"ready": False}))


def progress(database: Database, ids: Sequence[str]) -> dict[str, Progress]:
    """The records that are there, by id."""
    with translated():
        found = database.collection(COLLECTION).find({"_id": {"$in": list(ids)}})
        return {
            each["_id"]: Progress(each["type"], each["parameter"], each["done"], each["total"], each["ready"])
            for each in found
        }


def step(database: Database, type: str, index: Callable[[Document], Entry | None]) -> bool:
    """Indexes the next documents of a type anew for all its records that wait; whether there are more.

    `index` gives the entry of a document, None to leave it as it is. A document written meanwhile keeps what its
    writer gave it:
    the update names the version it read.
    """
    with translated():
        records = list(database.collection(COLLECTION).find({"type": type, "ready": False}))
        if not records:
            return False
        after = min(record["after"] for record in records)
        documents = list(database.current(type).find({"_id": {"$gt": after}}).sort("_id", 1).limit(BATCH))
        updates = [update for update in _updates(documents, index) if update]
        if updates:
            database.collection(type).bulk_write(updates, ordered=False)
        _advance(database, records, documents)
    return len(documents) == BATCH


def _updates(documents: Iterable[Document], index: Callable[[Document], Entry | None]) -> Iterable[UpdateOne]:
    for document in documents:
        entry = None if document.get("x") else index(document)
        if entry is not None:
            values: dict[str, Any] = entry.document()
            yield UpdateOne({"_id": document["_id"], "v": document["v"]}, {"$set": values})


def _advance(database: Database, records: Sequence[Document], documents: Sequence[Document]) -> None:
    last = documents[-1]["_id"] if documents else ""
    ended = len(documents) < BATCH
    for record in records:
        newly = sum(1 for document in documents if document["_id"] > record["after"])
        database.collection(COLLECTION).update_one(
            {"_id": record["_id"]},
            {"$set": {"after": max(last, record["after"]), "ready": ended}, "$inc": {"done": newly}},
        )
