"""Required elements: whatever a message map makes must have a rule, a literal or a default for each of them.

FHIR R4: elementdefinition (min). Held when maps are loaded, so that no overlay takes away what a resource needs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fhirserver.fhir.problem import Problem
from fhirserver.hl7v2.mapping.grammar import target
from fhirserver.hl7v2.mapping.package import Package
from fhirserver.hl7v2.mapping.rules import Compiler

Spec = Mapping[str, Any]

GIVEN = {"Provenance": {"target"}}
"""What the Bundle's assembly fills."""


def check_required(compiler: Compiler, package: Package) -> None:
    """Notes a fault for every required element that nothing can fill."""
    for kind in ("segment", "datatype"):
        for name, spec in package.maps[kind].items():
            _check_objects(compiler, name, str(spec.get("type", "")), spec.get("rules", ()))
    for name, spec in package.maps["message"].items():
        _check_message(compiler, package, name, spec)


def _check_message(compiler: Compiler, package: Package, name: str, spec: Spec) -> None:
    filled: dict[str, set[str]] = {}
    made: dict[str, str] = {}
    for where, rule in included(package, name, spec):
        mode = next((m for m in ("make", "new", "on") if m in rule), None)
        if mode is None:
            continue
        resource = str(rule[mode])
        filled.setdefault(resource, set()).update(_filled(package, rule))
        if mode != "on":
            made.setdefault(resource, where)
    for resource, where in made.items():
        type = resource.partition("#")[0]
        given = filled[resource] | set(package.rows["defaults"].get(type, ())) | GIVEN.get(type, set())
        _missing(compiler, where, type, given, f"{name} makes")


def included(package: Package, name: str, spec: Spec) -> Iterator[tuple[str, Spec]]:
    """Every rule of a message map with its id, those of the fragments it includes too."""
    for fragment in spec.get("includes", ()):
        inner = package.maps["fragment"].get(fragment)
        if inner is not None:
            yield from included(package, fragment, inner)
    for rule in spec.get("rules", ()):
        yield f"{name}/{rule.get('id', '?')}", rule


def _filled(package: Package, rule: Spec) -> Iterator[str]:
    used = [rule["use"]] if isinstance(rule.get("use"), str) else rule.get("use", ())
    paths = [*rule.get("link", ()), *rule.get("set", ())]
    for name in used:
        segment = package.maps["segment"].get(str(name), {})
        paths += [inner["to"] for inner in segment.get("rules", ()) if "to" in inner]
    for path in paths:
        yield from _element(str(path))


def _element(path: str) -> Iterator[str]:
    try:
        yield target(path)[0].name
    except Problem:
        return  # the compiler has said so


def _missing(compiler: Compiler, where: str, type: str, given: set[str], what: str) -> None:
    definition = compiler.definitions.types.get(type)
    if definition is None:
        return
    elements = {definition.properties[name].element for name in given if name in definition.properties}
    elements |= {name.lstrip("_") for name in given}
    for element in definition.required:
        if element not in elements:
            compiler.fault(where, f"{what} {type} resources, which need {element}: no rule and no default fills it")


def _check_objects(compiler: Compiler, name: str, type: str, rules: Any) -> None:
    for rule in rules:
        if "rules" not in rule or "to" not in rule:
            continue
        where, inner = f"{name}/{rule.get('id', '?')}", _type_of(compiler, type, str(rule["to"]))
        given = {found for each in rule["rules"] if "to" in each for found in _element(str(each["to"]))}
        if inner in compiler.definitions.types and compiler.definitions.types[inner].kind != "primitive":
            if inner not in ("Extension", "Element"):
                _missing(compiler, where, inner, given | set(rule.get("fill", ())), "the rule makes")
            _check_objects(compiler, where, inner, rule["rules"])


def _type_of(compiler: Compiler, type: str, path: str) -> str:
    try:
        steps = target(path)
    except Problem:
        return ""
    for step in steps:
        definition = compiler.definitions.types.get(type)
        found = definition.properties.get(step.name) if definition else None
        if found is None:
            return ""
        type = found.type
    return type
