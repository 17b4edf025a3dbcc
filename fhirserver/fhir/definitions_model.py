"""What the definitions are made of: types, their properties, search parameters. Immutable values without behaviour.

FHIR R4: structuredefinition, elementdefinition, searchparameter. `definitions` is the module to import from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Constraint:
    """One ElementDefinition.constraint: `severity` is "error" or "warning", `expression` is FHIRPath."""

    key: str
    severity: str
    human: str
    expression: str


@dataclass(frozen=True, slots=True)
class Binding:
    """Which value set an element draws from: `value_set` is the canonical URL without its version."""

    strength: str
    value_set: str


@dataclass(frozen=True, slots=True)
class Property:
    """One JSON property of a type. A choice element appears once per type: `valueQuantity`, `valueString`, ...

    name: the JSON name. element: the element's name without `[x]`, the same as `name` unless `choice`.
    type: a type's name, or the path of a backbone element (`Patient.contact`, also where a content reference points at
    it), or `Resource` where any resource may stand.
    min, max: the cardinality of the element; max None is `*`. is_list says whether JSON has an array here.
    targets: the resource types a Reference or canonical may point at; () is any. profiles: canonical URLs of the
    profiles the type must meet (SimpleQuantity). fixed, pattern: the JSON value, or None.
    constraints: those this element adds to what its type holds already.
    """

    name: str
    element: str
    type: str
    is_list: bool
    min: int
    max: int | None
    choice: bool = False
    targets: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()
    binding: Binding | None = None
    fixed: Any = None
    pattern: Any = None
    modifier: bool = False
    summary: bool = False
    max_length: int | None = None
    constraints: tuple[Constraint, ...] = ()


@dataclass(frozen=True, slots=True)
class TypeDefinition:
    """A type: resource, complex datatype, primitive, or backbone element (whose name is its path, `Patient.contact`).

    properties: JSON name -> Property in the order of the specification, those of the base types included; the `_name`
    siblings of primitives are not listed. required: the names of elements with min > 0 (without `[x]`).
    choices: element name -> the JSON names it may take, for choice elements.
    constraints: only those this type adds; walk `base` for the rest.
    """

    name: str
    kind: str
    base: str | None
    abstract: bool
    url: str
    properties: Mapping[str, Property]
    required: tuple[str, ...]
    choices: Mapping[str, tuple[str, ...]]
    constraints: tuple[Constraint, ...]


@dataclass(frozen=True, slots=True)
class SearchParameter:
    """A SearchParameter. `components` pairs the definition's URL with the FHIRPath from the composite's element to it.

    expression is "" where there is none (`_text`, `_query`, ...). target () means any type.
    """

    code: str
    type: str
    expression: str
    base: tuple[str, ...]
    url: str
    target: tuple[str, ...] = ()
    components: tuple[tuple[str, str], ...] = ()
    modifiers: tuple[str, ...] = ()
    comparators: tuple[str, ...] = ()
