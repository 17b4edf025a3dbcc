"""The store: read, vread, history, and writes that hold three invariants.

1. A current version exists once per (organization, type, id): `_id` holds it.
2. A version is superseded once: the write names the version it supersedes, and moves it to the history in the same
   transaction (optimistic concurrency; a loser gets Problem(conflict)).
3. A change and its pending event cannot part: the event is a field of the document that changed. A create is
therefore ONE
   insert and needs no transaction.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Collection as Several
from typing import Any, TypeVar

from pymongo import UpdateOne, errors
from pymongo.collection import Collection

from fhirserver.auth.access import Access, everything
from fhirserver.fhir.problem import problem
from fhirserver.search.mongo import filter as mongo_filter
from fhirserver.store import events, leases
from fhirserver.store.attempts import Attempts
from fhirserver.store.containers import Containers
from fhirserver.store.database import SEALED, Database, Document, Session, claimed, translated
from fhirserver.store.group import GroupCommit
from fhirserver.store.indexes import Indexes
from fhirserver.store.kept import Kept
from fhirserver.store.locks import Locks
from fhirserver.store.model import REGISTRY, Change, Pending, Stored
from fhirserver.store.recent import Recent
from fhirserver.store.text import packed, plain

T = TypeVar("T")
PROJECTION = {"s": 0, "k": 0, "c": 0, "ev": 0}
DECIDING = frozenset({"ClientApplication", "ClientAuthorization"})
"""Registry types that decide over every request: see `recent`."""


def key(organization: str, id: str) -> str:
    """The `_id` of a current version."""
    return f"{organization}/{id}"


def stored(type: str, document: Mapping[str, Any]) -> Stored:
    """The version a document holds."""
    return Stored(
        document["o"],
        type,
        document["i"],
        document["v"],
        document["t"],
        document["m"],
        None if document.get("x") else plain(document["d"]),
        document.get("p") or {},
    )


class Store:
    """Durable, versioned resources of all organizations. Threads may share it."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.indexes = Indexes(database)
        self.kept = Kept(database)
        self.attempts = Attempts(database)
        self.locks = Locks(database)
        self._recent = Recent()
        self.containers = Containers(database, self._recent)
        self._groups: dict[str, GroupCommit] = {}

    # Reading

    def read(self, access: Access, type: str, id: str, session: Session | None = None) -> Stored | None:
        """The current version (possibly a tombstone), or None where there is none that this access may read."""
        clauses = access.clauses(type, "r")
        if clauses is None:
            return None
        filter: Document = {"_id": key(access.organization, id)}
        if clauses:
            # A tombstone has no search values, so a narrowed reader cannot tell a deleted resource from an absent one.
            filter = {"$and": [filter, *(mongo_filter(clause) for clause in clauses)]}
        with translated(session):
            found = self.database.documents(type, filter, PROJECTION, limit=1, session=session)
        return stored(type, found[0]) if found else None

    def live(self, access: Access, type: str, id: str, session: Session | None = None) -> Stored | None:
        """The current version of a resource that is there; None for one that was deleted, as for one that never was."""
        found = self.read(access, type, id, session)
        return None if found is None or found.deleted else found

    def deciding(self, type: str, id: str) -> Stored | None:
        """A resource of a DECIDING type on the registry, not deleted, as far as its last writer was told."""
        assert type in DECIDING

        return self._recent.read((type, id), lambda: self.live(everything(REGISTRY), type, id))

    def vread(self, access: Access, type: str, id: str, version: int, session: Session | None = None) -> Stored | None:
        """One version. Who may not read the current version may not read an older one."""
        current = self.read(access, type, id, session)
        if current is None or current.version == version:
            return current
        with translated(session):
            document = self.database.collection(f"{type}.history").find_one(
                {"_id": f"{key(access.organization, id)}/{version}"},
                session=session,
                max_time_ms=self.database.query_limit_ms,
            )
        return stored(type, document) if document else None

    def existing(self, types: Iterable[str]) -> list[str]:
        """Those of the types, in their order, that anything was ever stored of, in any organization."""
        with translated():
            names = set(self.database.raw.list_collection_names())
        return [type for type in types if type in names]

    # Writing

    def commit(self, changes: Sequence[Change], session: Session | None = None) -> None:
        """Writes all changes or none. Raises Problem(conflict) when a superseded version is no longer current."""
        self.containers.note(changes)
        for change in changes:
            self.database.current(change.type)
            if change.previous and change.keep_previous:
                self.database.history(change.type)
        if session is not None:
            self._write(changes, session)
        elif len(changes) == 1 and changes[0].previous is None:
            self._create(changes[0])
        elif len(changes) == 1 and not _supersedes(changes[0]):
            with translated(), self._settled():
                self._write(changes, None)
        else:
            self.transaction(lambda inner: self._write(changes, inner))

    def _create(self, change: Change) -> None:
        self._note(change.type)
        group = self._groups.get(change.type)
        if group is None:
            collection = self.database.current(change.type)

            def insert(documents: list[Document]) -> None:
                if len(documents) == 1:
                    collection.insert_one(documents[0])
                else:
                    collection.insert_many(documents, ordered=False)

            group = self._groups.setdefault(change.type, GroupCommit(insert))
        with translated(), self._settled():
            group.insert(document(change))

    def transaction(self, work: Callable[[Session], T], session: Session | None = None) -> T:
        """`Database.transaction`, answered when what it has written holds for every request: see `recent`."""
        with self._settled():
            return self.database.transaction(work, session)

    def session(self) -> contextlib.AbstractContextManager[Session]:
        """`Database.session`."""
        return self.database.session()

    @contextlib.contextmanager
    def _settled(self) -> Iterator[None]:
        try:
            yield
        finally:  # a write that seems to have failed may have happened
            self._recent.settle()

    def _note(self, type: str) -> None:
        if type in DECIDING:
            self._recent.changed()

    def _write(self, changes: Sequence[Change], session: Session | None) -> None:
        for change in changes:
            self._note(change.type)
        for type in {change.type: None for change in changes if change.previous is not None}:
            self._supersede(
                type, [each for each in changes if each.type == type and each.previous is not None], session
            )
        # Many inserts of one type travel in one command: a transaction of 100 creates needs few round trips.
        for type in {change.type: None for change in changes if change.previous is None}:
            documents = [document(each) for each in changes if each.type == type and each.previous is None]
            self._insert(self.database.collection(type), documents, session)

    def _supersede(self, type: str, changes: Sequence[Change], session: Session | None) -> None:
        """Replaces current versions, all of a type in one command; the version named in each filter is what must be
        there.
        """
        updates = [
            UpdateOne({"_id": key(change.organization, change.id), "v": version.version}, _replacement(change))
            for change in changes
            if (version := change.previous)
        ]
        try:
            result = self.database.collection(type).bulk_write(updates, ordered=True, session=session)
        except errors.BulkWriteError as error:
            _blame(error)
            raise
        if result.matched_count != len(updates):
            names = ", ".join(f"{type}/{change.id}" for change in changes[:3])
            raise problem("conflict", f"{names} was changed by another request meanwhile. Read it and try again.")
        kept = [_version(change.previous) for change in changes if change.previous and change.keep_previous]
        if kept:
            self._insert(self.database.collection(f"{type}.history"), kept, session)

    def _insert(self, collection: Collection[Document], documents: list[Document], session: Session | None) -> None:
        if len(documents) == 1:
            collection.insert_one(documents[0], session=session)
            return
        try:
            collection.insert_many(documents, session=session)
        except errors.BulkWriteError as error:
            _blame(error)
            raise

    def insert_messages(self, changes: Sequence[Change]) -> list[str]:
        """Inserts many new documents of one type under one group commit: "stored", "duplicate" or "claimed" for each,
        in order.

        The id is the idempotency key: a document that is there already is left as it is. One that claims what another
        one has (`CLAIMS`) is not stored.
        """
        self.containers.note(changes)
        collection = self.database.current(changes[0].type)
        results = ["stored"] * len(changes)
        with translated():
            try:
                collection.insert_many([document(change) for change in changes], ordered=False)
            except errors.BulkWriteError as error:
                failed = error.details["writeErrors"]
                if any(item["code"] != 11000 for item in failed) or error.details.get("writeConcernErrors"):
                    raise
                for item in failed:
                    results[item["index"]] = "claimed" if claimed(item) else "duplicate"
        return results

    # What the other processes live on

    def pending(self, limit: int, types: Several[str] | None = None, session: Session | None = None) -> list[Pending]:
        """Pending events of all organizations in these types (None: in all), the oldest first, at most `limit`."""
        return events.pending(self.database, limit, types, session)

    def watch(self, stop: Callable[[], bool]) -> Iterator[Several[str] | None]:
        """Yields the types to look for pending events in (None: all), on each change and every second, until
        `stop()`.
        """
        return events.watch(self.database, stop)

    def clear_events(self, done: Several[Pending], session: Session | None = None) -> None:
        """Takes pending events off their documents: what they make necessary is written."""
        events.clear(self.database, done, session)

    def next_number(self, name: str, count: int, session: Session) -> int:
        """Takes `count` numbers of a counter and answers the first. Gapless, as it is part of the caller's
        transaction.
        """
        return events.next_number(self.database, name, count, session)

    def lease(self, name: str, owner: str, seconds: float, session: Session | None = None) -> int | None:
        """The fencing token of a lease now held by `owner`, or None while somebody else holds it. `session`: what it
        writes with under it.
        """
        return leases.take(self.database, name, owner, seconds, session)

    def renew(self, name: str, owner: str, seconds: float) -> bool:
        """Whether `owner` still held the lease, and holds it on from now."""
        return bool(leases.renew(self.database, [name], owner, seconds))

    def renew_all(self, names: Several[str], owner: str, seconds: float) -> set[str]:
        """Those of these leases that `owner` still held, and holds on from now."""
        return leases.renew(self.database, names, owner, seconds)

    def lease_all(self, names: Several[str], owner: str, seconds: float, session: Session | None = None) -> set[str]:
        """Those of these leases that `owner` holds now. `session`: what it writes with under them."""
        return leases.take_all(self.database, names, owner, seconds, session)

    def end_lapsed(self) -> int:
        """Ends the transactions of holders whose leases have run out; answers how many leases."""
        return leases.end_lapsed(self.database)

    def release(self, name: str, owner: str) -> None:
        """Gives the lease back, if `owner` holds it."""
        leases.release(self.database, [name], owner)

    def release_all(self, names: Several[str], owner: str) -> None:
        """Gives the leases back that `owner` holds of these."""
        leases.release(self.database, names, owner)

    def generation(self) -> int:
        """The number that moves whenever something compiled at load (definitions, maps, topics) has changed."""

        def ask() -> int:
            with translated():
                document = self.database.collection("generation").find_one({"_id": "generation"})
            return int(document["n"]) if document else 0

        return self._recent.read("generation", ask)

    def advance_generation(self, session: Session | None = None) -> None:
        """Tells every process to rebuild what it compiled."""
        self._recent.changed()
        with contextlib.nullcontext() if session else self._settled(), translated(session):
            self.database.collection("generation").update_one(
                {"_id": "generation"}, {"$inc": {"n": 1}}, upsert=True, session=session
            )

    def singleton(self, name: str, make: Callable[[], Document]) -> Document:
        """The installation's one document of that name; made by the first who asks (the loser's is thrown away)."""
        collection = self.database.collection("installation")
        with translated():
            found = collection.find_one({"_id": name})
            if found is None:
                with contextlib.suppress(errors.DuplicateKeyError):
                    collection.insert_one({"_id": name, **make()})
                found = collection.find_one({"_id": name})
        if found is None:
            raise problem("transient", "The database lost a document that was just written. Try again.")
        return found

    def ping(self) -> None:
        """Raises Problem(transient) when the primary does not answer."""
        with translated():
            self.database.raw.command("ping")


def _blame(error: errors.BulkWriteError) -> None:
    """Raises the DuplicateKeyError of several writes, if one had it."""
    for item in error.details["writeErrors"]:
        if item["code"] == 11000:
            raise errors.DuplicateKeyError("one of several keys exists", 11000, item) from None


def _supersedes(change: Change) -> bool:
    return change.previous is not None and change.keep_previous


def _fields(change: Change) -> Document:
    fields: Document = {"v": change.version, "t": change.instant, "m": change.method}
    if change.text is not None:
        fields["d"] = packed(change.text)
    if change.entry:
        fields.update(change.entry.document())
    if change.private:
        fields["p"] = dict(change.private)
    if change.text is None:
        fields["x"] = True
    return fields


def document(change: Change) -> Document:
    """What the first version of a resource is in the database."""
    document: Document = {
        "_id": key(change.organization, change.id),
        "o": change.organization,
        "i": change.id,
        **_fields(change),
    }
    if change.event:
        document["ev"] = [change.event]
    if change.type == SEALED:
        document["z"] = 0
    return document


def _replacement(change: Change) -> Document:
    fields = _fields(change)
    update: Document = {"$set": fields}
    gone = {name: "" for name in ("d", "s", "k", "c", "p", "x") if name not in fields}
    if gone:
        update["$unset"] = gone
    if change.event:
        # Pushed, not set: an earlier event of the same document may still be waiting for the relay.
        update["$push"] = {"ev": change.event}
    return update


def _version(version: Stored) -> Document:
    document: Document = {
        "_id": f"{key(version.organization, version.id)}/{version.version}",
        "o": version.organization,
        "i": version.id,
        "v": version.version,
        "t": version.instant,
        "m": version.method,
    }
    if version.text is None:
        document["x"] = True
    else:
        document["d"] = packed(version.text)
    if version.private:
        document["p"] = dict(version.private)
    return document
