"""Several messages into the store in one transaction: one look at what is stored, one commit. FHIR R4: messaging.

Messages that have nothing to do with one another are stored together, those that would write the same resources one
after the other; what is out of the ordinary is left to `content.accept`, alone. What is stored is looked at before the
transaction, which is thereby as short as its writes: each write names the version it supersedes, and what is made is
looked for once more under its locks. So whatever has changed since makes the whole conflict, and it is tried anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import count
from typing import Any

from fhirserver.auth.access import everything
from fhirserver.auth.principal import SYSTEM
from fhirserver.fhir.problem import Problem, problem
from fhirserver.interactions import locks
from fhirserver.interactions.model import Request, Server, Unit
from fhirserver.messaging.content import Finish, finished, store
from fhirserver.messaging.parts import Content, Held, Part, make_ready, match, parts_of, tokens_of, wanted_of
from fhirserver.store.database import Session
from fhirserver.store.model import Change, Stored
from fhirserver.store.tokens import any_of, by_tokens

ATTEMPTS = 2
TRIES = 4
"""Of one transaction: what one message waits for, because another has touched it, is not for all to wait for."""
MERGED = '"replaced-by"'
"""What stands in the text of a patient that has become another."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One message to be stored: what `content.accept` is given."""

    content: Content
    inbound: Stored
    finish: Finish
    facts: Mapping[str, Any]


class Outcome(Enum):
    """What became of one of several messages: it is stored; it is to come after those that were stored; it is to be
    accepted alone.
    """

    STORED = "stored"
    LATER = "later"
    ALONE = "alone"


@dataclass(frozen=True, slots=True)
class _Said:
    """A message, its resources and the tokens that tell them."""

    asked: Asked
    parts: Sequence[Part]
    tokens: Mapping[str, list[str]]


@dataclass(slots=True)
class _Batch:
    """What one transaction writes."""

    changes: list[Change] = field(default_factory=list)
    written: set[str] = field(default_factory=set)
    locks: set[locks.Lock] = field(default_factory=set)
    made: dict[str, set[str]] = field(default_factory=dict)
    """The identifiers of what is created, by type."""


def accept_all(server: Server, organization: str, asked: Sequence[Asked], session: Session) -> list[Outcome]:
    """Stores what messages of one organization say, each as `content.accept` would, and answers what became of each,
    in order; the first of them is never LATER. `session`: one that is in no transaction, and has seen that the messages
    wait. Raises Problem(transient) where the database is away.
    """
    said = [_Said(each, own, tokens_of(each.content, own)) for each in asked for own in [parts_of(each.content)]]
    wanted: dict[str, set[str]] = {}
    for each in said:
        make_ready(server, each.tokens, each.parts)
        for type, values in wanted_of(each.parts, each.tokens).items():
            wanted.setdefault(type, set()).update(values)
    for _ in range(ATTEMPTS):
        held = by_tokens(server.store, everything(organization), "identifier", wanted, session)
        batch = _Batch()
        found = [_plan(server, organization, each, held, batch, session) for each in said]
        try:
            _commit(server, organization, batch, session)
            return found
        except Problem as fault:
            if fault.issues[0].code == "transient":
                raise
            if fault.issues[0].code != "conflict":
                break
    return [Outcome.ALONE] * len(asked)


def _plan(server: Server, organization: str, said: _Said, held: Held, batch: _Batch, session: Session) -> Outcome:
    """Adds what a message writes to the batch, unless something of it is written there already."""
    asked, tokens = said.asked, said.tokens
    if asked.content.effects or _leads_elsewhere(said, held):
        return Outcome.ALONE
    unit, base = Unit(server.store, session), server.base(organization)
    request = Request("message", organization, base, SYSTEM, unit=unit, facts=asked.facts)
    fresh = [Part(part.full_url, part.resource) for part in said.parts]
    try:
        names = match(server, request, fresh, tokens, held)
        done = store(server, request, asked.content, fresh)
        unit.add(finished(server, request, asked.content, asked.inbound, asked.finish(done), done))
    except Problem:
        return Outcome.ALONE  # where it is said what is wrong with it
    if not batch.written.isdisjoint(unit.written) or not batch.locks.isdisjoint(names):
        return Outcome.LATER
    batch.changes += unit.changes
    batch.written.update(unit.written)
    batch.locks.update(names)
    for part in fresh:
        if part.previous is None and not part.repeated and tokens[part.full_url]:
            batch.made.setdefault(part.type, set()).update(tokens[part.full_url])
    return Outcome.STORED


def _leads_elsewhere(said: _Said, held: Held) -> bool:
    """Whether a message may speak of a patient that was merged into another."""
    patients = held.get("Patient", {})
    named = (value for part in said.parts if part.type == "Patient" for value in said.tokens[part.full_url])
    return any(value in patients and MERGED in (patients[value].text or "") for value in named)


def _commit(server: Server, organization: str, batch: _Batch, session: Session) -> None:
    """Writes a batch. Raises Problem(conflict) where what it was made from has changed, or is being changed by another
    for longer than a few tries.
    """
    if not batch.changes:
        return
    server.store.locks.prepare(organization, batch.locks, server.now())
    tries = count(1)

    def work(session: Session) -> None:
        if next(tries) > TRIES:
            raise problem("conflict", "Another request changes the same data.")
        server.store.locks.touch(session, organization, batch.locks)
        if batch.made and any_of(server.store, everything(organization), "identifier", batch.made, session):
            raise problem("conflict", "What a message makes was made by another request meanwhile.")
        server.store.commit(batch.changes, session)

    server.store.transaction(work, session)
