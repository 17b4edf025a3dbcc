"""The places that a FHIRPath Patch path selects: elements together with where they stand, so that they can be changed.

FHIR R4: fhirpatch (the simple subset of paths). FHIRPath N1 for the criteria of `where`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fhirserver.fhir.definitions import Definitions, Property
from fhirserver.fhir.fhirpath.parser import Tree, parse
from fhirserver.fhir.fhirpath.values import Node, PathError, compared, equal
from fhirserver.fhir.problem import problem

MAX_PATH = 1_000
_MAX_VISITED = 1_000_000
_EMPTY: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """An element and where it stands: property `name` of `holder`, `index` in its array (None where it has none).

    value: its JSON value, None for a primitive that has only extensions. type: its type, for a resource the resource's.
    """

    value: Any
    type: str
    holder: Place | None = None
    name: str = ""
    index: int | None = None

    @property
    def box(self) -> Any:
        """The object that holds its children: itself, or the `_name` sibling of a primitive; {} when there is none."""
        if isinstance(self.value, dict):
            return self.value
        beside = self.holder.box.get(f"_{self.name}") if self.holder else None
        if self.index is not None:
            beside = beside[self.index] if isinstance(beside, list) and self.index < len(beside) else None
        return beside if isinstance(beside, dict) else _EMPTY


class Paths:
    """Evaluates paths on one resource. One object serves one patch: it bounds the work of all its paths together."""

    def __init__(self, definitions: Definitions) -> None:
        self._definitions = definitions
        self._visited = 0

    def find(self, root: Place, path: str) -> list[Place]:
        """The places a path selects. Raises Problem: invalid for a path that cannot be read, too-costly."""
        if len(path) > MAX_PATH:
            raise problem("too-long", f"A path in a patch may have {MAX_PATH} characters.")
        tree = _parsed(path)
        try:
            return self._select(tree, [root], root)
        except RecursionError:
            raise problem("too-costly", "The path is nested too deeply.") from None
        except PathError as error:
            raise problem("processing", f"The path {path!r} {error}.") from None

    def property(self, place: Place, name: str) -> Property | None:
        """The property of a place's type with that JSON name."""
        found = self._definitions.types.get(place.type)
        return found.properties.get(name) if found else None

    def choices(self, place: Place, name: str) -> tuple[str, ...]:
        """The JSON names of a choice element of a place's type, () when the element is none."""
        found = self._definitions.types.get(place.type)
        return found.choices.get(name, ()) if found else ()

    def children(self, place: Place, name: str) -> Iterator[Place]:
        """The elements `name` (for a choice without its type) of a place."""
        for json_name in (*self.choices(place, name), name):
            described = self.property(place, json_name)
            if described is None or (json_name not in place.box and f"_{json_name}" not in place.box):
                continue
            value, beside = place.box.get(json_name), place.box.get(f"_{json_name}")
            if not isinstance(value, list) and not isinstance(beside, list):
                yield self._place(value, described, place, json_name, None)
                continue
            values, length = value or [], max(len(value or ()), len(beside or ()))
            for index in range(length):
                one = values[index] if index < len(values) else None
                yield self._place(one, described, place, json_name, index)

    def _place(self, value: Any, described: Property, holder: Place, name: str, index: int | None) -> Place:
        self._visited += 1
        if self._visited > _MAX_VISITED:
            raise problem("too-costly", "The paths of this patch look at too many elements: send it in parts.")
        type_name = described.type
        if isinstance(value, dict) and isinstance(value.get("resourceType"), str):
            type_name = value["resourceType"]
        return Place(value, type_name, holder, name, index)

    def _select(self, tree: Tree, focus: list[Place], root: Place) -> list[Place]:
        """The places of a path expression. The spine of a path is walked in a loop, since it may be long."""
        steps: list[Tree] = []
        while tree[0] in ("dot", "index") or (tree[0] == "type" and tree[1] == "as"):
            steps.append(tree)
            tree = tree[2] if tree[0] == "type" else tree[1]
        found = self._first(tree, focus, root)
        for step in reversed(steps):
            if step[0] == "dot":
                found = self._member(step[2], found, root)
            elif step[0] == "index":
                found = _indexed(found, step[2])
            else:
                found = self._of_type(found, step[3])
        return found

    def _first(self, tree: Tree, focus: list[Place], root: Place) -> list[Place]:
        if tree[0] == "special" and tree[1] == "$this":
            return focus
        if tree[0] == "variable" and tree[1] in ("resource", "rootResource", "context"):
            return [root]
        if tree[0] == "name" and focus == [root] and self._definitions.is_subtype(root.type, tree[1]):
            return [root]
        return self._member(tree, focus, root)

    def _member(self, tree: Tree, focus: list[Place], root: Place) -> list[Place]:
        if tree[0] == "name":
            return [child for place in focus for child in self.children(place, tree[1])]
        if tree[0] != "call" or tree[1] not in _FUNCTIONS:
            what = f"{tree[1]}()" if tree[0] == "call" else "this expression"
            raise problem("invalid", f"A path in a patch is made of names, [n] and {_POSSIBLE}; not of {what}.")
        return _FUNCTIONS[tree[1]](self, focus, tree[2], root)

    def _where(self, focus: list[Place], arguments: tuple[Tree, ...], root: Place) -> list[Place]:
        criterion = _one("where", arguments)
        return [place for place in focus if self._holds(criterion, place, root)]

    def _extension(self, focus: list[Place], arguments: tuple[Tree, ...], root: Place) -> list[Place]:
        url = _one("extension", arguments)[1]
        extensions = [child for place in focus for child in self.children(place, "extension")]
        return [place for place in extensions if place.box.get("url") == url]

    def _typed(self, focus: list[Place], arguments: tuple[Tree, ...], root: Place) -> list[Place]:
        named = _one("ofType", arguments)
        while named[0] == "dot":  # FHIR.Quantity
            named = named[2]
        return self._of_type(focus, str(named[1]))

    def _of_type(self, focus: list[Place], type_name: str) -> list[Place]:
        wanted = type_name.rpartition(".")[2]
        return [place for place in focus if self._definitions.is_subtype(place.type, wanted)]

    def _holds(self, tree: Tree, place: Place, root: Place) -> bool:
        found = self._values(tree, place, root)
        return len(found) == 1 and _content(found[0]) is not False

    def _values(self, tree: Tree, place: Place, root: Place) -> list[Any]:
        """The values of a criterion: literals, truth values, or the places its paths select."""
        if tree[0] == "literal":
            return [tree[1]]
        if tree[0] == "empty":
            return []
        if tree[0] == "binary":
            return self._binary(tree, place, root)
        if tree[0] == "dot" and tree[2][0] == "call" and tree[2][1] in _TESTS:
            return [self._test(tree[2], self._values(tree[1], place, root), root)]
        if tree[0] == "call" and tree[1] in _TESTS:
            return [self._test(tree, [place], root)]
        return list(self._select(tree, [place], root))

    def _binary(self, tree: Tree, place: Place, root: Place) -> list[Any]:
        operator, left, right = tree[1], tree[2], tree[3]
        if operator in _LOGIC:
            return [_LOGIC[operator](self._holds(left, place, root), self._holds(right, place, root))]
        if operator not in _COMPARISONS:
            raise problem("invalid", f"The operator {operator} is not possible in the criteria of a patch's path.")
        mine, others = self._values(left, place, root), self._values(right, place, root)
        if len(mine) != 1 or len(others) != 1:
            return []
        said = _COMPARISONS[operator](_node(mine[0]), _node(others[0]))
        return [] if said is None else [said]

    def _test(self, call: Tree, focus: list[Any], root: Place) -> bool:
        name, arguments = call[1], call[2]
        if name == "exists" and arguments:
            return any(self._holds(arguments[0], each, root) for each in focus if isinstance(each, Place))
        if name in ("exists", "empty"):
            return bool(focus) is (name == "exists")
        if name == "not":
            return len(focus) == 1 and _content(focus[0]) is False
        wanted = _one(name, arguments)[1]
        text = _content(focus[0]) if len(focus) == 1 else None
        return isinstance(text, str) and isinstance(wanted, str) and bool(_TESTS[name](text, wanted))


@lru_cache(maxsize=1_000)
def _parsed(path: str) -> Tree:
    return parse(path)


def _indexed(found: list[Place], index: Tree) -> list[Place]:
    if index[0] != "literal" or type(index[1]) is not int:
        raise problem("invalid", "An index in a path must be a whole number, as in name[0].")
    return found[index[1] : index[1] + 1]


def _one(name: str, arguments: tuple[Tree, ...]) -> Tree:
    if len(arguments) != 1:
        raise problem("invalid", f"{name}() in a path takes one argument.")
    return arguments[0]


def _content(item: Any) -> Any:
    return item.value if isinstance(item, Place) else item


def _node(item: Any) -> Any:
    return Node(item.value, item.type) if isinstance(item, Place) else item


def _not_equal(left: Any, right: Any) -> bool | None:
    said = equal(left, right)
    return None if said is None else not said


def _ordered(test: Callable[[int], bool]) -> Callable[[Any, Any], bool | None]:
    def compare(left: Any, right: Any) -> bool | None:
        said = compared(left, right)
        return None if said is None else test(said)

    return compare


_COMPARISONS: Mapping[str, Callable[[Any, Any], bool | None]] = {
    "=": equal,
    "!=": _not_equal,
    "<": _ordered(lambda said: said < 0),
    ">": _ordered(lambda said: said > 0),
    "<=": _ordered(lambda said: said <= 0),
    ">=": _ordered(lambda said: said >= 0),
}
_LOGIC: Mapping[str, Callable[[bool, bool], bool]] = {
    "and": lambda left, right: left and right,
    "or": lambda left, right: left or right,
    "xor": lambda left, right: left != right,
    "implies": lambda left, right: not left or right,
}
_TESTS: Mapping[str, Callable[[str, str], bool]] = {
    "exists": lambda _text, _wanted: True,
    "empty": lambda _text, _wanted: False,
    "not": lambda _text, _wanted: False,
    "startsWith": str.startswith,
    "endsWith": str.endswith,
    "contains": lambda text, wanted: wanted in text,
}
_Function = Callable[[Paths, list[Place], tuple[Tree, ...], Place], list[Place]]
_FUNCTIONS: Mapping[str, _Function] = {
    "where": Paths._where,
    "first": lambda _paths, focus, _arguments, _root: focus[:1],
    "last": lambda _paths, focus, _arguments, _root: focus[-1:],
    "single": lambda _paths, focus, _arguments, _root: focus,
    "ofType": Paths._typed,
    "as": Paths._typed,
    "extension": Paths._extension,
}
_POSSIBLE = ", ".join(f"{name}()" for name in _FUNCTIONS)
