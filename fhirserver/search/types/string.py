"""String parameters: the start of a text without regard to case and accents; `:exact`, `:contains`.

FHIR R4: search#string. s.<p>: normal forms; s.<p>:exact: the texts as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fhirserver.search.text import STRING_LIMIT, any_of, normal, one_of, starts_with, unescape
from fhirserver.search.types.model import Context, Found, SearchType, Values

_PARTS = {
    "HumanName": ("text", "family", "given", "prefix", "suffix"),
    "Address": ("text", "line", "city", "district", "state", "postalCode", "country"),
    "CodeableConcept": ("text",),
    "Coding": ("display",),
    "Identifier": ("value",),
    "ContactPoint": ("value",),
    "Annotation": ("text",),
    "Reference": ("display",),
}


def texts(type: str, value: Any) -> list[str]:
    """The texts a string search looks at in a value."""
    if isinstance(value, str):
        return [value]
    if not isinstance(value, dict):
        return [str(value)] if isinstance(value, int | float) else []
    found: list[str] = []
    for part in _PARTS.get(type, ("text",)):
        text = value.get(part)
        if text.__class__ is str:
            found.append(text)
        elif text.__class__ is list:
            found.extend(item for item in text if isinstance(item, str))
    if type == "CodeableConcept":
        found.extend(c["display"] for c in value.get("coding", ()) if isinstance(c.get("display"), str))
    return found


def index(name: str, values: Values, found: Found) -> None:
    raw = values[0][1:] if len(values) == 1 else [value for _, value in values]
    if any(value.__class__ is not str for value in raw):
        raw = [text for type, value in values for text in texts(type, value)]
    if len(raw) == 1:
        found[name] = [normal(raw[0])]
        found[f"{name}:exact"] = [raw[0][:STRING_LIMIT]]
        return
    found[name] = list(dict.fromkeys(map(normal, raw)))
    found[f"{name}:exact"] = list(dict.fromkeys(text[:STRING_LIMIT] for text in raw))


def key(values: list[Any]) -> tuple[Any, Any] | None:
    """The least and the greatest of plain values."""
    if len(values) == 1:
        return values[0], values[0]
    return (min(values), max(values)) if values else None


def parse(text: str, context: Context) -> str:
    value = unescape(text, context.parameter)
    if not normal(value):
        raise context.invalid("the value is empty; use :missing to ask for resources without one.")
    return value[:STRING_LIMIT]


def filter(path: str, operands: tuple[str, ...], modifier: str) -> dict[str, Any]:
    if modifier == "exact":
        exact = one_of(f"{path}:exact", list(operands))
        return {**one_of(path, list(dict.fromkeys(map(normal, operands)))), **exact}
    if modifier == "contains":
        return any_of([{path: {"$regex": re.escape(normal(operand))}} for operand in operands])
    return any_of([starts_with(path, normal(operand)) for operand in operands])


def matches(found: Mapping[str, Any], name: str, operands: tuple[str, ...], modifier: str) -> bool:
    if modifier == "exact":
        return any(operand in found.get(f"{name}:exact", ()) for operand in operands)
    values = found.get(name, ())
    wanted = [normal(operand) for operand in operands]
    if modifier == "contains":
        return any(text in value for value in values for text in wanted)
    return any(value.startswith(text) for value in values for text in wanted)


def fields(path: str, modifier: str) -> tuple[str, ...]:
    """One field: the values themselves."""
    return (path,)


STRING = SearchType("string", (), ("exact", "contains"), index, key, parse, filter, matches, fields)
