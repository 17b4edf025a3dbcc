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
from fhirserver.store.database import Document, translated
from fhirserver.store.model import Stored
from fhirserver.store.resources import Store, stored

MOST_NARROWED = 10_000
FIELDS = {"s": 0, "k": 0, "ev": 0, "p": 0}


@dataclass(frozen=True, slots=True)
class Span:
    """Which versions: made at or after `since`; made before `until`; with `at`, also those still current at that
    instant.
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
) -> list[Stored]:
    """At most `limit` versions of these types, ordered by instant descending, then type/id, then version descending.

    `after` is the (instant, "Type/id", version) of the last one already shown. A narrowed access sees the versions
    of the resources
    whose current version it may see; Problem(too-costly) when those are too many to name.
    """
    streams = [_stream(store, access, type, letter, id, span, after, limit) for type in types]
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
) -> Iterator[Stored]:
    clauses = access.clauses(type, letter)
    if clauses is None:
        return iter(())
    filter: Document = {"o": access.organization}
    if id is not None:
        filter["i"] = id
    elif clauses:
        filter["i"] = {"$in": _narrowed(store, access, type, [mongo_filter(clause) for clause in clauses])}
    when: Document = {}
    if span.since:
        when["$gte"] = span.since
    if span.until:
        when["$lt"] = span.until
    if after:
        when["$lte"] = min(after[0], span.until) if span.until else after[0]
    if when:
        filter["t"] = when
    found: list[Stored] = []
    with translated():
        for name in (type, f"{type}.history"):
            cursor = store.database.collection(name).find(filter, FIELDS, max_time_ms=store.database.query_limit_ms)
            cursor = cursor.sort([("t", -1), ("_id", 1)])
            found += _past(cursor, type, after, limit)
    found.sort(key=_order)
    return iter(_at(found, span))


def _past(cursor: Any, type: str, after: Sequence[Any] | None, limit: int) -> list[Stored]:
    """The first `limit` versions of a cursor that come after the last one shown (several may share its instant)."""
    last = (-after[0].timestamp(), after[1], -after[2]) if after else None
    wanted = (version for version in (stored(type, each) for each in cursor) if last is None or _order(version) > last)
    return list(islice(wanted, limit))


def _at(found: list[Stored], span: Span) -> list[Stored]:
    """With `_at`: of the versions made before the instant, only the last of each resource was current then."""
    if span.at is None:
        return found
    kept: list[Stored] = []
    settled: set[str] = set()
    for version in found:
        if version.instant >= span.at or version.id not in settled:
            kept.append(version)
        if version.instant < span.at:
            settled.add(version.id)
    return kept


def _narrowed(store: Store, access: Access, type: str, filters: list[Document]) -> list[str]:
    with translated():
        cursor = store.database.collection(type).find(
            {"$and": [{"o": access.organization}, *filters]}, {"i": 1}, max_time_ms=store.database.query_limit_ms
        )
        ids = [document["i"] for document in cursor.limit(MOST_NARROWED + 1)]
    if len(ids) > MOST_NARROWED:
        raise problem(
            "too-costly", f"The history of {type} is too large for your narrowed scopes; ask for single resources."
        )
    return ids
