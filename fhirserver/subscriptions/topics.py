"""The topic catalogue: what can be subscribed to by name, and which names one change or message fires.

The catalogue is data (capability/topics); its rows become SubscriptionTopic resources in the shape of FHIR R5.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fhirserver.fhir import Resource

CANONICAL = "https://fhirserver.example/fhir"
TYPE = "SubscriptionTopic"
TOPIC = f"{CANONICAL}/SubscriptionTopic/"
CONDITION = f"{CANONICAL}/StructureDefinition/subscription-topic-criteria"
"""Extension of a SubscriptionTopic: search criteria that must hold of what fires it."""
EVENT_SYSTEM = f"{CANONICAL}/CodeSystem/event"
TRIGGER_SYSTEM = "http://terminology.hl7.org/CodeSystem/v2-0003"
VERSION = "1.0.0"
ACTIONS = {"create": "Creation", "update": "Change", "delete": "Deletion"}


@dataclass(frozen=True, slots=True)
class End:
    """A change that fires a name: `element` (a path) of a `type` took one of `values` that it did not have."""

    type: str
    element: str
    values: frozenset[str]

    def reached(self, current: Resource | None, previous: Resource | None) -> bool:
        """Whether the change from `previous` to `current` is this one."""
        now = self.values.intersection(_at(current, self.element.split(".")))
        return bool(now) and not now <= set(_at(previous, self.element.split(".")))


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The shipped topics.

    fires: trigger -> resource-style names. about: name or trigger -> the resource type it is about. titles: name or
    trigger -> text for people. ends: names that a change of a resource's content fires.
    """

    fires: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    about: Mapping[str, str] = field(default_factory=dict)
    titles: Mapping[str, str] = field(default_factory=dict)
    ends: Mapping[str, End] = field(default_factory=dict)

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Catalogue:
        """The catalogue of a decoded capability/topics file. Raises KeyError for a row that lacks what it needs."""
        triggers = data["triggers"]
        names = {
            f"{action}.{type.lower()}": (type, f"{noun} of {type}")
            for type in data["resources"]
            for action, noun in ACTIONS.items()
        }
        ends = {
            name: End(row["resource"], row["element"], frozenset(row["values"])) for name, row in data["ends"].items()
        }
        for name, end in ends.items():
            names[name] = (end.type, f"{name.partition('.')[0].title()} of {end.type}")
        return cls(
            fires={code: tuple(row.get("fires", ())) for code, row in triggers.items()},
            about={code: row["resource"] for code, row in triggers.items()} | {n: t for n, (t, _) in names.items()},
            titles={code: row["title"] for code, row in triggers.items()}
            | {n: title for n, (_, title) in names.items()},
            ends=ends,
        )

    @property
    def fired(self) -> frozenset[str]:
        """The names that some trigger fires, whatever its message did to a resource."""
        return frozenset(name for names in self.fires.values() for name in names)

    def resources(self) -> Iterator[Resource]:
        """A SubscriptionTopic for each name, status active, with an id and url made of the name."""
        for code, title in self.titles.items():
            yield {
                "resourceType": TYPE,
                "id": topic_id(code),
                "url": TOPIC + topic_id(code),
                "version": VERSION,
                "title": title,
                "status": "active",
                "publisher": "fhirserver",
                "description": self._description(code),
                "eventTrigger": [{"event": event_code(code), "resource": self.about[code]}],
            }

    def drafts(self) -> Iterator[Resource]:
        """The same as drafts, as they lie on the registry: an organization activates a topic on its own base."""
        return ({**topic, "status": "draft"} for topic in self.resources())

    def _description(self, code: str) -> str:
        """What makes a name or trigger happen, in a sentence."""
        type, fires = self.about[code], self.fires.get(code, ())
        if "_" in code:
            also = f"; it fires {' and '.join(fires)} too" if fires else ""
            return f"An HL7v2 message {code.replace('_', '^')}, which is about {_a(type)}{also}."
        by = [trigger.replace("_", "^") for trigger, names in self.fires.items() if code in names]
        if code in self.ends:
            values = " or ".join(sorted(self.ends[code].values))
            return f"{_a(type, 'A')} whose {self.ends[code].element} becomes {values}{_also(by)}."
        return f"{_a(type, 'A')} that is {code.partition('.')[0]}d, by whatever way{_also(by)}."

    def names(self, event: Mapping[str, Any]) -> set[str]:
        """The names that a pending event fires, but for those in `ends`, which take a look at the resources."""
        found = set(event.get("names") or ())
        trigger = event.get("trigger")
        if trigger:
            found.add(trigger)
            found.update(self.fires.get(trigger, ()))
        found.update(f"{change['action']}.{change['type'].lower()}" for change in event["changes"])
        return found


def _a(type: str, article: str = "a") -> str:
    return f"{article}{'n' if type[0] in 'AEIO' else ''} {type}"


def _also(triggers: Sequence[str]) -> str:
    return f", or a message {', '.join(triggers)}" if triggers else ""


def topic_id(code: str) -> str:
    """The id of the shipped topic of a name or trigger: ids know no underscore."""
    return code.replace("_", "-")


def event_code(code: str) -> dict[str, Any]:
    """The CodeableConcept of a trigger event (HL7 table 0003) or of a name of ours."""
    return {"coding": [event_coding(code)]}


def event_coding(code: str) -> dict[str, str]:
    """The Coding of a trigger event such as ADT_A01, or of a name such as create.patient."""
    if "_" in code:
        return {"system": TRIGGER_SYSTEM, "code": code.partition("_")[2], "display": code}
    return {"system": EVENT_SYSTEM, "code": code}


def coded(concept: Mapping[str, Any]) -> str:
    """The name or trigger in an event CodeableConcept of a SubscriptionTopic, "" where there is none we know."""
    for coding in concept.get("coding", ()):
        if coding.get("system") == TRIGGER_SYSTEM and "_" in coding.get("display", ""):
            return str(coding["display"])
        if coding.get("system") == EVENT_SYSTEM:
            return str(coding.get("code", ""))
    return ""


def _at(value: Any, path: Iterable[str]) -> list[str]:
    found: list[Any] = [value]
    for name in path:
        stepped = (item.get(name) for item in found if isinstance(item, dict))
        found = [part for item in stepped if item is not None for part in (item if isinstance(item, list) else [item])]
    return [item for item in found if isinstance(item, str)]
