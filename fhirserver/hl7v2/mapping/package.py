"""A rule package as it is written: maps, rows and tables as data, before anything is compiled. Overlays change this.

package.yaml defaults.yaml matching.yaml triggers.yaml deviations.yaml
structures/{v2.json,groups.yaml} messages/ fragments/ segments/ datatypes/ (YAML) tables/ (ConceptMap JSON)
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from fhirserver.fhir import Resource
from fhirserver.fhir.problem import problem
from fhirserver.hl7v2.mapping.tables import Table, table

Folder = Path | Traversable
Spec = Mapping[str, Any]

MAPS = ("datatype", "segment", "fragment", "message")
"""The kinds of map that have rules, each in a folder named by its plural."""
ROWS = ("triggers", "matching", "defaults")
"""The kinds that have rows: by event, or by resource type."""


@dataclass(frozen=True, slots=True)
class Package:
    """maps: kind -> name -> the map with its `rules`. rows: kind -> key -> row. tables: name -> Table, and the
    ConceptMaps they were read from. v2 and groups: the structure tables. layers: rule id -> the overlay that wrote it.
    """

    id: str
    version: str
    maps: Mapping[str, Mapping[str, Spec]]
    rows: Mapping[str, Mapping[str, Spec]]
    tables: Mapping[str, Table]
    concept_maps: Sequence[Resource]
    v2: Mapping[str, Any]
    groups: Mapping[str, Any]
    deviations: Sequence[Spec] = ()
    layers: Mapping[str, str] = field(default_factory=dict)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # which of the two depends on the build
    """Safe YAML in which only true and false are booleans: `on` is a key of ours, NO a country, Y a code."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:bool"]
    for first, found in _Loader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("true$|false$"), ["t", "f"])


def read(folder: Folder) -> Package:
    """The package in a folder. Raises Problem(invalid) for what is no YAML, JSON or ConceptMap."""
    package = _yaml(folder / "package.yaml")
    concept_maps = [_json(path) for path in _files(folder / "tables", ".json")]
    return Package(
        id=str(package["id"]),
        version=str(package["version"]),
        maps={kind: _maps(folder / f"{kind}s") for kind in MAPS},
        rows={kind: _yaml(folder / f"{kind}.yaml") for kind in ROWS},
        tables={made.name: made for made in map(table, concept_maps)},
        concept_maps=concept_maps,
        v2=_json(folder / "structures" / "v2.json"),
        groups=_yaml(folder / "structures" / "groups.yaml"),
        deviations=tuple(_yaml(folder / "deviations.yaml")),
    )


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
