"""SearchParameter expressions compiled to closures over JSON: a resource in, its (FHIR type, value) pairs out.

FHIR R4: searchparameter#expression, FHIRPath. Types are followed while compiling, so that a choice element becomes the
JSON names it may have and nothing but `dict.get` is left to do per resource.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from fhirserver.fhir import Resource
from fhirserver.fhir.definitions import Definitions, Property, SearchParameter
from fhirserver.fhir.problem import problem
from fhirserver.search.grammar import Call, Item, Literal, Name, Node, Operation, parse
from fhirserver.search.steps import DYNAMIC, Branch, Compute, Get, Run, Test, Value, Where, run

Extract = Callable[[Resource], list[Value]]
_ANY = 100  # a parameter that lists more targets means any; the list leaves out types added later


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled expression. `extract(node, resource)`; `first` has the JSON properties without one of which nothing
    comes out, or None when that is not known."""

    extract: Callable[[Any, Resource], list[Value]]
    first: frozenset[str] | None


def compile(definitions: Definitions, type: str, expression: str) -> Extract:
    """The function that takes a resource of `type` to the values an expression selects, each with its FHIR type.

    An Extension comes as its value; a `code` whose required binding names one system for it comes as a Coding with that
    system, for this is what a token search may name. Raises Problem(not-supported) for FHIRPath that is not supported.
    """
    extract = compile_relative(definitions, (type,), expression).extract
    return lambda resource: extract(resource, resource)


def compile_relative(
    definitions: Definitions, context: tuple[str, ...], expression: str, resource: str = ""
) -> Compiled:
    """The same for an expression that starts at an element, whose type is one of `context`, of a resource."""
    compiler = _Compiler(definitions, resource or context[0], context)
    branches = compiler.branches(parse(expression))
    runs = [(branch.rooted, run(branch)) for branch in branches]
    return Compiled(_together(runs), _first(branches))


def element_types(
    definitions: Definitions, context: tuple[str, ...], expression: str, resource: str = ""
) -> tuple[str, ...]:
    """The FHIR types an expression that starts at one of the types `context` can yield, without repetition."""
    compiler = _Compiler(definitions, resource or context[0], context)
    return tuple(dict.fromkeys(branch.type for branch in compiler.branches(parse(expression))))


@lru_cache(maxsize=1024)
def reference_targets(definitions: Definitions, type: str, parameter: SearchParameter) -> tuple[str, ...]:
    """The types that a reference parameter of `type` can point at, by the parameter and by its elements; () is any.

    R4's `patient` says Patient and Group for fifty types; of Encounter it is Encounter.subject where that is a Patient.
    """
    declared = () if len(parameter.target) > _ANY else parameter.target
    branches = _Compiler(definitions, type, (type,)).branches(parse(parameter.expression))
    if not branches or not all(branch.targets for branch in branches):
        return declared
    said = dict.fromkeys(target for branch in branches for target in branch.targets)
    return tuple(target for target in said if target in declared) if declared else tuple(said)


def _together(runs: list[tuple[bool, Run]]) -> Callable[[Any, Resource], list[Value]]:
    if len(runs) == 1 and not runs[0][0]:
        only = runs[0][1]

        def extract_one(node: Any, resource: Resource) -> list[Value]:
            out: list[Value] = []
            only(node, out)
            return out

        return extract_one

    def extract(node: Any, resource: Resource) -> list[Value]:
        out: list[Value] = []
        for rooted, take in runs:
            take(resource if rooted else node, out)
        return out

    return extract


def _first(branches: list[Branch]) -> frozenset[str] | None:
    names = set()
    for branch in branches:
        step = branch.steps[0] if branch.steps else None
        if not isinstance(step, Get) or branch.rooted:
            return None
        names.add(step.name)
    return frozenset(names)


class _Compiler:
    def __init__(self, definitions: Definitions, resource: str, context: tuple[str, ...]) -> None:
        self.definitions = definitions
        self.resource = resource
        self.context = [Branch(type) for type in context]

    def branches(self, node: Node) -> list[Branch]:
        """Every way an expression can take, each ending at one FHIR type."""
        if isinstance(node, Name):
            return self.name(node)
        if isinstance(node, Call):
            return self.call(node)
        if isinstance(node, Item):
            return [_item(branch, node.position) for branch in self.branches(node.of)]
        if isinstance(node, Operation) and node.sign == "|":
            return self.branches(node.left) + self.branches(node.right)
        if isinstance(node, Operation) and node.sign == "as" and isinstance(node.right, Name):
            return self.of_type(self.branches(node.left), node.right.name)
        if isinstance(node, Operation):
            return [Branch("boolean", (Compute(self.test(node, self.context)),))]
        raise _refused("a literal selects nothing")

    def name(self, node: Name) -> list[Branch]:
        if node.of is not None:
            return self.element(self.branches(node.of), node.name)
        if node.name in ("%resource", "%context", "$this"):
            return [Branch(self.resource, rooted=True)] if node.name == "%resource" else self.context
        if node.name in self.definitions.types and node.name[0].isupper():
            is_subtype = self.definitions.is_subtype
            return [branch for branch in self.context if is_subtype(branch.type, node.name)]
        return self.element(self.context, node.name)

    def element(self, branches: list[Branch], name: str) -> list[Branch]:
        found = [step for branch in branches for step in self.step(branch, name)]
        if branches and not found:
            raise _refused(f"{branches[0].type} has no element {name}")
        return found

    def step(self, branch: Branch, name: str) -> list[Branch]:
        definition = self.definitions.types.get(branch.type)
        properties = definition.properties.values() if definition else ()
        return [
            replace(
                branch, type=p.type, steps=(*branch.steps, Get(p.name)), code_list=self.code_list(p), targets=p.targets
            )
            for p in properties
            if p.element == name
        ]

    def code_list(self, property: Property) -> Mapping[str, str] | None:
        """Code -> system where a required binding says it; a code that two systems hold is left out."""
        binding = property.binding
        if property.type != "code" or binding is None or binding.strength != "required":
            return None
        systems: dict[str, str] = {}
        for system, codes in (self.definitions.code_lists.get(binding.value_set) or {}).items():
            for code in codes:
                systems[code] = "" if code in systems else system
        return systems or None

    def of_type(self, branches: list[Branch], type: str) -> list[Branch]:
        if type not in self.definitions.types:
            type = type[0].lower() + type[1:]  # R4's code-value-date says DateTime
        exact = [branch for branch in branches if branch.type == type]
        if exact:
            return exact
        if type in self.definitions.resource_types:
            test = _is_resource(type)
            return [
                replace(branch, type=type, steps=(*branch.steps, Where(test)))
                for branch in branches
                if branch.type in DYNAMIC
            ]
        return [branch for branch in branches if self.definitions.is_subtype(branch.type, type)]

    def call(self, node: Call) -> list[Branch]:
        branches = self.branches(node.of) if node.of is not None else self.context
        argument = node.arguments[0] if len(node.arguments) == 1 else None
        if node.name in ("as", "ofType") and isinstance(argument, Name):
            return self.of_type(branches, argument.name)
        if node.name == "where" and argument is not None:
            said = _asked_target(argument)
            return [
                replace(
                    branch,
                    steps=(*branch.steps, Where(self.test(argument, [Branch(branch.type)]))),
                    targets=said or branch.targets,
                )
                for branch in branches
            ]
        if node.name == "extension" and isinstance(argument, Literal):
            test = _has_url(argument.value)
            return [
                replace(branch, type="Extension", steps=(*branch.steps, Get("extension"), Where(test)))
                for branch in branches
            ]
        if node.name == "first" and not node.arguments:
            return [_item(branch, 0) for branch in branches]
        if node.name in ("exists", "empty", "hasExtension", "not"):
            return [Branch("boolean", (Compute(self.test(node, self.context)),))]
        raise _refused(f"the function {node.name}() is not supported")

    def test(self, node: Node, context: list[Branch]) -> Test:
        """The truth of an expression about one node of the context."""
        inner = _Compiler(self.definitions, self.resource, ("Element",))
        inner.context = context
        if isinstance(node, Operation) and node.sign in ("and", "or", "is", "=", "!="):
            return inner.operation(node)
        if isinstance(node, Call) and node.name in ("exists", "empty", "not", "hasExtension"):
            return inner.truth_call(node)
        values = inner.values(node)
        return lambda candidate: any(value is True for _, value in values(candidate))

    def operation(self, node: Operation) -> Test:
        if node.sign == "is":
            return self.is_type(node)
        if node.sign in ("and", "or"):
            left, right = self.test(node.left, self.context), self.test(node.right, self.context)
            if node.sign == "and":
                return lambda candidate: left(candidate) and right(candidate)
            return lambda candidate: left(candidate) or right(candidate)
        if not isinstance(node.right, Literal):
            raise _refused("only a literal may stand at the right of a comparison")
        values, expected, equal = self.values(node.left), node.right.value, node.sign == "="

        def compare(candidate: Any) -> bool:
            found = values(candidate)
            return len(found) > 0 and all((value == expected) is equal for _, value in found)

        return compare

    def is_type(self, node: Operation) -> Test:
        assert isinstance(node.right, Name)
        if node.left == Call("resolve", ()):
            return _refers_to(node.right.name)
        if isinstance(node.left, Call) and node.left.name == "resolve" and node.left.of is not None:
            values, refers = self.values(node.left.of), _refers_to(node.right.name)
            return lambda candidate: any(refers(value) for _, value in values(candidate))
        values = self.values(Operation("as", node.left, node.right))
        return lambda candidate: bool(values(candidate))

    def truth_call(self, node: Call) -> Test:
        if node.name == "hasExtension" and len(node.arguments) == 1 and isinstance(node.arguments[0], Literal):
            values = self.values(Call("extension", node.arguments, node.of))
            return lambda candidate: bool(values(candidate))
        of = node.of if node.of is not None else Name("$this")
        if node.name == "not":
            test = self.test(of, self.context)
            return lambda candidate: not test(candidate)
        values = self.values(Call("where", node.arguments, of) if node.arguments else of)
        if node.name == "exists":
            return lambda candidate: bool(values(candidate))
        return lambda candidate: not values(candidate)

    def values(self, node: Node) -> Callable[[Any], list[Value]]:
        """The values of an expression about one node; Extensions and codes as they are."""
        runs = [run(replace(branch, code_list=None), unwrap=False) for branch in self.branches(node)]

        def values(candidate: Any) -> list[Value]:
            out: list[Value] = []
            for take in runs:
                take(candidate, out)
            return out

        return values


def _asked_target(node: Node) -> tuple[str, ...]:
    """The type that `resolve() is Patient` names; () for other expressions."""
    if isinstance(node, Operation) and node.sign == "is" and node.left == Call("resolve", ()):
        return (node.right.name,) if isinstance(node.right, Name) else ()
    return ()


def _refused(reason: str) -> Exception:
    return problem("not-supported", f"The SearchParameter expression cannot be used: {reason}.", "expression")


def _item(branch: Branch, position: int) -> Branch:
    last = branch.steps[-1] if branch.steps else None
    if not isinstance(last, Get):
        raise _refused("an index stands on something that is not an element")
    return replace(branch, steps=(*branch.steps[:-1], Get(last.name, position)))


def _is_resource(type: str) -> Test:
    return lambda node: isinstance(node, dict) and node.get("resourceType") == type


def _has_url(url: Any) -> Test:
    return lambda node: isinstance(node, dict) and node.get("url") == url


def _refers_to(type: str) -> Test:
    """`resolve() is Patient`, answered from the reference itself: nothing is read to index a resource."""
    inside, start = f"/{type}/", f"{type}/"

    def refers(node: Any) -> bool:
        if isinstance(node, str):
            return inside in node or node.startswith(start)
        if not isinstance(node, dict):
            return False
        text = node.get("reference")
        if isinstance(text, str) and (inside in text or text.startswith(start)):
            return True
        return node.get("type") == type

    return refers
