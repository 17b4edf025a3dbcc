"""Date parameters: every date is the range of instants it covers, at the precision of milliseconds.

FHIR R4: search#date. s.<p>: {"lo", "hi"} as UTC datetimes, closed; an open Period ends at the first or last instant
there is.
"""

from __future__ import annotations

import re
from calendar import isleap, monthrange
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any

from fhirserver.fhir.problem import problem
from fhirserver.search.text import any_of, unescape
from fhirserver.search.types.model import Context, Found, SearchType, Values
from fhirserver.search.types.ranges import (
    PREFIXES,
    Range,
    element,
    matches_ranges,
    prefixed,
    span,
    width_class,
)

EARLIEST = datetime(1, 1, 1, tzinfo=UTC)
LATEST = datetime(9999, 12, 31, 23, 59, 59, 999000, tzinfo=UTC)
WIDTHS = (timedelta(days=1), timedelta(days=32))

_DATE = re.compile(
    r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:T(\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,12}))?)?(Z|[+-]\d\d:\d\d)?)?)?)?", re.ASCII
)
_TICK = timedelta(milliseconds=1)
_NO_TIME = timedelta(0)


def covered(text: str, zone: tzinfo = UTC) -> tuple[datetime, datetime]:
    """The first and last millisecond that a FHIR date, dateTime or instant covers. Raises ValueError for other text."""
    match = _DATE.fullmatch(text)
    if match is None:
        raise ValueError(text)
    year, month, day, hour, minute, second, fraction, offset = match.groups()
    if hour is None:
        return _days(int(year), month, day, zone)
    place = _zone(offset, zone)
    whole = min(int(second or 0), 59) if second != "60" else 59  # a leap second falls into the second before it
    if second and int(second) > 60:
        raise ValueError(text)
    micro = int(fraction[:3].ljust(3, "0")) * 1000 if fraction else 0
    start = datetime(int(year), int(month), int(day), int(hour), int(minute), whole, micro, place)
    lasts = timedelta(seconds=1) if second else timedelta(minutes=1)
    return _utc(start), _utc(start, _NO_TIME if fraction else lasts - _TICK)


def bounds(text: str, parameter: str, zone: tzinfo = UTC) -> tuple[datetime, datetime]:
    """`covered` for a value that a caller sent: raises Problem(invalid) that names the parameter."""
    try:
        return covered(text.replace(" ", "+"), zone)  # an unescaped + in a URL arrives as a space
    except ValueError:
        raise problem(
            "invalid",
            f"{parameter}: write a date as YYYY, YYYY-MM, YYYY-MM-DD or YYYY-MM-DDThh:mm[:ss[.sss]][Z|+hh:mm].",
            f"http.{parameter}",
        ) from None


def _days(year: int, month: str | None, day: str | None, zone: tzinfo) -> tuple[datetime, datetime]:
    start = datetime(year, int(month or 1), int(day or 1), tzinfo=zone)
    if day:
        days = 1
    elif month:
        days = monthrange(year, start.month)[1]
    else:
        days = 366 if isleap(year) else 365
    return _utc(start), _utc(start, timedelta(days=days) - _TICK)


def _zone(offset: str | None, zone: tzinfo) -> tzinfo:
    if offset is None:
        return zone
    if offset == "Z":
        return UTC
    hours, minutes = int(offset[1:3]), int(offset[4:6])
    if hours > 14 or minutes > 59:
        raise ValueError(offset)
    distance = timedelta(hours=hours, minutes=minutes)
    return timezone(-distance if offset[0] == "-" else distance)


def _utc(moment: datetime, later: timedelta = _NO_TIME) -> datetime:
    """The moment in UTC, kept inside the years that a datetime can hold."""
    try:
        return (moment if moment.tzinfo is UTC else moment.astimezone(UTC)) + later
    except OverflowError:
        return EARLIEST if moment.year == 1 else LATEST


def _ranges(type: str, value: Any) -> Iterator[tuple[datetime, datetime]]:
    if isinstance(value, str):
        try:
            yield covered(value)
        except ValueError:
            return
    elif isinstance(value, dict) and type == "Timing":
        found = [r for text in value.get("event") or () for r in _ranges("dateTime", text)]
        period = (value.get("repeat") or {}).get("boundsPeriod")
        found += _ranges("Period", period) if isinstance(period, dict) else []
        if found:
            yield min(lo for lo, _ in found), max(hi for _, hi in found)
    elif isinstance(value, dict) and ("start" in value or "end" in value):
        start = next(_ranges("dateTime", value.get("start")), None)
        end = next(_ranges("dateTime", value.get("end")), None)
        lo, hi = start[0] if start else EARLIEST, end[1] if end else LATEST
        if lo <= hi:
            yield lo, hi


def index(name: str, values: Values, found: Found) -> None:
    ranges = list(dict.fromkeys(r for type, value in values for r in _ranges(type, value)))
    found[name] = [{"lo": lo, "hi": hi} for lo, hi in ranges]
    key = span(found[name])
    if key is not None:
        found[f"{name}:w"] = width_class(*key, WIDTHS)


def parse(text: str, context: Context) -> Range:
    prefix, rest = prefixed(unescape(text, context.parameter))
    lo, hi = bounds(rest, context.parameter, context.zone)
    if prefix == "ap":
        middle = lo + (hi - lo) / 2
        slack = abs(context.now - middle) / 10
        slack -= timedelta(microseconds=slack.microseconds % 1000)
        lo = EARLIEST if lo - EARLIEST < slack else lo - slack
        hi = LATEST if LATEST - hi < slack else hi + slack
    return Range(prefix, lo, hi)


def filter(path: str, operands: tuple[Range, ...], modifier: str) -> dict[str, Any]:
    return any_of([{path: {"$elemMatch": element(operand)}} for operand in operands])


def matches(found: Mapping[str, Any], name: str, operands: tuple[Range, ...], modifier: str) -> bool:
    return matches_ranges(found.get(name, ()), operands)


def fields(path: str, modifier: str) -> tuple[str, ...]:
    """The width class, then the scalar keys: see `ranges.bounded`."""
    key = f"k{path[1:]}"
    return (f"{path}:w", f"{key}.lo", f"{key}.hi")


DATE = SearchType("date", PREFIXES, (), index, span, parse, filter, matches, fields)
