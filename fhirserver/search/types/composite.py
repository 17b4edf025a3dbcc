"""Composite parameters: several values that must match in one and the same element.

FHIR R4: search#composite. s.<p>: one document per element, {"a": [...], "b": [...]}: the index values of each
component.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fhirserver.search.text import any_of
from fhirserver.search.types.model import Context, Found, SearchType, Values

LETTERS = "abcdefgh"


@dataclass(frozen=True, slots=True)
class Operand:
    """One value of a composite: each component's type and its operand, in order."""

    components: tuple[tuple[SearchType, Any], ...]


def index(name: str, values: Values, found: Found) -> None:
    """Here each value is (`""`, the found values of one element's components, by letter)."""
    found[name] = [value for _, value in values]


def parse(text: str, context: Context) -> Operand:
    raise context.invalid("a composite value is read by its components.")


def filter(path: str, operands: tuple[Operand, ...], modifier: str) -> dict[str, Any]:
    conditions: list[dict[str, Any]] = []
    for operand in operands:
        parts = [type.filter(LETTERS[n], (value,), "") for n, (type, value) in enumerate(operand.components)]
        conditions.append({path: {"$elemMatch": _merged(parts)}})
    return any_of(conditions)


def _merged(parts: list[dict[str, Any]]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    apart = []
    for part in parts:
        if "$or" in part:
            apart.append(part)
        else:
            merged.update(part)
    return {**merged, "$and": apart} if apart else merged


def matches(found: Mapping[str, Any], name: str, operands: tuple[Operand, ...], modifier: str) -> bool:
    return any(
        all(type.matches(element, LETTERS[n], (value,), "") for n, (type, value) in enumerate(operand.components))
        for element in found.get(name, ())
        for operand in operands
    )


def fields(path: str, modifier: str) -> tuple[str, ...]:
    """The first component: two arrays cannot share an index."""
    return (f"{path}.a",)


COMPOSITE = SearchType("composite", (), (), index, lambda values: None, parse, filter, matches, fields)
