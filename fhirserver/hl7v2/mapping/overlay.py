"""Overlays: what an organization, or one of its senders, maps otherwise. A ConceptMap laid over a package.

A ConceptMap with the extension hl7v2-overlay. Each group names a map by its extension hl7v2-map and adds, replaces or
removes rules by their ids; a group of the kind table maps codes. The extension says for whom it is, declares Z
segments, and sets time zone, character set and assigning authorities.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fhirserver.fhir import Resource
from fhirserver.fhir.problem import Issue, Problem, problem
from fhirserver.hl7v2.charset import codec_of
from fhirserver.hl7v2.mapping.conceptmaps import (
    BASE,
    MAP,
    OVERLAY,
    RULE,
    TABLE,
    context,
    extension_of,
    row_of,
    rule_of,
)
from fhirserver.hl7v2.mapping.package import MAPS, ROWS, Package
from fhirserver.hl7v2.mapping.tables import Mapped, Table
from fhirserver.hl7v2.mapping.times import zone

EXTENSION = f"{BASE}/StructureDefinition/hl7v2-overlay"
ACTIONS = ("add", "replace", "remove")
SENDER = ("endpoint", "sending-application", "sending-facility")
SETTINGS = frozenset(("organization", *SENDER, "timezone", "charset", "authority", "required-table", "segment"))
MOST_RULES = 2_000
MOST_CODES = 20_000
MOST_TEXT = 2_000
"""Characters of one text of a rule."""
MOST_SIZE = 500_000
"""Characters of the rules of one group."""
PLAIN = frozenset(("ST", "NM", "DT", "DTM", "TM", "ID", "IS", "SI", "TX", "FT", "varies"))
_Z = re.compile(r"Z[A-Z0-9]{2}\Z")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}\Z")


@dataclass(frozen=True, slots=True)
class Change:
    """One rule, row or code to add, replace or remove. `place` is the FHIRPath of the element that says so."""

    kind: str
    map: str
    id: str
    action: str
    place: str
    value: Any = None
    before: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True)
class Overlay:
    """A ConceptMap read as an overlay. reference: `ConceptMap/x/_history/3`. endpoint, application, facility: the
    sender, all empty for the whole organization. new: maps it brings, with their settings.
    """

    id: str
    reference: str
    endpoint: str = ""
    application: str = ""
    facility: str = ""
    timezone: str = ""
    charset: str = ""
    authorities: Mapping[str, str] = field(default_factory=dict)
    required: frozenset[str] = frozenset()
    segments: Mapping[str, Sequence[str]] = field(default_factory=dict)
    settings: Mapping[tuple[str, str], tuple[Mapping[str, Any], str]] = field(default_factory=dict)
    changes: Sequence[Change] = ()

    @property
    def level(self) -> int:
        """1 for an organization's, 2 for a sender's."""
        return 2 if self.endpoint or self.application or self.facility else 1

    def applies(self, endpoint: str, applications: Sequence[str], facilities: Sequence[str]) -> bool:
        """Whether it holds for messages of this Endpoint, MSH-3 and MSH-4 (each by any of its names)."""
        return (
            (not self.endpoint or self.endpoint == endpoint)
            and (not self.application or self.application in applications)
            and (not self.facility or self.facility in facilities)
        )

    def place(self, rule: str) -> str:
        """Where this overlay says the rule, or the one around it; "" where it does not."""
        while rule:
            for change in self.changes:
                if rule in (f"{change.map}/{change.id}", change.map):
                    return change.place
            rule = rule.rpartition("/")[0]
        return ""


def is_overlay(resource: Mapping[str, Any]) -> bool:
    """Whether a ConceptMap is marked as an overlay."""
    extensions = resource.get("extension")
    return isinstance(extensions, list) and any(
        isinstance(each, dict) and each.get("url") == EXTENSION for each in extensions
    )


def marked(resource: Resource) -> Resource:
    """The overlay with the useContext by which a search finds it: `ConceptMap?context=overlay`."""
    mark = context(OVERLAY)
    said = resource.get("useContext", [])
    if not isinstance(said, list):
        return resource  # validation says so
    others = [each for each in said if each != mark]
    return {**resource, "useContext": [*others, mark]}


def overlay(resource: Resource, version: str = "") -> Overlay:
    """The Overlay of a ConceptMap. Raises Problem(invalid) with an issue, and its place, for every fault."""
    issues: list[Issue] = []
    said = (
        _guarded(
            issues, f"ConceptMap.extension('{EXTENSION}')", lambda: extension_of(resource, EXTENSION, repeats=True)
        )
        or {}
    )
    settings: dict[tuple[str, str], tuple[Mapping[str, Any], str]] = {}
    changes: list[Change] = []
    for number, group in enumerate(resource.get("group") or ()):
        place = f"ConceptMap.group[{number}]"
        found = _guarded(issues, place, lambda group=group, place=place: _group(group, place, issues))
        if found:
            settings[found[0]] = (found[1], place)
            changes += found[2]
    codes = sum(change.kind == TABLE for change in changes)
    if len(changes) - codes > MOST_RULES or codes > MOST_CODES:
        text = f"An overlay has at most {MOST_RULES} rules and {MOST_CODES} codes."
        issues.append(Issue("too-costly", text, ("ConceptMap.group",)))
    head: Overlay | None = _guarded(issues, "ConceptMap.extension", lambda: _head(said))
    if issues or head is None:
        raise Problem(tuple(issues))
    id = str(resource.get("id", "new"))
    reference = f"ConceptMap/{id}" + (f"/_history/{version}" if version else "")
    return replace(head, id=id, reference=reference, settings=settings, changes=tuple(changes))


def _guarded(issues: list[Issue], place: str, read: Any) -> Any:
    try:
        return read()
    except Problem as fault:
        issues.extend(Issue(i.code, i.diagnostics, i.expression or (place,)) for i in fault.issues)
    except (KeyError, TypeError, ValueError, AttributeError):
        issues.append(Issue("invalid", "This part of the overlay cannot be read: look at its shape.", (place,)))
    return None


def _head(said: Mapping[str, Any]) -> Overlay:
    unknown = set(said) - SETTINGS
    if unknown:
        raise problem(
            "invalid", f"hl7v2-overlay has no part `{min(unknown)}`; it may have {', '.join(sorted(SETTINGS))}"
        )
    endpoint = said.get("endpoint", {})
    name = endpoint.get("reference", "") if isinstance(endpoint, Mapping) else str(endpoint)
    zone_name = str(said.get("timezone", ""))
    if zone_name and zone(zone_name) is None:
        raise problem("value", f"`{zone_name[:60]}` is no time zone: give its IANA name, as in America/Chicago")
    charset = str(said.get("charset", ""))
    if charset and codec_of([charset]) is None:
        raise problem("value", f"`{charset[:60]}` is no character set of table 0211, such as 8859/1 or UNICODE UTF-8")
    authorities = dict(_pair(text) for text in _listed(said.get("authority")))
    return Overlay(
        id="",
        reference="",
        endpoint=name.split("/_history/")[0].rpartition("/")[2],
        application=str(said.get("sending-application", "")),
        facility=str(said.get("sending-facility", "")),
        timezone=zone_name,
        charset=charset,
        authorities=authorities,
        required=frozenset(str(name) for name in _listed(said.get("required-table"))),
        segments=dict(_segment(each) for each in _listed(said.get("segment"))),
    )


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _pair(text: Any) -> tuple[str, str]:
    name, _, uri = str(text).partition("=")
    if not name.strip() or ":" not in uri:
        raise problem("value", "an authority is given as NAMESPACE=URI, as in MRN=urn:oid:1.2.3")
    return name.strip(), uri.strip()


def _segment(said: Mapping[str, Any]) -> tuple[str, Sequence[str]]:
    """Name and datatypes, by number, of a declared Z segment."""
    name = str(said.get("name", ""))
    if not _Z.match(name):
        raise problem("value", f"`{name[:20]}` is no Z segment: its name is Z and two letters or digits")
    types: dict[int, str] = {}
    for each in _listed(said.get("field")):
        number = int(each["number"])
        if not 1 <= number <= 200 or number in types:
            raise problem("value", f"{name}-{number}: fields are numbered from 1 to 200, each once")
        types[number] = str(each["type"])
    if not types:
        raise problem("required", f"{name} declares no field: give number and type of each that is mapped")
    return name, [types.get(number, "") for number in range(1, max(types) + 1)]


def _group(
    group: Mapping[str, Any], place: str, issues: list[Issue]
) -> tuple[tuple[str, str], Mapping[str, Any], list[Change]]:
    settings = extension_of(group, MAP)
    kind, name = str(settings.pop("kind", "")), str(settings.pop("map", ""))
    if kind not in (*MAPS, *ROWS, TABLE):
        raise problem(
            "value", f"kind is one of {', '.join((*MAPS, *ROWS, TABLE))}, not `{kind[:40]}`: say it in hl7v2-map"
        )
    name = name or (kind if kind in ROWS else "")
    if not _NAME.match(name):
        raise problem("required", "hl7v2-map names the map: letters, digits, `.`, `_` and `-`")
    if kind != TABLE and len(str(group)) > MOST_SIZE:
        raise problem("too-costly", f"The rules of a group have at most {MOST_SIZE} characters.")
    changes: list[Change] = []
    for number, element in enumerate(group.get("element") or ()):
        where = f"{place}.element[{number}]"
        change = _guarded(
            issues, where, lambda element=element, where=where: _change(kind, name, element, group, where)
        )
        if change:
            changes.append(change)
    return (kind, name), settings, changes


def _change(kind: str, name: str, element: Mapping[str, Any], group: Mapping[str, Any], place: str) -> Change:
    if kind == TABLE:
        return _code(name, element, group, place)
    said = extension_of(element, RULE)
    action = str(said.get("action", "add"))
    if action not in ACTIONS:
        raise problem("value", f"action is one of {', '.join(ACTIONS)}, not `{action[:40]}`")
    value = (row_of if kind in ROWS else rule_of)(kind, element)
    value = {key: each for key, each in value.items() if key not in ("action", "before", "after")}
    id = str(element.get("code", "") if kind in ROWS else value.get("id", ""))
    if not id:
        raise problem("required", "a rule needs its id: the part `id` of hl7v2-rule")
    if any(len(text) > MOST_TEXT for text in _texts(value)):
        raise problem("too-costly", f"a text of a rule has at most {MOST_TEXT} characters")
    return Change(kind, name, id, action, place, value, str(said.get("before", "")), str(said.get("after", "")))


def _texts(value: Any) -> Iterator[str]:
    """Every text in the value of a rule."""
    if isinstance(value, str):
        yield value
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    for each in inner:
        yield from _texts(each)


def _code(name: str, element: Mapping[str, Any], group: Mapping[str, Any], place: str) -> Change:
    targets = [t for t in element.get("target") or () if t.get("equivalence") != "unmatched" and t.get("code")]
    code = str(element.get("code", ""))
    if not code:
        raise problem("required", "an element of a table needs the code that is mapped")
    if not targets:
        return Change(TABLE, name, code, "remove", place, source(group))
    made = Mapped(str(targets[0]["code"]), str(group.get("target", "")), str(targets[0].get("display", "")))
    return Change(TABLE, name, code, "replace", place, (source(group), made))


def source(group: Mapping[str, Any]) -> str:
    """The system of a group's source codes."""
    return str(group.get("source", ""))


def layered(package: Package, overlays: Sequence[Overlay]) -> Package:
    """The package with overlays laid on it, in their order. Raises Problem(invalid) with the place of every fault."""
    for each in overlays:
        package = _Layer(package, each).laid()
    return package


class _Layer:
    """One overlay being laid on a package: copies what it changes, gathers faults."""

    def __init__(self, package: Package, overlay: Overlay) -> None:
        self.package, self.overlay = package, overlay
        self.maps = {kind: dict(package.maps[kind]) for kind in MAPS}
        self.rows = {kind: dict(package.rows[kind]) for kind in ROWS}
        self.tables = dict(package.tables)
        self.layers = dict(package.layers)
        self.issues: list[Issue] = []

    def laid(self) -> Package:
        segments = self._segments()
        for (kind, name), (settings, place) in self.overlay.settings.items():
            self._open(kind, name, settings, place)
        for change in self.overlay.changes:
            if (change.kind, change.map) in self.overlay.settings:
                self._apply(change)
        for name in sorted(self.overlay.required - self.tables.keys()):
            self._fault(f"there is no table {name[:60]} that could be required", "ConceptMap.extension")
        if self.issues:
            raise Problem(tuple(self.issues))
        v2 = (
            {**self.package.v2, "segments": {**self.package.v2["segments"], **segments}}
            if segments
            else self.package.v2
        )
        return replace(self.package, maps=self.maps, rows=self.rows, tables=self.tables, v2=v2, layers=self.layers)

    def _fault(self, text: str, place: str) -> None:
        self.issues.append(Issue("invalid", text, (place,)))

    def _segments(self) -> dict[str, Sequence[str]]:
        known = self.package.v2["datatypes"].keys() | PLAIN
        for name, types in self.overlay.segments.items():
            for number, type in enumerate(types, 1):
                if type and type not in known:
                    text = f"{name}-{number}: `{type[:20]}` is no datatype of HL7v2"
                    self._fault(text, f"ConceptMap.extension('{EXTENSION}')")
        return dict(self.overlay.segments)

    def _open(self, kind: str, name: str, settings: Mapping[str, Any], place: str) -> None:
        """A map that is there, or a new one with its settings."""
        if kind == TABLE:
            self.tables.setdefault(name, Table(name, "", {}))
        elif kind in MAPS and name not in self.maps[kind]:
            if kind in ("segment", "datatype") and "type" not in settings:
                text = f"there is no {kind} map {name}: name one that is there, or say the FHIR type of a new one"
                self._fault(text, place)
                return
            self.maps[kind][name] = {"map": name, **settings, "rules": []}
            self.layers[name] = self.overlay.reference
        elif kind in MAPS and any(self.maps[kind][name].get(key) != value for key, value in settings.items()):
            self._fault(f"the {kind} map {name} is there: its settings cannot be changed, only its rules", place)

    def _apply(self, change: Change) -> None:
        if change.kind == TABLE:
            self.tables[change.map] = _with_code(self.tables[change.map], change)
        elif change.kind in ROWS:
            self._row(change)
        elif change.map in self.maps[change.kind]:
            self._rule(change)

    def _row(self, change: Change) -> None:
        rows = self.rows[change.kind]
        if (change.id in rows) == (change.action == "add"):
            has = "has no row" if change.action != "add" else "has a row already"
            self._fault(f"{change.kind} {has} {change.id[:60]}: it cannot be {_DONE[change.action]}", change.place)
        elif change.action == "remove":
            del rows[change.id]
        else:
            rows[change.id] = change.value
            self.layers[f"{change.kind}/{change.id}"] = self.overlay.reference

    def _rule(self, change: Change) -> None:
        spec = self.maps[change.kind][change.map]
        rules, where = list(spec.get("rules", ())), f"{change.map}/{change.id}"
        at = next((n for n, rule in enumerate(rules) if rule.get("id") == change.id), None)
        if (at is None) != (change.action == "add"):
            has = "there is no rule" if at is None else "there is a rule already named"
            self._fault(f"{has} {where}: it cannot be {_DONE[change.action]}", change.place)
            return
        if change.action == "add":
            at = self._position(rules, change)
            rules.insert(at, change.value)
        elif at is not None:
            rules[at : at + 1] = [] if change.action == "remove" else [change.value]
        self.maps[change.kind][change.map] = {**spec, "rules": rules}
        self.layers[where] = self.overlay.reference

    def _position(self, rules: Sequence[Mapping[str, Any]], change: Change) -> int:
        beside = change.before or change.after
        if not beside:
            return len(rules)
        for number, rule in enumerate(rules):
            if rule.get("id") == beside:
                return number if change.before else number + 1
        self._fault(f"there is no rule {change.map}/{beside[:60]} to stand beside", change.place)
        return len(rules)


_DONE = {"add": "added", "replace": "replaced", "remove": "removed"}


def _with_code(table: Table, change: Change) -> Table:
    codes = dict(table.codes)
    if change.action == "remove":
        codes.pop(change.id, None)
        return replace(table, codes=codes)
    system, made = change.value
    codes[change.id] = made
    return replace(table, codes=codes, source=table.source or system)
