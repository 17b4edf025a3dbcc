"""The values of FHIRPath: elements of a resource, quantities, points in time; how they compare and convert.

FHIRPath N1: types, equality, comparison, date/time arithmetic; FHIR R4: fhirpath#types.
"""

from __future__ import annotations

import re
from calendar import monthrange
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, ClassVar

_TEMPORAL = re.compile(
    r"(?:(?P<y>[0-9]{4})(?:-(?P<mo>[0-9]{2})(?:-(?P<d>[0-9]{2}))?)?)?"
    r"(?:(?P<t>T)(?:(?P<h>[0-9]{2})(?::(?P<mi>[0-9]{2})(?::(?P<s>[0-9]{2}(?:\.[0-9]+)?))?)?)?)?"
    r"(?P<z>Z|[+-][0-9]{2}:[0-9]{2})?"
)
_TIME = re.compile(r"[0-9]{2}:[0-9]{2}")
_TEMPORAL_TYPES = frozenset({"date", "dateTime", "instant", "time"})
_QUANTITIES = frozenset({"Quantity", "Age", "Count", "Distance", "Duration", "MoneyQuantity", "SimpleQuantity"})
_CALENDAR = {"a": "year", "mo": "month", "wk": "week", "d": "day", "h": "hour", "min": "minute", "s": "second"}
_SECONDS = {"week": 604_800, "day": 86_400, "hour": 3_600, "minute": 60, "second": 1}


class PathError(Exception):
    """The expression cannot be evaluated on this resource; the message says why, without values."""


class Node:
    """An element of a resource: its JSON value, its type, and the `_name` sibling of a primitive."""

    __slots__ = ("sibling", "type", "value")

    def __init__(self, value: Any, type_name: str, sibling: dict[str, Any] | None = None) -> None:
        self.value, self.type, self.sibling = value, type_name, sibling


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with a unit: a UCUM code, or a calendar word such as `day`."""

    value: Decimal
    unit: str


@dataclass(frozen=True, slots=True)
class Temporal:
    """A date, dateTime or time of some precision. parts: from the year (or the hour of a time) as far as known.

    zone: minutes east of UTC, None when not said. kind: "Date", "DateTime" or "Time".
    """

    kind: str
    parts: tuple[Any, ...]
    zone: int | None = None

    KINDS: ClassVar[frozenset[str]] = frozenset({"Date", "DateTime", "Time"})

    @classmethod
    def parse(cls, text: str) -> Temporal | None:
        """`2000-01`, `2000-01-01T10:00Z`, `T10:00` or `10:00:00`; None for anything else."""
        if _TIME.match(text):
            text = "T" + text
        found = _TEMPORAL.fullmatch(text)
        if found is None or not (found["y"] or found["h"]):
            return None
        day = tuple(int(found[name]) for name in ("y", "mo", "d") if found[name])
        time: tuple[Any, ...] = tuple(int(found[name]) for name in ("h", "mi") if found[name])
        time += (Decimal(found["s"]),) if found["s"] else ()
        if not day:
            return cls("Time", time)
        zone = found["z"]
        minutes = None
        if zone:
            minutes = 0 if zone == "Z" else int(zone[1:3]) * 60 + int(zone[4:])
            minutes = -minutes if zone.startswith("-") else minutes
        return cls("DateTime" if found["t"] else "Date", day + time, minutes)

    def __str__(self) -> str:
        texts = [f"{p:02}" if type(p) is int else f"{p:06.3f}" if p % 1 else f"{int(p):02}" for p in self.parts]
        if self.kind == "Time":
            return ":".join(texts)
        texts[0] = texts[0].zfill(4)
        text = "-".join(texts[:3]) + ("T" if self.kind == "DateTime" else "") + ":".join(texts[3:])
        if self.zone is None:
            return text
        sign = "-" if self.zone < 0 else "+"
        return text + (f"{sign}{abs(self.zone) // 60:02}:{abs(self.zone) % 60:02}" if self.zone else "Z")

    def compared(self, other: Temporal) -> int | None:
        """-1, 0 or 1; None where the precision does not tell."""
        if (self.kind == "Time") != (other.kind == "Time"):
            return None
        mine, others = self.parts, other.parts
        if len(mine) > 4 and len(others) > 4 and self.kind != "Time":
            if (self.zone is None) != (other.zone is None):
                return None
            mine, others = self._utc(), other._utc()
        for a, b in zip(mine, others, strict=False):
            if a != b:
                return -1 if a < b else 1
        return 0 if len(mine) == len(others) else None

    def _utc(self) -> tuple[Any, ...]:
        if not self.zone:
            return self.parts
        try:
            moment = datetime(*self.parts[:5]) - timedelta(minutes=self.zone)  # noqa: DTZ001 - the zone is taken off
        except (ValueError, OverflowError):
            return self.parts
        return (moment.year, moment.month, moment.day, moment.hour, moment.minute, *self.parts[5:])

    def plus(self, amount: Quantity, sign: int) -> Temporal:
        """This point moved by a quantity of time; months end at the last day there is. Raises PathError."""
        unit = _CALENDAR.get(amount.unit, amount.unit)
        number = int(amount.value) * sign
        if self.kind != "Time" and unit in ("year", "month"):
            months = self.parts[0] * 12 + (self.parts[1] - 1 if len(self.parts) > 1 else 0)
            months += number * 12 if unit == "year" else number
            return self._with_months(months)
        if unit not in _SECONDS or len(self.parts) < 3:
            raise PathError("cannot add this quantity to a point in time of this precision")
        start: tuple[Any, ...] = (2000, 1, 1, *self.parts) if self.kind == "Time" else self.parts
        whole = [int(p) for p in start]
        try:
            moment = datetime(*(whole + [0] * (6 - len(whole)))[:6])  # type: ignore[arg-type]  # noqa: DTZ001 - six integers
            moment += timedelta(seconds=number * _SECONDS[unit])
        except (ValueError, OverflowError):
            raise PathError("the point in time is out of range") from None
        fraction = start[5] % 1 if len(start) > 5 else 0
        moved: tuple[Any, ...] = (
            moment.year,
            moment.month,
            moment.day,
            moment.hour,
            moment.minute,
            moment.second + fraction,
        )
        moved = moved[: len(start)]
        return Temporal(self.kind, moved[3:] if self.kind == "Time" else moved, self.zone)

    def _with_months(self, months: int) -> Temporal:
        year, month = divmod(months, 12)
        if not 1 <= year <= 9999:
            raise PathError("the point in time is out of range")
        parts = [year, month + 1, *self.parts[2:]][: len(self.parts)]
        if len(parts) > 2:
            parts[2] = min(parts[2], monthrange(year, month + 1)[1])
        return Temporal(self.kind, tuple(parts), self.zone)


def system(item: Any) -> Any:
    """The FHIRPath system value of an item: text, number, boolean, Temporal, Quantity; a complex Node stays."""
    if type(item) is not Node:
        return item
    value = item.value
    if type(value) is dict:
        if item.type in _QUANTITIES and isinstance(value.get("value"), int | Decimal | float):
            return Quantity(Decimal(str(value["value"])), str(value.get("code") or value.get("unit") or "1"))
        return item
    if item.type in _TEMPORAL_TYPES and type(value) is str:
        return Temporal.parse(value) or value
    return Decimal(str(value)) if type(value) is float else value


def plain(item: Any) -> Any:
    """The JSON value of an item."""
    if type(item) is Node:
        return item.value
    if type(item) is Temporal:
        return str(item)
    return {"value": item.value, "unit": item.unit} if type(item) is Quantity else item


def equal(left: Any, right: Any) -> bool | None:
    """FHIRPath `=` of two items; None where the precision of a date does not tell."""
    a, b = system(left), system(right)
    if type(a) is str and type(b) is Temporal:
        a = Temporal.parse(a)
    elif type(b) is str and type(a) is Temporal:
        b = Temporal.parse(b)
    if type(a) is Temporal and type(b) is Temporal:
        found = a.compared(b)
        return None if found is None else found == 0
    if type(a) is Quantity or type(b) is Quantity:
        if not all(type(v) is Quantity or is_number(v) for v in (a, b)):
            return False
        a, b = _quantity(a), _quantity(b)
        return a.value == b.value and _unit(a) == _unit(b)
    if type(a) is Node or type(b) is Node:
        return type(a) is type(b) and bool(a.value == b.value) and a.sibling == b.sibling
    if (type(a) is bool) != (type(b) is bool):
        return False
    return bool(a == b)


def compared(left: Any, right: Any) -> int | None:
    """-1, 0 or 1 for two items in order; None where that cannot be told. Raises PathError for what has no order."""
    a, b = system(left), system(right)
    if type(a) is str and type(b) is Temporal:
        a = Temporal.parse(a)
    elif type(b) is str and type(a) is Temporal:
        b = Temporal.parse(b)
    if a is None or b is None:
        return None
    if type(a) is Temporal and type(b) is Temporal:
        return a.compared(b)
    if type(a) is Quantity or type(b) is Quantity:
        a, b = _quantity(a), _quantity(b)
        if _unit(a) != _unit(b):
            return None
        a, b = a.value, b.value
    numbers = is_number(a) and is_number(b)
    if not numbers and not (type(a) is str and type(b) is str):
        raise PathError("compares values that have no order")
    return -1 if a < b else 1 if a > b else 0


def is_number(value: Any) -> bool:
    """Whether a system value is an Integer or a Decimal."""
    return type(value) is int or type(value) is Decimal


def _quantity(value: Any) -> Quantity:
    if type(value) is Quantity:
        return value
    if is_number(value):
        return Quantity(Decimal(value), "1")
    raise PathError("compares values that have no order")


def _unit(quantity: Quantity) -> str:
    return _CALENDAR.get(quantity.unit, quantity.unit)


def key(item: Any) -> Any:
    """A hashable stand-in, so that large collections can be made distinct in linear time. Equal items share a key."""
    value = system(item)
    if type(value) is Node:
        return _frozen(value.value)
    if type(value) is bool:
        return ("bool", value)
    if type(value) is Temporal and value.zone is not None:
        return (value.kind, value._utc())
    return value


def _frozen(value: Any) -> Any:
    if type(value) is dict:
        return ("object", frozenset((name, _frozen(child)) for name, child in value.items()))
    if type(value) is list:
        return ("array", tuple(_frozen(child) for child in value))
    return ("bool", value) if type(value) is bool else value


def distinct(items: list[Any]) -> list[Any]:
    """The items without repetitions, in their order."""
    found: dict[Any, Any] = {}
    for item in items:
        found.setdefault(key(item), item)
    return list(found.values())
