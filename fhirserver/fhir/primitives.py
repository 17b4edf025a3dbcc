"""The primitive types: which JSON values each of them takes.

FHIR R4: datatypes#primitive (the regular expressions), json#primitive. Beyond the expressions a date must exist in the
calendar, and control characters are refused in every text.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

Check = Callable[[Any], str | None]
"""None for a value of the type; else what to write instead, without the value itself."""

MAX_STRING = 1_048_576  # "strings SHALL NOT exceed 1MB in size"
_MAX_BASE64 = 64 * 1_048_576
_DECIMAL_DIGITS = 1_000
_DECIMAL_EXPONENT = 400  # what follows may write the number out: 1e999999999 would take a gigabyte
_TOO_LARGE = 10**_DECIMAL_EXPONENT

_YEAR = r"(?!0000)([0-9]{4})"
_MONTH = r"(0[1-9]|1[0-2])"
_DAY = r"(0[1-9]|[12][0-9]|3[01])"
_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]:([0-5][0-9]|60)(\.[0-9]+)?"
_ZONE = r"(Z|[+-]((0[0-9]|1[0-3]):[0-5][0-9]|14:00))"
_DAYS = (0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)

_control = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]").search
_date = re.compile(rf"{_YEAR}(?:-{_MONTH}(?:-{_DAY})?)?").fullmatch
_date_time = re.compile(rf"{_YEAR}(?:-{_MONTH}(?:-{_DAY}(?:T{_TIME}{_ZONE})?)?)?").fullmatch
_instant = re.compile(rf"{_YEAR}-{_MONTH}-{_DAY}T{_TIME}{_ZONE}").fullmatch


def _text(kind: str, pattern: str | None, must: str) -> Check:
    """A check of a JSON string: at least one character, no control characters, the whole of it matching `pattern`."""
    match = re.compile(pattern, re.ASCII).fullmatch if pattern else None

    def check(value: Any) -> str | None:
        if type(value) is not str:
            return f"must be a JSON string ({kind})"
        if not value:
            return "must not be empty: leave the property out instead"
        if (match is not None and not match(value)) or _control(value):
            return must
        return "is longer than 1 MB" if len(value) > MAX_STRING else None

    return check


def _number(kind: str, low: int, high: int) -> Check:
    """A check of a JSON integer between two bounds, both included."""

    def check(value: Any) -> str | None:
        if type(value) is not int:
            return f"must be a JSON integer ({kind})"
        return None if low <= value <= high else f"must be from {low} to {high} ({kind})"

    return check


def _temporal(kind: str, match: Callable[[str], re.Match[str] | None], must: str) -> Check:
    """A check of a JSON string against an expression whose groups 1 to 3 are year, month, day, and the calendar."""

    def check(value: Any) -> str | None:
        if type(value) is not str:
            return f"must be a JSON string ({kind})"
        found = match(value)
        if not found or not value.isascii():
            return must
        day = found[3]
        if day and int(day) > 28 and not _exists(int(found[1]), int(found[2]), int(day)):
            return "is a day that is not in the calendar"
        return None

    return check


def _exists(year: int, month: int, day: int) -> bool:
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return day <= _DAYS[month] and (leap or (month, day) != (2, 29))


def _boolean(value: Any) -> str | None:
    return None if value is True or value is False else "must be true or false, not a string or number"


def _decimal(value: Any) -> str | None:
    if type(value) is int:
        return None if abs(value) < _TOO_LARGE else "is too large"
    if type(value) is not Decimal and type(value) is not float:
        return "must be a JSON number (decimal)"
    number = value if type(value) is Decimal else Decimal(value)
    if not number.is_finite() or abs(number.adjusted()) > _DECIMAL_EXPONENT:
        return "is too large, or too close to zero"
    return None if len(number.as_tuple().digits) <= _DECIMAL_DIGITS else "has too many digits"


def _base64(value: Any) -> str | None:
    if type(value) is not str:
        return "must be a JSON string (base64Binary)"
    if not value:
        return "must not be empty: leave the property out instead"
    if len(value) > _MAX_BASE64:
        return "is too long"
    try:
        binascii.a2b_base64("".join(value.split()), strict_mode=True)
    except ValueError:
        return "must be base64 text (RFC 4648 section 4, with padding)"
    return None


_STRING = "must not contain control characters"
_URI = "must be a URI without spaces"

PRIMITIVES: Mapping[str, Check] = {
    "base64Binary": _base64,
    "boolean": _boolean,
    "canonical": _text("canonical", r"\S+", _URI),
    "code": _text("code", r"\S+(\s\S+)*", "must be a code: no spaces at its ends, single spaces inside"),
    "date": _temporal("date", _date, "must be a date: YYYY, YYYY-MM or YYYY-MM-DD"),
    "dateTime": _temporal(
        "dateTime",
        _date_time,
        "must be YYYY, YYYY-MM, YYYY-MM-DD or YYYY-MM-DDThh:mm:ss+zz:zz (a time needs seconds and time zone)",
    ),
    "decimal": _decimal,
    "id": _text("id", r"[A-Za-z0-9\-.]{1,64}", "must be 1 to 64 of letters, digits, - and ."),
    "instant": _temporal(
        "instant", _instant, "must be YYYY-MM-DDThh:mm:ss.sss+zz:zz (to the second at least, with time zone)"
    ),
    "integer": _number("integer", -(2**31), 2**31 - 1),
    "markdown": _text("markdown", None, _STRING),
    "oid": _text("oid", r"urn:oid:[0-2](\.(0|[1-9][0-9]*))+", "must be an OID as a URI: urn:oid:1.2.3"),
    "positiveInt": _number("positiveInt", 1, 2**31 - 1),
    "string": _text("string", None, _STRING),
    "time": _text("time", _TIME, "must be a time: hh:mm:ss"),
    "unsignedInt": _number("unsignedInt", 0, 2**31 - 1),
    "uri": _text("uri", r"\S+", _URI),
    "url": _text("url", r"\S+", _URI),
    "uuid": _text(
        "uuid",
        r"urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
        "must be a UUID as a URI in lower case: urn:uuid: and 8-4-4-4-12 hex digits",
    ),
}
"""Type name -> check. `xhtml` is not among them: its content has rules of its own (fhir.xhtml)."""
