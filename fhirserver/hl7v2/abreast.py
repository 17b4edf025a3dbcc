"""Lanes that wait at the same time, drained abreast: the first message of each, all of them in one transaction.

A job is a lane, and a worker runs many jobs at once. Where several wait, one of them leads and takes the others along:
one look at what waits, one at what is stored, one commit. What is out of the ordinary - a merge, a FHIR message, a code
without a map, whatever cannot be mapped or comes late - is not done here: its lane goes on alone (`process`), in its
own thread, so that it holds up nobody. The order of a lane is kept: its next message has its turn when the one before
it is stored.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from fhirserver.fhir import Resource
from fhirserver.fhir.problem import Problem
from fhirserver.hl7v2.ingest import Intake
from fhirserver.hl7v2.mapping.overlay import Overlay
from fhirserver.hl7v2.process import ended, lanes_of, lease_of, mapped, parsed_of, process, said, sender_of, status_of
from fhirserver.hl7v2.senders import Sender
from fhirserver.interactions.model import Server
from fhirserver.messaging import process_message
from fhirserver.messaging.content import unfinished
from fhirserver.messaging.parts import Done
from fhirserver.messaging.together import Asked, Outcome, accept_all
from fhirserver.store import lanes
from fhirserver.store.database import Session
from fhirserver.store.model import Stored

log = logging.getLogger(__name__)

LEADERS = 2
"""Batches at the same time: one is computed while the other waits for the disk."""
MOST_LANES = 16
MOST_MESSAGES = 48
MOST_CHARACTERS = 256 * 1024
"""Characters of a message that may still travel with others; a larger one goes by itself."""


@dataclass(eq=False, slots=True)
class _Lane:
    """A job that waits: its thread goes on when `turn` lets it, to lead, or as its lane is `settled`."""

    organization: str
    lane: str
    turn: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    settled: bool = False
    alone: bool = False


class Abreast:
    """The lanes that the jobs of this process drain. Threads share it."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._lock = threading.Lock()
        self._waiting: deque[_Lane] = deque()
        self._leaders = 0

    def process(self, organization: str, lane: str) -> None:
        """Drains one lane, with others that wait meanwhile. Raises Problem as `process.process` does."""
        mine = _Lane(organization, lane)
        with self._lock:
            if self._leaders < LEADERS:
                self._leaders += 1
                mine.turn.release()
            else:
                self._waiting.append(mine)
        while True:
            mine.turn.acquire()
            if mine.settled:
                break
            self._lead(mine)
        if mine.alone:
            process(self._intake, organization, lane)

    def _lead(self, first: _Lane) -> None:
        """Drains a batch of lanes, lets those go that are done, and hands the lead over."""
        batch = [first, *self._beside(first)]
        again: list[_Lane] = []
        try:
            done = _Batch(self._intake, first.organization).drain(dict.fromkeys(each.lane for each in batch))
        except Exception as fault:  # whatever it is, it is dealt with where its message is alone
            if not isinstance(fault, Problem):
                log.exception("lanes could not be drained together")
            done = _Drained(frozenset(), frozenset(each.lane for each in batch))
        for each in batch:
            each.alone = each.lane in done.alone
            each.settled = each.alone or each.lane not in done.wait
            if each.settled:
                each.turn.release()
            else:
                again.append(each)
        with self._lock:
            self._waiting.extend(again)
            if self._waiting:
                self._waiting.popleft().turn.release()
            else:
                self._leaders -= 1

    def _beside(self, first: _Lane) -> list[_Lane]:
        """Others of the same organization that wait; they wait no more."""
        with self._lock:
            found = [each for each in self._waiting if each.organization == first.organization][: MOST_LANES - 1]
            for each in found:
                self._waiting.remove(each)
        return found


@dataclass(frozen=True, slots=True)
class _Drained:
    """Of the lanes of a batch those in which more waits, and those that are to go on alone."""

    wait: frozenset[str]
    alone: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Message:
    """One message that waits."""

    stored: Stored
    resource: Resource


@dataclass(frozen=True, slots=True)
class _Ready:
    """A message that is mapped, and the status that it has once it is stored."""

    asked: Asked
    status: str


class _Batch:
    """Lanes of one organization that are drained together, once."""

    def __init__(self, intake: Intake, organization: str) -> None:
        self._intake = intake
        self._server: Server = intake.server
        self._organization = organization
        self._alone: set[str] = set()

    def drain(self, wanted: Collection[str]) -> _Drained:
        """Does what waits in these lanes now. Raises Problem where the store is away."""
        self._server.refresh()
        names = {lease_of(self._organization, lane): lane for lane in wanted}
        store = self._server.store
        with store.session() as session, self._intake.holding.leases(names, self._server.new_id(), session) as held:
            mine = {names[each.name] for each in held}
            ours, whole = self._look(mine)
            while ours and not any(each.lost for each in held):
                self._round(ours, session)
        mine -= self._alone
        if mine and whole:  # what has come meanwhile had a job that found its lane taken
            mine &= lanes.which(store.database, self._organization, mine, MOST_MESSAGES)
        return _Drained(frozenset(mine), frozenset(self._alone))

    def _look(self, wanted: Collection[str]) -> tuple[dict[str, deque[_Message]], bool]:
        """What waits in each lane, the oldest first, and whether that is all."""
        database = self._server.store.database
        found = lanes.waiting(database, self._organization, wanted, MOST_MESSAGES) if wanted else []
        queues: dict[str, deque[_Message]] = {}
        for each in found:
            message = _Message(each, each.resource())
            for lane in lanes_of(message.resource):
                if lane in wanted:
                    queues.setdefault(lane, deque()).append(message)
        return queues, len(found) < MOST_MESSAGES

    def _round(self, ours: dict[str, deque[_Message]], session: Session) -> None:
        """Stores the first message of each lane; takes away what is done, and the lanes that are to go on alone."""
        overlays, senders = self._intake.overlays.of(self._organization), dict[str, Sender | None]()
        ready = {lane: each for lane, queue in ours.items() if (each := self._ready(queue[0], overlays, senders))}
        asked = [each.asked for each in ready.values()]
        outcomes = dict(zip(ready, accept_all(self._server, self._organization, asked, session), strict=True))
        for lane, queue in tuple(ours.items()):
            outcome = outcomes.get(lane, Outcome.ALONE)
            if outcome is Outcome.ALONE:
                self._alone.add(lane)
            if outcome is Outcome.STORED:
                queue.popleft()
                self._server.meter.count("messages_processed", ready[lane].status)
            if outcome is Outcome.ALONE or not queue:
                del ours[lane]

    def _ready(
        self, message: _Message, overlays: Sequence[Overlay], senders: dict[str, Sender | None]
    ) -> _Ready | None:
        """What a message becomes; None where it is to be processed alone."""
        current, resource = message.stored, message.resource
        if (
            current.version > 1
            or len(current.text or "") > MOST_CHARACTERS
            or resource["content"]["contentType"] == process_message.CONTENT_TYPE
            or len(lanes_of(resource)) > 1
            or unfinished(current)
        ):
            return None
        endpoint = resource.get("endpoint", {}).get("reference", "")
        if endpoint not in senders:
            senders[endpoint] = sender_of(self._server, resource)
        sender = senders[endpoint]
        try:
            parsed = parsed_of(resource, sender)
            effective, result = mapped(self._intake, self._organization, current, parsed, sender, overlays)
        except Problem:
            return None
        if result.unmapped or result.effects:
            return None

        def finish(done: Sequence[Done]) -> Resource:
            return ended(self._server, resource, result, done, effective, ())

        return _Ready(Asked(said(result), current, finish, {"message": current.id}), status_of(result))
