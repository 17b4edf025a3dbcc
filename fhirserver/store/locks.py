"""Lock documents: two transactions that touch the same one conflict, so that the second is run again and finds what the
first has made.

Invariant: whoever may make a resource that another may make too touches the lock of what tells it, in the transaction
that makes it. A document must be there before the transaction begins, since two first comers who make it inside theirs
would fail instead of retrying; it is forgotten days later.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from datetime import datetime
from hashlib import sha256

from pymongo import ASCENDING, IndexModel, UpdateOne
from pymongo.collection import Collection

from fhirserver.fhir.problem import problem
from fhirserver.store.database import Database, Document, Session, translated

COLLECTION = "locks"
_INDEXES = [IndexModel([("t", ASCENDING)], name="t", expireAfterSeconds=2 * 86_400)]
MOST_KNOWN = 50_000
"""Documents that a process knows to be there, for an hour."""


class Locks:
    """The locks of an installation. Threads may share it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._guard = threading.Lock()
        self._hour: datetime | None = None
        self._known: set[str] = set()

    def prepare(self, organization: str, names: Iterable[tuple[str, str]], now: datetime) -> None:
        """Makes the documents of these (type, name) exist, in one command; in none where this process has lately."""
        hour = now.replace(minute=0, second=0, microsecond=0)
        missing = self._missing(_ids(organization, names), hour)
        if not missing:
            return
        changes = [UpdateOne({"_id": id}, {"$max": {"t": hour}}, upsert=True) for id in missing]
        with translated():
            self._collection().bulk_write(changes, ordered=False)
        with self._guard:
            if self._hour == hour and len(self._known) < MOST_KNOWN:
                self._known.update(missing)

    def touch(self, session: Session, organization: str, names: Iterable[tuple[str, str]]) -> None:
        """Touches the locks of these (type, name) in a transaction; they have been prepared. Raises Problem(transient)
        where the database has lost one since.
        """
        ids = sorted(_ids(organization, names))
        if not ids:
            return
        documents = self._database.collection(COLLECTION)
        if documents.update_many({"_id": {"$in": ids}}, {"$inc": {"n": 1}}, session=session).matched_count < len(ids):
            with self._guard:
                self._known.clear()
            raise problem("transient", "The database has just changed: try again.")

    def _missing(self, ids: set[str], hour: datetime) -> list[str]:
        """Those that this process has not prepared in this hour."""
        with self._guard:
            if self._hour != hour:
                with translated():
                    self._collection().create_indexes(_INDEXES)
                self._hour, self._known = hour, set()
            return sorted(ids - self._known)

    def _collection(self) -> Collection[Document]:
        return self._database.collection(COLLECTION)


def _ids(organization: str, names: Iterable[tuple[str, str]]) -> set[str]:
    return {f"{organization}/{type}/{sha256(name.encode()).hexdigest()}" for type, name in names}
