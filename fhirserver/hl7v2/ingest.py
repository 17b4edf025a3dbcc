"""Intake: messages are committed before they are acknowledged, many connections sharing one commit, and never twice.

The InboundMessage's id is derived from endpoint, sender, control id and content, so the same message again is a
duplicate key: it gets the acknowledgment that was stored with the first. A store that does not answer is told to the
sender (AR); a positive acknowledgment always means a majority of the database has the bytes in its journal.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import logging
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from fhirserver.auth.access import everything
from fhirserver.fhir import Resource
from fhirserver.fhir.json import encode
from fhirserver.fhir.problem import Problem, problem
from fhirserver.hl7v2.effective import Overlays
from fhirserver.hl7v2.inbound import QUARANTINE, Inbound, Peer, again, prepare, too_long, unavailable
from fhirserver.hl7v2.mapping import Maps
from fhirserver.hl7v2.senders import CONNECTION, Senders
from fhirserver.interactions.indexing import entry_of
from fhirserver.interactions.model import Server
from fhirserver.interactions.write import stamped
from fhirserver.search.parse import parse
from fhirserver.store.model import Change
from fhirserver.store.search import compile_search, find

log = logging.getLogger(__name__)

JOB = "process"
"""The job that drains one lane: its ids are the organization and the lane."""
MOST_ENDPOINTS = 10_000
FRESH_SECONDS = 1.0
MOST_AT_ONCE = 64 * 1024
"""Bytes of a message that the listener reads itself; a longer one goes to another thread, so that nobody waits."""
BATCH_MESSAGES = 500
BATCH_BYTES = 16 * 1024 * 1024


@dataclass(slots=True)
class Intake:
    """Takes messages for a server: `take` for one that can wait, `Receiver` for many at once."""

    server: Server
    maps: Maps
    overlays: Overlays = field(init=False)
    _senders: Senders = field(default_factory=lambda: Senders(()))
    _read: float = 0.0
    _last: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.overlays = Overlays(self.server, self.maps)

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
        found = self._prepare(raw, peer, self._senders)
        return None if found.organization == QUARANTINE else found

    def _prepare(self, raw: bytes, peer: Peer, senders: Senders) -> Inbound:
        now, registry = self.server.now(), self.server.base(QUARANTINE)
        return prepare(raw, peer, senders, self.maps, received=now, sequence=self._sequence(), registry=registry)

    def _sequence(self) -> int:
        """Nanoseconds, and always more than the last: the clock may stand still or step back."""
        with self._lock:
            self._last = max(time.time_ns(), self._last + 1)
            return self._last

    def senders(self, age: float) -> Senders:
        """The endpoints, read at most `age` seconds ago. Where the store does not answer, those read last."""
        now = time.monotonic()
        if now - self._read > age:
            with contextlib.suppress(Problem):
                self.server.refresh()
                self._senders = Senders(_endpoints(self.server))
                self._read = now
        return self._senders

    def commit(self, messages: Sequence[Inbound]) -> list[Inbound]:
        """Stores the messages under one commit; a duplicate comes back with the acknowledgment of the first. Raises
        Problem.
        """
        changes = [self._change(message) for message in messages]
        answers = self.server.store.insert_messages(changes)
        for message, answer in zip(messages, answers, strict=True):
            self._record(message, answer)
        return [
            message if answer == "stored" else self._repeated(message)
            for message, answer in zip(messages, answers, strict=True)
        ]

    def _record(self, message: Inbound, answer: str) -> None:
        """One audit record per message, there before the message is acknowledged."""
        resource = message.resource
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

    def _change(self, message: Inbound) -> Change:
        instant = self.server.now()
        resource = stamped(message.resource, message.resource["id"], 1, instant)
        return Change(
            organization=message.organization,
            type="InboundMessage",
            id=resource["id"],
            version=1,
            instant=instant,
            method="POST",
            text=encode(resource).decode(),
            entry=entry_of(self.server, resource, self.server.base(message.organization)),
            keep_previous=False,
        )

    def _repeated(self, message: Inbound) -> Inbound:
        found = self.server.store.read(everything(message.organization), "InboundMessage", message.resource["id"])
        stored = found.resource().get("acknowledgment") if found and not found.deleted else None
        return again(message, base64.b64decode(stored) if stored else message.acknowledgment)

    def wake(self, messages: Iterable[Inbound]) -> None:
        """Puts a job for every lane in which a message now waits."""
        for organization, lane in dict.fromkeys((m.organization, m.lane) for m in messages if m.waits):
            self.server.enqueue(JOB, organization, lane)

    def take(self, raw: bytes, address: str, organization: str) -> bytes | None:
        """Takes one message that was sent to an organization over HTTP; answers its acknowledgment, None where none is
        wanted.
        """
        senders = self.senders(FRESH_SECONDS).of(organization)
        try:
            message = self.commit([self._prepare(raw, Peer(address), senders)])[0]
        except Problem as fault:
            log.warning("a message could not be stored: %s", fault.issues[0].code)
            return self.unavailable(raw)
        self.wake([message])
        return message.acknowledgment

    def unavailable(self, raw: bytes) -> bytes:
        """The answer while the store is away."""
        return unavailable(raw, now=self.server.now(), control_id=self.server.new_id()[:20].upper())

    def too_long(self, head: bytes, limit: int) -> bytes:
        """The answer to a message that is too long to take."""
        return too_long(head, limit, now=self.server.now(), control_id=self.server.new_id()[:20].upper())


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

    async def receive(self, raw: bytes, peer: Peer) -> bytes | None:
        """The acknowledgment of a message, when it is stored; AR when it cannot be. None: the sender wants none."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Inbound] = loop.create_future()
        try:
            message = self._intake.ready(raw, peer)
            if message is None:
                message = await loop.run_in_executor(self._door, self._intake.prepare, raw, peer)
            self._waiting.put_nowait((message, done))
            return (await done).acknowledgment
        except Problem as fault:
            log.warning("a message could not be stored: %s", fault.issues[0].code)
        except Exception:
            log.exception("a message could not be taken in")
        return self._intake.unavailable(raw)

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
        loop.run_in_executor(self._jobs, self._intake.wake, stored)

    def close(self) -> None:
        """Lets the threads end."""
        self._door.shutdown(wait=True)
        self._store.shutdown(wait=True)
        self._jobs.shutdown(wait=True)


def _settle(done: asyncio.Future[Inbound], result: Inbound | Problem) -> None:
    if done.done():
        return
    if isinstance(result, Problem):
        done.set_exception(result)
    else:
        done.set_result(result)


def _broken() -> Problem:
    return problem("exception", "The message could not be stored.")
