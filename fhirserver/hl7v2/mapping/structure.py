"""Which fields and components exist, and which group of its message a segment stands in.

mappings/structures/v2.json has every segment and datatype of HL7v2 2.1 to 2.8.2 (made by tools/build_v2_structures.py);
mappings/structures/groups.yaml the groups of each message structure, reviewed by hand: fewer than the standard has,
and the same for all versions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fhirserver.fhir.problem import problem
from fhirserver.hl7v2.mapping.grammar import Source
from fhirserver.hl7v2.message import Message, Segment


@dataclass(frozen=True, slots=True)
class GroupType:
    """A group of a message structure: which segments begin it, in the order they may come, which else it holds, its
    groups.
    """

    name: str
    anchors: tuple[str, ...] = ()
    members: frozenset[str] = frozenset()
    groups: tuple[GroupType, ...] = ()
    once: bool = False


@dataclass(slots=True, eq=False)
class Group:
    """One occurrence of a group in a message. `scope` holds what the rules made in it, by name."""

    type: GroupType
    parent: Group | None = None
    segments: dict[str, list[Segment]] = field(default_factory=dict)
    scope: dict[str, Any] = field(default_factory=dict)
    opened: set[str] = field(default_factory=set)

    def add(self, segment: Segment) -> None:
        self.segments.setdefault(segment.name, []).append(segment)

    def nearest(self, name: str) -> Segment | None:
        """The first segment of that name in this group or the nearest one around it."""
        group: Group | None = self
        while group is not None:
            if name in group.segments:
                return group.segments[name][0]
            group = group.parent
        return None


class Structures:
    """The segment and datatype tables, and the group trees."""

    def __init__(self, tables: Mapping[str, Any], groups: Mapping[str, Any]) -> None:
        self.segments: Mapping[str, list[str]] = tables["segments"]
        self.datatypes: Mapping[str, list[str]] = tables["datatypes"]
        self.groups = {name: group_type(name, spec) for name, spec in groups.items()}

    def check(self, source: Source, here: str) -> str:
        """The v2 datatype that a source reads; `here` is the datatype (or segment) that `^` stands for.

        Raises Problem(invalid) for a field or component that no version has, nor the Z segments that were declared.
        """
        if source.segment.startswith("$"):
            return "ST"
        datatype = here
        if source.field:
            datatype = self._member(self.segments, source.segment, source.field)
        for part in (source.component, source.subcomponent):
            if part and datatype:
                datatype = self._component(datatype, part, source)
        return datatype

    def require(self, segment: str) -> None:
        """Raises Problem(invalid) for a segment that no version has and nobody declared."""
        if segment not in self.segments:
            way = ": declare it and its fields first" if segment.startswith("Z") else " in any version of HL7v2"
            raise problem("invalid", f"there is no segment {segment[:20]}{way}")

    def _member(self, table: Mapping[str, list[str]], name: str, number: int) -> str:
        members = table.get(name, [])
        if name.startswith("Z") and (not 1 <= number <= len(members) or not members[number - 1]):
            raise problem("invalid", f"{name}-{number} is not declared: give the field's number and datatype")
        if not 1 <= number <= len(members):
            raise problem("invalid", f"{name}-{number} does not exist in any version of HL7v2")
        return members[number - 1].partition(":")[0]

    def _component(self, datatype: str, number: int, source: Source) -> str:
        members = self.datatypes.get(datatype)
        if members is None:
            if number == 1 or datatype in ("varies", "", "ST", "IS", "ID", "TX", "FT"):
                return datatype
            raise problem("invalid", f"{source} reads a component of {datatype}, which has none")
        if number > len(members):
            raise problem("invalid", f"{source} reads component {number} of {datatype}, which has {len(members)}")
        return members[number - 1].partition(":")[0]

    def place(self, message: Message, structure: str) -> list[tuple[Segment, Group]]:
        """Every segment with the group it stands in, in the order of the message. Nothing is ever left out: a segment
        that no group names stays in the group that is open at the top."""
        root = Group(self.groups.get(structure) or GroupType(structure))
        placed: list[tuple[Segment, Group]] = []
        current = root
        for segment in message.segments:
            current = _home(current, root, segment)
            current.add(segment)
            placed.append((segment, current))
        return placed


def _home(current: Group, root: Group, segment: Segment) -> Group:
    name = segment.name
    group: Group | None = current
    while group is not None:
        opened = _opened(group, name)
        if opened is not None:
            return opened
        if name in group.type.anchors and _continues(group, name):
            return group
        if name in group.type.anchors and not group.type.once:
            return Group(group.type, group.parent)
        if name in group.type.members:
            return group
        group = group.parent
    return root if not name.startswith("Z") else current


def _opened(group: Group, name: str) -> Group | None:
    """The group inside `group` that a segment begins, with the groups between them where the sender left those out."""
    for inner in group.type.groups:
        if name in inner.anchors and not (inner.once and inner.name in group.opened):
            group.opened.add(inner.name)
            return Group(inner, group)
    for inner in group.type.groups:
        if not inner.anchors or any(name in deeper.anchors for deeper in inner.groups):
            found = _opened(Group(inner, group), name)
            if found is not None:
                return found
    return None


def _continues(group: Group, name: str) -> bool:
    later = group.type.anchors[group.type.anchors.index(name) :]
    return not any(anchor in group.segments for anchor in later)


def group_type(name: str, spec: Mapping[str, Any] | None) -> GroupType:
    """The GroupType of one entry of groups.yaml."""
    spec = spec or {}
    inner = tuple(group_type(n, s) for n, s in (spec.get("groups") or {}).items())
    return GroupType(
        name, tuple(spec.get("anchors", ())), frozenset(spec.get("segments", ())), inner, bool(spec.get("once"))
    )


def walk(group: GroupType) -> Iterator[GroupType]:
    """A group type and all inside it."""
    yield group
    for inner in group.groups:
        yield from walk(inner)
