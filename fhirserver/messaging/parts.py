"""The resources of a message, and which stored ones they are: matched by identifier. FHIR R4: messaging."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fhirserver.fhir import Resource
from fhirserver.interactions import locks
from fhirserver.interactions.model import Request, Server
from fhirserver.messaging import merge, moving
from fhirserver.search.types import token
from fhirserver.store.model import Stored

ENVELOPE = "MessageHeader"


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


def parts_of(content: Content) -> list[Part]:
    """The resources of a message, as yet without an id."""
    return [Part(full_url, dict(resource)) for full_url, resource in _resources(content.bundle)]


def _resources(bundle: Resource) -> Iterable[tuple[str, Resource]]:
    for entry in bundle.get("entry", []):
        resource = entry.get("resource")
        if isinstance(resource, dict) and resource.get("resourceType") != ENVELOPE:
            yield entry.get("fullUrl", ""), resource


def tokens_of(content: Content, parts: Iterable[Part]) -> dict[str, list[str]]:
    """fullUrl -> the tokens of the identifiers that tell the stored resource, strongest first."""
    return {part.full_url: stored_tokens(content.match.get(part.full_url)) for part in parts}


def stored_tokens(identifiers: Sequence[Mapping[str, str]] | None) -> list[str]:
    """Identifiers as a search by token finds them."""
    return [token.stored(each.get("system", ""), each["value"]) for each in identifiers or ()]


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
