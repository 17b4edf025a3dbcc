"""A rule package checked and compiled. One fault anywhere and none of it is taken: the Problem names them all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhirserver.fhir.definitions import Definitions
from fhirserver.fhir.problem import Problem
from fhirserver.hl7v2.mapping.maps import Assembler, Maps, Trigger
from fhirserver.hl7v2.mapping.needs import check_required
from fhirserver.hl7v2.mapping.package import Folder, Package, read
from fhirserver.hl7v2.mapping.rules import Compiler
from fhirserver.hl7v2.mapping.structure import Structures

MERGED = ("Period", "Ratio", "Range")
"""Datatypes whose members come from fields of their own, so that a message may say one of them alone."""


def load(folder: Folder, definitions: Definitions) -> Maps:
    """The maps of a folder. Raises Problem(invalid) with an issue for every fault found."""
    return compiled(read(folder), definitions)


def compiled(package: Package, definitions: Definitions) -> Maps:
    """The maps of a package. Raises Problem(invalid) with an issue for every fault found; an issue's expression is
    the id of the rule at fault.
    """
    structures = Structures(package.v2, package.groups)
    compiler = Compiler(definitions, structures, package.tables, package.maps["datatype"])
    for name in compiler.specs:
        _guard(compiler, name, lambda name=name: compiler.datatype(name, 0))
    assembler = Assembler(compiler)
    for name, spec in package.maps["segment"].items():
        _guard(compiler, name, lambda name=name, spec=spec: assembler.segment(name, spec))
    fragments, messages = package.maps["fragment"], {}
    for name, spec in package.maps["message"].items():
        _guard(
            compiler,
            name,
            lambda name=name, spec=spec: messages.update({name: assembler.message(name, spec, fragments)}),
        )
    triggers = _triggers(compiler, package.rows["triggers"], messages)
    _check_rows(compiler, package.rows)
    check_required(compiler, package)
    if compiler.issues:
        raise Problem(tuple(compiler.issues))
    return Maps(
        package=package.id,
        version=package.version,
        triggers=triggers,
        messages=messages,
        structures=structures,
        tables=package.tables,
        defaults=package.rows["defaults"],
        matching=package.rows["matching"],
        choices=_choices(definitions),
        parts=_parts(definitions),
        bundle=assembler.maps.get("MSH.Bundle"),
        rule_ids=frozenset(compiler.ids),
        deviations=package.deviations,
        source=package,
    )


def _guard(compiler: Compiler, name: str, make: Any) -> None:
    try:
        make()
    except Problem as fault:
        for issue in fault.issues:
            compiler.fault(name, issue.diagnostics)
    except KeyError as missing:
        compiler.fault(name, f"the map has no {missing}")


def _triggers(compiler: Compiler, spec: Mapping[str, Any], messages: Mapping[str, Any]) -> dict[str, Trigger]:
    found: dict[str, Trigger] = {}
    for event, row in spec.items():
        if row.get("structure") not in messages:
            compiler.fault(
                f"triggers/{event}",
                f"{event} has the structure {row.get('structure')}, for which there is no message map",
            )
            continue
        variables = {f"${name}": str(value) for name, value in row.items() if name not in ("structure", "aliases")}
        found[event] = Trigger(event, row["structure"], variables, tuple(row.get("aliases", ())))
    return found


def _check_rows(compiler: Compiler, rows: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
    for type, elements in rows["defaults"].items():
        definition = compiler.definitions.types.get(type)
        for element in elements:
            if definition is None or element.lstrip("_") not in definition.properties:
                compiler.fault(f"defaults/{type}", f"{type} has no element {element}")
    for type, row in rows["matching"].items():
        if type not in compiler.definitions.resource_types or set(row) - {"prefer", "never"}:
            compiler.fault(f"matching/{type}", "a row is named by a resource type and has prefer and never")


def _choices(definitions: Definitions) -> dict[str, dict[str, tuple[str, ...]]]:
    """Per resource type and backbone: each name of a choice element -> the other names of the same element."""
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for type in (*definitions.resource_types, *(name for name in definitions.types if "." in name)):
        groups = definitions.types[type].choices.values()
        siblings = {name: tuple(other for other in names if other != name) for names in groups for name in names}
        if siblings:
            found[type] = siblings
    return found


def _parts(definitions: Definitions) -> dict[str, dict[str, str]]:
    """Per type: the elements that stand once and whose members are said one by one, such as Encounter.hospitalization
    and Encounter.period, each with its type.
    """
    found: dict[str, dict[str, str]] = {}
    for type in definitions.resource_types:
        names = {
            name: each.type
            for name, each in definitions.types[type].properties.items()
            if not each.is_list and (each.type.startswith(f"{type}.") or each.type in MERGED)
        }
        if names:
            found[type] = names
    return found
