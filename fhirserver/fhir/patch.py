"""FHIRPath Patch: the operations add, insert, delete, replace and move of a Parameters resource. FHIR R4: fhirpatch.

All operations apply, in their order, or none does: they work on a copy, which is answered.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fhirserver.fhir import Resource
from fhirserver.fhir.definitions import Definitions
from fhirserver.fhir.definitions_structure import json_name
from fhirserver.fhir.json import encode
from fhirserver.fhir.patch_path import Paths, Place
from fhirserver.fhir.problem import Issue, Problem, problem

MAX_OPERATIONS = 1_000
MAX_BYTES = 16 * 1024 * 1024
_MAX_PART_DEPTH = 30


@dataclass(frozen=True, slots=True)
class _Value:
    """A value as a part of Parameters gives it.

    type is its FHIR type, "" for one given in parts. sibling: id and extensions of a primitive.
    """

    type: str = ""
    json: Any = None
    sibling: Any = None
    parts: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class _Operation:
    """One operation: its texts (type, path, name), its numbers (index, source, destination), its value."""

    texts: Mapping[str, str]
    numbers: Mapping[str, int]
    value: _Value | None = field(default=None)

    def text(self, name: str) -> str:
        if name not in self.texts:
            raise problem("invalid", f"a part {name} with a text is missing")
        return self.texts[name]

    def number(self, name: str) -> int:
        if name not in self.numbers:
            raise problem("invalid", f"a part {name} with a valueInteger is missing")
        return self.numbers[name]

    def given(self) -> _Value:
        if self.value is None:
            raise problem("invalid", "a part value is missing")
        return self.value


def apply(definitions: Definitions, resource: Resource, parameters: Resource) -> Resource:
    """The resource with the patch applied; neither argument is changed, and the result is not validated.

    Raises Problem: invalid (a malformed patch), processing (one that does not apply), too-long, too-costly. Each names
    the operation at fault.
    """
    given = parameters.get("parameter")
    if parameters.get("resourceType") != "Parameters" or not isinstance(given, list):
        raise problem("invalid", "A FHIRPath Patch is a Parameters resource with operations.", "Parameters.parameter")
    if len(given) > MAX_OPERATIONS:
        raise problem("too-long", f"A patch may have {MAX_OPERATIONS} operations.", "Parameters.parameter")
    try:
        patched: Resource = _copy(resource)
        _run(definitions, patched, given)
        size = len(encode(patched))
    except RecursionError:
        raise problem("structure", "The patch or the resource is nested too deeply.") from None
    if size > MAX_BYTES:
        raise problem("too-long", "The patch makes the resource too large.")
    return patched


def _run(definitions: Definitions, resource: Resource, operations: list[Any]) -> None:
    work = _Work(definitions, resource)
    for index, parameter in enumerate(operations):
        try:
            operation = _operation(definitions, parameter)
            kind = operation.text("type")
            if kind not in _KINDS:
                raise problem("invalid", f"its type must be one of {', '.join(_KINDS)}")
            _KINDS[kind](work, operation)
        except Problem as error:
            raise _in_operation(error, index) from None


class _Work:
    """The operations on one copy of a resource."""

    def __init__(self, definitions: Definitions, resource: Resource) -> None:
        self._definitions = definitions
        self._paths = Paths(definitions)
        self._resource = resource

    def add(self, operation: _Operation) -> None:
        place = self._single(operation.text("path"))
        name = operation.text("name")
        json, sibling, at = self._made(place, name, operation.given(), 0)
        if at.is_list:
            length = _length(place, at.name)
            _insert(self._box(place), at.name, length, length, json, sibling)
            return
        if any(True for _ in self._paths.children(place, at.element)):
            raise problem("processing", f"there is a {name} already, and it cannot repeat: use replace")
        _put(self._box(place), at.name, json, sibling)

    def insert(self, operation: _Operation) -> None:
        first, length = self._array(operation.text("path"))
        assert first.holder is not None
        index = _within(operation.number("index"), length, "index")
        json, sibling, at = self._made(first.holder, first.name, operation.given(), 0)
        _insert(self._box(first.holder), at.name, index, length, json, sibling)

    def delete(self, operation: _Operation) -> None:
        found = self._paths.find(self._root(), operation.text("path"))
        if len(found) > 1:
            raise problem("processing", "the path selects more than one element: select one")
        if found:
            self._take_out(found[0])

    def replace(self, operation: _Operation) -> None:
        place = self._single(operation.text("path"))
        if place.holder is None:
            raise problem("processing", "the resource itself cannot be replaced by a patch")
        described = self._paths.property(place.holder, place.name)
        name = described.element if described else place.name
        json, sibling, at = self._made(place.holder, name, operation.given(), 0)
        box = self._box(place.holder)
        if place.index is not None:
            _replace_item(box, place.name, place.index, _length(place.holder, place.name), json, sibling)
            return
        if at.name != place.name:
            box.pop(place.name, None)
        box.pop(f"_{place.name}", None)
        _put(box, at.name, json, sibling)

    def move(self, operation: _Operation) -> None:
        first, length = self._array(operation.text("path"))
        assert first.holder is not None
        source = _within(operation.number("source"), length - 1, "source")
        destination = _within(operation.number("destination"), length - 1, "destination")
        box = self._box(first.holder)
        for name in (first.name, f"_{first.name}"):
            if name in box:
                items = box[name] = _padded(box[name], length)
                items.insert(destination, items.pop(source))

    def _root(self) -> Place:
        return Place(self._resource, self._resource["resourceType"])

    def _single(self, path: str) -> Place:
        found = self._paths.find(self._root(), path)
        if len(found) != 1:
            raise problem("processing", f"the path selects {len(found) or 'no'} elements, it must select one")
        return found[0]

    def _array(self, path: str) -> tuple[Place, int]:
        """The first element of the array that a path selects the whole of, and the array's length."""
        found = self._paths.find(self._root(), path)
        if not found:
            raise problem("processing", "the path selects nothing: it must select the elements of one list")
        first = found[0]
        length = _length(first.holder, first.name) if first.holder and first.index is not None else 0
        same = all(each.holder is first.holder and each.name == first.name for each in found)
        if not same or len(found) != length:
            raise problem("processing", "the path must select all the elements of one list")
        return first, length

    def _box(self, place: Place) -> dict[str, Any]:
        """The object that holds a place's children, made for a primitive that has none yet."""
        box = place.box
        if box or isinstance(place.value, dict):
            return box  # type: ignore[no-any-return]  # JSON
        assert place.holder is not None
        made: dict[str, Any] = {}
        outer = self._box(place.holder)
        if place.index is None:
            outer[f"_{place.name}"] = made
        else:
            beside = outer[f"_{place.name}"] = _padded(outer.get(f"_{place.name}"), _length(place.holder, place.name))
            beside[place.index] = made
        return made

    def _take_out(self, place: Place) -> None:
        """Takes an element out, and what holds it too when nothing else is left there: no element of FHIR is empty."""
        if place.holder is None:
            raise problem("processing", "the resource itself cannot be deleted by a patch")
        box = self._box(place.holder)
        if place.index is None:
            box.pop(place.name, None)
            box.pop(f"_{place.name}", None)
        else:
            _remove_item(box, place.name, place.index, _length(place.holder, place.name))
        if not box and place.holder.holder is not None and place.holder.value in (None, {}):
            self._take_out(place.holder)
        elif not box and place.holder.holder is not None:
            self._drop_sibling(place.holder)

    def _drop_sibling(self, place: Place) -> None:
        """Leaves a primitive with its value only."""
        assert place.holder is not None
        outer = self._box(place.holder)
        name = f"_{place.name}"
        if place.index is None:
            outer.pop(name, None)
            return
        outer[name][place.index] = None
        if not any(outer[name]):
            del outer[name]

    def _made(self, place: Place, name: str, value: _Value, depth: int) -> tuple[Any, Any, _Target]:
        """The JSON value and sibling for an element `name` of a place, and where they go."""
        at = self._target(place, name, value)
        if value.type or value.sibling is not None:
            return _copy(value.json), _copy(value.sibling), at
        if depth > _MAX_PART_DEPTH:
            raise problem("invalid", "its value is nested too deeply")
        made = Place({}, at.type)
        for part in value.parts:
            json, sibling, inner = self._made(made, _name_of(part), _value(self._definitions, part), depth + 1)
            if inner.is_list:
                length = _length(made, inner.name)
                _insert(made.value, inner.name, length, length, json, sibling)
            else:
                _put(made.value, inner.name, json, sibling)
        return made.value, None, at

    def _target(self, place: Place, name: str, value: _Value) -> _Target:
        choices = self._paths.choices(place, name)
        described = self._paths.property(place, json_name(name, value.type) if choices and value.type else name)
        if choices and (described is None or described.name not in choices):
            possible = ", ".join(choices)
            raise problem("processing", f"{name} takes a value of another type, to become one of {possible}")
        if described is None:
            raise problem("processing", f"{place.type} has no element {name}")
        return _Target(described.name, described.element, described.type, described.is_list)


@dataclass(frozen=True, slots=True)
class _Target:
    """Where a value goes: JSON name, element name, type, and whether there is an array."""

    name: str
    element: str
    type: str
    is_list: bool


_KINDS: Mapping[str, Callable[[_Work, _Operation], None]] = {
    "add": _Work.add,
    "insert": _Work.insert,
    "delete": _Work.delete,
    "replace": _Work.replace,
    "move": _Work.move,
}
_TEXTS = ("type", "path", "name")
_NUMBERS = ("index", "source", "destination")


def _operation(definitions: Definitions, parameter: Any) -> _Operation:
    parts = parameter.get("part") if isinstance(parameter, dict) else None
    if not isinstance(parts, list) or parameter.get("name") != "operation":
        raise problem("invalid", "each parameter must be named operation and have parts")
    texts: dict[str, str] = {}
    numbers: dict[str, int] = {}
    value = None
    for part in parts:
        name = _name_of(part)
        if name in texts or name in numbers or (name == "value" and value is not None):
            raise problem("invalid", f"the part {name} is there twice")
        given = _value(definitions, part)
        if name == "value":
            value = given
        elif name in _TEXTS and isinstance(given.json, str):
            texts[name] = given.json
        elif name in _NUMBERS and type(given.json) is int:
            numbers[name] = given.json
        else:
            raise problem("invalid", f"the part {name[:100]!r} is not known, or its value is of the wrong type")
    return _Operation(texts, numbers, value)


def _name_of(part: Any) -> str:
    name = part.get("name") if isinstance(part, dict) else None
    if not isinstance(name, str) or not name:
        raise problem("invalid", "each part must be an object with a name")
    return name


def _value(definitions: Definitions, part: Mapping[str, Any]) -> _Value:
    keys = [key for key in part if key.removeprefix("_").startswith("value")]
    names = {key.removeprefix("_") for key in keys}
    if len(names) + ("part" in part) + ("resource" in part) != 1:
        raise problem("invalid", f"the part {_name_of(part)[:100]!r} must have one value, in value[x] or in parts")
    if "resource" in part:
        return _Value("Resource", part["resource"])
    if names:
        (name,) = names
        return _Value(_type_of(definitions, name), part.get(name), part.get(f"_{name}"))
    parts = part["part"]
    if not isinstance(parts, list) or not parts:
        raise problem("invalid", "the parts of a value must be a list with something in it")
    return _Value(parts=tuple(parts))


def _type_of(definitions: Definitions, name: str) -> str:
    suffix = name.removeprefix("value")
    for type_name in (suffix, suffix[:1].lower() + suffix[1:]):
        if type_name in definitions.types and definitions.types[type_name].kind in ("complex", "primitive"):
            return type_name
    raise problem("invalid", f"{name[:100]} is not a value[x] of Parameters")


def _within(index: int, most: int, name: str) -> int:
    if not 0 <= index <= most:
        raise problem("processing", f"{name} must be from 0 to {most}")
    return index


def _length(holder: Place, name: str) -> int:
    box = holder.box
    return max(len(box.get(name) or ()), len(box.get(f"_{name}") or ()))


def _put(box: dict[str, Any], name: str, json: Any, sibling: Any) -> None:
    if json is not None:
        box[name] = json
    else:
        box.pop(name, None)
    if sibling is not None:
        box[f"_{name}"] = sibling


def _insert(box: dict[str, Any], name: str, index: int, length: int, json: Any, sibling: Any) -> None:
    for key, value in ((name, json), (f"_{name}", sibling)):
        if key in box or value is not None:
            items = box[key] = _padded(box.get(key), length)
            items.insert(index, value)


def _replace_item(box: dict[str, Any], name: str, index: int, length: int, json: Any, sibling: Any) -> None:
    for key, value in ((name, json), (f"_{name}", sibling)):
        if key in box or value is not None:
            items = box[key] = _padded(box.get(key), length)
            items[index] = value
            if not any(each is not None for each in items):
                del box[key]


def _remove_item(box: dict[str, Any], name: str, index: int, length: int) -> None:
    for key in (name, f"_{name}"):
        if key in box:
            items = box[key] = _padded(box[key], length)
            del items[index]
            if not any(each is not None for each in items):
                del box[key]


def _padded(items: Any, length: int) -> list[Any]:
    """A list of that length: null stands where a primitive has a value but no sibling, or the other way round."""
    kept = items if isinstance(items, list) else []
    kept.extend([None] * (length - len(kept)))
    return kept


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_copy(each) for each in value]
    return value


def _in_operation(error: Problem, index: int) -> Problem:
    where = f"Parameters.parameter[{index}]"
    issues = (
        Issue(each.code, f"Operation {index}: {each.diagnostics.rstrip('.')}.", (where,)) for each in error.issues
    )
    return Problem(tuple(issues), status=error.status, headers=error.headers)
