"""Invariants: the FHIRPath constraints of types and elements as checks of one value.

FHIR R4: elementdefinition (constraint), conformance-rules#constraints. Logic over "is it there" and "is it this code"
becomes closures over the JSON itself; whatever else an expression has goes to the FHIRPath compiler. An invariant is
broken when it answers false: an empty answer, or one that cannot be evaluated, breaks nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from fhirserver.fhir.definitions import Constraint, Definitions, TypeDefinition
from fhirserver.fhir.definitions_structure import constraints_of
from fhirserver.fhir.fhirpath import Node, PathError, TooLarge, model_of
from fhirserver.fhir.fhirpath.compiler import compile_tree
from fhirserver.fhir.fhirpath.parser import Tree, parse
from fhirserver.fhir.fhirpath.scope import boolean
from fhirserver.fhir.problem import Problem
from fhirserver.fhir.validation.place import Check, Fault, Faults, Place, scope_of

Truth = Callable[[Any, Place], bool | None]

# Held by the walk of the structure itself: contained resources, references within, narrative, empty objects.
_HELD = frozenset({"dom-2", "dom-3", "dom-4", "dom-5", "ref-1", "txt-1", "txt-2", "ele-1"})


class Invariants:
    """Makes the checks of constraints for one Definitions."""

    def __init__(self, definitions: Definitions) -> None:
        self.definitions = definitions
        self._model = model_of(definitions)

    def of_type(self, definition: TypeDefinition) -> Check | None:
        """The check of a type's constraints, those of its base types included; None when it has none."""
        types = (self.definitions.types[name] for name in self.definitions.bases(definition.name))
        return self.check([c for t in types for c in t.constraints], definition)

    def of_profile(self, url: str, definition: TypeDefinition) -> Check | None:
        """The check of what a profile on a datatype (SimpleQuantity) demands of its root."""
        structure = self.definitions.profiles.get(url, {})
        elements = structure.get("snapshot", {}).get("element", ())
        return self.check(constraints_of(elements[0], url), definition) if elements else None

    def check(self, constraints: Iterable[Constraint], definition: TypeDefinition) -> Check | None:
        """The check of some constraints on values of a type; None when the walk of the structure holds them all."""
        rules = [(self._truth(c, definition), broken(c)) for c in constraints if c.key not in _HELD]
        tests = [(test, fault) for test, fault in rules if test is not None]
        if not tests:
            return None

        def check(value: Any, place: Place) -> Faults:
            faults: Faults = None
            for test, fault in tests:
                if test(value, place) is False:
                    faults = [*(faults or []), fault]
            return faults

        return check

    def _truth(self, constraint: Constraint, definition: TypeDefinition) -> Truth | None:
        try:
            return self._test(parse(constraint.expression), definition)
        except Problem:
            return None  # an expression of a later FHIRPath or with functions that need a terminology server

    def _test(self, tree: Tree, definition: TypeDefinition) -> Truth:
        """A tree as a test: logic and what is simple about JSON here, the rest by the FHIRPath compiler."""
        if tree[0] == "binary" and tree[1] in _LOGIC:
            return _LOGIC[tree[1]](self._test(tree[2], definition), self._test(tree[3], definition))
        if tree[0] == "binary" and tree[1] in ("=", "!="):
            found = self._comparison(tree, definition)
            return found or self._by_path(tree, definition)
        if tree[0] == "dot" and tree[2] == ("call", "not", ()):
            inner = self._test(tree[1], definition)
            return lambda value, place: _not(inner(value, place))
        simple = self._existence(tree, definition) or self._for_all(tree, definition)
        return simple or self._by_path(tree, definition)

    def _by_path(self, tree: Tree, definition: TypeDefinition) -> Truth:
        closure = compile_tree(tree)
        name, model = definition.name, self._model

        def test(value: Any, place: Place) -> bool | None:
            node = Node(value, name)
            try:
                return boolean(closure(scope_of(place, model, node), [node]))
            except TooLarge:
                raise
            except PathError:
                return None

        return test

    def _comparison(self, tree: Tree, definition: TypeDefinition) -> Truth | None:
        left, right = tree[2], tree[3]
        same = tree[1] == "="
        if right[0] == "literal" and left[0] == "dot" and left[1] == ("variable", "resource") and left[2][0] == "name":
            return _of_resource(left[2][1], right[1], same)
        if right[0] == "literal" and type(right[1]) is str and left[0] == "name":
            prop = definition.properties.get(left[1])
            if prop is None or prop.is_list or prop.type not in ("code", "string", "uri"):
                return None
            name, wanted = prop.name, right[1]

            def is_code(value: Any, _place: Place) -> bool | None:
                found = value.get(name)
                return None if found is None else (found == wanted) is same

            return is_code
        a, b = self._existence(left, definition), self._existence(right, definition)
        if a is None or b is None:
            return None
        return lambda value, place: (a(value, place) == b(value, place)) is same

    def _existence(self, tree: Tree, definition: TypeDefinition) -> Truth | None:
        """`a.b.exists()`, `a.b.empty()`, and `a.hasValue()` of what does not repeat; None for anything else.

        Of a longer way (`a.where(...).empty()`) what is known without going it: that there is no `a`.
        """
        if tree[0] != "dot" or tree[2][0] != "call" or tree[2][2]:
            return None
        function, first = tree[2][1], _first(tree[1])
        if function not in ("exists", "empty", "hasValue") or not first or definition.kind == "primitive":
            return None
        names = self._json_names(definition, first)
        if names is None:
            return None
        path = _names(tree[1])
        if function == "hasValue":
            single = len(path) == 1 and first in definition.properties and not definition.properties[first].is_list
            return (lambda value, _place: first in value) if single else None
        wanted = function == "exists"
        if len(path) == 1:
            disjoint = names.isdisjoint
            return lambda value, _place: disjoint(value) is not wanted
        there = self._there(definition, path)
        if there is not None:
            return lambda value, _place: there(value) is wanted
        by_path = self._by_path(tree, definition)
        return lambda value, place: not wanted if names.isdisjoint(value) else by_path(value, place)

    def _there(self, definition: TypeDefinition, path: tuple[str, ...]) -> Callable[[Any], bool] | None:
        """Whether there is anything at a path of objects that do not repeat; None where they are something else."""
        names = self._json_names(definition, path[0]) if path else None
        if names is None:
            return None
        if len(path) == 1:
            disjoint = names.isdisjoint
            return lambda value: not disjoint(value)
        name = path[0]
        prop = definition.properties.get(name)
        if prop is None or prop.is_list or self.definitions.types[prop.type].kind not in ("backbone", "complex"):
            return None
        rest = self._there(self.definitions.types[prop.type], path[1:])
        return None if rest is None else lambda value: name in value and rest(value[name])

    def _for_all(self, tree: Tree, definition: TypeDefinition) -> Truth | None:
        """`a.all(...)` where the items of `a` are objects of one type; None for anything else."""
        if tree[0] != "dot" or tree[1][0] != "name" or tree[2][:2] != ("call", "all") or len(tree[2][2]) != 1:
            return None
        prop = definition.properties.get(tree[1][1])
        if prop is None or not prop.is_list or self.definitions.types[prop.type].kind not in ("backbone", "complex"):
            return None
        name, test = prop.name, self._test(tree[2][2][0], self.definitions.types[prop.type])
        return lambda value, place: all(test(item, place) for item in value.get(name, ()))

    def _json_names(self, definition: TypeDefinition, element: str) -> frozenset[str] | None:
        names = definition.choices.get(element) or ((element,) if element in definition.properties else None)
        return None if names is None else frozenset(names) | {"_" + name for name in names}


def _names(tree: Tree) -> tuple[str, ...]:
    """The names of a plain path (`a.b.c`), () for anything else."""
    if tree[0] == "name":
        return (tree[1],)
    if tree[0] == "dot" and tree[2][0] == "name":
        before = _names(tree[1])
        return (*before, tree[2][1]) if before else ()
    return ()


# Functions that make nothing out of nothing.
_FILTERS = frozenset({"where", "select", "ofType", "first", "last", "tail", "distinct", "resolve", "repeat"})


def _first(tree: Tree) -> str:
    """The name that a way begins with which leads nowhere where nothing has that name; "" for any other tree."""
    if tree[0] == "name":
        return str(tree[1])
    if tree[0] == "dot" and (tree[2][0] == "name" or (tree[2][0] == "call" and tree[2][1] in _FILTERS)):
        return _first(tree[1])
    return ""


def broken(constraint: Constraint) -> Fault:
    """The fault of a constraint that does not hold."""
    severity = "error" if constraint.severity == "error" else "warning"
    human = constraint.human[:1].upper() + constraint.human[1:].rstrip(" .")
    return Fault("invariant", "", f"{human} ({constraint.key})", severity)


def _of_resource(name: str, wanted: Any, same: bool) -> Truth:
    """`%resource.name = 'text'` where the resource has one text under that name."""

    def is_text(_value: Any, place: Place) -> bool | None:
        found = place.resource.get(name)
        return (found == wanted) is same if type(found) is str and type(wanted) is str else None

    return is_text


def _not(value: bool | None) -> bool | None:
    return None if value is None else not value


def _and(left: Truth, right: Truth) -> Truth:
    def both(value: Any, place: Place) -> bool | None:
        a = left(value, place)
        if a is False:
            return False
        b = right(value, place)
        return False if b is False else None if a is None or b is None else True

    return both


def _or(left: Truth, right: Truth) -> Truth:
    def either(value: Any, place: Place) -> bool | None:
        a = left(value, place)
        if a is True:
            return True
        b = right(value, place)
        return True if b is True else None if a is None or b is None else False

    return either


def _xor(left: Truth, right: Truth) -> Truth:
    def one(value: Any, place: Place) -> bool | None:
        a, b = left(value, place), right(value, place)
        return None if a is None or b is None else a != b

    return one


def _implies(left: Truth, right: Truth) -> Truth:
    return _or(lambda value, place: _not(left(value, place)), right)


_LOGIC = {"and": _and, "or": _or, "xor": _xor, "implies": _implies}
