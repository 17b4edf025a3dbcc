"""Reading versions, newest first, out of the current and the superseded ones. FHIR R4: http#history."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

from fhirserver.auth.access import Access
from fhirserver.fhir.problem import problem
from fhirserver.search.mongo import filter as mongo_filter
from fhirserver.store.database import Document, Session, translated
from fhirserver.store.model import Stored
from fhirserver.store.resources import Store, key, stored

MOST_NARROWED = 10_000
NEWEST_FIRST = [("t", -1), ("i", 1), ("v", -1)]
"""The order of superseded versions: of one instant by the number, which the text of their `_id` would not give."""
FIELDS = {"s": 0, "k": 0, "c": 0, "ev": 0, "p": 0}


@dataclass(frozen=True, slots=True)
class Span:
    """Which versions: made from `since` on; made until `until`; with `at`, those made after that instant, and of each
    resource the one that was current at it.
    """

    since: datetime | None = None
    until: datetime | None = None
    at: datetime | None = None


def versions(
    store: Store,
    access: Access,
    types: Sequence[str],
    letter: str,
    id: str | None,
    span: Span,
    after: Sequence[Any] | None,
    limit: int,
    session: Session | None = None,
) -> list[Stored]:
    """At most `limit` versions of these types, ordered by instant descending, then type/id, then version descending.

    `after` is the (instant, "Type/id", version) of the last one already shown. A narrowed access sees the versions of
    the resources whose current version it may see; Problem(too-costly) when those are too many to name.
    """
    kept = store.existing(types)
    streams = [_stream(store, access, type, letter, id, span, after, limit, session) for type in kept]
    merged = heapq.merge(*streams, key=_order)
    return list(islice(merged, limit))


def _order(version: Stored) -> tuple[float, str, int]:
    return (-version.instant.timestamp(), f"{version.type}/{version.id}", -version.version)


def _stream(
    store: Store,
    access: Access,
    type: str,
    letter: str,
    id: str | None,
    span: Span,
    after: Sequence[Any] | None,
    limit: int,
    session: Session | None,
) -> Iterator[Stored]:
    clauses = access.clauses(type, letter)
    if clauses is None:
        return iter(())
    filter: Document = {"o": access.organization}
    if id is not None:
        filter["i"] = id
    elif clauses:
        filter["i"] = {"$in": _narrowed(store, access, type, [mongo_filter(clause) for clause in clauses], session)}
    found = _made(store, type, filter, span, after, limit, session)
    if span.at:
        found += _current_at(store, type, filter, span.at, after, limit, session)
    return iter(sorted(found, key=_order))


def _made(
    store: Store,
    type: str,
    filter: Document,
    span: Span,
    after: Sequence[Any] | None,
    limit: int,
    session: Session | None,
) -> list[Stored]:
    """The versions made in the span; with `at`, after that instant."""
    when: Document = {"$gte": span.since} if span.since else {}
    if span.at:
        when["$gt"] = span.at
    ends = [end for end in (span.until, after[0] if after else None) if end]
    if ends:
        when["$lte"] = min(ends)
    during: Document = {"t": when} if when else {}
    now, before = {**_of_now(filter), **during}, {**filter, **during}
    found: list[Stored] = []
    with translated(session):
        for name, asked, order in ((type, now, [("t", -1), ("_id", 1)]), (f"{type}.history", before, NEWEST_FIRST)):
            cursor = store.database.collection(name).find(
                asked, FIELDS, session=session, max_time_ms=store.database.query_limit_ms
            )
            found += _past(cursor.sort(order), type, after, limit)
    return found


def _of_now(filter: Document) -> Document:
    """What finds current versions: the ids asked of `_id`, which has the index; superseded ones have one by id."""
    organization, ids = filter["o"], filter.get("i")
    if isinstance(ids, str):
        return {"_id": key(organization, ids)}
    return {"_id": {"$in": [key(organization, id) for id in ids["$in"]]}} if ids else {"o": organization}


def _current_at(
    store: Store,
    type: str,
    filter: Document,
    at: datetime,
    after: Sequence[Any] | None,
    limit: int,
    session: Session | None,
) -> list[Stored]:
    """Of each resource the last version made until that instant."""
    until = {"t": {"$lte": at}}
    steps: list[Document] = [
        {"$match": {**_of_now(filter), **until}},
        {"$unionWith": {"coll": f"{type}.history", "pipeline": [{"$match": {**filter, **until}}]}},
        {"$project": FIELDS},
        {"$sort": {"i": 1, "t": -1, "v": -1}},
        {"$group": {"_id": "$i", "version": {"$first": "$$ROOT"}}},
        {"$replaceRoot": {"newRoot": "$version"}},
        {"$sort": {"t": -1, "i": 1}},
    ]
    with translated(session):
        cursor = store.database.collection(type).aggregate(
            steps, session=session, maxTimeMS=store.database.query_limit_ms, allowDiskUse=True
        )
        return _past(cursor, type, after, limit)


def _past(cursor: Any, type: str, after: Sequence[Any] | None, limit: int) -> list[Stored]:
    """The first `limit` versions of a cursor that come after the last one shown (several may share its instant)."""
    last = (-after[0].timestamp(), after[1], -after[2]) if after else None
    found = (stored(type, each) for each in cursor)
    return list(islice((version for version in found if last is None or _order(version) > last), limit))


def _narrowed(store: Store, access: Access, type: str, filters: list[Document], session: Session | None) -> list[str]:
    with translated(session):
        cursor = store.database.collection(type).find(
            {"$and": [{"o": access.organization}, *filters]},
            {"i": 1},
            session=session,
            max_time_ms=store.database.query_limit_ms,
        )
        ids = [document["i"] for document in cursor.limit(MOST_NARROWED + 1)]
    if len(ids) > MOST_NARROWED:
        raise problem(
            "too-costly", f"The history of {type} is too large for your narrowed scopes; ask for single resources."
        )
    return ids
