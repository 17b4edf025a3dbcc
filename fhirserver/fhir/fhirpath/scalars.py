"""The functions of FHIRPath on one text, number or point in time, and the conversions between these.

FHIRPath N1: string manipulation, math, conversion. Each entry is (fewest arguments, most, function).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from functools import lru_cache
from typing import Any

from fhirserver.fhir.fhirpath.scope import Items, Scope, single, text_of, to_text
from fhirserver.fhir.fhirpath.values import Node, PathError, Quantity, Temporal, is_number, system

Function = Callable[..., Items]

_MAX_TEXT = 1_000_000


def _on_text(function: Callable[..., Any]) -> Function:
    """A function of the text of the one item and of the texts or integers of its arguments; empty where any is."""

    def apply(_scope: Scope, items: Items, *arguments: Items) -> Items:
        value = text_of(items)
        values = [system(single(argument)) for argument in arguments]
        if value is None or None in values:
            return []
        if len(value) > _MAX_TEXT:
            raise PathError("a text is too long")
        try:
            found = function(value, *values)
        except TypeError:
            raise PathError("a function of texts is used on something else") from None
        return found if type(found) is list else [] if found is None else [found]

    return apply


def _substring(text: str, start: int, length: int | None = None) -> str | None:
    if not 0 <= start < len(text):
        return None
    return text[start:] if length is None else text[start : start + max(length, 0)]


def _replace(text: str, pattern: str, substitution: str) -> str:
    if len(substitution) * (text.count(pattern) + 1) > _MAX_TEXT:
        raise PathError("a text is too long")
    return text.replace(pattern, substitution)


@lru_cache(maxsize=500)
def _expression(pattern: str) -> re.Pattern[str]:
    if len(pattern) > 1_000:
        raise PathError("a regular expression is too long")
    try:
        return re.compile(pattern, re.DOTALL)
    except (re.error, RecursionError, OverflowError):
        raise PathError("a regular expression cannot be read") from None


@lru_cache(maxsize=500)
def _may_explode(pattern: str) -> bool:
    """Whether a repetition stands in a repetition, so that matching may take exponential time: `(a+)+`."""
    repeated = [False]
    previous = False
    for piece in re.findall(r"\\.|\[(?:\\.|[^\]\\])*\]|\{[0-9]*,[0-9]*\}|.", pattern, re.DOTALL):
        if piece == "(":
            repeated.append(False)
        elif piece == ")" and len(repeated) > 1:
            previous = repeated.pop()
            repeated[-1] = repeated[-1] or previous
            continue
        elif piece in ("*", "+") or (piece.startswith("{") and piece.endswith(",}")):
            if previous:
                return True
            repeated[-1] = True
        previous = False
    return False


def _searched(text: str, pattern: str) -> None:
    if _may_explode(pattern) and len(text) > 30:
        raise PathError("a regular expression with a repetition inside a repetition is used on a long text")


def _matches(text: str, pattern: str) -> bool:
    _searched(text, pattern)
    return _expression(pattern).search(text) is not None


def _matches_whole(text: str, pattern: str) -> bool:
    _searched(text, pattern)
    return _expression(pattern).fullmatch(text) is not None


def _replace_matches(text: str, pattern: str, substitution: str) -> str:
    _searched(text, pattern)
    try:
        found = _expression(pattern).sub(re.sub(r"\$([0-9])", r"\\\1", substitution), text)
    except (re.error, IndexError):
        raise PathError("a substitution cannot be read") from None
    if len(found) > _MAX_TEXT:
        raise PathError("a text is too long")
    return found


def _join(_scope: Scope, items: Items, separator: Items | None = None) -> Items:
    texts = [text_of([item]) for item in items]
    return [(text_of(separator or []) or "").join(text for text in texts if text is not None)]


def _on_number(function: Callable[..., Any]) -> Function:
    """A function of the one number and its arguments; empty where any is, or where it has no result."""

    def apply(_scope: Scope, items: Items, *arguments: Items) -> Items:
        values = [system(single(argument)) for argument in (items, *arguments)]
        if None in values:
            return []
        if not all(is_number(value) and abs(value) < 10**100 for value in values):
            raise PathError("a function of numbers is used on something else")
        try:
            return [function(*values)]
        except (ValueError, ArithmeticError, InvalidOperation):
            return []

    return apply


def _round(value: Any, digits: int = 0) -> Any:
    return Decimal(value).quantize(Decimal(1).scaleb(-int(digits)), ROUND_HALF_UP)


def _power(base: Any, exponent: Any) -> Any:
    if abs(exponent) > 1_000:
        raise PathError("an exponent is too large")
    found = Decimal(base) ** Decimal(exponent)
    return int(found) if type(base) is int and type(exponent) is int and exponent >= 0 else found


def _to_boolean(value: Any) -> Any:
    if type(value) is bool:
        return value
    text = str(value).lower()
    return (
        True
        if text in ("true", "t", "yes", "y", "1", "1.0")
        else False
        if text in ("false", "f", "no", "n", "0", "0.0")
        else None
    )


def _to_integer(value: Any) -> Any:
    if type(value) is bool or type(value) is int:
        return int(value)
    return int(value) if type(value) is str and re.fullmatch(r"[+-]?[0-9]{1,15}", value, re.ASCII) else None


def _to_decimal(value: Any) -> Any:
    if type(value) is bool or is_number(value):
        return Decimal(value)
    matched = type(value) is str and re.fullmatch(r"[+-]?[0-9]{1,40}(\.[0-9]{1,40})?", value, re.ASCII)
    return Decimal(value) if matched else None


def _to_temporal(kind: str) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        moment = Temporal.parse(value) if type(value) is str else value
        if type(moment) is not Temporal:
            return None
        if kind == "Date" and moment.kind == "DateTime":
            return Temporal("Date", moment.parts[:3])
        if kind == "DateTime" and moment.kind == "Date":
            return Temporal("DateTime", moment.parts)
        return moment if moment.kind == kind else None

    return convert


def _to_quantity(value: Any) -> Any:
    if type(value) is Quantity:
        return value
    if is_number(value):
        return Quantity(Decimal(value), "1")
    found = re.fullmatch(r"([+-]?[0-9]{1,40}(?:\.[0-9]{1,40})?)\s*(?:'([^']{1,100})'|([a-z]{1,20}))?", str(value))
    return Quantity(Decimal(found[1]), found[2] or (found[3] or "1").removesuffix("s")) if found else None


def _to_string(value: Any) -> Any:
    return None if type(value) is Node else to_text(value)


def _conversion(convert: Callable[[Any], Any]) -> Function:
    def apply(_scope: Scope, items: Items) -> Items:
        found = convert(system(single(items))) if items else None
        return [] if found is None else [found]

    return apply


def _converts(convert: Callable[[Any], Any]) -> Function:
    return lambda _scope, items: [convert(system(single(items))) is not None] if items else []


_CONVERSIONS: Mapping[str, Callable[[Any], Any]] = {
    "Boolean": _to_boolean,
    "Integer": _to_integer,
    "Decimal": _to_decimal,
    "String": _to_string,
    "Date": _to_temporal("Date"),
    "DateTime": _to_temporal("DateTime"),
    "Time": _to_temporal("Time"),
    "Quantity": _to_quantity,
}

SCALARS: Mapping[str, tuple[int, int, Function]] = {
    "indexOf": (1, 1, _on_text(lambda text, part: text.find(part))),
    "substring": (1, 2, _on_text(_substring)),
    "startsWith": (1, 1, _on_text(lambda text, part: text.startswith(part))),
    "endsWith": (1, 1, _on_text(lambda text, part: text.endswith(part))),
    "contains": (1, 1, _on_text(lambda text, part: part in text)),
    "upper": (0, 0, _on_text(lambda text: text.upper())),
    "lower": (0, 0, _on_text(lambda text: text.lower())),
    "trim": (0, 0, _on_text(lambda text: text.strip())),
    "replace": (2, 2, _on_text(_replace)),
    "matches": (1, 1, _on_text(_matches)),
    "matchesFull": (1, 1, _on_text(_matches_whole)),
    "replaceMatches": (2, 2, _on_text(_replace_matches)),
    "length": (0, 0, _on_text(lambda text: len(text))),
    "toChars": (0, 0, _on_text(lambda text: list(text))),
    "split": (1, 1, _on_text(lambda text, separator: text.split(separator) if separator else list(text))),
    "join": (0, 1, _join),
    "abs": (0, 0, _on_number(abs)),
    "ceiling": (0, 0, _on_number(math.ceil)),
    "floor": (0, 0, _on_number(math.floor)),
    "truncate": (0, 0, _on_number(math.trunc)),
    "round": (0, 1, _on_number(_round)),
    "sqrt": (0, 0, _on_number(lambda value: Decimal(value).sqrt())),
    "exp": (0, 0, _on_number(lambda value: Decimal(value).exp())),
    "ln": (0, 0, _on_number(lambda value: Decimal(value).ln())),
    "log": (1, 1, _on_number(lambda value, base: Decimal(value).ln() / Decimal(base).ln())),
    "power": (1, 1, _on_number(_power)),
    **{f"to{name}": (0, 0, _conversion(convert)) for name, convert in _CONVERSIONS.items()},
    **{f"convertsTo{name}": (0, 0, _converts(convert)) for name, convert in _CONVERSIONS.items()},
}
