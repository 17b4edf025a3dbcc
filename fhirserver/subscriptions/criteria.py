"""What one Subscription asks for, compiled: when it is looked at at all, and what then has to hold of a change.

FHIR R4: subscription#criteria; FHIR R5: subscriptiontopic; Subscriptions R5 Backport: filter criteria.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol
from urllib.parse import parse_qsl

from fhirserver.fhir import Resource
from fhirserver.fhir.definitions import Definitions
from fhirserver.fhir.fhirpath import truth
from fhirserver.fhir.problem import Problem, problem
from fhirserver.rules.subscription import NEVER_TOPICS
from fhirserver.search.index import Entry
from fhirserver.search.match import matches
from fhirserver.search.parse import parse
from fhirserver.search.query import Chain, Clause, Has, Listed, NeedsCodes, NeedsHierarchy, walk
from fhirserver.subscriptions.topics import CANONICAL, CONDITION, Catalogue, coded

WRITES = frozenset({"create", "update"})
FILTER = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-filter-criteria"
FHIRPATH = f"{CANONICAL}/StructureDefinition/subscription-fhirpath-criteria"

_CANONICAL = re.compile(r"(https?://|urn:)")
_NAME = re.compile(r"[a-z]{1,16}\.[A-Za-z]{1,64}")
_TRIGGER = re.compile(r"[A-Z]{3}_[A-Z][0-9]{2}")
MOST_PATH = 2000
_PREFIX = re.compile(r"(eq|ne|gt|lt|ge|le|sa|eb|ap)(?=[-+0-9.])")
_STORED = (Chain, Has, Listed, NeedsCodes, NeedsHierarchy)


class Changed(Protocol):
    """One change of a pending event, with what criteria look at; each part is read when first asked for."""

    type: str
    id: str
    action: str

    @property
    def current(self) -> Resource | None:
        """The version that the change made; None for a deletion."""

    @property
    def previous(self) -> Resource | None:
        """The version before; None for a creation."""

    @property
    def entry(self) -> Entry:
        """The index entry of the current version, empty for a deletion."""

    @property
    def previous_entry(self) -> Entry:
        """The index entry of the version before, empty for a creation."""

    def found(self, clause: Clause) -> bool:
        """Whether the store finds the resource by a clause that looks at other resources too."""


Test = Callable[[Changed], bool]


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that must hold of a change, and its text for explanations."""

    text: str
    holds: Test


@dataclass(frozen=True, slots=True, eq=False)
class Trigger:
    """One way for a subscription to match.

    keys: the names, triggers or resource types under which an event is held against this at all. types: what a change
    is of, empty: any. actions: create, update, delete. conditions: all must hold of one and the same change. bare: an
    event without such a change matches too (a message that changed nothing).
    """

    keys: tuple[str, ...]
    types: frozenset[str]
    actions: frozenset[str]
    conditions: tuple[Condition, ...] = ()
    bare: bool = False

    def about(self, change: Changed) -> bool:
        """Whether this trigger is about such a change, conditions aside."""
        return (not self.types or change.type in self.types) and change.action in self.actions


@dataclass(frozen=True, slots=True)
class Compiler:
    """Makes triggers of criteria, for one organization: `topics` are its SubscriptionTopics by url and by name.

    base is the FHIR base URL of the organization. governed: a name or trigger needs a topic of the organization's own.
    Criteria are compiled once per text.
    """

    definitions: Definitions
    catalogue: Catalogue
    topics: Mapping[str, Resource]
    base: str = ""
    governed: bool = False
    _known: dict[tuple[Any, ...], tuple[Trigger, ...]] = field(default_factory=dict)

    def triggers(self, subscription: Resource) -> tuple[Trigger, ...]:
        """The triggers of a Subscription.

        Raises Problem: value, invalid, not-supported or business-rule for criteria that cannot be matched.
        """
        criteria = str(subscription.get("criteria", "")).strip()
        filters = _extensions(subscription.get("_criteria", {}), FILTER)
        paths = (*_extensions(subscription, FHIRPATH), *_extensions(subscription.get("_criteria", {}), FHIRPATH))
        key = (criteria, filters, paths)
        if key not in self._known:
            try:
                self._known[key] = self._made(criteria, filters, paths)
            except Problem as wrong:
                issues = tuple(replace(issue, expression=("Subscription.criteria",)) for issue in wrong.issues)
                raise Problem(issues) from None
        return self._known[key]

    def check_topic(self, topic: Resource) -> None:
        """Raises Problem for a SubscriptionTopic whose triggers cannot be matched, active or not."""
        for number, part in enumerate(topic.get("resourceTrigger", ())):
            type = _type(part)
            if type not in self.definitions.resource_types or type.lower() in NEVER_TOPICS:
                text = f"{type[:64]} cannot be a topic."
                raise problem("not-supported", text, f"SubscriptionTopic.resourceTrigger[{number}].resource")
        self._of_topic({**topic, "status": "active"})
        for number, part in enumerate(topic.get("canFilterBy", ())):
            type, code = _type(part), str(part.get("filterParameter", ""))
            types = {type} if type else {_type(each) for each in _triggers(topic)}
            if not all(code in self.definitions.search_parameters(each) for each in types if each):
                text = f"{code[:64]} is no search parameter of {' and '.join(sorted(types))[:100]}."
                raise problem("not-supported", text, f"SubscriptionTopic.canFilterBy[{number}].filterParameter")

    def topic(self, subscription: Resource) -> Resource | None:
        """The SubscriptionTopic that a Subscription's criteria name, None for a search or a name without one."""
        criteria = str(subscription.get("criteria", "")).strip()
        if _CANONICAL.match(criteria):
            return self.topics.get(criteria.split("|")[0])
        return self.topics.get(criteria if "_" in criteria else criteria.lower())

    def _made(self, criteria: str, filters: tuple[str, ...], paths: tuple[str, ...]) -> tuple[Trigger, ...]:
        found = self._of(criteria)
        if not paths and not filters:
            return found
        more = tuple(self._path(text) for text in paths)
        topic = self.topic({"criteria": criteria})
        made = []
        for one in found:
            narrowed = (*one.conditions, *more, *self._filters(filters, one.types, topic or {}))
            made.append(Trigger(one.keys, one.types, one.actions, narrowed))
        return tuple(made)

    def _of(self, criteria: str) -> tuple[Trigger, ...]:
        if _CANONICAL.match(criteria):
            return self._topic(criteria)
        if _TRIGGER.fullmatch(criteria) or _NAME.fullmatch(criteria):
            return self._named(criteria if "_" in criteria else criteria.lower())
        type, _, query = criteria.partition("?")
        if type not in self.definitions.resource_types:
            raise problem("value", f"{type[:64]} is not a resource type.", "Subscription.criteria")
        conditions = (self._search(type, query),) if query else ()
        return (Trigger((type,), frozenset({type}), WRITES, conditions),)

    def _named(self, name: str) -> tuple[Trigger, ...]:
        """The trigger of a name; where the organization keeps a topic of that name, its status and conditions count."""
        topic = self.topics.get(name)
        if topic is not None:
            return self._of_topic(topic)
        if self.governed:
            text = f"{name} is not active here: this organization activates what can be subscribed to (see $topics)."
            raise problem("business-rule", text, "Subscription.criteria")
        return (self._event(name, self._type_of(name), ()),)

    def _type_of(self, name: str) -> str:
        about = self.catalogue.about.get(name, "")
        if about or "." not in name:
            return about
        lower = name.partition(".")[2]
        return next((type for type in self.definitions.resource_types if type.lower() == lower), "")

    def _event(self, name: str, type: str, conditions: tuple[Condition, ...]) -> Trigger:
        action = name.partition(".")[0]
        actions = frozenset({action}) if action in ("create", "update", "delete") and "." in name else None
        if actions is not None and type and name not in self.catalogue.fired:
            return Trigger((name,), frozenset({type}), actions, conditions)
        # A trigger event may update what it names `create` (an admission sent twice), so any change will do.
        every = frozenset({"create", "update", "delete"})
        return Trigger((name,), frozenset({type}) if type else frozenset(), every, conditions, bare=not conditions)

    def _topic(self, url: str) -> tuple[Trigger, ...]:
        topic = self.topics.get(url.split("|")[0])
        if topic is None:
            raise problem(
                "not-supported", f"No SubscriptionTopic here has the url {url[:200]}.", "Subscription.criteria"
            )
        return self._of_topic(topic)

    def _of_topic(self, topic: Resource) -> tuple[Trigger, ...]:
        if topic.get("status") != "active":
            text = f"The topic {topic.get('title') or topic.get('url')} is {topic.get('status')}, not active."
            raise problem("business-rule", text, "Subscription.criteria")
        conditions = tuple(self._path(text) for text in _extensions(topic, FHIRPATH))
        conditions += self._filters(_extensions(topic, CONDITION), frozenset(map(_type, _triggers(topic))) - {""}, {})
        found = [self._resource_trigger(part, conditions) for part in topic.get("resourceTrigger", ())]
        for part in topic.get("eventTrigger", ()):
            found.append(self._event(coded(part.get("event", {})), _type(part), conditions))
        return tuple(found)

    def _resource_trigger(self, part: Mapping[str, Any], conditions: tuple[Condition, ...]) -> Trigger:
        type = _type(part)
        actions = frozenset(part.get("supportedInteraction", ())) or WRITES
        query = part.get("queryCriteria")
        own = ([self._query(type, query)] if query else []) + (
            [self._path(part["fhirPathCriteria"])] if part.get("fhirPathCriteria") else []
        )
        return Trigger((type,), frozenset({type}), actions, (*own, *conditions))

    def _query(self, type: str, query: Mapping[str, Any]) -> Condition:
        """R5 queryCriteria: what the version before, the present one, or both, must match."""
        current, previous = query.get("current"), query.get("previous")
        now = self._search(type, _after_type(current)).holds if current else None
        before = self._search(type, _after_type(previous), of_previous=True).holds if previous else None
        at_birth = query.get("resultForCreate", "test-passes") == "test-passes"
        at_death = query.get("resultForDelete", "test-passes") == "test-passes"
        both = bool(query.get("requireBoth"))

        def holds(change: Changed) -> bool:
            results = []
            if now:
                results.append(at_death if change.current is None else now(change))
            if before:
                results.append(at_birth if change.previous is None else before(change))
            return all(results) if both or not results else any(results)

        joint = " and " if both else " or "
        return Condition(joint.join(text for text in (previous and f"before {previous}", current) if text), holds)

    def _filters(
        self, filters: tuple[str, ...], types: frozenset[str], topic: Mapping[str, Any]
    ) -> tuple[Condition, ...]:
        """What filters ask of changes of these types; where a topic says what it can be filtered by, only by that."""
        found = []
        for text in filters:
            type, mark, query = text.partition("?")
            named = type if mark else next(iter(types), "")
            if named not in self.definitions.resource_types or (types and named not in types):
                wrong = f"The filter {text[:200]} is not about a resource of this topic."
                raise problem("not-supported", wrong, "Subscription.criteria")
            _filterable(topic, named, query if mark else text)
            found.append(self._search(named, query if mark else text))
        return tuple(found)

    def _search(self, type: str, query: str, *, of_previous: bool = False) -> Condition:
        pairs = parse_qsl(query, keep_blank_values=True)
        clause = parse(self.definitions, type, pairs, base=self.base, strict=True).clause
        text = f"{type}?{query}"
        if any(isinstance(part, _STORED) for part in walk(clause)):
            if of_previous:
                wrong = f"{text[:200]} looks at other resources, which is possible for the current version only."
                raise problem("not-supported", wrong, "Subscription.criteria")
            return Condition(text, lambda change: change.current is not None and change.found(clause))
        if of_previous:
            return Condition(text, lambda change: matches(clause, change.previous_entry, change.id))
        return Condition(text, lambda change: change.current is not None and matches(clause, change.entry, change.id))

    def _path(self, text: str) -> Condition:
        if len(text) > MOST_PATH:
            raise problem(
                "too-long", f"A FHIRPath criterion has at most {MOST_PATH} characters.", "Subscription.criteria"
            )
        test = truth(text, self.definitions)

        def holds(change: Changed) -> bool:
            versions: dict[str, Any] = {"current": change.current or [], "previous": change.previous or []}
            try:
                return test(change.current or change.previous, versions) is True
            except Problem:
                return False  # It cannot be evaluated on this resource, so it does not hold of it.

        return Condition(text, holds)


def _extensions(element: Mapping[str, Any], url: str) -> tuple[str, ...]:
    found = (extension for extension in element.get("extension", ()) if extension.get("url") == url)
    return tuple(str(extension.get("valueString", "")) for extension in found)


def _triggers(topic: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [*topic.get("resourceTrigger", ()), *topic.get("eventTrigger", ())]


def _type(part: Mapping[str, Any]) -> str:
    return str(part.get("resource", "")).rpartition("/")[2]


def _filterable(topic: Mapping[str, Any], type: str, query: str) -> None:
    """Raises Problem(not-supported) for a filter that the topic's canFilterBy does not list."""
    listed = topic.get("canFilterBy")
    for name, value in parse_qsl(query, keep_blank_values=True) if listed else ():
        code, _, modifier = name.partition(":")
        rows = [row for row in listed or () if row.get("filterParameter") == code and _type(row) in ("", type)]
        if not any(_permits(row, modifier, value) for row in rows):
            names = ", ".join(dict.fromkeys(str(row.get("filterParameter", "")) for row in listed or ()))
            text = f"The topic cannot be filtered by {name[:100]} so; what it can be filtered by: {names[:500]}."
            raise problem("not-supported", text, "Subscription.criteria")


def _permits(row: Mapping[str, Any], modifier: str, value: str) -> bool:
    prefix = _PREFIX.match(value)
    comparators = row.get("comparator")
    if modifier and modifier not in row.get("modifier", ()):
        return False
    return not comparators or (prefix[1] if prefix else "eq") in comparators


def _after_type(query: str) -> str:
    return query.partition("?")[2] if "?" in query else query
