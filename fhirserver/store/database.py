"""The connection, the collections, and the one place where a driver's error becomes a Problem.

One collection per resource type for current versions, `<Type>.history` for superseded ones, both created outside
transactions. Every write is majority and journaled; every query has a time limit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar, cast

import pymongo
from bson.binary import Binary
from pymongo import ASCENDING, DESCENDING, IndexModel, MongoClient, WriteConcern, errors
from pymongo.client_session import ClientSession
from pymongo.collection import Collection

from fhirserver.fhir.problem import Problem, problem

Document = dict[str, Any]
Session = ClientSession
T = TypeVar("T")
MOST_COLLECTIONS = 2_000

# Error class -> (issue type, what the caller is told). Walked in order: subclasses first.
PROBLEMS: tuple[tuple[type[Exception], str, str], ...] = (
    (
        errors.DuplicateKeyError,
        "conflict",
        "Another request wrote the same resource at the same time. Read it and try again.",
    ),
    (
        errors.ExecutionTimeout,
        "too-costly",
        "The search took too long and was stopped. Narrow it with a more selective parameter.",
    ),
    (errors.WriteConcernError, "transient", "The write was not confirmed in time. Try again."),
    (errors.CursorNotFound, "transient", "The database gave up what it was answering. Try again."),
    (errors.NetworkTimeout, "transient", "The database did not answer in time. Try again."),
    (errors.ConnectionFailure, "transient", "The database cannot be reached at the moment. Try again."),
    (errors.InvalidOperation, "transient", "The database connection is closed. Try again."),
)
TOO_LARGE = "The resource is too large to be stored."
CLAIMED = (
    "Another Endpoint claims the same sender: the same application and facility, with the same certificate if any, or "
    "being the default. Change that one first, or say in this one what tells its sender apart."
)
_TOO_LARGE_CODES = {10334, 17419, 17420}
_CONFLICT_CODES = {112, 251}
_INTERRUPTED_CODES = {237, 11600, 11601, 11602}
"""Whoever took this process for dead ended its session, or the server is ending."""
RETRY = {"Retry-After": "1"}


def translate(error: errors.PyMongoError) -> Problem:
    """The Problem of a driver error; raises the error itself when it is a fault of ours (a 500)."""
    code = getattr(error, "code", None)
    if code in _TOO_LARGE_CODES:
        return problem("too-long", TOO_LARGE)
    if code in _INTERRUPTED_CODES:
        return problem("transient", "The database gave up what it was doing. Try again.", headers=RETRY)
    if code in _CONFLICT_CODES or error.has_error_label("TransientTransactionError"):
        return problem("transient", "Too many requests changed the same data at once. Try again.", headers=RETRY)
    if isinstance(error, errors.DuplicateKeyError) and claimed(error.details):
        return problem("duplicate", CLAIMED, "Endpoint.identifier", status=409)
    for kind, issue_type, text in PROBLEMS:
        if isinstance(error, kind):
            return problem(issue_type, text, headers=RETRY if issue_type == "transient" else {})
    raise error


def claimed(details: Mapping[str, Any] | None) -> bool:
    """Whether a duplicate key is one that a resource claims, not its id."""
    return f"p.{CLAIMS}" in ((details or {}).get("keyPattern") or {})


@contextmanager
def translated(session: Session | None = None) -> Iterator[None]:
    """Driver errors inside become Problems; not within a transaction, which must see them to know that it can be
    retried.
    """
    if session is not None:
        yield
        return
    try:
        yield
    except errors.DocumentTooLarge as error:  # found before it is sent, and no PyMongoError
        raise problem("too-long", TOO_LARGE) from error
    except errors.PyMongoError as error:
        raise translate(error) from error


BASE_INDEXES = (
    IndexModel([("o", ASCENDING), ("t", DESCENDING), ("_id", ASCENDING)], name="o_t"),
    IndexModel([("ev.t", ASCENDING)], name="ev", partialFilterExpression={"ev": {"$exists": True}}),
)
SEALED = "AuditEvent"
"""The type whose records are sealed (`store.seal`): `z` is the number of the seal, 0 while there is none."""

CLIENT, OWNER = "p.client", "p.owner"
"""The client that made an audit record, and the organization whose client it is (`store.owned`)."""

SEALED_INDEXES = (
    *BASE_INDEXES,
    IndexModel(
        [("z", ASCENDING), ("o", ASCENDING), ("_id", ASCENDING)], name="unsealed", partialFilterExpression={"z": 0}
    ),
    IndexModel(
        [(CLIENT, ASCENDING), ("t", DESCENDING), ("_id", ASCENDING)],
        name="client",
        partialFilterExpression={CLIENT: {"$exists": True}},
    ),
    IndexModel(
        [(OWNER, ASCENDING), ("t", DESCENDING), ("_id", ASCENDING)],
        name="owner",
        partialFilterExpression={OWNER: {"$exists": True}},
    ),
    IndexModel([("i", ASCENDING)], name="own", partialFilterExpression={CLIENT: {"$exists": True}}),
    # The one question that is asked of a large repository: who saw this patient. As `store.indexes` would make it.
    IndexModel(
        [("o", ASCENDING), ("s.patient", ASCENDING), ("_id", ASCENDING)],
        name="s.patient",
        partialFilterExpression={"s.patient": {"$exists": True}},
    ),
)
CLAIMS = "claims"
CLAIMING_INDEXES = (
    *BASE_INDEXES,
    IndexModel(
        [(f"p.{CLAIMS}", ASCENDING)],
        name=CLAIMS,
        unique=True,
        partialFilterExpression={f"p.{CLAIMS}": {"$exists": True}},
    ),
)
"""For types whose resources may claim, in their private part, what only one resource can have."""
INBOUND_INDEXES = (
    *CLAIMING_INDEXES,
    # What waits in a lane, in its order: as many entries as messages wait, however many a patient has had.
    IndexModel(
        [("o", ASCENDING), ("s.lane", ASCENDING), ("k.sequence.lo", ASCENDING)],
        name="waiting",
        partialFilterExpression={"s.status": "received"},
    ),
)
CURRENT_INDEXES = {SEALED: SEALED_INDEXES, "Endpoint": CLAIMING_INDEXES, "InboundMessage": INBOUND_INDEXES}
HISTORY_INDEXES = (
    IndexModel([("o", ASCENDING), ("i", ASCENDING), ("v", DESCENDING)], name="o_i_v"),
    IndexModel([("o", ASCENDING), ("t", DESCENDING), ("i", ASCENDING), ("v", DESCENDING)], name="o_t_i_v"),
)


class Database:
    """A MongoDB database. Threads may share it; a child process must open its own."""

    def __init__(self, url: str, name: str, *, query_limit_ms: int = 10_000) -> None:
        self.client: MongoClient[Document] = MongoClient(
            url,
            tz_aware=True,
            appname="fhirserver",
            connect=False,
            serverSelectionTimeoutMS=5_000,
            retryWrites=True,
        )
        self.query_limit_ms = query_limit_ms
        self.raw = self.client.get_database(name, write_concern=WriteConcern("majority", j=True))
        self._collections: dict[str, Collection[Document]] = {}
        self._ready: set[str] = set()
        self._making = threading.Lock()

    def collection(self, name: str) -> Collection[Document]:
        """The collection of that name as it is; it may not exist yet."""
        found = self._collections.get(name)
        if found is None:
            found = self.raw.get_collection(name)
            if len(self._collections) < MOST_COLLECTIONS:
                self._collections[name] = found
        return found

    def documents(
        self,
        name: str,
        filter: Document,
        projection: Mapping[str, int],
        *,
        limit: int,
        sort: Sequence[tuple[str, int]] = (),
        hint: Sequence[tuple[str, int]] = (),
        session: Session | None = None,
    ) -> list[Document]:
        """At most `limit` (not 0) documents of a collection.

        Asked as a command, which costs a fifth less than the driver's cursor: what it would have done beside - ask once
        more where the primary has changed, fetch what does not go into one answer - it is left to do.
        """
        asked = {"filter": filter, "projection": projection, "limit": limit, "maxTimeMS": self.query_limit_ms}
        asked |= {key: dict(fields) for key, fields in (("sort", sort), ("hint", hint)) if fields}
        if session is None:
            try:
                options = self.raw.codec_options
                # One more than there can be: else mongod, having sorted, leaves open whether there are more.
                whole = {"find": name, **asked, "batchSize": limit + 1}
                answer = self.raw.command(whole, codec_options=options)["cursor"]
                if not answer["id"]:
                    return cast(list[Document], answer["firstBatch"])
                self.raw.command({"killCursors": name, "cursors": [answer["id"]]})
            except (errors.ExecutionTimeout, errors.ServerSelectionTimeoutError):
                raise
            except errors.PyMongoError:
                pass  # the driver says what there is to say of it, should it happen again
        cursor = self.collection(name).find(
            filter, projection, limit=limit, session=session, max_time_ms=self.query_limit_ms
        )
        if hint:
            cursor = cursor.hint(hint)
        return list(cursor.sort(sort) if sort else cursor)

    def current(self, type: str) -> Collection[Document]:
        """The collection of current versions of a type, created with its base indexes on first use."""
        return self.indexed(type, CURRENT_INDEXES.get(type, BASE_INDEXES))

    def history(self, type: str) -> Collection[Document]:
        """The collection of superseded versions of a type, created with its indexes on first use."""
        return self.indexed(f"{type}.history", HISTORY_INDEXES)

    def existing_types(self) -> list[str]:
        """The resource types that have a collection of current versions."""
        with translated():
            names = self.raw.list_collection_names(filter={"name": {"$regex": "^[A-Z][A-Za-z]*$"}})
        return sorted(names)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A session: what is read in it, one after the other and of what a majority has, never goes back in time."""
        with translated(), self.client.start_session() as session:
            yield session

    def transaction(self, work: Callable[[Session], T], session: Session | None = None) -> T:
        """Runs `work` in one transaction, of this session where one is given, and answers its result; it is run again
        when the transaction had to be retried.

        Whatever `work` raises aborts the transaction. Raises Problem(transient) when the database stays busy or away.
        """
        with translated(), nullcontext(session) if session else self.session() as session:
            return session.with_transaction(
                work,
                read_concern=pymongo.read_concern.ReadConcern("snapshot"),
                write_concern=WriteConcern("majority", j=True),
                read_preference=pymongo.ReadPreference.PRIMARY,
                max_commit_time_ms=self.query_limit_ms,
            )

    def end_sessions(self, ids: Iterable[Binary]) -> None:
        """Ends the sessions of processes that are gone, and with them the transactions they had begun."""
        self.client.admin.command("killSessions", [{"id": id} for id in ids])

    def close(self) -> None:
        """Ends all connections."""
        self.client.close()

    def indexed(self, name: str, indexes: Sequence[IndexModel]) -> Collection[Document]:
        """The collection of that name, created with these indexes on first use."""
        found = self.collection(name)
        if name in self._ready:
            return found
        with self._making, translated():
            if name not in self._ready:
                found.create_indexes(list(indexes))
                self._ready.add(name)
        return found
