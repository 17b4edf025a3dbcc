"""The content of a message into the store: matched by identifier, merged, all in one transaction. FHIR R4: messaging.

Used for HL7v2 messages after mapping and for FHIR message Bundles. A message updates only what it says; what it
would leave as it is is not
written again. Invariant: the resources, their superseded versions, the InboundMessage's new status and the one
pending event are
written together or not at all, so a message is applied once however often its job runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fhirserver.auth.access import everything
from fhirserver.auth.principal import SYSTEM
from fhirserver.fhir import Resource
from fhirserver.fhir.json import encode
from fhirserver.interactions.indexing import entry_of
from fhirserver.interactions.model import Request, Server, Unit
from fhirserver.interactions.write import next_instant, put, stamped
from fhirserver.rules.model import Prepared
from fhirserver.search.types import token
from fhirserver.store.model import Change, Stored
from fhirserver.store.search import by_tokens

ENVELOPE = "MessageHeader"
_STEPS = re.compile(r"\.(?![^(]*\))")  # between steps, not inside the url of a selector
_STEP = re.compile(r"([A-Za-z]+)(?:\((.*)\))?\Z")
# Lists that a message adds to: their members are told apart by these.
MERGED: Mapping[str, tuple[str, ...]] = {"identifier": ("system", "value"), "extension": ("url",)}


@dataclass(frozen=True, slots=True)
class Content:
    """What a message says, ready to be stored.

    bundle: the message Bundle. event: the trigger (`ADT_A01`) or event code. names: event names the trigger itself
    means.
    match: fullUrl -> identifiers that tell the stored resource, strongest first; None or absent for one that is
    always new.
    elements: fullUrl -> the elements the message speaks for (absent: all it has). deletes: fullUrl -> elements it
    says are gone.
    """

    bundle: Resource
    event: str
    names: Sequence[str] = ()
    match: Mapping[str, Sequence[Mapping[str, str]] | None] = field(default_factory=dict)
    elements: Mapping[str, Sequence[str]] = field(default_factory=dict)
    deletes: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Done:
    """What became of one resource of a message: action is create, update or unchanged."""

    type: str
    id: str
    version: int
    action: str


@dataclass(slots=True)
class _Part:
    """One resource of the message on its way into the store."""

    full_url: str
    resource: Resource
    previous: Stored | None = None
    id: str = ""
    repeated: bool = False


Finish = Callable[[Sequence[Done]], Resource]


def accept(
    server: Server, organization: str, content: Content, inbound: Stored, finish: Finish, facts: Mapping[str, Any]
) -> list[Done]:
    """Stores what a message says, and the InboundMessage as `finish` makes it from what was done.

    Raises Problem: invariant, structure ... where a mapped resource is not valid, conflict where the InboundMessage
    was processed by
    another meanwhile, transient where the database is away.
    """
    parts = [_Part(full_url, dict(resource)) for full_url, resource in _resources(content.bundle)]
    tokens = {part.full_url: _tokens(content.match.get(part.full_url)) for part in parts}
    for type in {part.resource["resourceType"] for part in parts}:
        server.store.database.current(type)
        server.store.database.history(type)
        if any(tokens[part.full_url] for part in parts if part.resource["resourceType"] == type):
            server.store.indexes.ensure(type, [("s.identifier",)])
    for part in parts:
        for value in tokens[part.full_url][:1]:
            server.store.prepare_lock(organization, part.resource["resourceType"], value, server.now())

    def work(session: Any) -> list[Done]:
        unit = Unit(server.store, session)
        request = Request("message", organization, server.base(organization), SYSTEM, unit=unit, facts=facts)
        fresh = [_Part(part.full_url, part.resource) for part in parts]
        done = _store(server, request, content, fresh, tokens)
        unit.changes.append(_finished(server, request, content, inbound, finish(done), done))
        unit.flush()
        return done

    done: list[Done] = server.store.transaction(work)
    return done


def _store(
    server: Server, request: Request, content: Content, parts: list[_Part], tokens: Mapping[str, list[str]]
) -> list[Done]:
    _match(server, request, parts, tokens)
    names = {part.full_url: f"{part.resource['resourceType']}/{part.id}" for part in parts}
    whole = everything(request.organization)
    done: list[Done] = []
    for part in parts:
        if part.repeated:
            continue
        type = part.resource["resourceType"]
        resource = resolved(part.resource, names)
        before = part.previous.resource() if part.previous else None
        after = _merged(before, resource, content, part.full_url) if before else resource
        if before is not None and part.previous and _same(before, after):
            done.append(Done(type, part.id, part.previous.version, "unchanged"))
            continue
        method = "PUT" if part.previous else "POST"
        written = put(server, request, whole, Prepared(after), part.previous, f"{type}/{part.id}", method, event={})
        done.append(Done(type, part.id, written.version.version, "update" if part.previous else "create"))
    return done


def _match(server: Server, request: Request, parts: list[_Part], tokens: Mapping[str, list[str]]) -> None:
    """Finds for each part the stored resource that is the same, or gives it a new id under a lock.

    The lock is touched only by who creates: two messages that create the same resource at once conflict there, and
    the second is run
    again by the database and finds what the first has made.
    """
    whole = everything(request.organization)
    for type in sorted({part.resource["resourceType"] for part in parts}):
        same_type = [part for part in parts if part.resource["resourceType"] == type]
        wanted = sorted({value for part in same_type for value in tokens[part.full_url]})
        found = by_tokens(server.store, whole, type, "identifier", wanted, request.session) if wanted else []
        made: dict[str, str] = {}
        for part in same_type:
            values = tokens[part.full_url]
            part.previous = _strongest(values, found)
            if part.previous:
                part.id = part.previous.id
            elif values and values[0] in made:
                part.id, part.repeated = made[values[0]], True  # Said twice in one message: the first one counts.
            else:
                part.id = server.new_id()
                if values:
                    made[values[0]] = part.id
                    assert request.unit
                    server.store.lock(request.unit.session, request.organization, type, values[0])


def _strongest(values: Sequence[str], found: Sequence[tuple[Stored, frozenset[str]]]) -> Stored | None:
    for value in values:
        for version, held in found:
            if value in held:
                return version
    return None


def _finished(
    server: Server, request: Request, content: Content, inbound: Stored, resource: Resource, done: Sequence[Done]
) -> Change:
    """The InboundMessage's next version, which carries the pending event of the whole message."""
    instant = next_instant(server, inbound)
    version = inbound.version + 1
    resource = stamped(resource, inbound.id, version, instant)
    changed = [each for each in done if each.action != "unchanged"]
    event = {
        "id": server.new_id(),
        "t": instant,
        "changes": [
            {"type": each.type, "id": each.id, "version": each.version, "action": each.action} for each in changed
        ],
        "focus": [f"{each.type}/{each.id}" for each in done],
        "names": [*dict.fromkeys([*(f"{each.action}.{each.type.lower()}" for each in changed), *content.names])],
        "trigger": content.event,
        "message": f"InboundMessage/{inbound.id}",
        "request": dict(request.facts),
    }
    return Change(
        organization=inbound.organization,
        type=inbound.type,
        id=inbound.id,
        version=version,
        instant=instant,
        method="PUT",
        text=encode(resource).decode(),
        entry=entry_of(server, resource, request.base),
        event=event,
        private=inbound.private,
        previous=inbound,
        keep_previous=False,
    )


def _resources(bundle: Resource) -> Iterable[tuple[str, Resource]]:
    for entry in bundle.get("entry", []):
        resource = entry.get("resource")
        if isinstance(resource, dict) and resource.get("resourceType") != ENVELOPE:
            yield entry.get("fullUrl", ""), resource


def _tokens(identifiers: Sequence[Mapping[str, str]] | None) -> list[str]:
    return [token.stored(each.get("system", ""), each["value"]) for each in identifiers or ()]


def _merged(before: Resource, said: Resource, content: Content, full_url: str) -> Resource:
    """What is stored with what the message says in its place; an element it is silent about stays."""
    after = dict(before)
    for name in content.elements.get(full_url) or [name for name in said if name not in ("resourceType", "id", "meta")]:
        if name not in said:
            continue
        after[name] = _added(before.get(name), said[name], MERGED[name]) if name in MERGED else said[name]
        if f"_{name}" in said:
            after[f"_{name}"] = said[f"_{name}"]
    for path in content.deletes.get(full_url, ()):
        _delete(after, _STEPS.split(path))
    return after


def _added(held: Any, said: Any, keys: tuple[str, ...]) -> Any:
    if not isinstance(held, list) or not isinstance(said, list):
        return said
    new: dict[tuple[Any, ...], list[Any]] = {}
    for each in said:
        new.setdefault(tuple(each.get(key) for key in keys), []).append(each)
    kept: list[Any] = []
    placed: set[tuple[Any, ...]] = set()
    for each in held:
        name = tuple(each.get(key) for key in keys)
        if name not in new:
            kept.append(each)
        elif name not in placed:
            placed.add(name)
            kept += new[name]
    return kept + [each for name, several in new.items() if name not in placed for each in several]


def _delete(value: Any, path: list[str]) -> None:
    """Removes what a path names, such as `address` or `extension(http://...)`; in lists from every member."""
    found = _STEP.match(path[0])
    if isinstance(value, list):
        for each in value:
            _delete(each, path)
    elif isinstance(value, dict) and found:
        name, url = found.groups()
        if len(path) > 1:
            _delete(value.get(name), path[1:])
        elif url and isinstance(value.get(name), list):
            value[name] = [each for each in value[name] if each.get("url") != url]
            if not value[name]:
                del value[name]
        elif not url:
            value.pop(name, None)
            value.pop(f"_{name}", None)


def _same(before: Resource, after: Resource) -> bool:
    def plain(resource: Resource) -> bytes:
        return encode({name: value for name, value in resource.items() if name not in ("id", "meta")})

    return plain(before) == plain(after)


def resolved(value: Any, names: Mapping[str, str]) -> Any:
    """The value with every reference that is one of the names replaced by what it stands for."""
    if isinstance(value, dict):
        return {
            key: names.get(each, each) if key == "reference" and isinstance(each, str) else resolved(each, names)
            for key, each in value.items()
        }
    if isinstance(value, list):
        return [resolved(each, names) for each in value]
    return value
