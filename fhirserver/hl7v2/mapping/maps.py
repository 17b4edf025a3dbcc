"""Message maps compiled: which segment of which group makes, finds or adds to which resource, and by which segment map.

The compiled whole is a `Maps`: immutable, shared by all threads, replaced as a whole when the data changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fhirserver.fhir.problem import Problem, problem
from fhirserver.hl7v2.mapping import conditions
from fhirserver.hl7v2.mapping.actions import Members, copied, named, place, reference_to
from fhirserver.hl7v2.mapping.package import Package
from fhirserver.hl7v2.mapping.paths import Target, compile_target
from fhirserver.hl7v2.mapping.rules import Compiler
from fhirserver.hl7v2.mapping.run import Entry, Run
from fhirserver.hl7v2.mapping.structure import Group, GroupType, Structures, walk
from fhirserver.hl7v2.mapping.tables import Table
from fhirserver.hl7v2.message import Message, Segment

Spec = Mapping[str, Any]
MOVE = "move"
"""The effect that makes something of one patient another's; the others join two resources of one type."""
PACKAGE = "https://fhirserver.example/fhir/ImplementationGuide/"
KEYS = frozenset(
    (
        "id",
        "at",
        "make",
        "new",
        "on",
        "use",
        "link",
        "back",
        "set",
        "when",
        "key",
        "note",
        "identity",
        "delete",
        "effect",
    )
)


@dataclass(frozen=True, slots=True)
class Trigger:
    """What a trigger event means: the structure its messages have, the guide's statuses, the names it answers to."""

    event: str
    structure: str
    variables: Mapping[str, str]
    aliases: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SegmentMap:
    """A compiled segment map: its rules fill a resource of `type`."""

    name: str
    segment: str
    type: str
    rules: Members

    def apply(self, run: Run, segment: Segment, resource: dict[str, Any]) -> None:
        """Writes into a resource what the rules read of a segment."""
        fields, text = segment.fields, segment.text
        count = len(fields)
        for number, rule in self.rules:
            if not number or (number < count and fields[number]):
                rule(run, segment, text, (), resource)


@dataclass(frozen=True, slots=True)
class MessageRule:
    """One rule of a message map. mode: make (once per group), new (each time) or on (must be there)."""

    id: str
    mode: str
    type: str
    name: str
    maps: tuple[SegmentMap, ...]
    check: conditions.Check | None
    links: tuple[tuple[str, Target], ...]
    backs: tuple[tuple[str, Target], ...]
    sets: Mapping[str, Any]
    key: conditions.Read | None
    identity: conditions.Read | None
    deletes: tuple[str, ...]
    effect: str


@dataclass(frozen=True, slots=True)
class MessageMap:
    """A compiled message map. `rules` by (group, segment); `shared` names are known to the whole message."""

    name: str
    structure: str
    shared: frozenset[str]
    focus: tuple[str, ...]
    requires: tuple[str, ...]
    rules: Mapping[tuple[str, str], list[MessageRule]]

    def apply(self, run: Run, placed: Sequence[tuple[Segment, Group]]) -> list[str]:
        """Runs every rule over the placed segments; answers the names of segments that no rule is for."""
        missed: list[str] = []
        for segment, group in placed:
            rules = self.rules.get((group.type.name, segment.name)) or self.rules.get(("", segment.name))
            if rules is None:
                missed.append(segment.name)
                continue
            run.group = group
            for rule in rules:
                _apply(rule, run, segment, self.shared)
        for late in run.late:
            late()
        return missed


@dataclass(frozen=True, slots=True)
class Maps:
    """Everything loaded: message maps by structure, triggers by event, defaults and matching by resource type."""

    package: str
    version: str
    triggers: Mapping[str, Trigger]
    messages: Mapping[str, MessageMap]
    structures: Structures
    tables: Mapping[str, Table]
    defaults: Mapping[str, Mapping[str, Any]]
    matching: Mapping[str, Mapping[str, Any]]
    choices: Mapping[str, Mapping[str, tuple[str, ...]]]
    parts: Mapping[str, Mapping[str, str]]
    bundle: SegmentMap | None
    rule_ids: frozenset[str]
    source: Package
    deviations: Sequence[Spec] = field(default_factory=tuple)
    overlays: tuple[str, ...] = ()
    """The overlays compiled in, as references with their versions."""

    @property
    def name(self) -> str:
        """Package and version, and the overlays on it."""
        return " ".join((f"{self.package}#{self.version}", *self.overlays))

    def policies(self, namespace: str) -> list[str]:
        """What Provenance.policy names: the package by URL and version, overlays by their URLs in the organization."""
        base = namespace.removesuffix("namespace/")
        package = f"{PACKAGE}{self.package}|{self.version}"
        return [package, *(f"{base}fhir/4/{overlay}" for overlay in self.overlays)]

    def layer(self, rule: str) -> str:
        """Who wrote a rule: the package, or the reference of an overlay."""
        while rule:
            if rule in self.source.layers:
                return self.source.layers[rule]
            rule = rule.rpartition("/")[0]
        return f"{self.package}#{self.version}"

    def trigger(self, message: Message) -> Trigger | None:
        """What the message's event means; by its structure (MSH-9.3) alone where the event is not listed; None for
        neither.
        """
        found = self.triggers.get(message.event)
        structure = message["MSH-9.3"]
        if found is None and structure in self.messages:
            return Trigger(message.event, structure, {}, ())
        return found


def _apply(rule: MessageRule, run: Run, segment: Segment, shared: frozenset[str]) -> None:
    if rule.check is not None and not rule.check(run, segment, segment.text, ()):
        return
    entry = _entry(rule, run, shared)
    if entry is None:
        return
    run.entry = entry
    resource = entry.resource
    before = len(resource)
    for used in rule.maps:
        used.apply(run, segment, resource)
    if rule.mode != "on" and rule.maps and before == len(resource) == 1:
        _forget(rule, run, entry, shared)
        return
    if run.trace:
        run.hits.add(rule.id)
    for name, value in rule.sets.items():
        resource[name] = copied(value)
    _link(rule, run, entry, segment)
    entry.deletes += rule.deletes
    if rule.effect:
        run.effects.append((rule.effect, entry, named(run, "Patient" if rule.effect == MOVE else rule.type)))
    if rule.key is not None and not entry.key:
        entry.key = rule.key(run, segment, segment.text, ())
        entry.subject = named(run, "Patient")
    if rule.identity is not None:
        entry.identity = rule.identity(run, segment, segment.text, ())
        entry.subject = named(run, "Patient")


def _entry(rule: MessageRule, run: Run, shared: frozenset[str]) -> Entry | None:
    if rule.mode == "on":
        return named(run, rule.name)
    scope = run.shared if rule.name in shared else run.group.scope
    entry: Entry | None = scope.get(rule.name) if rule.mode == "make" else None
    if entry is None:
        entry = scope[rule.name] = run.new(rule.type)
    return entry


def _forget(rule: MessageRule, run: Run, entry: Entry, shared: frozenset[str]) -> None:
    """A rule that found nothing to write leaves no resource behind."""
    run.entries.remove(entry)
    scope = run.shared if rule.name in shared else run.group.scope
    del scope[rule.name]


def _link(rule: MessageRule, run: Run, entry: Entry, segment: Segment) -> None:
    for name, path in rule.links:
        _join(run, run.group, name, entry, path)
        if run.trace:
            entry.traces.append((path.text, place(segment, ""), rule.id))
    for name, path in rule.backs:
        other = named(run, name)
        if other is not None and other is not entry:
            path.put(other.resource, reference_to(entry))


def _join(run: Run, group: Group, name: str, entry: Entry, path: Target, *, last: bool = False) -> None:
    """Refers to the resource of a name; one that is made only later in the message is waited for."""
    run.group = group
    other = named(run, name)
    if other is None and not last:
        run.late.append(lambda: _join(run, group, name, entry, path, last=True))
    elif (
        other is not None and other is not entry and (said := (entry.number, path.text, other.number)) not in run.joined
    ):
        run.joined.add(said)  # two rules may say the same of one resource
        path.put(entry.resource, reference_to(other))


class Assembler:
    """Compiles segment and message maps with a Compiler."""

    def __init__(self, compiler: Compiler) -> None:
        self.compiler = compiler
        self.maps: dict[str, SegmentMap] = {}

    def segment(self, name: str, spec: Spec) -> None:
        """Compiles one segment map; message maps use it by its name."""
        segment, type = segment_of(name, spec), str(spec["type"])
        if type not in self.compiler.definitions.resource_types:
            raise problem("invalid", f"{type} is no resource type")
        self.compiler.structures.require(segment)
        rules = self.compiler.rules(name, spec.get("rules", ()), segment, segment, type, 0, nested=False)
        self.maps[name] = SegmentMap(name, segment, type, rules)

    def message(self, name: str, spec: Spec, fragments: Mapping[str, Spec]) -> MessageMap:
        """The MessageMap of one messages/*.yaml, the fragments it includes put before its own rules."""
        structure = str(spec.get("structure", name))
        tree = self.compiler.structures.groups.get(structure) or GroupType(structure)
        names = {group.name for group in walk(tree)}
        compiled: dict[tuple[str, str], list[MessageRule]] = {}
        for source, rule_spec in _specs(name, spec, fragments):
            where = f"{source}/{rule_spec.get('id', '?')}"
            try:
                at, rule = self._rule(where, rule_spec)
            except Problem as fault:
                for issue in fault.issues:
                    self.compiler.fault(where, issue.diagnostics)
                continue
            if at[0] and at[0] not in names:
                if source == name:
                    self.compiler.fault(where, f"structure {structure} has no group {at[0]}")
                continue
            compiled.setdefault(at, []).append(rule)
        for (group, segment), rules in compiled.items():
            if group:
                rules[:0] = compiled.get(("", segment), [])
        shared = frozenset(spec.get("shared", ()))
        requires = tuple(spec.get("requires", ()))
        return MessageMap(name, structure, shared, tuple(spec.get("focus", ())), requires, compiled)

    def _rule(self, where: str, spec: Spec) -> tuple[tuple[str, str], MessageRule]:
        unknown = set(spec) - KEYS
        if unknown or "id" not in spec or "at" not in spec:
            raise problem(
                "invalid", f"a message rule needs id and at, and has no {', '.join(sorted(unknown)) or 'other key'}"
            )
        group, _, segment = str(spec["at"]).rpartition(".")
        self.compiler.structures.require(segment)
        mode = next((m for m in ("make", "new", "on") if m in spec), None)
        if mode is None:
            raise problem("invalid", "a message rule needs one of make, new, on")
        type, _, alias = str(spec[mode]).partition("#")
        if type not in self.compiler.definitions.resource_types:
            raise problem("invalid", f"{type} is no resource type")
        used = [spec["use"]] if isinstance(spec.get("use"), str) else spec.get("use", [])
        self.compiler.ids.add(where)
        rule = MessageRule(
            where,
            mode,
            type,
            str(spec[mode]) if alias else type,
            tuple(self._used(str(name), segment, type) for name in used),
            self.compiler.condition(spec, segment, segment, 0),
            self._paths(spec.get("link", {}), type, None),
            self._paths(spec.get("back", {}), type, str),
            self._sets(spec.get("set", {}), type),
            self._format(spec, "key", segment),
            self._format(spec, "identity", segment),
            tuple(spec.get("delete", ())),
            str(spec.get("effect", "")),
        )
        return (group.rpartition(".")[2], segment), rule

    def _format(self, spec: Spec, name: str, segment: str) -> conditions.Read | None:
        for source in conditions.format_sources(str(spec.get(name, ""))):
            self.compiler.structures.check(source, segment)
        return conditions.compile_format(str(spec[name]), segment, 0) if name in spec else None

    def _used(self, name: str, segment: str, type: str) -> SegmentMap:
        found = self.maps.get(name)
        if found is None:
            raise problem("invalid", f"there is no segment map {name}")
        if found.segment != segment or found.type != type:
            raise problem("invalid", f"{name} maps {found.segment} to {found.type}, not {segment} to {type}")
        return found

    def _paths(self, spec: Spec, type: str, back: Callable[[Any], str] | None) -> tuple[tuple[str, Target], ...]:
        """`link` is {path: name} on this resource; `back` is {name: path} on the other one."""
        found: list[tuple[str, Target]] = []
        for left, right in spec.items():
            path, name, owner = (
                (str(right), str(left), str(left).partition("#")[0]) if back else (str(left), str(right), type)
            )
            target = compile_target(self.compiler.definitions, owner, path)
            if target.property.type != "Reference":
                raise problem("invalid", f"`{path}` of {owner} is no Reference")
            found.append((name, target))
        return tuple(found)

    def _sets(self, spec: Spec, type: str) -> Mapping[str, Any]:
        for name in spec:
            compile_target(self.compiler.definitions, type, str(name))
        return spec


def segment_of(name: str, spec: Spec) -> str:
    """The segment that a segment map reads."""
    return str(spec.get("segment", name.partition(".")[0]))


def _specs(name: str, spec: Spec, fragments: Mapping[str, Spec]) -> list[tuple[str, Spec]]:
    found: list[tuple[str, Spec]] = []
    for included in spec.get("includes", ()):
        if included not in fragments:
            raise problem("invalid", f"{name} includes {included}, which is not there")
        found += _specs(included, fragments[included], fragments)
    return found + [(name, rule) for rule in spec.get("rules", ())]
