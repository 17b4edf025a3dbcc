"""Searching for resources that are inside others. FHIR R4: search#contained.

The index values of contained resources lie beside those of their container (`c`), so a search for them is one of the
container types; here the contained ones that match are found one by one, in the order of their containers and then of
their place inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fhirserver.auth.access import Access
from fhirserver.search import mongo
from fhirserver.search.query import Clause, Contained, Has, Listed, Nothing, both, rewrite
from fhirserver.store.database import Document, Session, translated
from fhirserver.store.model import Stored, Total
from fhirserver.store.resources import Store, stored
from fhirserver.store.search import SHOWN, Search, compile_search, joined, narrowed


@dataclass(frozen=True, slots=True)
class Inner:
    """A search for resources inside those of one type. search: for the containers; filter: what is asked of each that
    is inside one."""

    search: Search
    filter: Document


@dataclass(frozen=True, slots=True)
class Match:
    """One contained resource that matches: its container, its id in it, and where it stands among the matches."""

    container: Stored
    id: str
    place: tuple[str, int]


def compile_contained(
    store: Store, access: Access, type: str, container: str, clauses: Sequence[Clause], session: Session | None
) -> Inner | None:
    """The search for resources of `type` inside those of `container`, within what the access permits of both; None
    where it permits nothing of one of them. Nothing refers to a contained resource from outside: `_has` and `_list`
    find none.
    """
    permitted = access.clauses(type, "s")
    if permitted is None:
        return None
    own = rewrite(both(*permitted, *clauses), _none_if(Has, Listed))
    inner = rewrite(joined(store, access, type, own, session), _none_if(Contained))
    wanted = Contained(type, inner)
    search = compile_search(store, access, container, [wanted], session)
    return Inner(search, mongo.inside(wanted)) if search else None


def _none_if(*kinds: type[Clause]) -> Any:
    return lambda clause: Nothing() if isinstance(clause, kinds) else None


def find_contained(
    store: Store, inner: Inner, count: int, after: Sequence[Any] | None, session: Session | None = None
) -> tuple[list[Match], Sequence[Any] | None]:
    """At most `count` contained resources that match, those after a place that an earlier page answered; and the place
    of the last where more follow."""
    first: list[Document] = []
    rest: list[Document] = [inner.filter]
    if after:
        id, number = after
        first.append({"_id": {"$gte": id}})
        rest.append({"$or": [{"of._id": {"$gt": id}}, {"of._id": id, "n": {"$gt": number}}]})
    outer = {name: f"${name}" for name in ("_id", *SHOWN)}
    steps: list[Document] = [
        {"$match": narrowed(inner.search.filter, first)},
        {"$sort": {"_id": 1}},
        *_each({"of": outer, "n": "$n"}),
        {"$match": {"$and": rest}},
        {"$limit": count + 1},
        {"$project": {"i": 1, "n": 1, "of": 1}},
    ]
    found = [
        Match(stored(inner.search.type, each["of"]), each["i"], (each["of"]["_id"], int(each["n"])))
        for each in _run(store, inner, steps, session)
    ]
    return found[:count], list(found[count - 1].place) if len(found) > count else None


def total_contained(store: Store, inner: Inner, bound: int, session: Session | None = None) -> Total:
    """How many contained resources match, counted up to `bound`."""
    steps: list[Document] = [
        {"$match": inner.search.filter},
        *_each({}),
        {"$match": inner.filter},
        {"$limit": bound + 1},
        {"$count": "n"},
    ]
    count = next((int(each["n"]) for each in _run(store, inner, steps, session)), 0)
    return Total(min(count, bound), bounded=count > bound)


def _each(outer: Document) -> list[Document]:
    """One document for each contained resource, with what is named of its container."""
    return [
        {"$unwind": {"path": "$c", "includeArrayIndex": "n"}},
        {"$replaceRoot": {"newRoot": {"$mergeObjects": [outer, "$c"]}}},
    ]


def _run(store: Store, inner: Inner, steps: list[Document], session: Session | None) -> list[Document]:
    if session is None:
        store.indexes.ensure(inner.search.type, inner.search.fields)
    with translated(session):
        cursor = store.database.collection(inner.search.type).aggregate(
            steps, session=session, maxTimeMS=store.database.query_limit_ms
        )
        return list(cursor)
