"""Prefixes over ranges, for dates and numbers alike: what eq, ne, gt, lt, ge, le, sa, eb and ap say of two ranges.

FHIR R4: search#prefix. Ranges are closed at both ends; index values are {"lo": .., "hi": ..}. The scalar keys of a
parameter (k.<p>.lo, the least start; k.<p>.hi, the greatest end) decide lt and gt alone and bound all the others;
s.<p>:w, the class of hi - lo, lets an index bound a range on both sides (see `bounded`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fhirserver.search.text import all_of, any_of

PREFIXES = ("eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap")


@dataclass(frozen=True, slots=True)
class Range:
    """The operand of a range search: a prefix and the closed range of the value that was given."""

    prefix: str
    lo: Any
    hi: Any


def contains(range: Range, lo: Any, hi: Any) -> bool:
    """Whether the index value lo..hi satisfies the prefix, by the table of the specification."""
    prefix = range.prefix
    inside = bool(range.lo <= lo and hi <= range.hi)
    if prefix == "eq":
        return inside
    if prefix == "ne":
        return not inside
    if prefix == "gt":
        return bool(hi > range.hi)
    if prefix == "lt":
        return bool(lo < range.lo)
    if prefix == "ge":
        return inside or bool(hi > range.hi)
    if prefix == "le":
        return inside or bool(lo < range.lo)
    if prefix == "sa":
        return bool(lo > range.hi)
    if prefix == "eb":
        return bool(hi < range.lo)
    return bool(lo <= range.hi and hi >= range.lo)


def element(range: Range) -> dict[str, Any]:
    """The condition inside $elemMatch on one index value. Says more than it must where that narrows an index."""
    lo, hi = range.lo, range.hi
    inside = {"lo": {"$gte": lo, "$lte": hi}, "hi": {"$gte": lo, "$lte": hi}}
    table: Mapping[str, dict[str, Any]] = {
        "eq": inside,
        "ne": {"$or": [{"lo": {"$lt": lo}}, {"hi": {"$gt": hi}}]},
        "gt": {"hi": {"$gt": hi}},
        "lt": {"lo": {"$lt": lo}},
        "ge": {"$or": [{"hi": {"$gt": hi}}, inside], "hi": {"$gte": lo}},
        "le": {"$or": [{"lo": {"$lt": lo}}, inside], "lo": {"$lte": hi}},
        "sa": {"lo": {"$gt": hi}, "hi": {"$gt": hi}},
        "eb": {"lo": {"$lt": lo}, "hi": {"$lt": lo}},
        "ap": {"lo": {"$lte": hi}, "hi": {"$gte": lo}},
    }
    return table[range.prefix]


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a range implies of the scalar keys: hi is at least (above: more than) `least`, lo at most (below: less than)
    `most`. `exact` says that nothing else need be asked."""

    least: tuple[str, Any] | None = None
    most: tuple[str, Any] | None = None
    exact: bool = False


def bounds(range: Range) -> Bounds:
    """The bounds of one range; those of several that must all hold are joined by `joined`."""
    lo, hi = range.lo, range.hi
    table: Mapping[str, Bounds] = {
        "eq": Bounds(("$gte", lo), ("$lte", hi)),
        "ne": Bounds(),
        "gt": Bounds(("$gt", hi), None, True),
        "lt": Bounds(None, ("$lt", lo), True),
        "ge": Bounds(("$gte", lo), None),
        "le": Bounds(None, ("$lte", hi)),
        "sa": Bounds(("$gt", hi), None),
        "eb": Bounds(None, ("$lt", lo)),
        "ap": Bounds(("$gte", lo), ("$lte", hi)),
    }
    return table[range.prefix]


def joined(several: Sequence[Bounds]) -> Bounds:
    """The bounds of conditions that must all hold."""
    least = max((b.least for b in several if b.least), key=lambda e: (e[1], e[0] == "$gt"), default=None)
    most = min((b.most for b in several if b.most), key=lambda e: (e[1], e[0] != "$lt"), default=None)
    return Bounds(least, most, all(b.exact for b in several))


def bounded(parameter: str, bound: Bounds, widths: Sequence[Any]) -> dict[str, Any]:
    """The MongoDB condition of bounds on the scalar keys.

    hi >= a bounds lo only together with how wide lo..hi is: so every width class is asked for lo >= a - width, each a
    tight range of the index (s.<p>:w, k.<p>.lo, k.<p>.hi). `widths` are the greatest widths of the classes 0, 1, ...;
    one class more has no limit.
    """
    lo, hi, width = f"k.{parameter}.lo", f"k.{parameter}.hi", f"s.{parameter}:w"
    most = {bound.most[0]: bound.most[1]} if bound.most else {}
    if bound.least is None:
        return {width: {"$gte": 0}, **({lo: most} if most else {})}
    operator, least = bound.least
    branches: list[dict[str, Any]] = [
        {width: number, lo: {"$gte": _before(least, greatest), **most}, hi: {operator: least}}
        for number, greatest in enumerate(widths)
    ]
    last: dict[str, Any] = {width: len(widths)}
    if most:
        last[lo] = most
    return any_of([*branches, {**last, hi: {operator: least}}])


def _before(value: Any, width: Any) -> Any:
    try:
        return value - width
    except OverflowError:  # before the year 1
        return value.min.replace(tzinfo=value.tzinfo)


def filter_all(parameter: str, ranges: Sequence[Sequence[Range]], widths: Sequence[Any]) -> dict[str, Any]:
    """The MongoDB condition of several searches on one parameter, each an OR of ranges: AND of them all.

    Joined in one pair of bounds, `date=ge2020&date=lt2021` reads that year from the index and not all years before it.
    """
    path = f"s.{parameter}"
    single = [group[0] for group in ranges if len(group) == 1]
    conditions = [bounded(parameter, joined([bounds(r) for r in single]), widths)] if single else []
    conditions += [{path: {"$elemMatch": element(r)}} for r in single if not bounds(r).exact]
    for group in ranges:
        if len(group) != 1:
            conditions.append(any_of([filter_all(parameter, [[r]], widths) for r in group]))
    return all_of(conditions) or {path: {"$exists": True}}


def width_class(lo: Any, hi: Any, widths: Sequence[Any]) -> int:
    """The number of the class that hi - lo falls into."""
    span = hi - lo
    for number, greatest in enumerate(widths):
        if span <= greatest:
            return number
    return len(widths)


def span(values: list[Any]) -> tuple[Any, Any] | None:
    """The least start and the greatest end of index values."""
    if not values:
        return None
    if len(values) == 1:
        return values[0]["lo"], values[0]["hi"]
    return min(value["lo"] for value in values), max(value["hi"] for value in values)


def matches_ranges(values: Sequence[Mapping[str, Any]], operands: Sequence[Range]) -> bool:
    """Whether one of the index values satisfies one of the operands."""
    return any(contains(operand, value["lo"], value["hi"]) for value in values for operand in operands)


def prefixed(text: str) -> tuple[str, str]:
    """The prefix of a value and the rest; "eq" where there is none."""
    return (text[:2], text[2:]) if text[:2] in PREFIXES else ("eq", text)
