"""Clauses to MongoDB filters over the stored index values: plain dicts, no driver.

Fields: `s.<parameter>` values, `k.<parameter>.lo|hi` scalar keys, `i` the id, `t` the instant of the version; `c` the
contained resources, each with its `type`, `i`, `by`, `s` and `k`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fhirserver.search.query import And, Clause, Contained, Ids, Leaf, Missing, Not, Nothing, Or, References, both
from fhirserver.search.text import all_of, any_of, one_of
from fhirserver.search.types import TYPES
from fhirserver.search.types.date import WIDTHS as DATE_WIDTHS
from fhirserver.search.types.number import WIDTHS as NUMBER_WIDTHS
from fhirserver.search.types.ranges import Range, filter_all

NOTHING: Mapping[str, Any] = {"_id": {"$in": []}}
_WIDTHS: Mapping[str, Sequence[Any]] = {"date": DATE_WIDTHS, "number": NUMBER_WIDTHS}
_UPDATED = "_lastUpdated"
MOST_ALTERNATIVES = 16


def filter(clause: Clause) -> dict[str, Any]:
    """The MongoDB filter of a clause. Raises TypeError for clauses that the store must replace first."""
    if isinstance(clause, Leaf):
        return _leaf(clause)
    if isinstance(clause, And):
        return _and(clause)
    if isinstance(clause, Or):
        return any_of([filter(part) for part in clause.clauses])
    if isinstance(clause, Not):
        return {"$nor": [filter(clause.clause)]}
    if isinstance(clause, Missing):
        return _missing(clause)
    if isinstance(clause, Ids):
        return {"i": {"$in": sorted(clause.ids)}} if len(clause.ids) != 1 else {"i": next(iter(clause.ids))}
    if isinstance(clause, References):
        return one_of(f"s.{clause.parameter}", sorted(clause.references))
    if isinstance(clause, Nothing):
        return dict(NOTHING)
    if isinstance(clause, Contained):
        return {"c": {"$elemMatch": inside(clause)}}
    raise TypeError(f"{type(clause).__name__} must be resolved by the store before it can be filtered")


def inside(clause: Contained) -> dict[str, Any]:
    """What a Contained asks of one contained resource."""
    by = {"by": clause.by} if clause.by else {}
    return {"type": clause.type, **by, **filter(clause.clause)}


def _and(clause: And) -> dict[str, Any]:
    """Searches on one date or number parameter are joined, so that they bound one index range together."""
    groups: dict[tuple[str, str], list[tuple[Range, ...]]] = {}
    rest: list[dict[str, Any]] = []
    for part in clause.clauses:
        if isinstance(part, Leaf) and part.type in _WIDTHS and part.parameter != _UPDATED:
            groups.setdefault((part.parameter, part.type), []).append(part.values)
        else:
            rest.append(filter(part))
    joined = [filter_all(parameter, ranges, _WIDTHS[type]) for (parameter, type), ranges in groups.items()]
    return all_of(rest + joined)


def _leaf(leaf: Leaf) -> dict[str, Any]:
    if leaf.parameter == _UPDATED:
        return any_of([_updated(value) for value in leaf.values])
    if leaf.type in _WIDTHS:
        return filter_all(leaf.parameter, [leaf.values], _WIDTHS[leaf.type])
    return TYPES[leaf.type].filter(f"s.{leaf.parameter}", leaf.values, leaf.modifier)


def _updated(range: Range) -> dict[str, Any]:
    """A range asked of the instant of the version, which is a point."""
    lo, hi = range.lo, range.hi
    table: Mapping[str, dict[str, Any]] = {
        "eq": {"t": {"$gte": lo, "$lte": hi}},
        "ap": {"t": {"$gte": lo, "$lte": hi}},
        "ne": {"$or": [{"t": {"$lt": lo}}, {"t": {"$gt": hi}}]},
        "gt": {"t": {"$gt": hi}},
        "sa": {"t": {"$gt": hi}},
        "ge": {"t": {"$gte": lo}},
        "lt": {"t": {"$lt": lo}},
        "eb": {"t": {"$lt": lo}},
        "le": {"t": {"$lte": hi}},
    }
    return table[range.prefix]


def _missing(clause: Missing) -> dict[str, Any]:
    if clause.parameter in ("_id", _UPDATED):
        return dict(NOTHING) if clause.missing else {}
    return {f"s.{clause.parameter}": {"$exists": not clause.missing}}


def found_by_values(clause: Clause) -> bool:
    """Whether only resources that have search values match: never a deleted one, which has none."""
    if isinstance(clause, And):
        return any(found_by_values(part) for part in clause.clauses)
    if isinstance(clause, Or):
        return all(found_by_values(part) for part in clause.clauses)
    if isinstance(clause, Leaf):
        return clause.parameter not in ("_id", _UPDATED)
    if isinstance(clause, Missing):
        return not clause.missing and clause.parameter not in ("_id", _UPDATED)
    return isinstance(clause, References | Contained)


def absorbed(clause: Clause) -> Clause:
    """The clause without the Ors that hold anyway, since one of their parts is asked beside them: somebody who may see
    what is of either side asks for what is of one.
    """
    if not isinstance(clause, And) or not any(isinstance(part, Or) for part in clause.clauses):
        return clause
    beside = [filter(part) for part in clause.clauses if not isinstance(part, Or)]

    def needed(part: Clause) -> bool:
        return not isinstance(part, Or) or all(filter(one) not in beside for one in part.clauses)

    return both(*(part for part in clause.clauses if needed(part)))


def alternatives(clause: Clause) -> list[Clause]:
    """The clause as several of which one must hold, where its parts are found by different indexes; else itself alone.

    What belongs to a patient is one of several references. MongoDB finds each by its index where the Or is outermost;
    inside an And it takes none of our partial indexes for it, and looks at every resource instead.
    """
    if isinstance(clause, And):
        found: list[list[Clause]] = [[]]
        for part in clause.clauses:
            each = alternatives(part)
            if len(found) * len(each) > MOST_ALTERNATIVES:
                each = [part]
            found = [[*before, one] for before in found for one in each]
        return [both(*parts) for parts in found]
    if isinstance(clause, Or):
        each = [one for part in clause.clauses for one in alternatives(part)]
        fields = {(("_id",),) if isinstance(part, Ids) else index_fields(part) for part in clause.clauses}
        apart = len(fields) > 1 or len(each) > len(clause.clauses)
        if apart and () not in fields and len(each) <= MOST_ALTERNATIVES:
            return each
    return [clause]


def index_fields(clause: Clause) -> tuple[tuple[str, ...], ...]:
    """The indexes that would help a clause: for each, its fields in order (to stand after the organization).

    Not and missing=true are asked of what other clauses leave over: no index answers them.
    """
    if isinstance(clause, And | Or):
        return tuple(dict.fromkeys(fields for part in clause.clauses for fields in index_fields(part)))
    if isinstance(clause, Leaf):
        if clause.parameter == _UPDATED:
            return (("t",),)
        return (TYPES[clause.type].fields(f"s.{clause.parameter}", clause.modifier),)
    if isinstance(clause, References):
        return ((f"s.{clause.parameter}",),)
    if isinstance(clause, Contained):
        asked = [fields for fields in index_fields(clause.clause) if fields != ("t",)]
        return tuple(("c.type", *(f"c.{field}" for field in fields)) for fields in asked or [()])
    if isinstance(clause, Missing) and not clause.missing and clause.parameter not in ("_id", _UPDATED):
        return ((f"s.{clause.parameter}",),)
    return ()
