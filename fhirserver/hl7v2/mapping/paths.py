"""Target paths compiled: a function that writes a value where the path says, checked against the FHIR definitions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fhirserver.fhir.definitions import Definitions, Property
from fhirserver.fhir.problem import problem
from fhirserver.hl7v2.mapping.grammar import Step, target

Put = Callable[[dict[str, Any], Any], None]
Navigate = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Target:
    """A compiled target path. `property` is its last step's; `element` what a deletion of it would name."""

    text: str
    property: Property
    put: Put
    element: str
    many: bool
    direct: bool


def compile_target(definitions: Definitions, type: str, text: str) -> Target:
    """The Target of a path on a type. Raises Problem(invalid) that names the step the definitions do not have."""
    steps = target(text)
    current = type
    navigation: list[Navigate] = []
    found: Property | None = None
    for position, step in enumerate(steps):
        found = _property(definitions, current, step, text)
        primitive = _is_primitive(definitions, found.type)
        if position < len(steps) - 1:
            navigation.append(_navigate(found, step, primitive))
        current = "Element" if primitive else found.type
    assert found is not None
    element = ".".join(step.name for step in steps) if not any(s.selector for s in steps) else text
    return Target(
        text,
        found,
        _put(navigation, found),
        element.replace("+", ""),
        found.is_list or _repeats(steps),
        len(steps) == 1,
    )


def _repeats(steps: Sequence[Step]) -> bool:
    return any(step.append for step in steps)


def _property(definitions: Definitions, type: str, step: Step, text: str) -> Property:
    definition = definitions.types.get(type)
    if definition is None:
        raise problem("invalid", f"`{text}`: {type} is no FHIR type")
    found = definition.properties.get(step.name)
    if found is None:
        raise problem("invalid", f"`{text}`: {type} has no element {step.name}")
    if (step.append or step.selector) and not found.is_list:
        raise problem("invalid", f"`{text}`: {type}.{step.name} does not repeat")
    return found


def _is_primitive(definitions: Definitions, type: str) -> bool:
    definition = definitions.types.get(type)
    return definition is not None and definition.kind == "primitive"


def _navigate(found: Property, step: Step, primitive: bool) -> Navigate:
    name = f"_{step.name}" if primitive else step.name
    if not found.is_list:
        return lambda node: _child(node, name)
    if step.append:
        return lambda node: _appended(node, name)
    if step.selector is not None:
        key, value = step.selector
        return lambda node: _selected(node, name, key, value)
    return lambda node: _first(node, name)


def _child(node: dict[str, Any], name: str) -> dict[str, Any]:
    child = node.get(name)
    if child is None:
        child = node[name] = {}
    return child


def _appended(node: dict[str, Any], name: str) -> dict[str, Any]:
    item: dict[str, Any] = {}
    node.setdefault(name, []).append(item)
    return item


def _first(node: dict[str, Any], name: str) -> dict[str, Any]:
    items = node.setdefault(name, [])
    if not items:
        items.append({})
    return items[0]  # type: ignore[no-any-return]  # as above


def _selected(node: dict[str, Any], name: str, key: str, value: str) -> dict[str, Any]:
    items = node.setdefault(name, [])
    for item in items:
        if item.get(key) == value:
            return item  # type: ignore[no-any-return]  # as above
    items.append({key: value})
    return items[-1]  # type: ignore[no-any-return]  # as above


def _put(navigation: list[Navigate], found: Property) -> Put:
    name, is_list = found.name, found.is_list

    def direct(node: dict[str, Any], value: Any) -> None:
        if is_list:
            node.setdefault(name, []).append(value)
        else:
            node[name] = value

    if not navigation:
        return direct

    def deep(node: dict[str, Any], value: Any) -> None:
        for navigate in navigation:
            node = navigate(node)
        direct(node, value)

    return deep
