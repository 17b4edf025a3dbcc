"""Quantity parameters: a number with its unit, as written and in canonical UCUM form.

FHIR R4: search#quantity. s.<p>: {"u", "lo", "hi"}, one for each way the unit may be asked for: "" any unit, "|mg" the
code or the unit's name, "system|code", "=kg" canonical. A range that is not a point has "~" after its unit, so that
both ends of a point bound an index.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fhirserver.search.text import any_of, split, unescape
from fhirserver.search.types.model import Context, Found, SearchType, Values
from fhirserver.search.types.number import bound, number, read
from fhirserver.search.types.ranges import PREFIXES, Range, contains, element, prefixed
from fhirserver.search.units import UCUM, canonical

_CURRENCY = "urn:iso:std:iso:4217"


@dataclass(frozen=True, slots=True)
class Operand:
    """A range of numbers in one unit, as that unit is stored."""

    unit: str
    range: Range


def _quantity(value: Mapping[str, Any]) -> tuple[float, float, Mapping[str, Any]] | None:
    """The range that a Quantity stands for: a point, or an open range where it has a comparator."""
    point = number(value.get("value"))
    if point is None:
        return None
    comparator = value.get("comparator")
    if comparator in ("<", "<="):
        return -math.inf, math.nextafter(point, -math.inf) if comparator == "<" else point, value
    if comparator in (">", ">="):
        return math.nextafter(point, math.inf) if comparator == ">" else point, math.inf, value
    return point, point, value


def _read(type: str, value: Mapping[str, Any]) -> tuple[float, float, Mapping[str, Any]] | None:
    if type == "Money":
        amount = number(value.get("value"))
        unit = {"system": _CURRENCY, "code": value.get("currency")}
        return None if amount is None else (amount, amount, unit)
    if type == "Range":
        low = value.get("low") if isinstance(value.get("low"), dict) else None
        high = value.get("high") if isinstance(value.get("high"), dict) else None
        first, last = _quantity(low) if low else None, _quantity(high) if high else None
        if first is None and last is None:
            return None
        unit = low or high or {}
        return first[0] if first else -math.inf, last[1] if last else math.inf, unit
    return _quantity(value)


def _units(lo: float, hi: float, unit: Mapping[str, Any]) -> Iterator[tuple[str, float, float]]:
    system, code, name = unit.get("system"), unit.get("code"), unit.get("unit")
    yield "", lo, hi
    if isinstance(code, str):
        yield f"|{code}", lo, hi
        first = canonical(lo, code) if system == UCUM and math.isfinite(lo) else None
        last = canonical(hi, code) if system == UCUM and math.isfinite(hi) else None
        known = first or last
        if known:
            yield f"={known[1]}", first[0] if first else lo, last[0] if last else hi
        elif isinstance(system, str):
            yield f"{system}|{code}", lo, hi
    if isinstance(name, str) and name != code:
        yield f"|{name}", lo, hi


def index(name: str, values: Values, found: Found) -> None:
    elements: dict[tuple[str, float, float], None] = {}
    for type, value in values:
        ends = _read(type, value) if isinstance(value, dict) else None
        if ends is not None and ends[0] <= ends[1]:
            for unit, lo, hi in _units(*ends):
                elements[unit if lo == hi else f"{unit}~", lo, hi] = None
    found[name] = [{"u": unit, "lo": lo, "hi": hi} for unit, lo, hi in elements]


def key(values: list[Any]) -> tuple[Any, Any] | None:
    """The least and greatest number in canonical units where there are such, else as written."""
    kept = [v for v in values if v["u"][:1] == "="] or [v for v in values if v["u"] in ("", "~")]
    return (min(v["lo"] for v in kept), max(v["hi"] for v in kept)) if kept else None


def parse(text: str, context: Context) -> Operand:
    parts = [unescape(part, context.parameter) for part in split(text, "|")]
    if len(parts) == 2:
        raise context.invalid("write number, number||code or number|system|code.")
    if len(parts) not in (1, 3):
        raise context.invalid("write number|system|code; write \\| for a | inside a unit.")
    prefix, rest = prefixed(parts[0])
    lo, hi = read(prefix, rest, context)
    if len(parts) == 1 or not (parts[1] or parts[2]):
        return Operand("", bound(prefix, float(lo), float(hi)))
    system, code = parts[1], parts[2]
    if not code:
        raise context.invalid("a unit's system without its code; write number||code or number|system|code.")
    if system == UCUM:
        first, last = canonical(float(lo), code), canonical(float(hi), code)
        if first and last:
            return Operand(f"={first[1]}", bound(prefix, min(first[0], last[0]), max(first[0], last[0])))
    return Operand(f"{system}|{code}", bound(prefix, float(lo), float(hi)))


def _conditions(path: str, operand: Operand) -> list[dict[str, Any]]:
    unit, range = operand.unit, operand.range
    inside = element(range)
    if range.prefix == "lt":
        point = {"lo": {"$lt": range.lo}, "hi": {"$lt": range.lo}}
    elif range.prefix == "le":
        point = {"lo": {"$lte": range.hi}, "hi": {"$lte": range.hi}}
    else:
        point = inside
    return [{path: {"$elemMatch": {"u": unit, **point}}}, {path: {"$elemMatch": {"u": f"{unit}~", **inside}}}]


def filter(path: str, operands: tuple[Operand, ...], modifier: str) -> dict[str, Any]:
    return any_of([condition for operand in operands for condition in _conditions(path, operand)])


def matches(found: Mapping[str, Any], name: str, operands: tuple[Operand, ...], modifier: str) -> bool:
    values = found.get(name, ())
    return any(
        value["u"] in (operand.unit, f"{operand.unit}~") and contains(operand.range, value["lo"], value["hi"])
        for value in values
        for operand in operands
    )


def fields(path: str, modifier: str) -> tuple[str, ...]:
    """The unit, then both ends of the range, all of one array element."""
    return (f"{path}.u", f"{path}.hi", f"{path}.lo")


QUANTITY = SearchType("quantity", PREFIXES, (), index, key, parse, filter, matches, fields)
