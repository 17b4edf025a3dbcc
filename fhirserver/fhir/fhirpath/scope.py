"""What an evaluation carries along: the model, the variables, `$this`, and the bounds on its size.

FHIRPath N1: environment variables; FHIR R4: fhirpath#variables.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from fhirserver.fhir.fhirpath.model import Model
from fhirserver.fhir.fhirpath.values import Node, PathError, Temporal, system

Items = list[Any]
Closure = Callable[["Scope", Items], Items]

_MAX_ITEMS = 1_000_000
MAX_STEPS = 3_000_000
_CONSTANTS = {
    "ucum": "http://unitsofmeasure.org",
    "sct": "http://snomed.info/sct",
    "loinc": "http://loinc.org",
}
_PREFIXES = {
    "vs-": "http://hl7.org/fhir/ValueSet/",
    "ext-": "http://hl7.org/fhir/StructureDefinition/",
}


class TooLarge(PathError):
    """The evaluation was given up because it is too large."""


class Scope:
    """One evaluation. `variables` are JSON values, lists of them, or Nodes, by name without `%`."""

    __slots__ = ("index", "model", "steps", "this", "total", "variables")

    def __init__(self, model: Model, variables: dict[str, Any]) -> None:
        self.model = model
        self.variables = variables
        self.this: Any = None
        self.index = 0
        self.total: Items = []
        self.steps = 0

    def variable(self, name: str) -> Items:
        """The items of `%name`. Raises PathError when there is none."""
        if name in self.variables:
            value = self.variables[name]
            values = value if type(value) is list else [] if value is None else [value]
            return [self.model.root(v) if type(v) is dict else v for v in values]
        if name in _CONSTANTS:
            return [_CONSTANTS[name]]
        for prefix, url in _PREFIXES.items():
            if name.startswith(prefix):
                return [url + name.removeprefix(prefix)]
        raise PathError(f"the variable %{name[:40]} is not known here")

    def bounded(self, items: Items) -> Items:
        """The items, counted. Raises PathError when the evaluation has become too large."""
        self.steps += len(items)
        if len(items) > _MAX_ITEMS or self.steps > MAX_STEPS:
            raise TooLarge("the evaluation is too large")
        return items

    def each(self, items: Items, criteria: Closure) -> list[tuple[Any, Items]]:
        """Each item with what the criteria answer for it as `$this`."""
        self.bounded(items)
        before = self.this, self.index
        found = []
        for index, item in enumerate(items):
            self.this, self.index = item, index
            found.append((item, criteria(self, [item])))
        self.this, self.index = before
        return found


def single(items: Items) -> Any:
    """The one item, None when there is none. Raises PathError when there are several."""
    if len(items) > 1:
        raise PathError("several values where one is expected")
    return items[0] if items else None


def boolean(items: Items) -> bool | None:
    """The truth of a collection: None when empty; one item that is no boolean is true. Raises PathError for several."""
    if not items:
        return None
    value = system(single(items))
    return value if type(value) is bool else True


def text_of(items: Items) -> str | None:
    """The text of the one item, None when there is none or it has no text."""
    value = system(single(items))
    if value is None or type(value) is Node:
        return None
    return to_text(value)


def to_text(value: Any) -> str:
    """A system value as FHIRPath's toString() writes it."""
    if type(value) is bool:
        return "true" if value else "false"
    if type(value) is Decimal:
        return _digits(value)
    if type(value) in (str, int, Temporal):
        return str(value)
    return f"{_digits(value.value)} '{value.unit}'"


def _digits(value: Decimal) -> str:
    return format(value, "f") if value.is_finite() and abs(value.adjusted()) < 1_000 else str(value)
