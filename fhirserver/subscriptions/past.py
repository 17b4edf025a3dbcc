"""Events that were: told again from versions of resources, from messages and from deliveries, so that criteria can be
held against what has happened ($why, $preview).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from typing import Any

from fhirserver.auth.access import Access, everything
from fhirserver.fhir import Resource
from fhirserver.fhir.problem import problem
from fhirserver.interactions.model import Request, Server
from fhirserver.interactions.operations import text_parameter
from fhirserver.interactions.read import current
from fhirserver.messaging.content import HAPPENED
from fhirserver.search.parse import parse
from fhirserver.search.query import SortKey
from fhirserver.store.model import Stored
from fhirserver.store.search import by_references, compile_search, find
from fhirserver.subscriptions import delivery
from fhirserver.subscriptions.shape import INCLUDE
from fhirserver.subscriptions.topics import Catalogue

MESSAGE = "InboundMessage"
_NEWEST = [SortKey("_lastUpdated", "t", True)]


def asked(server: Server, request: Request, access: Access, values: dict[str, Any]) -> dict[str, Any]:
    """The event that `event` or `reference` names: by its id, or what made a version of a resource.

    Raises Problem: required where neither is given, not-found where nothing is known of it.
    """
    reference = values.get("reference")
    named = reference.get("reference", "") if isinstance(reference, dict) else str(reference or "")
    if named:
        type, _, rest = named.partition("/")
        id, _, number = rest.partition("/_history/")
        version = current(server, access, type, id, request) if type in server.definitions.resource_types else None
        if version is not None and number.isdigit() and int(number) != version.version:
            version = server.store.vread(access, type, id, int(number))
        if version is None:
            raise problem("not-found", f"{named[:200]} is not known here.", "Parameters.parameter")
        return _by_message(server, access.organization, version) or written(version)
    event = text_parameter(values, "event")
    if not event:
        raise problem(
            "required", "Say which: `event`, an event's id, or `reference`, a resource.", "Parameters.parameter"
        )
    found = _found(server, everything(access.organization), delivery.TYPE, [("event", event)], 1)
    if not found:
        raise problem("not-found", "No delivery tells of this event; ask by `reference`.", "Parameters.parameter")
    return _recorded(found[0].resource())


def latest(
    server: Server, catalogue: Catalogue, access: Access, keys: AbstractSet[str], types: Iterable[str], count: int
) -> list[dict[str, Any]]:
    """The last events, the newest first, that concern triggers and names in `keys` or resources of these types; with
    no changes but of what the access may read.
    """
    triggers = {key for key in keys if "_" in key}
    triggers |= {trigger for trigger, names in catalogue.fires.items() if not keys.isdisjoint(names)}
    events = list(_messages(server, access, triggers, count)) if triggers else []
    told = {(each["type"], each["id"], each["version"]) for event in events for each in event["changes"]}
    for type in server.store.existing(types):
        for version in _found(server, access, type, [], count):
            if (type, version.id, version.version) not in told:
                events.append(written(version))
    return sorted(events, key=lambda event: event["t"], reverse=True)[:count]


def written(version: Stored) -> dict[str, Any]:
    """The event of a REST write that made a version."""
    action = "delete" if version.deleted else "create" if version.version == 1 else "update"
    change = {"type": version.type, "id": version.id, "version": version.version, "action": action}
    return {"id": "", "t": version.instant, "changes": [change], "names": [], "trigger": None}


def _messages(server: Server, access: Access, triggers: Iterable[str], count: int) -> Iterator[dict[str, Any]]:
    """The events of the last messages of these triggers. They are found whoever asks: what they changed is not shown
    but where it may be read.
    """
    wanted = [("event", ",".join(sorted(triggers))), ("status", "processed,warning")]
    for message in _found(server, everything(access.organization), MESSAGE, wanted, count):
        event = _happened(message)
        if event is None:
            continue
        names = {f"{each['type']}/{each['id']}" for each in event["changes"]}
        seen = {f"{each.type}/{each.id}" for each in by_references(server.store, access, names)}
        changes = [each for each in event["changes"] if f"{each['type']}/{each['id']}" in seen]
        if changes or not names:
            yield {**event, "changes": changes}


def _by_message(server: Server, organization: str, version: Stored) -> dict[str, Any] | None:
    """The event of the message that made a version, None where it was no message or one that is not kept any more."""
    whole = everything(organization)
    made = (version.type, version.id, version.version)
    for message in _found(server, whole, MESSAGE, [("result", f"{version.type}/{version.id}")], 20):
        event = _happened(message)
        if event and made in {(each["type"], each["id"], each["version"]) for each in event["changes"]}:
            return event
    return None


def _happened(message: Stored) -> dict[str, Any] | None:
    kept = message.private.get(HAPPENED)
    if kept is None:
        return None
    fields = ("type", "id", "version", "action")
    changes = [dict(zip(fields, each, strict=True)) for each in kept["changes"]]
    event = {"id": "", "t": message.instant, "changes": changes, "message": f"{MESSAGE}/{message.id}"}
    return event | {"names": list(kept["names"]), "trigger": kept["trigger"]}


def _recorded(resource: Resource) -> dict[str, Any]:
    """The event that a delivery was made of."""
    changes = []
    for change in resource.get("change", ()):
        if change["action"] == INCLUDE:
            continue
        type, _, id = change["reference"]["reference"].partition("/")
        changes.append({"type": type, "id": id, "version": change["version"], "action": change["action"]})
    code = str(resource["code"])
    occurred = delivery.instant(resource["occurred"])
    named: dict[str, Any] = {"trigger": code, "names": []} if "_" in code else {"trigger": None, "names": [code]}
    return {"id": resource["event"], "t": occurred, "changes": changes, **named}


def _found(server: Server, access: Access, type: str, pairs: list[tuple[str, str]], count: int) -> list[Stored]:
    """The newest of a type that match, the newest first."""
    clauses = parse(server.definitions, type, pairs, strict=True).clauses
    search = compile_search(server.store, access, type, clauses, None)
    return list(find(server.store, search, _NEWEST, count).matches) if search else []
