"""Which subscriptions an event matches, and why: an index by name, trigger and type, then compiled conditions.

Pure: the versions of resources come through a function that the caller gives. The cost of an event does not grow with
subscriptions to other names and types, and criteria that many subscriptions share are judged once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from fhirserver.fhir import Resource
from fhirserver.fhir.problem import Problem
from fhirserver.search.index import Entry, Indexer
from fhirserver.search.query import Clause
from fhirserver.subscriptions.criteria import Compiler, Trigger
from fhirserver.subscriptions.topics import Catalogue

Versions = Callable[[str, str, int], Resource | None]
"""(type, id, version) -> the resource as it was in that version; None for a deletion or what is not there."""
Found = Callable[[str, str, Clause], bool]
"""(type, id, clause) -> whether the store finds the resource by the clause now."""


class Change:
    """One change of an event; what criteria look at is read and computed when first asked for."""

    def __init__(self, event: Event, change: Mapping[str, Any]) -> None:
        self._event = event
        self.type: str = change["type"]
        self.id: str = change["id"]
        self.version: int = change["version"]
        self.action: str = change["action"]

    @property
    def reference(self) -> str:
        """`Patient/1`."""
        return f"{self.type}/{self.id}"

    @cached_property
    def current(self) -> Resource | None:
        """The version that the change made; None for a deletion."""
        return None if self.action == "delete" else self._event.versions(self.type, self.id, self.version)

    @cached_property
    def previous(self) -> Resource | None:
        """The version before; None for a creation."""
        return None if self.version < 2 else self._event.versions(self.type, self.id, self.version - 1)

    @cached_property
    def entry(self) -> Entry:
        """The index entry of the current version, empty for a deletion."""
        return self._event.index(self.current)

    @cached_property
    def previous_entry(self) -> Entry:
        """The index entry of the version before, empty for a creation."""
        return self._event.index(self.previous)

    def found(self, clause: Clause) -> bool:
        """Whether the store finds the resource by a clause that looks at other resources too."""
        return self._event.found(self.type, self.id, clause)


class Event:
    """A pending event as the matcher looks at it."""

    def __init__(self, document: Mapping[str, Any], versions: Versions, found: Found, index: Indexer) -> None:
        self.document = document
        self.versions = versions
        self.found = found
        self._index = index
        self.changes = tuple(Change(self, change) for change in document["changes"])

    def index(self, resource: Resource | None) -> Entry:
        """The index entry of a version, an empty one for none."""
        return Entry() if resource is None else self._index(resource)


@dataclass(frozen=True, slots=True)
class Match:
    """A subscription that an event matched: by the id of each, which changes, and the sentence that says why."""

    subscription: str
    changes: tuple[Change, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one trigger says to one event."""

    matched: bool
    changes: tuple[Change, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Subscriptions:
    """The active subscriptions of one organization, compiled and indexed.

    refused: subscription id -> why its criteria cannot be matched at all.
    """

    compiler: Compiler
    refused: Mapping[str, str] = field(default_factory=dict)
    _triggers: Mapping[str, tuple[Trigger, ...]] = field(default_factory=dict)
    _index: Mapping[str, Mapping[Trigger, Sequence[str]]] = field(default_factory=dict)

    @classmethod
    def compiled(cls, compiler: Compiler, subscriptions: Iterable[Resource]) -> Subscriptions:
        """Compiles Subscriptions; one that cannot be matched is set aside with the reason, and harms no other."""
        refused: dict[str, str] = {}
        triggers: dict[str, tuple[Trigger, ...]] = {}
        index: dict[str, dict[Trigger, list[str]]] = {}
        for subscription in subscriptions:
            id = subscription["id"]
            try:
                triggers[id] = compiler.triggers(subscription)
            except Problem as reason:
                refused[id] = str(reason)
                continue
            for trigger in triggers[id]:
                for key in trigger.keys:
                    index.setdefault(key, {}).setdefault(trigger, []).append(id)
        return cls(compiler, refused, triggers, index)

    def matching(self, event: Event) -> list[Match]:
        """Every subscription that the event matches, each once."""
        found: dict[str, Match] = {}
        for key in self._keys(event):
            for trigger, ids in self._index.get(key, {}).items():
                judgement = judge(trigger, key, event)
                if judgement.matched:
                    for id in ids:
                        found[id] = _joined(found.get(id), Match(id, judgement.changes, judgement.why))
        return list(found.values())

    def types(self) -> set[str]:
        """The resource types that the subscriptions are about, as far as they say."""
        return {type for triggers in self._triggers.values() for trigger in triggers for type in trigger.types}

    def keys(self) -> set[str]:
        """The names, triggers and types under which events are held against the subscriptions."""
        return set(self._index)

    def explain(self, subscription: str, event: Event) -> tuple[bool, str]:
        """Whether the event matches one subscription, and why or why not."""
        if subscription in self.refused:
            return False, self.refused[subscription]
        triggers = self._triggers.get(subscription)
        if triggers is None:
            return False, "The subscription is not active."
        keys = set(self._keys(event))
        reasons = []
        for trigger in triggers:
            key = next((key for key in trigger.keys if key in keys), None)
            if key is None:
                reasons.append(f"The event is {', '.join(sorted(keys)) or 'nothing'}, not {' or '.join(trigger.keys)}.")
                continue
            judgement = judge(trigger, key, event)
            if judgement.matched:
                return True, judgement.why
            reasons.append(judgement.why)
        return False, " ".join(reasons) or "The criteria name nothing that could happen."

    def _keys(self, event: Event) -> Iterator[str]:
        catalogue: Catalogue = self.compiler.catalogue
        named = catalogue.names(event.document)
        yield from named
        yield from dict.fromkeys(change.type for change in event.changes)
        for name, end in catalogue.ends.items():
            if name in self._index and name not in named and _ends(end.type, event, end.reached):
                yield name


def judge(trigger: Trigger, key: str, event: Event) -> Judgement:
    """What a trigger, met under one of its keys, says to an event."""
    about = [change for change in event.changes if trigger.about(change)]
    if not about:
        if trigger.bare:
            return Judgement(True, event.changes, f"The event is {key}.")
        return Judgement(False, (), f"The event is {key}, but changed nothing of the kind asked for.")
    passed = tuple(change for change in about if all(condition.holds(change) for condition in trigger.conditions))
    if passed:
        texts = " and ".join(condition.text for condition in trigger.conditions)
        which = ", ".join(f"{change.action} of {change.reference}" for change in passed)
        return Judgement(True, passed, f"The event is {key} ({which})" + (f", and {texts} holds." if texts else "."))
    first = next(c for c in trigger.conditions if not c.holds(about[0]))
    return Judgement(False, (), f"The event is {key}, but {first.text} does not hold of {about[0].reference}.")


def _joined(one: Match | None, other: Match) -> Match:
    if one is None:
        return other
    return Match(one.subscription, tuple(dict.fromkeys((*one.changes, *other.changes))), one.why)


def _ends(type: str, event: Event, reached: Callable[[Resource | None, Resource | None], bool]) -> bool:
    return any(change.type == type and reached(change.current, change.previous) for change in event.changes)
