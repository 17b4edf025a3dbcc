"""The content of a message into the store: matched by identifier, merged, all in one transaction. FHIR R4: messaging.

Used for HL7v2 messages after mapping and for FHIR message Bundles. A message updates only what it says; what it would
leave as it is is not written again. Invariant: the resources, their superseded versions, the InboundMessage's new
status and the one pending event are written together or not at all, so a message is applied once however often its job
runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from fhirserver.auth.access import everything
from fhirserver.auth.principal import SYSTEM
from fhirserver.fhir import Resource
from fhirserver.fhir.json import encode
from fhirserver.fhir.problem import Problem, problem
from fhirserver.interactions import locks
from fhirserver.interactions.model import Request, Server, Unit
from fhirserver.interactions.versions import next_instant, put, version_of
from fhirserver.messaging import effects, merge
from fhirserver.messaging.merge import Rest
from fhirserver.messaging.parts import (
    Content,
    Done,
    Part,
    make_ready,
    match,
    parts_of,
    resolved,
    tokens_of,
    wanted_of,
)
from fhirserver.messaging.updating import merged
from fhirserver.rules.model import Prepared
from fhirserver.store.database import Session
from fhirserver.store.model import Change, Stored
from fhirserver.store.tokens import by_tokens

REST = "rest"
"""The name, in the private part of an InboundMessage, of what a merge has left to do."""
HAPPENED, MOST_KEPT = "happened", 200
"""The name there of what its event said: changes as (type, id, version, action), names, trigger."""
Finish = Callable[[Sequence[Done]], Resource]
"""Makes the InboundMessage of what was done."""


def accept(
    server: Server,
    organization: str,
    content: Content,
    inbound: Stored,
    finish: Finish,
    facts: Mapping[str, Any],
    session: Session | None = None,
) -> Stored:
    """Stores what a message says, and the InboundMessage as `finish` makes it from what was done; answers its new
    version. Where it is `unfinished`, `resume` goes on. `session`: one to write with that is in no transaction.

    Raises Problem: invariant, structure ... where a mapped resource is not valid, conflict where the InboundMessage was
    processed by another meanwhile, transient where the database is away.
    """
    parts = parts_of(content)
    if content.effects:
        merge.prepare(server, sorted(effects.kinds_of(parts, content)))
    tokens = tokens_of(content, parts) | effects.survivors(content, parts)
    make_ready(server, tokens, parts)
    names = [name for part in parts for name in locks.of_tokens(part.type, tokens[part.full_url])]
    server.store.locks.prepare(organization, names, server.now())

    def work(session: Any) -> Change:
        unit = Unit(server.store, session)
        request = Request("message", organization, server.base(organization), SYSTEM, unit=unit, facts=facts)
        fresh = [Part(part.full_url, part.resource) for part in parts]
        held = by_tokens(server.store, everything(organization), "identifier", wanted_of(fresh, tokens), session)
        made = match(server, request, fresh, tokens, held, effects.told_apart(content))
        server.store.locks.touch(session, organization, made)
        done = store(server, request, content, fresh)
        rests = effects.begin(server, request, content, fresh, inbound, done) if content.effects else []
        change = finished(server, request, content, inbound, finish(done), done, rests)
        unit.changes.append(change)
        unit.flush()
        return change

    change: Change = server.store.transaction(work, session)
    return change.stored()


def unfinished(inbound: Stored) -> bool:
    """Whether a merge by this message has something left to do: `resume` does it."""
    return REST in inbound.private


def resume(
    server: Server, organization: str, inbound: Stored, facts: Mapping[str, Any], session: Session | None = None
) -> Stored:
    """Does the next part of what a message's merges have left to do, in one transaction; answers the InboundMessage's
    new version. It may be called again and again, whatever happened in between. Raises Problem as `accept` does.
    """
    left = inbound.private[REST]
    merge.prepare(server, sorted({rest["prior"].partition("/")[0] for rest in left["merges"]}))

    def work(session: Any) -> Change:
        unit = Unit(server.store, session)
        request = Request("message", organization, server.base(organization), SYSTEM, unit=unit, facts=facts)
        rests = [Rest(**rest) for rest in left["merges"]]
        step = merge.step(server, request, rests[0], None, left["policy"])
        done = [Done(m.type, m.id, m.version, "update") for m in step.moved]
        rests = rests[1:] if step.finished else rests
        content = Content({}, left["event"], left["names"], policy=left["policy"])
        resource = inbound.resource() | {"status": left["status"]}
        change = finished(server, request, content, inbound, resource, done, rests)
        unit.changes.append(change)
        unit.flush()
        return change

    change: Change = server.store.transaction(work, session)
    return change.stored()


def store(server: Server, request: Request, content: Content, parts: list[Part]) -> list[Done]:
    """Writes the parts of a message that say something new; answers what became of each."""
    effects.affect(server, request, content, parts)
    names = {part.full_url: part.name for part in parts}
    whole = everything(request.organization)
    done: list[Done] = []
    changed: dict[str, Part] = {}
    for part in parts:
        if part.repeated:
            continue
        type = part.type
        resource = resolved(part.resource, names)
        before = part.previous.resource() if part.previous else None
        spoken, gone = content.elements.get(part.full_url), content.deletes.get(part.full_url, ())
        after = merged(before, resource, spoken, gone) if before else resource
        effects.applied(after, part)
        if before is not None and part.previous and _same(part.previous, before, after):
            done.append(Done(type, part.id, part.previous.version, "unchanged"))
            continue
        method = "PUT" if part.previous else "POST"
        if part.name in changed:
            raise _indistinct(content.bundle, changed[part.name], part)
        changed[part.name] = part
        written = put(server, request, whole, Prepared(after), part.previous, f"{type}/{part.id}", method, event={})
        done.append(Done(type, part.id, written.version.version, "update" if part.previous else "create"))
    return done


def _indistinct(bundle: Resource, one: Part, other: Part) -> Problem:
    """Says which two resources of a message are one in the store; which of them is right nobody can tell."""
    urls = [entry.get("fullUrl", "") for entry in bundle["entry"]]
    where = [f"Bundle.entry[{urls.index(each.full_url)}]" for each in (one, other)]
    text = (
        f"Two resources of the message, {' and '.join(where)} of the Bundle that it becomes, are by their identifiers "
        f"the same stored one, {one.name}. Correct the message, the map or what is stored."
    )
    return problem("multiple-matches", text, *where)


def finished(
    server: Server,
    request: Request,
    content: Content,
    inbound: Stored,
    resource: Resource,
    done: Sequence[Done],
    rests: Sequence[Rest] = (),
) -> Change:
    """The InboundMessage's next version, which carries the pending event of the whole message. Where a merge is not
    done it stays `received`, so that its lane waits for it.
    """
    instant = next_instant(server, inbound)
    private = {name: value for name, value in inbound.private.items() if name != REST}
    if rests:
        kept = {"event": content.event, "names": list(content.names), "policy": content.policy}
        private[REST] = {**kept, "status": resource["status"], "merges": [rest.kept() for rest in rests]}
        resource = {**resource, "status": "received"}
    changed = [each for each in done if each.action != "unchanged"]
    private[HAPPENED] = _happened(private.get(HAPPENED, {}), changed, content)
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
    return version_of(
        server, inbound.organization, resource, inbound, instant, event=event, private=private, keep_previous=False
    )


def _happened(before: Mapping[str, Any], changed: Iterable[Done], content: Content) -> dict[str, Any]:
    """What a message's events said, kept with it; `before` is what is kept already."""
    changes = [*before.get("changes", ()), *([d.type, d.id, d.version, d.action] for d in changed)]
    names = dict.fromkeys([*before.get("names", ()), *content.names])
    return {"changes": changes[:MOST_KEPT], "names": [*names], "trigger": content.event}


def _same(stored: Stored, before: Resource, after: Resource) -> bool:
    if encode(after).decode() == stored.text:
        return True

    def plain(resource: Resource) -> bytes:
        return encode({name: value for name, value in resource.items() if name not in ("id", "meta")})

    return plain(before) == plain(after)
