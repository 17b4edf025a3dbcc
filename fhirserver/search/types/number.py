"""Number parameters: the digits that are written say how precisely a number is meant.

FHIR R4: search#number, search#prefix. s.<p>: {"lo", "hi"} as floats; a number is a point, a Range has two ends.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Any

from fhirserver.search.text import unescape
from fhirserver.search.types.date import fields, filter, matches
from fhirserver.search.types.model import Context, Found, SearchType, Values
from fhirserver.search.types.ranges import PREFIXES, Range, prefixed, span, width_class

WIDTHS = (0.0,)
_NUMBER = re.compile(r"[+-]?(?:\d{1,40}(?:\.\d{1,40})?|\.\d{1,40})(?:[eE][+-]?\d{1,3})?", re.ASCII)


def number(value: Any) -> float | None:
    """A JSON number as a float; None for anything else. Numbers beyond what a float holds become infinite."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def ends(type: str, value: Any) -> tuple[float, float] | None:
    """The least and greatest number of a value: a number, or a Range of Quantities."""
    if isinstance(value, dict):
        low, high = value.get("low"), value.get("high")
        lo = number(low.get("value")) if isinstance(low, dict) else None
        hi = number(high.get("value")) if isinstance(high, dict) else None
        if lo is None and hi is None:
            return None
        lo, hi = -math.inf if lo is None else lo, math.inf if hi is None else hi
        return (lo, hi) if lo <= hi else None
    point = number(value)
    return None if point is None else (point, point)


def index(name: str, values: Values, found: Found) -> None:
    ranges = dict.fromkeys(r for type, value in values if (r := ends(type, value)) is not None)
    found[name] = [{"lo": lo, "hi": hi} for lo, hi in ranges]
    key = span(found[name])
    if key is not None:
        found[f"{name}:w"] = 0 if key[0] == key[1] else width_class(*key, WIDTHS)


def read(prefix: str, text: str, context: Context) -> tuple[Decimal, Decimal]:
    """The least value and the upper limit of what a number stands for: 5.40 is 5.395 up to but not including 5.405,
    with ap a tenth around it; with the prefixes that compare it is itself alone."""
    if not _NUMBER.fullmatch(text):
        raise context.invalid("the value must be a number: [prefix]digits[.digits][e[-]digits].")
    value = Decimal(text)
    if prefix == "ap":
        slack = abs(value) / 10
    elif prefix in ("eq", "ne"):
        exponent = value.as_tuple().exponent
        slack = Decimal((0, (5,), int(exponent) - 1))
    else:
        return value, value
    return value - slack, value + slack


def bound(prefix: str, lo: float, hi: float) -> Range:
    """The operand for a range whose upper limit is not part of it (it is for ap)."""
    if prefix in ("eq", "ne") and lo < hi:
        hi = math.nextafter(hi, -math.inf)
    return Range(prefix, lo, hi)


def parse(text: str, context: Context) -> Range:
    prefix, rest = prefixed(unescape(text, context.parameter))
    lo, hi = read(prefix, rest, context)
    return bound(prefix, float(lo), float(hi))


NUMBER = SearchType("number", PREFIXES, (), index, span, parse, filter, matches, fields)
