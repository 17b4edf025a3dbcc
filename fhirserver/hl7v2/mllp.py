"""The MLLP listener: one event loop, many connections, many messages on each, one after the other.

HL7 Minimal Lower Layer Protocol. A connection's next frame is read on only while few of its messages wait:
back-pressure is the socket not being read. Nothing that a peer sends ends the listener.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fhirserver.hl7v2.framing import DEFAULT_LIMIT, Deframer, Event, Frame, TooLong, Truncated, frame
from fhirserver.hl7v2.inbound import Peer

log = logging.getLogger(__name__)

Receive = Callable[[bytes, Peer], Awaitable[bytes | None]]
Refuse = Callable[[bytes, int], bytes]

READ_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """What one listener bears. idle: seconds between messages; frame: seconds from the first byte of one to its end."""

    message: int = DEFAULT_LIMIT
    connections: int = 2_000
    connections_per_peer: int = 500
    idle: float = 3_600.0
    frame: float = 60.0
    answer: float = 30.0
    drain: float = 10.0
    junk: int = 64 * 1024


class Listener:
    """The connections of one listener and what becomes of them. `seen` counts: messages, refused, truncated, junk,
    failed.
    """

    def __init__(self, receive: Receive, refuse: Refuse, limits: Limits) -> None:
        self.receive = receive
        self.refuse = refuse
        self.limits = limits
        self.seen: Counter[str] = Counter()
        self.stopping = asyncio.Event()
        self._open: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._idle: set[asyncio.Task[Any]] = set()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection to its end."""
        address = str((writer.get_extra_info("peername") or ("unknown",))[0])
        full = self._open.total() >= self.limits.connections
        if full or self._open[address] >= self.limits.connections_per_peer or self.stopping.is_set():
            self.seen["refused"] += 1
            await _closed(writer)
            return
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._open[address] += 1
        try:
            await self._serve(reader, writer, _peer(address, writer))
        except (OSError, ssl.SSLError, asyncio.IncompleteReadError, TimeoutError):
            self.seen["broken"] += 1
        except Exception:
            self.seen["failed"] += 1
            log.exception("a connection failed")
        finally:
            self._open[address] -= 1
            if not self._open[address]:
                del self._open[address]
            self._tasks.discard(task)
            await _closed(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Peer) -> None:
        deframer = Deframer(self.limits.message)
        loop = asyncio.get_running_loop()
        begun = 0.0
        while True:
            begun = (begun or loop.time()) if deframer.inside else 0.0
            data = await self._read(reader, deframer, begun)
            for event in deframer.feed(data) if data else deframer.end():
                if not await self._answer(event, writer, peer):
                    return
            if not data or deframer.junk > self.limits.junk:
                self.seen["junk"] += deframer.junk
                return

    async def _read(self, reader: asyncio.StreamReader, deframer: Deframer, begun: float) -> bytes:
        """The next bytes; none at the end of the stream, after too long a silence, and between messages when
        stopping.
        """
        if deframer.inside:
            left = self.limits.frame - (asyncio.get_running_loop().time() - begun)
            return await _within(max(0.0, left), reader)
        task = asyncio.current_task()
        if self.stopping.is_set() or task is None:
            return b""
        self._idle.add(task)
        try:
            return await _within(self.limits.idle, reader)
        finally:
            self._idle.discard(task)

    async def _answer(self, event: Event, writer: asyncio.StreamWriter, peer: Peer) -> bool:
        """Receives one event and writes its acknowledgment; whether the connection goes on."""
        if isinstance(event, Truncated):
            self.seen["truncated"] += 1
            return True
        if isinstance(event, TooLong):
            self.seen["refused"] += 1
            await self._write(writer, self.refuse(event.head, event.limit))
            return False
        self.seen["messages"] += 1
        acknowledgment = await self._received(event, peer)
        if acknowledgment is not None:
            await self._write(writer, acknowledgment)
        return True

    async def _received(self, event: Frame, peer: Peer) -> bytes | None:
        return await self.receive(event.body, peer)

    async def _write(self, writer: asyncio.StreamWriter, acknowledgment: bytes) -> None:
        writer.write(frame(acknowledgment))
        async with asyncio.timeout(self.limits.answer):
            await writer.drain()

    async def drained(self) -> None:
        """Lets connections finish the message they are at, then ends them."""
        self.stopping.set()
        for task in set(self._idle):
            task.cancel()
        if self._tasks:
            _, late = await asyncio.wait(set(self._tasks), timeout=self.limits.drain)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=1.0)


async def _within(seconds: float, reader: asyncio.StreamReader) -> bytes:
    """The next bytes, none at the end of the stream or after so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            return await reader.read(READ_BYTES)
    except TimeoutError:
        return b""


async def serve(
    host: str,
    port: int,
    receive: Receive,
    *,
    refuse: Refuse,
    limits: Limits | None = None,
    ready: Callable[[int], None] = lambda port: None,
    stop: asyncio.Event,
    tls: ssl.SSLContext | None = None,
) -> Counter[str]:
    """Listens until `stop` is set, then drains. `receive` answers the acknowledgment of a message (None: send none);
    `refuse(head, limit)` that of one too long. `ready` is called with the port listened on (useful for port 0).

    Answers what was seen: counts of messages, refused, truncated, junk bytes, broken and failed connections.
    """
    limits = limits or Limits()
    listener = Listener(receive, refuse, limits)
    server = await asyncio.start_server(
        listener.connected,
        host,
        port,
        limit=READ_BYTES,
        backlog=1024,
        ssl=tls,
        ssl_handshake_timeout=10 if tls else None,
    )
    ready(server.sockets[0].getsockname()[1])
    await stop.wait()
    server.close()
    await listener.drained()
    return listener.seen


def server_context(certificate: Path, key: Path, clients: Path | None = None) -> ssl.SSLContext:
    """TLS 1.2 and later with our certificate; with `clients` (a file of CA certificates) a client must show one of
    theirs.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    if clients:
        context.load_verify_locations(clients)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _peer(address: str, writer: asyncio.StreamWriter) -> Peer:
    tls = writer.get_extra_info("ssl_object")
    certificate = tls.getpeercert(binary_form=True) if tls else None
    if not certificate:
        return Peer(address)
    names = tls.getpeercert().get("subject", ())
    subject = ", ".join(f"{name}={value}" for part in names for name, value in part)
    return Peer(address, hashlib.sha256(certificate).hexdigest(), subject)


async def _closed(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, ssl.SSLError, TimeoutError):
        writer.close()
        async with asyncio.timeout(5):
            await writer.wait_closed()
