"""Intake: messages are committed before they are acknowledged, many connections sharing one commit, and never twice.

The InboundMessage's id is derived from endpoint, sender, control id and content, so the same message again is a
duplicate key: it gets the acknowledgment that was stored with the first. A store that does not answer is told to the
sender (AR); a positive acknowledgment always means a majority of the database has the bytes in its journal.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from fhirserver.auth.access import everything
from fhirserver.fhir import Resource
from fhirserver.fhir.problem import Problem, problem
from fhirserver.hl7v2.batch import answered, batched, is_batch
from fhirserver.hl7v2.effective import Overlays
from fhirserver.hl7v2.inbound import (
    INSTEAD,
    QUARANTINE,
    Check,
    Inbound,
    Peer,
    Reply,
    again,
    prepare,
    refused,
    too_long,
    unavailable,
)
from fhirserver.hl7v2.mapping import Maps
from fhirserver.hl7v2.message import Message
from fhirserver.hl7v2.senders import Sender, Senders
from fhirserver.interactions.model import Server
from fhirserver.interactions.versions import version_of
from fhirserver.rules.endpoint import CONNECTION
from fhirserver.rules.model import target
from fhirserver.search.parse import parse
from fhirserver.store.database import CLAIMS
from fhirserver.store.holding import Holding
from fhirserver.store.model import Change
from fhirserver.store.search import compile_search, find

log = logging.getLogger(__name__)

JOB = "process"
"""The job that drains one lane: its ids are the organization and the lane."""
MOST_ENDPOINTS = 10_000
FRESH_SECONDS = 1.0
MOST_AT_ONCE = 64 * 1024
"""Bytes of a message that the listener reads itself; a longer one goes to another thread, so that nobody waits."""
WAKE_SECONDS = 0.02
"""Between two times that jobs are put: each costs a message's worth of work, many together hardly more."""
SETTLING = 8
"""Threads that wait for what becomes of messages whose sender is to hear it."""
MOST_KEPT = 15 * 1024 * 1024
"""Bytes of a message, about, that a document of the database holds."""
BATCH_MESSAGES = 500
BATCH_BYTES = 16 * 1024 * 1024


class Put(Protocol):
    """Puts jobs of one name, each given by its ids."""

    def __call__(self, name: str, jobs: Iterable[Sequence[str]]) -> object: ...


class Points(Protocol):
    """What endpoints want to know before, or after, a message is acknowledged: see `hl7v2.points`."""

    def check(self, raw: bytes, sender: Sender) -> Problem | None:
        """What is wrong with the mapping of a message."""

    def settle(self, message: Inbound) -> bytes | None:
        """The acknowledgment that says what became of a message."""


class _NotAtOnce(Exception):
    """A message needs a look into the store before it can be answered."""


@dataclass(slots=True)
class Intake:
    """Takes messages for a server: `take` for one that can wait, `Receiver` for many at once."""

    server: Server
    maps: Maps
    put: Put | None = None
    """Puts many jobs at once; without it each goes by itself."""
    points: Points | None = None
    overlays: Overlays = field(init=False)
    holding: Holding = field(init=False)
    _senders: Senders = field(default_factory=lambda: Senders(()))
    _read: float = 0.0
    _last: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.overlays = Overlays(self.server, self.maps)
        self.holding = Holding(self.server.store)

    def prepare(self, raw: bytes, peer: Peer) -> Inbound:
        """What to store and answer. An unknown sender makes the endpoints be read anew: it may have been named just
        now.
        """
        known = self.senders(FRESH_SECONDS)
        found = self._prepare(raw, peer, known)
        if found.organization == QUARANTINE:
            newer = self.senders(0.0)
            if newer is not known:
                return self._prepare(raw, peer, newer)
        return found

    def ready(self, raw: bytes, peer: Peer) -> Inbound | None:
        """What `prepare` answers where that needs no look into the store; else None."""
        if time.monotonic() - self._read > FRESH_SECONDS or len(raw) > MOST_AT_ONCE:
            return None
        try:
            found = self._prepare(raw, peer, self._senders, _not_at_once)
        except _NotAtOnce:
            return None
        return None if found.organization == QUARANTINE else found

    def _prepare(self, raw: bytes, peer: Peer, senders: Senders, check: Check | None = None) -> Inbound:
        now, registry = self.server.now(), self.server.base(QUARANTINE)
        check = check or (self.points.check if self.points else None)
        read = self._read_at_once if check is _not_at_once else self._as_read
        given: dict[str, Any] = {"received": now, "sequence": self._sequence(), "registry": registry, "check": check}
        given["read"] = read
        found = prepare(raw, peer, senders, self.maps, **given)
        if found.resource.get("reason") == "unsupported" and found.organization != QUARANTINE:
            if check is _not_at_once:
                raise _NotAtOnce
            return prepare(raw, peer, senders, self._maps_of(found), **given)
        return found

    def _read_at_once(self, sender: Sender, message: Message) -> Sender:
        found = self.overlays.reading(sender, message, FRESH_SECONDS, at_once=True)
        if found is None:
            raise _NotAtOnce
        return found

    def _as_read(self, sender: Sender, message: Message) -> Sender:
        """The sender as overlays want its messages read; as its Endpoint does, where they cannot be asked."""
        try:
            return self.overlays.reading(sender, message, FRESH_SECONDS) or sender
        except Problem as fault:
            log.warning("the overlays of %s could not be asked: %s", sender.organization, fault.issues[0].code)
            return sender

    def _maps_of(self, message: Inbound) -> Maps:
        """The maps of a message's sender: its overlays may take what the shipped maps do not."""
        said = message.resource
        try:
            endpoint = target(said.get("endpoint"), "Endpoint")
            names = said.get("sendingApplication", ""), said.get("sendingFacility", "")
            return self.overlays.maps(message.organization, endpoint, *names)
        except Problem as fault:
            log.warning("the overlays of %s could not be asked: %s", message.organization, fault.issues[0].code)
            return self.maps

    def _sequence(self) -> int:
        """Nanoseconds, and always more than the last: the clock may stand still or step back."""
        with self._lock:
            self._last = max(time.time_ns(), self._last + 1)
            return self._last

    def senders(self, age: float) -> Senders:
        """The endpoints, read at most `age` seconds ago. Where the store does not answer, those read last; Problem
        where none were read yet: a message taken without its Endpoint would be another when it is sent again.
        """
        now = time.monotonic()
        if now - self._read > age:
            try:
                self.server.refresh()
                self._senders = Senders(_endpoints(self.server))
                self._read = now
            except Problem:
                if not self._read:
                    raise
        return self._senders

    def commit(self, messages: Sequence[Inbound]) -> list[Inbound]:
        """Stores the messages under one commit; a duplicate comes back with the acknowledgment of the first. Raises
        Problem.
        """
        answers = self.server.store.insert_messages([self._change(message) for message in messages])
        again = [index for index, answer in enumerate(answers) if answer == "claimed"]
        if again:  # the sender used the control id before, for other content
            for index in again:
                messages[index].resource["repeatedControlId"] = True
            later = self.server.store.insert_messages([self._change(messages[index], claims=False) for index in again])
            for index, answer in zip(again, later, strict=True):
                answers[index] = answer
        for message, answer in zip(messages, answers, strict=True):
            self._record(message, answer)
        return [
            message if answer == "stored" else self._repeated(message)
            for message, answer in zip(messages, answers, strict=True)
        ]

    def _record(self, message: Inbound, answer: str) -> None:
        """One audit record per message, there before the message is acknowledged."""
        resource = message.resource
        taken = resource["status"] if answer != "duplicate" else "sent again"
        self.server.meter.count("messages_taken", taken, resource.get("acknowledgmentCode") or "none")
        self.server.record(
            "message",
            message.organization,
            who={"kind": "sender", "name": _sender(resource)},
            address=resource.get("peer", ""),
            type="InboundMessage",
            id=resource["id"],
            event=resource.get("event", "").rpartition("_")[2],
            status=200 if resource["status"] == "received" else 400,
            why=resource.get("reason", "") or ("sent again" if answer == "duplicate" else ""),
        )

    def _change(self, message: Inbound, *, claims: bool = True) -> Change:
        private = {CLAIMS: [message.control]} if claims and message.control else None
        return version_of(
            self.server,
            message.organization,
            message.resource,
            None,
            self.server.now(),
            private=private,
            keep_previous=False,
        )

    def _repeated(self, message: Inbound) -> Inbound:
        found = self.server.store.live(everything(message.organization), "InboundMessage", message.resource["id"])
        stored = found.resource().get("acknowledgment") if found else None
        return again(message, base64.b64decode(stored) if stored else message.acknowledgment)

    def wake(self, messages: Iterable[Inbound]) -> None:
        """Puts a job for every lane in which a message now waits."""
        self.wake_lanes(dict.fromkeys((m.organization, m.lane) for m in messages if m.waits))

    def wake_lanes(self, lanes: Iterable[tuple[str, str]]) -> None:
        """Puts a job for each of these lanes: organization and name."""
        if self.put is not None:
            self.put(JOB, lanes)
            return
        for organization, lane in lanes:
            self.server.enqueue(JOB, organization, lane)

    def take(self, raw: bytes, address: str, organization: str) -> bytes | None:
        """Takes one message, or a batch of them, that was sent to an organization over HTTP; answers its
        acknowledgment, None where none is wanted. Raises Problem for a batch that is not whole.
        """
        if is_batch(raw):
            return self._batch(raw, self.take_all(batched(raw), address, organization))
        begun = time.perf_counter()
        try:
            taken = self.take_all([raw], address, organization)[0].acknowledgment
            self.server.meter.time(time.perf_counter() - begun, "acknowledgment_seconds", "http")
            return taken
        except Problem as fault:
            return self.unstored(raw, fault)

    def take_all(self, messages: Sequence[bytes], address: str, organization: str) -> list[Inbound]:
        """Takes messages for an organization, in order and under few commits; answers them with the acknowledgments
        that their senders get. Raises Problem where the store is away.
        """
        senders = self.senders(FRESH_SECONDS).of(organization)
        return self._taken(messages, lambda raw: self._prepare(raw, Peer(address), senders))

    def take_batch(self, raw: bytes, peer: Peer) -> bytes | None:
        """Takes a batch that came over MLLP; AE where it is not whole, AR where it cannot be stored."""
        try:
            return self._batch(raw, self._taken(batched(raw), lambda each: self.prepare(each, peer)))
        except Problem as fault:
            log.warning("a batch could not be taken: %s", fault.issues[0].code)
            return refused(raw, fault, now=self.server.now(), control_id=self.server.new_id()[:20].upper())

    def _taken(self, messages: Sequence[bytes], prepared: Callable[[bytes], Inbound]) -> list[Inbound]:
        done: list[Inbound] = []
        for start in range(0, len(messages), BATCH_MESSAGES):
            stored = self.commit([prepared(raw) for raw in messages[start : start + BATCH_MESSAGES]])
            self.wake(stored)
            done += stored
        return [replace(each, acknowledgment=self.settled(each)) if each.settles == INSTEAD else each for each in done]

    def _batch(self, raw: bytes, taken: Sequence[Inbound]) -> bytes:
        answers = [each.acknowledgment for each in taken if each.acknowledgment is not None]
        return answered(raw, answers, now=self.server.now(), control_id=self.server.new_id()[:20].upper())

    def settled(self, message: Inbound) -> bytes | None:
        """The acknowledgment that says what became of a message; AR where that cannot be found out now."""
        try:
            return self.points.settle(message) if self.points else message.acknowledgment
        except Problem as fault:
            log.warning("what became of a message is not known: %s", fault.issues[0].code)
            return self.unavailable(base64.b64decode(message.resource["content"]["data"]))

    def unstored(self, raw: bytes, fault: Problem) -> bytes:
        """The answer to a message that is not kept: the store is away, or no document of it can hold so much."""
        code = fault.issues[0].code
        log.warning("a message could not be stored: %s", code)
        return self.too_long(raw, MOST_KEPT) if code == "too-long" else self.unavailable(raw)

    def unavailable(self, raw: bytes) -> bytes:
        """The answer while the store is away."""
        return unavailable(raw, now=self.server.now(), control_id=self.server.new_id()[:20].upper())

    def too_long(self, head: bytes, limit: int) -> bytes:
        """The answer to a message that is too long to take."""
        return too_long(head, limit, now=self.server.now(), control_id=self.server.new_id()[:20].upper())


def _not_at_once(raw: bytes, sender: Sender) -> Problem | None:
    raise _NotAtOnce


def _sender(resource: Resource) -> str:
    return " of ".join(resource[name] for name in ("sendingApplication", "sendingFacility") if resource.get(name))


def _endpoints(server: Server) -> list[Resource]:
    pairs = [("status", "active"), ("connection-type", f"{CONNECTION['system']}|{CONNECTION['code']}")]
    query = parse(server.definitions, "Endpoint", pairs)
    search = compile_search(server.store, everything(QUARANTINE), "Endpoint", query.clauses, None)
    if search is None:
        return []
    return [found.resource() for found in find(server.store, search, query.sort, MOST_ENDPOINTS).matches]


class Receiver:
    """The asynchronous side of an Intake: messages that wait together are committed together, by one thread, in
    order.
    """

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._waiting: asyncio.Queue[tuple[Inbound, asyncio.Future[Inbound]]] = asyncio.Queue()
        self._store = ThreadPoolExecutor(1, thread_name_prefix="intake")
        self._door = ThreadPoolExecutor(1, thread_name_prefix="door")
        self._jobs = ThreadPoolExecutor(1, thread_name_prefix="wake")
        self._lanes: dict[tuple[str, str], None] = {}
        self._waking: asyncio.Task[None] | None = None
        self._settling = ThreadPoolExecutor(SETTLING, thread_name_prefix="settle")

    async def receive(self, raw: bytes, peer: Peer) -> Reply:
        """The acknowledgment of a message, when it is stored; AR when it cannot be. None: the sender wants none."""
        begun = time.perf_counter()
        reply = await self._received(raw, peer)
        self._intake.server.meter.time(time.perf_counter() - begun, "acknowledgment_seconds", "mllp")
        return reply

    async def _received(self, raw: bytes, peer: Peer) -> Reply:
        loop = asyncio.get_running_loop()
        if is_batch(raw):
            return Reply(await loop.run_in_executor(self._settling, self._intake.take_batch, raw, peer))
        done: asyncio.Future[Inbound] = loop.create_future()
        try:
            message = self._intake.ready(raw, peer)
            if message is None:
                message = await loop.run_in_executor(self._door, self._intake.prepare, raw, peer)
            self._waiting.put_nowait((message, done))
            stored = await done
            if not stored.settles:
                return Reply(stored.acknowledgment)
            answer = loop.run_in_executor(self._settling, self._intake.settled, stored)
            return Reply(await answer) if stored.settles == INSTEAD else Reply(stored.acknowledgment, answer)
        except Problem as fault:
            return Reply(self._intake.unstored(raw, fault))
        except Exception:
            log.exception("a message could not be taken in")
        return Reply(self._intake.unavailable(raw))

    async def run(self) -> None:
        """Commits what waits, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            batch = [await self._waiting.get()]
            size = len(batch[0][0].resource["content"]["data"])
            while len(batch) < BATCH_MESSAGES and size < BATCH_BYTES and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
                size += len(batch[-1][0].resource["content"]["data"])
            await self._commit(loop, batch)

    async def _commit(
        self, loop: asyncio.AbstractEventLoop, batch: list[tuple[Inbound, asyncio.Future[Inbound]]]
    ) -> None:
        try:
            stored = await loop.run_in_executor(self._store, self._intake.commit, [message for message, _ in batch])
        except Exception as fault:
            if len(batch) > 1:
                for one in batch:
                    await self._commit(loop, [one])
                return
            log.exception("a commit of messages failed")
            _settle(batch[0][1], fault if isinstance(fault, Problem) else _broken())
            return
        for (_, done), message in zip(batch, stored, strict=True):
            _settle(done, message)
        self._lanes |= dict.fromkeys((each.organization, each.lane) for each in stored if each.waits)
        if self._lanes and (self._waking is None or self._waking.done()):
            self._waking = loop.create_task(self._wake(loop))

    async def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        """Puts the jobs of all lanes that came up meanwhile together: what waits for Redis is no message."""
        while self._lanes:
            lanes, self._lanes = self._lanes, {}
            await loop.run_in_executor(self._jobs, self._intake.wake_lanes, list(lanes))
            await asyncio.sleep(WAKE_SECONDS)

    def close(self) -> None:
        """Lets the threads end; what was not yet put on the queue is put there."""
        self._intake.wake_lanes(list(self._lanes))
        self._door.shutdown(wait=True)
        self._store.shutdown(wait=True)
        self._jobs.shutdown(wait=True)
        self._settling.shutdown(wait=True)


def _settle(done: asyncio.Future[Inbound], result: Inbound | Problem) -> None:
    if done.done():
        return
    if isinstance(result, Problem):
        done.set_exception(result)
    else:
        done.set_result(result)


def _broken() -> Problem:
    return problem("exception", "The message could not be stored.")
