"""Errands: work that a write has made necessary, to be done to its end by a job, whatever dies meanwhile.

An errand is written in a transaction (that which takes the write's event off its document) and dropped when it is done;
until then a sweep has it run again, so what it does must stand being done twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fhirserver.store.database import Database, Session, translated

COLLECTION = "errands"
MOST = 1_000


@dataclass(frozen=True, slots=True)
class Errand:
    """`id` names it, so that the same one is there once; `kind` says what to do; `facts` are what that needs."""

    id: str
    kind: str
    facts: Mapping[str, Any]


def add(database: Database, errand: Errand, session: Session) -> None:
    """Keeps an errand, in the transaction of what made it necessary."""
    document = {"kind": errand.kind, "facts": dict(errand.facts)}
    database.collection(COLLECTION).replace_one({"_id": errand.id}, document, upsert=True, session=session)


def waiting(database: Database) -> list[Errand]:
    """The errands that are not done, at most a thousand."""
    with translated():
        found = list(database.collection(COLLECTION).find().limit(MOST))
    return [Errand(document["_id"], document["kind"], document["facts"]) for document in found]


def get(database: Database, id: str) -> Errand | None:
    """An errand, None where it is done."""
    with translated():
        found = database.collection(COLLECTION).find_one({"_id": id})
    return Errand(found["_id"], found["kind"], found["facts"]) if found else None


def done(database: Database, id: str) -> None:
    """The errand is done."""
    with translated():
        database.collection(COLLECTION).delete_one({"_id": id})
