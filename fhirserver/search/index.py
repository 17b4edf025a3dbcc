"""A resource to its index entry: the values each search parameter finds, and the scalar keys that sorting uses.

FHIR R4: searchparameter. The functions are compiled once per type and generation of the definitions.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from fhirserver.fhir import Resource
from fhirserver.fhir.definitions import Definitions, SearchParameter
from fhirserver.fhir.problem import Problem, problem
from fhirserver.search.expression import Compiled, compile_relative, element_types
from fhirserver.search.types import TYPES, SearchType
from fhirserver.search.types.composite import LETTERS
from fhirserver.search.types.reference import indexer as reference_indexer

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """The index entry of one resource.

    search: field -> values, stored under `s.`: a parameter's code, or a side field such as `code:text`; a list, or
    (`date:w`) a number. sort: parameter -> (least, greatest), stored under `k.` as {"lo", "hi"}. contained: what is
    inside the resource, stored under `c`.
    """

    search: dict[str, Any] = field(default_factory=dict)
    sort: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    contained: tuple[Inside, ...] = ()

    def document(self) -> dict[str, Any]:
        """The entry as it lies in the database: {"s": ..., "k": ...}, and "c" where there are contained resources."""
        made: dict[str, Any] = {
            "s": self.search,
            "k": {code: {"lo": lo, "hi": hi} for code, (lo, hi) in self.sort.items()},
        }
        if self.contained:
            made["c"] = [each.document() for each in self.contained]
        return made


@dataclass(frozen=True, slots=True)
class Inside:
    """The index entry of a contained resource: its type, its id within the container, and the reference parameters of
    the container that refer to it."""

    type: str
    id: str
    by: tuple[str, ...]
    entry: Entry

    def document(self) -> dict[str, Any]:
        """One element of `c`."""
        return {"type": self.type, "i": self.id, "by": list(self.by), **self.entry.document()}


@dataclass(frozen=True, slots=True, eq=False)
class _Parameter:
    code: str
    extract: Callable[[Any, Resource], list[tuple[str, Any]]]
    type: SearchType


class _Looking:
    """Which parameters look at which properties of a resource."""

    def __init__(self) -> None:
        self.always: list[_Parameter] = []
        self.by_property: dict[str, dict[_Parameter, None]] = {}
        self._by_shape: dict[tuple[str, ...], tuple[_Parameter, ...]] = {}

    def at(self, shape: tuple[str, ...]) -> tuple[_Parameter, ...]:
        """The parameters of a resource with these properties."""
        known = self._by_shape.get(shape)
        if known is not None:
            return known
        wanted = dict.fromkeys(self.always)
        for name in shape:
            wanted.update(self.by_property.get(name, {}))
        found = tuple(wanted)
        if len(self._by_shape) < MOST_SHAPES:
            self._by_shape[shape] = found
        return found


Indexer = Callable[[Resource], Entry]

# Answered from the document itself (`_id`: i, `_lastUpdated`: t), so not indexed a second time.
_OF_THE_DOCUMENT = frozenset({"_id", "_lastUpdated"})
MOST_SHAPES = 50
"""Sets of properties, in their order, for which the search parameters that look at them are remembered."""
MOST_CONTAINED = 1_000
"""Contained resources of one that are indexed: index values are several times as large as what they are of."""
_WAY = re.compile(r"[A-Z][A-Za-z]*(\.[a-z][A-Za-z]*)+(\.where\(resolve\(\) is [A-Z][A-Za-z]*\))?")
_NO_NAME = frozenset(".$:\0")  # cannot stand in the name of an index field


def indexer(definitions: Definitions, type: str, base: str = "") -> Indexer:
    """The function from a resource of `type` to its entry. A parameter that cannot be compiled is left out and logged.

    base: the FHIR base URL (no slash at its end); absolute references that begin with it are indexed as relative ones
    too.
    """
    looking = _Looking()
    types = {**TYPES, "reference": replace(TYPES["reference"], index=reference_indexer(base))}
    for code, (kind, compiled) in searchable(definitions, type).items():
        parameter = _Parameter(code, compiled.extract, types[kind])
        if compiled.first is None:
            looking.always.append(parameter)
        for name in compiled.first or ():
            looking.by_property.setdefault(name, {})[parameter] = None
    inside = _Inside(definitions, base)

    def index(resource: Resource) -> Entry:
        wanted = looking.at(tuple(resource))
        search: dict[str, Any] = {}
        sort: dict[str, tuple[Any, Any]] = {}
        for parameter in wanted:
            values = parameter.extract(resource, resource)
            if values:
                code = parameter.code
                parameter.type.index(code, values, search)
                key = parameter.type.key(search[code])
                if key is not None:
                    sort[code] = key
        return Entry(search, sort, tuple(inside.entries(resource, wanted)) if "contained" in resource else ())

    return index


class _Inside:
    """Indexes contained resources; their indexers are compiled when one of their type is first met."""

    def __init__(self, definitions: Definitions, base: str) -> None:
        self._definitions = definitions
        self._base = base
        self._indexers: dict[str, Indexer] = {}

    def entries(self, container: Resource, wanted: Iterable[_Parameter]) -> Iterator[Inside]:
        """An entry for each that has an id and a type we know. wanted: the search parameters of the container."""
        held = container["contained"]
        held = held[:MOST_CONTAINED] if isinstance(held, list) else []
        local = {each["id"]: each for each in held if self._has_name(each)}
        by = _referring(container, local, [each for each in wanted if each.type.name == "reference"])
        for id, resource in local.items():
            type = resource["resourceType"]
            if type not in self._indexers:
                self._indexers[type] = indexer(self._definitions, type, self._base)
            plain = {name: value for name, value in resource.items() if name != "contained"}
            yield Inside(type, id, tuple(by.get(id, ())), self._indexers[type](plain))

    def _has_name(self, contained: Any) -> bool:
        if not isinstance(contained, dict) or not isinstance(contained.get("id"), str):
            return False
        return contained.get("resourceType") in self._definitions.resource_types


def _referring(
    resource: Resource, local: Mapping[str, Resource], parameters: Iterable[_Parameter]
) -> dict[str, dict[str, None]]:
    """Id of a contained resource -> the reference parameters of its container that refer to it.

    `#id` is read as `Type/#id`, so that an expression can ask for the type of what is referred to.
    """
    outside = {name: value for name, value in resource.items() if name != "contained"}
    typed = _typed(outside, {f"#{id}": f"{each['resourceType']}/#{id}" for id, each in local.items()})
    found: dict[str, dict[str, None]] = {}
    for parameter in parameters:
        for _, value in parameter.extract(typed, typed):
            text = value.get("reference") if isinstance(value, dict) else None
            if isinstance(text, str) and "/#" in text:
                found.setdefault(text.partition("#")[2], {})[parameter.code] = None
    return found


def _typed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, list):
        return [_typed(each, names) for each in value]
    if isinstance(value, dict):
        return {
            key: names.get(each, each) if key == "reference" and isinstance(each, str) else _typed(each, names)
            for key, each in value.items()
        }
    return value


@lru_cache(maxsize=512)
def searchable(definitions: Definitions, type: str) -> Mapping[str, tuple[str, Compiled]]:
    """Code -> (search parameter type, compiled expression) of every parameter of a type that has index values.

    One that cannot be compiled is left out and logged; `_id` and `_lastUpdated` are not among them.
    """
    found: dict[str, tuple[str, Compiled]] = {}
    for code, parameter in definitions.search_parameters(type).items():
        if code in _OF_THE_DOCUMENT or not parameter.expression or parameter.type not in TYPES or set(code) & _NO_NAME:
            continue
        try:
            if parameter.type == "composite":
                compiled = _composite(definitions, type, parameter)
            else:
                compiled = compile_relative(definitions, (type,), parameter.expression)
        except Problem as refused:
            _log.warning("search parameter %s of %s is not indexed: %s", code, type, refused)
            continue
        found[code] = (parameter.type, compiled)
    return found


@lru_cache(maxsize=512)
def plain(definitions: Definitions, type: str) -> bool:
    """Whether all search parameters of a type say nothing but ways to elements (`AuditEvent.entity.what`). Then the
    index values of a resource are those of its parts, put together.
    """
    parameters = definitions.search_parameters(type)
    asked = [parameters[code] for code in searchable(definitions, type)]
    ways = (way.strip() for each in asked for way in (each.expression or "").split("|"))
    return all(each.type != "composite" for each in asked) and all(_WAY.fullmatch(way) for way in ways)


def _composite(definitions: Definitions, type: str, parameter: SearchParameter) -> Compiled:
    """A function to ("", the found values by letter) for each element in which every component has a value."""
    elements = compile_relative(definitions, (type,), parameter.expression)
    context = element_types(definitions, (type,), parameter.expression)
    kinds = component_types(definitions, type, parameter)
    if not kinds:
        raise problem("not-supported", "A component of the composite is not a known search parameter.", "component")
    components = [
        (letter, TYPES[kind], compile_relative(definitions, context, expression, type).extract)
        for letter, (kind, expression) in zip(LETTERS, kinds, strict=False)
    ]

    backwards = [values_of for _, _, values_of in reversed(components)]

    def extract(node: Any, resource: Resource) -> list[tuple[str, Any]]:
        out: list[tuple[str, Any]] = []
        for _, element in elements.extract(node, resource):
            parts = []
            for values_of in backwards:  # the value before the code that all have
                values = values_of(element, resource)
                if not values:
                    break
                parts.append(values)
            if len(parts) < len(components):
                continue
            parts.reverse()
            found: dict[str, Any] = {}
            for (letter, kind, _), values in zip(components, parts, strict=True):
                kind.index(letter, values, found)
            if all(found[letter] for letter, _, _ in components):
                out.append(("", {letter: found[letter] for letter, _, _ in components}))
        return out

    return Compiled(extract, elements.first)


@lru_cache(maxsize=128)
def component_types(definitions: Definitions, type: str, parameter: SearchParameter) -> list[tuple[str, str]]:
    """(search parameter type, expression) of each component; [] where a component's definition is not known."""
    by_url = {known.url: known for known in definitions.search_parameters(type).values()}
    for parameters in definitions.parameters.values():
        for known in parameters.values():
            by_url.setdefault(known.url, known)
    found = [(by_url[url].type, expression) for url, expression in parameter.components if url in by_url]
    if not len(found) == len(parameter.components) <= len(LETTERS):
        return []
    kinds, expressions = zip(*found, strict=True) if found else ((), ())
    context = element_types(definitions, (type,), parameter.expression)
    references = [
        set(element_types(definitions, context, expression, type)) <= {"Reference", "canonical"}
        for expression in expressions
    ]
    if references != [kind == "reference" for kind in kinds] == references[::-1]:
        return list(zip(kinds[::-1], expressions, strict=True))  # R4's DocumentReference.relationship has them crossed
    return found
