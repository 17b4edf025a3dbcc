"""Clauses asked of index entries in memory: subscriptions, access and the tests of the MongoDB filters use it."""

from __future__ import annotations

from datetime import datetime

from fhirserver.search.index import Entry, Inside
from fhirserver.search.query import And, Clause, Contained, Ids, Leaf, Missing, Not, Nothing, Or, References
from fhirserver.search.types import TYPES
from fhirserver.search.types.ranges import contains


def matches(clause: Clause, entry: Entry, id: str = "", last_updated: datetime | None = None) -> bool:
    """Whether the resource with this entry, id and instant of its version matches.

    Raises TypeError for clauses that the store must replace first.
    """
    if isinstance(clause, Leaf):
        return _leaf(clause, entry, last_updated)
    if isinstance(clause, And):
        return all(matches(part, entry, id, last_updated) for part in clause.clauses)
    if isinstance(clause, Or):
        return any(matches(part, entry, id, last_updated) for part in clause.clauses)
    if isinstance(clause, Not):
        return not matches(clause.clause, entry, id, last_updated)
    if isinstance(clause, Missing):
        return (clause.parameter not in entry.search and clause.parameter not in ("_id", "_lastUpdated")) is (
            clause.missing
        )
    if isinstance(clause, Ids):
        return id in clause.ids
    if isinstance(clause, References):
        return not clause.references.isdisjoint(entry.search.get(clause.parameter, ()))
    if isinstance(clause, Contained):
        return any(_inside(clause, inside) for inside in entry.contained)
    if isinstance(clause, Nothing):
        return False
    raise TypeError(f"{type(clause).__name__} must be resolved by the store before it can be matched")


def _leaf(leaf: Leaf, entry: Entry, last_updated: datetime | None) -> bool:
    if leaf.parameter == "_lastUpdated":
        return last_updated is not None and any(contains(v, last_updated, last_updated) for v in leaf.values)
    return TYPES[leaf.type].matches(entry.search, leaf.parameter, leaf.values, leaf.modifier)


def _inside(clause: Contained, inside: Inside) -> bool:
    if inside.type != clause.type or (clause.by and clause.by not in inside.by):
        return False
    return matches(clause.clause, inside.entry, inside.id)
