"""Resources by the tokens they have in a parameter, of several types at once: what a message speaks of is looked up
together.

Outside a transaction that is one command, whatever the number of types: the collections are joined (`$unionWith`, which
a transaction does not allow). It shows what a majority has, and in a session nothing older than what was read there
before.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pymongo.read_concern import ReadConcern

from fhirserver.auth.access import Access
from fhirserver.store.database import Document, Session, translated
from fhirserver.store.model import Stored
from fhirserver.store.resources import Store, stored
from fhirserver.store.search import SHOWN

MOST_FOUND = 20_000
"""Resources of one type that may have one of the tokens asked for."""

Wanted = Mapping[str, Collection[str]]
"""The tokens asked for, by resource type."""
Found = dict[str, dict[str, Stored]]
"""By type and token: the oldest resource that has it."""


def by_tokens(store: Store, access: Access, parameter: str, wanted: Wanted, session: Session | None) -> Found:
    """What has one of these token values of a parameter, of each type, in at most MOST_FOUND resources of it.

    In a transaction the indexes are there already, as `Indexes.ensure` makes them. Raises Problem(transient) where the
    database is away.
    """
    field = f"s.{parameter}"
    asked = {type: _filter(access, field, tokens) for type, tokens in sorted(wanted.items()) if tokens}
    if not asked:
        return {}
    if session is None or not session.in_transaction:
        found = _together(store, asked, field, session)
    else:
        found = _each(store, asked, field, session)
    return {type: _by_value(type, documents, parameter, wanted[type]) for type, documents in found.items()}


def any_of(store: Store, access: Access, parameter: str, wanted: Wanted, session: Session) -> bool:
    """Whether anything has one of these tokens, as a transaction sees it."""
    for type, tokens in sorted(wanted.items()):
        filter = _filter(access, f"s.{parameter}", tokens)
        if store.database.collection(type).find_one(filter, {"_id": 1}, session=session):
            return True
    return False


def _filter(access: Access, field: str, tokens: Iterable[str]) -> Document:
    return {"o": access.organization, "x": None, field: {"$in": sorted(tokens)}}


def _together(
    store: Store, asked: Mapping[str, Document], field: str, session: Session | None
) -> dict[str, list[Document]]:
    for type in asked:
        store.indexes.ensure(type, [(field,)])
    steps: list[Document] = []
    for type, filter in asked.items():
        # Leaving fields out is half the work of naming those to keep.
        own: list[Document] = [{"$match": filter}, {"$limit": MOST_FOUND}, {"$unset": ["k", "c", "ev"]}]
        own.append({"$set": {"of": {"$literal": type}}})
        steps += [{"$unionWith": {"coll": type, "pipeline": own}}] if steps else own
    first = store.database.collection(next(iter(asked))).with_options(read_concern=ReadConcern("majority"))
    found: dict[str, list[Document]] = {}
    with translated(session):
        for document in first.aggregate(steps, session=session, maxTimeMS=store.database.query_limit_ms):
            found.setdefault(document["of"], []).append(document)
    return found


def _each(store: Store, asked: Mapping[str, Document], field: str, session: Session) -> dict[str, list[Document]]:
    found = {}
    for type, filter in asked.items():
        cursor = store.database.collection(type).find(
            filter, {**SHOWN, field: 1}, session=session, max_time_ms=store.database.query_limit_ms
        )
        found[type] = list(cursor.limit(MOST_FOUND))
    return found


def _by_value(type: str, documents: Iterable[Any], parameter: str, tokens: Collection[str]) -> dict[str, Stored]:
    found: dict[str, Stored] = {}
    for document in sorted(documents, key=lambda each: str(each["_id"])):
        version = stored(type, document)
        for value in document["s"][parameter]:
            if value in tokens:
                found.setdefault(value, version)
    return found
