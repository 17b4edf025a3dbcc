"""The steps a compiled SearchParameter expression takes through JSON, and the closures made of them.

FHIR R4: searchparameter#expression. A branch is one way through a resource, statically typed; its closure calls down it
and puts (FHIR type, value) pairs into a list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Value = tuple[str, Any]
Run = Callable[[Any, list[Value]], None]
Test = Callable[[Any], bool]
DYNAMIC = frozenset({"Resource", "DomainResource"})


@dataclass(frozen=True, slots=True)
class Get:
    """Go into a JSON property; `position` picks one item of it."""

    name: str
    position: int | None = None


@dataclass(frozen=True, slots=True)
class Where:
    """Go on only with nodes that pass."""

    test: Test


@dataclass(frozen=True, slots=True)
class Compute:
    """Replace the node by the truth of an expression about it."""

    test: Test


@dataclass(frozen=True, slots=True)
class Branch:
    """One way through a resource, and the FHIR type it ends at; `code_list` maps the codes a `code` may be to
    systems."""

    type: str
    steps: tuple[Get | Where | Compute, ...] = ()
    code_list: Mapping[str, str] | None = None
    targets: tuple[str, ...] = ()  # what a reference may point at, as far as that is said; () is any
    rooted: bool = False  # starts at the resource although the context is an element of it


def run(branch: Branch, unwrap: bool = True) -> Run:
    """The closure of a branch. unwrap: an Extension comes as its value."""
    then = _emit(branch, unwrap)
    for step in reversed(branch.steps):
        if isinstance(step, Get):
            then = _get(step.name, then) if step.position is None else _get_item(step.name, step.position, then)
        elif isinstance(step, Where):
            then = _where(step.test, then)
        else:
            then = _compute(step.test, then)
    return then


def _emit(branch: Branch, unwrap: bool) -> Run:
    type = branch.type
    if type == "Extension" and unwrap:
        return _emit_extension
    if type in DYNAMIC:
        return _emit_resource
    if branch.code_list:
        return _emit_code(branch.code_list)

    def emit(node: Any, out: list[Value]) -> None:
        out.append((type, node))

    return emit


def _emit_resource(node: Any, out: list[Value]) -> None:
    if isinstance(node, dict):
        out.append((str(node.get("resourceType", "Resource")), node))


def _emit_code(systems: Mapping[str, str]) -> Run:
    def emit(node: Any, out: list[Value]) -> None:
        system = systems.get(node) if isinstance(node, str) else None
        out.append(("Coding", {"system": system, "code": node}) if system else ("code", node))

    return emit


def _emit_extension(node: Any, out: list[Value]) -> None:
    if isinstance(node, dict):
        for name, value in node.items():
            if name.startswith("value"):
                kind = name[5:]
                out.append((kind if isinstance(value, dict) else kind[:1].lower() + kind[1:], value))


def _get(name: str, run: Run) -> Run:
    def get(node: Any, out: list[Value]) -> None:
        if node.__class__ is not dict:
            return
        value = node.get(name)
        if value is None:
            return
        if value.__class__ is list:
            for item in value:
                if item is not None:
                    run(item, out)
        else:
            run(value, out)

    return get


def _get_item(name: str, position: int, run: Run) -> Run:
    def get_item(node: Any, out: list[Value]) -> None:
        value = node.get(name) if node.__class__ is dict else None
        items = value if isinstance(value, list) else [value]
        if position < len(items) and items[position] is not None:
            run(items[position], out)

    return get_item


def _where(test: Test, run: Run) -> Run:
    def where(node: Any, out: list[Value]) -> None:
        if test(node):
            run(node, out)

    return where


def _compute(test: Test, run: Run) -> Run:
    def compute(node: Any, out: list[Value]) -> None:
        run(test(node), out)

    return compute
