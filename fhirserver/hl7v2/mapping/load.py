"""The maps read from their folder, checked, compiled. One fault anywhere and none are taken: the Problem names them
all.

    package.yaml defaults.yaml matching.yaml triggers.yaml deviations.yaml
    structures/{v2.json,groups.yaml} messages/ fragments/ segments/ datatypes/ (YAML) tables/ (ConceptMap JSON)
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from fhirserver.fhir.definitions import Definitions
from fhirserver.fhir.problem import Problem, problem
from fhirserver.hl7v2.mapping.maps import Assembler, Maps, Trigger
from fhirserver.hl7v2.mapping.rules import Compiler
from fhirserver.hl7v2.mapping.structure import Structures
from fhirserver.hl7v2.mapping.tables import Table, table

Folder = Path | Traversable


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # which of the two depends on the build
    """Safe YAML in which only true and false are booleans: `on` is a key of ours, NO a country, Y a code."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:bool"]
    for first, found in _Loader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("true$|false$"), ["t", "f"])


def load(folder: Folder, definitions: Definitions) -> Maps:
    """The maps of a folder. Raises Problem(invalid) with an issue for every fault found."""
    tables = _tables(folder)
    structures = Structures(_json(folder / "structures" / "v2.json"), _yaml(folder / "structures" / "groups.yaml"))
    compiler = Compiler(definitions, structures, tables, _maps(folder / "datatypes"))
    for name in compiler.specs:
        _guard(compiler, name, lambda name=name: compiler.datatype(name, 0))
    assembler = Assembler(compiler, _maps(folder / "segments"))
    fragments, messages = _maps(folder / "fragments"), {}
    for name, spec in _maps(folder / "messages").items():
        _guard(
            compiler,
            name,
            lambda name=name, spec=spec: messages.update({name: assembler.message(name, spec, fragments)}),
        )
    triggers = _triggers(compiler, _yaml(folder / "triggers.yaml"), messages)
    package, defaults = _yaml(folder / "package.yaml"), _yaml(folder / "defaults.yaml")
    _check_defaults(compiler, defaults)
    if compiler.issues:
        raise Problem(tuple(compiler.issues))
    return Maps(
        package=str(package["id"]),
        version=str(package["version"]),
        triggers=triggers,
        messages=messages,
        structures=structures,
        tables=tables,
        defaults=defaults,
        matching=_yaml(folder / "matching.yaml"),
        choices=_choices(definitions),
        bundle=assembler.maps.get("MSH.Bundle"),
        rule_ids=frozenset(compiler.ids),
        deviations=tuple(_yaml(folder / "deviations.yaml")),
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
        if row["structure"] not in messages:
            compiler.fault(
                "triggers.yaml", f"{event} has the structure {row['structure']}, for which there is no message map"
            )
        variables = {f"${name}": str(value) for name, value in row.items() if name not in ("structure", "aliases")}
        found[event] = Trigger(event, row["structure"], variables, tuple(row.get("aliases", ())))
    return found


def _check_defaults(compiler: Compiler, defaults: Mapping[str, Mapping[str, Any]]) -> None:
    for type, elements in defaults.items():
        definition = compiler.definitions.types.get(type)
        for element in elements:
            if definition is None or element.lstrip("_") not in definition.properties:
                compiler.fault("defaults.yaml", f"{type} has no element {element}")


def _choices(definitions: Definitions) -> dict[str, dict[str, tuple[str, ...]]]:
    """Per resource type: each name of a choice element -> the other names of the same element."""
    found: dict[str, dict[str, tuple[str, ...]]] = {}
    for type in definitions.resource_types:
        groups = definitions.types[type].choices.values()
        siblings = {name: tuple(other for other in names if other != name) for names in groups for name in names}
        if siblings:
            found[type] = siblings
    return found


def _tables(folder: Folder) -> dict[str, Table]:
    made = [table(_json(path)) for path in _files(folder / "tables", ".json")]
    return {entry.name: entry for entry in made}


def _maps(folder: Folder) -> dict[str, Any]:
    """Every map under a folder by its name: a file holds one or more YAML documents, each with a `map`."""
    found: dict[str, Any] = {}
    for path in _files(folder, ".yaml"):
        for document in _documents(path):
            name = str(document.get("map", "")) if isinstance(document, dict) else ""
            if not name or name in found:
                raise problem("invalid", f"{path.name}: a map without a name, or `{name}` is there already", path.name)
            found[name] = document
    return found


def _files(folder: Folder, ending: str) -> list[Any]:
    return sorted((path for path in folder.iterdir() if path.name.endswith(ending)), key=lambda path: path.name)


def _documents(path: Any) -> list[Any]:
    try:
        return list(yaml.load_all(path.read_text(encoding="utf-8"), Loader=_Loader))
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise problem("invalid", f"{path.name} cannot be read: {error}", path.name) from None


def _yaml(path: Any) -> Any:
    return (_documents(path) or [{}])[0]


def _json(path: Any) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise problem("invalid", f"{path.name} cannot be read: {error}", path.name) from None
