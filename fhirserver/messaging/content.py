"""The content of a message into the store: matched by identifier, merged, all in one transaction. FHIR R4: messaging.

Used for HL7v2 messages after mapping and for FHIR message Bundles. A message updates only what it says; what it would
leave as it is is not written again. Invariant: the resources, their superseded versions, the InboundMessage's new
status and the one pending event are written together or not at all, so a message is applied once however often its job
runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fhirserver.auth.access import everything
from fhirserver.auth.principal import SYSTEM
from fhirserver.fhir import Resource
from fhirserver.fhir.json import encode
from fhirserver.fhir.problem import Problem, problem
from fhirserver.interactions import locks
from fhirserver.interactions.model import Request, Server, Unit
from fhirserver.interactions.write import next_instant, put, version_of
from fhirserver.messaging import merge, moving
from fhirserver.messaging.merge import Rest
from fhirserver.messaging.updating import merged
from fhirserver.rules.model import Prepared
from fhirserver.search.types import token
from fhirserver.store.database import Session
from fhirserver.store.model import Change, Stored
from fhirserver.store.tokens import by_tokens

ENVELOPE = "MessageHeader"
REST = "rest"
"""The name, in the private part of an InboundMessage, of what a merge has left to do."""
HAPPENED, MOST_KEPT = "happened", 200
"""The name there of what its event said: changes as (type, id, version, action), names, trigger."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a message says, ready to be stored.

    bundle: the message Bundle. event: the trigger (`ADT_A01`) or event code. names: event names the trigger itself
    means.
    match: fullUrl -> identifiers that tell the stored resource, strongest first; None or absent for one that is
    always new.
    elements: fullUrl -> the elements the message speaks for (absent: all it has). deletes: fullUrl -> elements it
    says are gone.
    effects: ("merge", prior, survivor), ("unmerge", one, other) or ("move", what or from whom, to whom), by fullUrl.
    policy: what becomes of references to the prior one (`merge.POLICIES`).
    """

    bundle: Resource
    event: str
    names: Sequence[str] = ()
    match: Mapping[str, Sequence[Mapping[str, str]] | None] = field(default_factory=dict)
    elements: Mapping[str, Sequence[str]] = field(default_factory=dict)
    deletes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    effects: Sequence[tuple[str, str, str]] = ()
    policy: str = merge.REPOINT


@dataclass(frozen=True, slots=True)
class Done:
    """What became of one resource of a message: action is create, update or unchanged."""

    type: str
    id: str
    version: int
    action: str


@dataclass(slots=True)
class Part:
    """One resource of the message on its way into the store."""

    full_url: str
    resource: Resource
    previous: Stored | None = None
    id: str = ""
    repeated: bool = False
    joined: bool = False
    """Whether it is the prior one of a merge, and was not merged before."""
    parted: str = ""
    """What an un-merge takes it apart from (Type/id): no link to that stays."""
    undone: Mapping[str, Any] | None = None
    """What it was before the merge that is undone."""
    without: frozenset[tuple[str, str]] = frozenset()
    """The numbers that a move takes from it."""

    @property
    def type(self) -> str:
        return str(self.resource["resourceType"])

    @property
    def name(self) -> str:
        return f"{self.type}/{self.id}"


Held = Mapping[str, Mapping[str, Stored]]
"""What is stored by type and identifier token, where it is asked for by what messages say."""
Finish = Callable[[Sequence[Done]], Resource]


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
        merge.prepare(server, sorted(_kinds(parts, content)))
    tokens = tokens_of(content, parts) | _survivors(content, parts)
    make_ready(server, tokens, parts)
    names = [name for part in parts for name in locks.of_tokens(part.type, tokens[part.full_url])]
    server.store.locks.prepare(organization, names, server.now())

    def work(session: Any) -> Change:
        unit = Unit(server.store, session)
        request = Request("message", organization, server.base(organization), SYSTEM, unit=unit, facts=facts)
        fresh = [Part(part.full_url, part.resource) for part in parts]
        held = by_tokens(server.store, everything(organization), "identifier", wanted_of(fresh, tokens), session)
        made = match(server, request, fresh, tokens, held, told_apart(content))
        server.store.locks.touch(session, organization, made)
        done = store(server, request, content, fresh)
        rests = _merge(server, request, content, fresh, inbound, done) if content.effects else []
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


def parts_of(content: Content) -> list[Part]:
    return [Part(full_url, dict(resource)) for full_url, resource in _resources(content.bundle)]


def tokens_of(content: Content, parts: Iterable[Part]) -> dict[str, list[str]]:
    return {part.full_url: _tokens(content.match.get(part.full_url)) for part in parts}


def make_ready(server: Server, tokens: Mapping[str, Sequence[str]], parts: Sequence[Part]) -> None:
    """Makes the collections and indexes that cannot be made within a transaction."""
    for type in {part.type for part in parts}:
        server.store.database.current(type)
        server.store.database.history(type)
    for type in {part.type for part in parts if tokens[part.full_url]}:
        server.store.indexes.ensure(type, [("s.identifier",)])


def wanted_of(parts: Iterable[Part], tokens: Mapping[str, Sequence[str]]) -> dict[str, set[str]]:
    """The identifiers that are asked for of each type."""
    wanted: dict[str, set[str]] = {}
    for part in parts:
        if tokens[part.full_url]:
            wanted.setdefault(part.type, set()).update(tokens[part.full_url])
    return wanted


def _survivors(content: Content, parts: Iterable[Part]) -> dict[str, list[str]]:
    """What tells the survivor of each merge: not a number of the prior one, though senders list it as the survivor's.

    Raises Problem(business-rule) where a merge has but one patient.
    """
    by_url = {part.full_url: part.resource for part in parts}
    found: dict[str, list[str]] = {}
    for kind, one, other in content.effects:
        if kind == "merge":
            ended = {moving.number(each) for each in by_url[one].get("identifier", ())}
            own = [each for each in content.match.get(other) or () if moving.number(each) not in ended]
            if not own and content.match.get(other):
                raise problem("business-rule", merge.ITSELF, "MRG")
            found[other] = _tokens(own)
        elif kind == moving.MOVE and by_url[one]["resourceType"] == "Patient":
            found[other] = _tokens(moving.owner(content.match.get(other) or (), by_url[one]))
    return found


def _kinds(parts: Iterable[Part], content: Content) -> set[str]:
    """The types of what the effects of a message are about."""
    concerned = {url for _, *urls in content.effects for url in urls}
    kinds = {part.resource["resourceType"] for part in parts if part.full_url in concerned}
    return kinds | ({"Encounter"} if "Account" in kinds else set())


def _merge(
    server: Server, request: Request, content: Content, parts: Sequence[Part], inbound: Stored, done: list[Done]
) -> list[Rest]:
    """Begins with what merging means for other resources; adds what was done, answers what is left."""
    assert request.unit
    request.unit.flush()
    by_url = {part.full_url: part for part in parts}
    room, rests = merge.MOST_MOVED, list[Rest]()
    for kind, one, other in content.effects:
        prior, survivor = by_url[one], by_url[other]
        if kind == "unmerge":
            prior, survivor = (prior, survivor) if prior.undone else (survivor, prior)
            if not prior.undone:
                continue
        rest = Rest(kind, prior.name, survivor.name, f"InboundMessage/{inbound.id}")
        if kind == moving.MOVE:
            source = moving.origin(prior.previous, prior.name, prior.resource, survivor.name)
            if not source:
                continue
            of = () if source == prior.name else moving.within(server, request, prior.name)
            rest = replace(rest, prior=source, within=of)
        first = _as_it_was(prior) if kind == "merge" and prior.joined else None
        step = merge.step(server, request, rest, first, content.policy, room)
        room -= len(step.moved)
        done += [Done(m.type, m.id, m.version, "update") for m in step.moved]
        rests += [] if step.finished else [rest]
    return rests


def _as_it_was(prior: Part) -> dict[str, Any]:
    """What undoing a merge needs to know of the prior resource: a new one would have been active."""
    before = prior.previous.resource() if prior.previous else {"active": True}
    return {"active": before.get("active")}


def store(server: Server, request: Request, content: Content, parts: list[Part]) -> list[Done]:
    _affect(server, request, content, parts)
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
        if part.parted:
            _part(after, part)
        if part.without:
            _give_away(after, part)
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


def told_apart(content: Content) -> frozenset[str]:
    """The fullUrls of those that a merge or un-merge means themselves, not what they have become."""
    return frozenset(
        url for kind, one, other in content.effects for url in ((one,) if kind == "merge" else (one, other))
    )


def _affect(server: Server, request: Request, content: Content, parts: Sequence[Part]) -> None:
    """Holds the effects of a message against what is stored: what is to be linked, and what is to be taken apart."""
    by_url = {part.full_url: part for part in parts}
    for kind, one, other in content.effects:
        prior, survivor = by_url[one], by_url[other]
        if kind == "unmerge":
            for each, its in ((prior, survivor), (survivor, prior)):
                each.parted = its.name
                if each.previous and merge.replaced_by(each.previous.resource()) == its.name:
                    records = merge.recorded(server, request, each.name, its.name)
                    each.undone = records[0].private["merge"] if records else {"active": True}
        elif kind == moving.MOVE:
            prior.without = moving.taken(prior.resource) if prior.resource["resourceType"] == "Patient" else frozenset()
            if prior.id == survivor.id:
                raise problem("business-rule", moving.ITSELF, "MRG")
        else:
            before = merge.replaced_by(prior.previous.resource()) if prior.previous else ""
            if merge.check(server, request, prior.previous, prior.name, survivor.name):
                prior.joined = not before
            else:
                for each in (prior, survivor):
                    each.resource = {name: value for name, value in each.resource.items() if name != "link"}


def _part(after: Resource, part: Part) -> None:
    """Takes the link to the other of an un-merge away; the one that had ended is again what it was."""
    links = [each for each in after.get("link", []) if each.get("other", {}).get("reference") != part.parted]
    after.pop("link", None)
    if links:
        after["link"] = links
    if part.undone is not None:
        after.pop("active", None)
        if part.undone.get("active") is not None:
            after["active"] = part.undone["active"]


def _give_away(after: Resource, part: Part) -> None:
    """Takes away the numbers that are another's now."""
    kept = [each for each in after.pop("identifier", []) if moving.number(each) not in part.without]
    if kept:
        after["identifier"] = kept


def match(
    server: Server,
    request: Request,
    parts: list[Part],
    tokens: Mapping[str, list[str]],
    held: Held,
    themselves: frozenset[str] = frozenset(),
) -> list[locks.Lock]:
    """Finds for each part the stored resource that is the same, or gives it a new id; answers the locks of what is to
    be created. One that was merged into another stands for that other, but for those that are meant `themselves`.

    The locks are touched only by who creates: two messages that create the same resource at once conflict there, and
    the second is run again by the database and finds what the first has made.
    """
    names: list[locks.Lock] = []
    made: dict[tuple[str, str], str] = {}
    for part in sorted(parts, key=lambda each: each.type):
        values, found = tokens[part.full_url], held.get(part.type, {})
        part.previous = next((found[value] for value in values if value in found), None)
        if part.previous:
            if part.type == "Patient" and part.full_url not in themselves:
                _follow(server, request, part)
            part.id = part.previous.id
        elif values and (part.type, values[0]) in made:
            part.id, part.repeated = made[part.type, values[0]], True  # Said twice in a message: the first one counts.
        else:
            part.id = server.new_id()
            if values:
                made[part.type, values[0]] = part.id
                names += locks.of_tokens(part.type, values)
    return names


def _follow(server: Server, request: Request, part: Part) -> None:
    """Takes what a merged patient has become. Its numbers stay its own: they lead to the survivor as long as the
    merge holds.
    """
    assert part.previous
    last = merge.survivor(server, request, part.previous)
    if last.id == part.previous.id:
        return
    held = {moving.number(each) for each in last.resource().get("identifier", ())}
    own = {moving.number(each) for each in part.previous.resource().get("identifier", ())} - held
    kept = [each for each in part.resource.get("identifier", ()) if moving.number(each) not in own]
    part.resource = {name: value for name, value in part.resource.items() if name != "identifier" or kept}
    if kept:
        part.resource["identifier"] = kept
    part.previous = last


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


def _resources(bundle: Resource) -> Iterable[tuple[str, Resource]]:
    for entry in bundle.get("entry", []):
        resource = entry.get("resource")
        if isinstance(resource, dict) and resource.get("resourceType") != ENVELOPE:
            yield entry.get("fullUrl", ""), resource


def _tokens(identifiers: Sequence[Mapping[str, str]] | None) -> list[str]:
    return [token.stored(each.get("system", ""), each["value"]) for each in identifiers or ()]


def _same(stored: Stored, before: Resource, after: Resource) -> bool:
    if encode(after).decode() == stored.text:
        return True

    def plain(resource: Resource) -> bytes:
        return encode({name: value for name, value in resource.items() if name not in ("id", "meta")})

    return plain(before) == plain(after)


def resolved(value: Any, names: Mapping[str, str]) -> Any:
    """The value with every reference that is one of the names replaced by what it stands for."""
    if isinstance(value, dict):
        return {
            key: resolved(each, names)
            if isinstance(each, dict | list)
            else names.get(each, each)
            if key == "reference" and isinstance(each, str)
            else each
            for key, each in value.items()
        }
    if isinstance(value, list):
        return [resolved(each, names) if isinstance(each, dict | list) else each for each in value]
    return value
