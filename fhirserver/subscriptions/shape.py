"""What a topic's notificationShape adds to an event, and takes away from it: the resources told of beside the focus.

FHIR R5: subscriptiontopic#notificationShape.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fhirserver.auth.access import everything
from fhirserver.fhir import Resource
from fhirserver.fhir.definitions import Definitions
from fhirserver.fhir.problem import problem
from fhirserver.interactions.model import Server
from fhirserver.search.query import References
from fhirserver.store.search import by_references, compile_search, find
from fhirserver.subscriptions.match import Change, Event, Match

SHAPE = "SubscriptionTopic.notificationShape"
MOST = 50
INCLUDE = "include"
"""The action, in a delivery, of what did not change but is told of too."""


def check(definitions: Definitions, topic: Resource) -> None:
    """Raises Problem(not-supported) for an include that is not `Type:parameter` of a reference parameter."""
    for shape in topic.get("notificationShape", ()):
        type = _type(shape)
        if type not in definitions.resource_types:
            raise problem("value", f"{type[:64]} is not a resource type.", f"{SHAPE}.resource")
        for name in ("include", "revInclude"):
            for text in shape.get(name, ()):
                source, code = _parts(text)
                known = definitions.search_parameters(source) if source in definitions.resource_types else {}
                reference = code in known and known[code].type == "reference"
                if not reference or (name == "include" and source != type):
                    wrong = f"{str(text)[:200]} is not Type:parameter with a parameter that refers to something"
                    raise problem("not-supported", f"{wrong}, as Encounter:patient does.", f"{SHAPE}.{name}")


def prepare(server: Server, topic: Resource) -> None:
    """Makes what revInclude searches by exist: an index cannot be built under the relay's transaction."""
    for shape in topic.get("notificationShape", ()):
        for type, code in map(_parts, shape.get("revInclude", ())):
            server.store.indexes.ensure(type, [(f"s.{code}",)])


def shaped(server: Server, organization: str, topic: Resource | None, event: Event, match: Match) -> Mapping[str, Any]:
    """The event's document as a topic wants it told: all that it changed, or, where the topic has a notificationShape,
    the focus and what that includes, MOST resources at most, in their present versions.
    """
    shapes = (topic or {}).get("notificationShape")
    if not shapes:
        return event.document
    changed = {f"{each['type']}/{each['id']}": each for each in event.document["changes"]}
    focus = [change.reference for change in match.changes]
    found = (name for change in match.changes for name in _included(server, organization, shapes, change))
    wanted = dict.fromkeys(name for name in found if name not in focus)
    names = list(wanted)[:MOST]
    present = {
        f"{each.type}/{each.id}": {"type": each.type, "id": each.id, "version": each.version, "action": INCLUDE}
        for each in by_references(server.store, everything(organization), [n for n in names if n not in changed])
    }
    told = [(changed | present).get(name) for name in (*focus, *names)]
    return {**event.document, "changes": [each for each in told if each]}


def _included(server: Server, organization: str, shapes: Sequence[Mapping[str, Any]], change: Change) -> Iterator[str]:
    for shape in shapes:
        if _type(shape) != change.type or change.current is None:
            continue
        for text in shape.get("include", ()):
            yield from _references(change.entry.search.get(_parts(text)[1], ()))
        for text in shape.get("revInclude", ()):
            type, code = _parts(text)
            clause = References(code, frozenset({change.reference}))
            search = compile_search(server.store, everything(organization), type, [clause], None)
            found = find(server.store, search, (), MOST).matches if search else ()
            yield from (f"{each.type}/{each.id}" for each in found)


def _references(values: Iterable[Any]) -> Iterator[str]:
    return (value for value in values if isinstance(value, str) and value.count("/") == 1 and ":" not in value)


def _parts(text: Any) -> tuple[str, str]:
    type, _, code = str(text).partition(":")
    return type, code


def _type(shape: Mapping[str, Any]) -> str:
    return str(shape.get("resource", "")).rpartition("/")[2]
