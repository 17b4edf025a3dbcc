"""Maps as ConceptMap resources and back: a group is a map, an element a rule.

FHIR R4: conceptmap. element.code is where a rule reads (`PID-8.1`), target.code where it writes (`gender`), the
extension hl7v2-rule what else it says; the extension hl7v2-map names the map. Lossless: ConceptMap to rules to
ConceptMap gives the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from fhirserver.fhir import Resource
from fhirserver.fhir.problem import problem
from fhirserver.hl7v2.mapping.package import MAPS, ROWS, Package

Spec = Mapping[str, Any]

BASE = "https://fhirserver.example/fhir"
MAP = f"{BASE}/StructureDefinition/hl7v2-map"
RULE = f"{BASE}/StructureDefinition/hl7v2-rule"
KIND = f"{BASE}/CodeSystem/hl7v2-map-kind"
URL = f"{BASE}/ConceptMap/v2-"
TABLE, OVERLAY = "table", "overlay"
MODES = ("make", "new", "on")
MOST_DEPTH = 12
EQUIVALENCE = "relatedto"

_V2 = "http://terminology.hl7.org/CodeSystem/v2-"
# Kind of rows -> (what its codes are, what they are mapped to, the key that stands as the target's code).
_ROW_SYSTEMS: Mapping[str, tuple[str, str, str]] = {
    "triggers": (f"{_V2}0003", f"{_V2}0354", "structure"),
    "matching": ("http://hl7.org/fhir/resource-types", f"{BASE}/hl7v2/matching", ""),
    "defaults": ("http://hl7.org/fhir/resource-types", f"{BASE}/hl7v2/defaults", ""),
}


def concept_maps(package: Package) -> list[Resource]:
    """Every map, every kind of rows and every table of a package as a ConceptMap, each with its id and URL."""
    found = [_map(package, kind, name, spec) for kind in MAPS for name, spec in package.maps[kind].items()]
    found += [_rows(package, kind) for kind in ROWS]
    return found + [_table(package, resource) for resource in package.concept_maps]


def id_of(name: str) -> str:
    """The id of the ConceptMap of a map."""
    return f"v2-{name.replace('_', '-')}"


def _head(package: Package, kind: str, name: str, title: str) -> Resource:
    return {
        "resourceType": "ConceptMap",
        "id": id_of(name),
        "url": f"{URL}{name.replace('_', '-')}",
        "version": package.version,
        "name": "V2" + "".join(part[:1].upper() + part[1:] for part in re.split(r"[-_.]", name)),
        "title": title,
        "status": "active",
        "experimental": False,
        "publisher": "fhirserver",
        "useContext": [context(kind)],
    }


def context(kind: str) -> Resource:
    """The useContext by which a search finds the ConceptMaps of a kind: `ConceptMap?context=segment`."""
    return {
        "code": {"system": "http://terminology.hl7.org/CodeSystem/usage-context-type", "code": "task"},
        "valueCodeableConcept": {"coding": [{"system": KIND, "code": kind}]},
    }


def _map(package: Package, kind: str, name: str, spec: Spec) -> Resource:
    resource = _head(package, kind, name, f"HL7v2 {kind} map {name}")
    head = map_extension(kind, name, spec)
    group = group_of(kind, name, spec)
    if group is None:  # A map that only includes others has no group to hang its settings on.
        return {**resource, "extension": [head]}
    return {**resource, "group": [group]}


def group_of(kind: str, name: str, spec: Spec) -> dict[str, Any] | None:
    """The group of a map, None where it has no rules."""
    elements = [element(kind, rule) for rule in spec.get("rules", ())]
    if not elements:
        return None
    source, goal = _systems(kind, name, spec)
    return {"extension": [map_extension(kind, name, spec)], "source": source, "target": goal, "element": elements}


def _systems(kind: str, name: str, spec: Spec) -> tuple[str, str]:
    head = name.partition(".")[0]
    if kind == "segment":
        return f"{BASE}/hl7v2/segment/{spec.get('segment', head)}", f"{_TYPES}{spec.get('type', '')}"
    if kind == "datatype":
        return f"{BASE}/hl7v2/datatype/{spec.get('v2', head)}", f"{_TYPES}{spec.get('type', '')}"
    return f"{BASE}/hl7v2/{kind}/{name}", "http://hl7.org/fhir/resource-types"


_TYPES = "http://hl7.org/fhir/StructureDefinition/"


def map_extension(kind: str, name: str, spec: Spec) -> Resource:
    """What a map is: its name, kind and settings."""
    settings = {key: value for key, value in spec.items() if key not in ("map", "rules")}
    parts = [{"url": "map", "valueString": name}, {"url": "kind", "valueCode": kind}]
    return {"url": MAP, "extension": parts + parts_of(settings)}


def element(kind: str, rule: Spec) -> dict[str, Any]:
    """The group.element of a rule."""
    rest = dict(rule)
    code = rest.pop("at" if kind in ("fragment", "message") else "from", None)
    goal = rest.pop("to", None)
    for mode in MODES if kind in ("fragment", "message") else ():
        if mode in rest:
            goal = rest.pop(mode)
            rest["mode"] = mode
    made: dict[str, Any] = {"extension": [{"url": RULE, "extension": parts_of(rest)}]}
    if code is not None:
        made["code"] = code
    if goal is not None:
        made["target"] = [{"code": goal, "equivalence": EQUIVALENCE}]
    return made


def rule_of(kind: str, element: Spec) -> dict[str, Any]:
    """The rule of a group.element. Raises Problem(invalid) for one that cannot be read as a rule."""
    rule = extension_of(element, RULE)
    message = kind in ("fragment", "message")
    if "code" in element:
        rule = {"at" if message else "from": element["code"], **rule}
    targets = element.get("target") or []
    if len(targets) > 1:
        raise problem("invalid", "an element is one rule and has one target: write another element for another")
    if targets and "code" in targets[0]:
        mode = str(rule.pop("mode", "on")) if message else "to"
        if message and mode not in MODES:
            raise problem("invalid", f"mode is one of {', '.join(MODES)}, not {mode[:40]}")
        rule[mode] = targets[0]["code"]
    return rule


def _rows(package: Package, kind: str) -> Resource:
    source, goal, _ = _ROW_SYSTEMS[kind]
    elements = [row_element(kind, key, row) for key, row in package.rows[kind].items()]
    group = {"extension": [map_extension(kind, kind, {})], "source": source, "target": goal, "element": elements}
    return {**_head(package, kind, kind, f"HL7v2 {kind}"), "group": [group]}


def row_element(kind: str, key: str, row: Spec) -> dict[str, Any]:
    """The group.element of a row."""
    rest = dict(row)
    goal = rest.pop(_ROW_SYSTEMS[kind][2], key)
    made: dict[str, Any] = {"code": key, "target": [{"code": goal, "equivalence": EQUIVALENCE}]}
    return {"extension": [{"url": RULE, "extension": parts_of(rest)}], **made} if rest else made


def row_of(kind: str, element: Spec) -> dict[str, Any]:
    """The row of a group.element."""
    row, named = extension_of(element, RULE), _ROW_SYSTEMS[kind][2]
    targets = element.get("target") or []
    return {named: targets[0].get("code"), **row} if named and targets else row


def _table(package: Package, resource: Resource) -> Resource:
    """A table as it is in its file, under the id its URL ends with, told apart by the name rules call it by."""
    name = resource["id"]
    head = _head(package, TABLE, name, str(resource.get("title", name)))
    kept = {key: value for key, value in resource.items() if key not in ("id", "resourceType")}
    return {**head, "extension": [map_extension(TABLE, name, {})], **kept, "version": package.version}


def parts_of(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Named values as parts of an extension. A list is a part `name[]` for each of its members."""
    parts: list[dict[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, (list, tuple)):
            parts += [_part(f"{name}[]", member) for member in value]
        else:
            parts.append(_part(name, value))
    return parts


def _part(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {"url": name, "extension": parts_of(value)}
    if isinstance(value, bool):
        return {"url": name, "valueBoolean": value}
    if isinstance(value, int):
        return {"url": name, "valueInteger": value}
    return {"url": name, "valueDecimal": value} if isinstance(value, Decimal) else {"url": name, "valueString": value}


def values_of(parts: Iterable[Any], depth: int = 0, *, repeats: bool = False) -> dict[str, Any]:
    """What `parts_of` was made from; with `repeats`, a part said twice is a list. Raises Problem(invalid) for parts
    that are none, or too deep.
    """
    if depth > MOST_DEPTH:
        raise problem("invalid", f"the extension is more than {MOST_DEPTH} deep")
    values: dict[str, Any] = {}
    for part in parts:
        name, value = str(part.get("url", "")), _value(part, depth, repeats)
        if name.endswith("[]"):
            values.setdefault(name[:-2], []).append(value)
        elif name in values and repeats:
            values[name] = [*(values[name] if isinstance(values[name], list) else [values[name]]), value]
        elif name in values:
            raise problem("invalid", f"`{name[:60]}` is said twice: call it `{name[:60]}[]` to make a list")
        else:
            values[name] = value
    return values


def _value(part: Mapping[str, Any], depth: int, repeats: bool) -> Any:
    if "extension" in part:
        return values_of(part["extension"], depth + 1, repeats=repeats)
    found = next((value for name, value in part.items() if name.startswith("value")), None)
    if found is None:
        raise problem("invalid", f"the part `{str(part.get('url', ''))[:60]}` has no value")
    return found


def extension_of(holder: Mapping[str, Any], url: str, *, repeats: bool = False) -> dict[str, Any]:
    """The values of the extension with this URL, empty where there is none. Raises Problem(invalid)."""
    found = next((each for each in holder.get("extension") or () if each.get("url") == url), None)
    return values_of(found.get("extension") or (), repeats=repeats) if found else {}
