"""The MLLP listener: one event loop, many connections, many messages on each, one after the other.

HL7 Minimal Lower Layer Protocol. A connection's next frame is read on only while few of its messages wait:
back-pressure is the socket not being read. Nothing that a peer sends ends the listener.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fhirserver.hl7v2.framing import DEFAULT_LIMIT, Deframer, Event, Frame, TooLong, Truncated, frame
from fhirserver.hl7v2.inbound import Peer, Reply

log = logging.getLogger(__name__)

Receive = Callable[[bytes, Peer], Awaitable[Reply]]
Refuse = Callable[[bytes, int], bytes]

READ_BYTES = 64 * 1024
BACKLOG = 1024
LARGE = READ_BYTES
"""Bytes of a message from which on it counts how many of them are worked at together."""
AT_ONCE = 32 * 1024 * 1024
"""Bytes of large messages that are worked at together: each is held some five times until it is stored."""
MOST_LATER = 64
"""Application acknowledgments that one connection may wait for; then nothing more is read from it."""
HANDSHAKE_SECONDS = 10.0
SHORT = {
    "commonName": "CN",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "stateOrProvinceName": "ST",
    "localityName": "L",
}
"""The names of the parts of a certificate's subject, as RFC 4514 writes them."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one listener bears. idle: seconds between messages; frame: seconds from the first byte of one to its end;
    held: bytes of all frames that have come, whole or in part, and are not stored: room for four of the longest at
    least.
    """

    message: int = DEFAULT_LIMIT
    held: int = 256 * 1024 * 1024
    connections: int = 2_000
    connections_per_peer: int = 500
    idle: float = 3_600.0
    frame: float = 60.0
    answer: float = 30.0
    drain: float = 10.0
    junk: int = 64 * 1024


class Room:
    """How many bytes of large messages are worked at together; who finds no room waits, and is not read meanwhile."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._taken = 0
        self._changed = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def of(self, size: int) -> AsyncIterator[None]:
        """Room for a message of this size; one that is larger than all the room has it alone."""
        if size < LARGE:
            yield
            return
        async with self._changed:
            await self._changed.wait_for(lambda: not self._taken or self._taken + size <= self._most)
            self._taken += size
        try:
            yield
        finally:
            async with self._changed:
                self._taken -= size
                self._changed.notify_all()


class Listener:
    """The connections of one listener and what becomes of them. `seen` counts: messages, refused, truncated, junk,
    failed, shed (frames given up because all of them together were too much to hold).
    """

    def __init__(self, receive: Receive, refuse: Refuse, limits: Limits) -> None:
        self.receive = receive
        self.refuse = refuse
        self.limits = limits
        self.seen: Counter[str] = Counter()
        self.stopping = asyncio.Event()
        self.held = 0
        self._most_held = max(limits.held, 4 * limits.message)
        self._room = Room(AT_ONCE)
        self._open: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._idle: set[asyncio.Task[Any]] = set()

    async def accept(self, listening: socket.socket, tls: ssl.SSLContext | None) -> None:
        """Accepts connections until cancelled. One too many is closed at once, before anything is done for it: a
        handshake costs more than a message.
        """
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, peer = await loop.sock_accept(listening)
            except OSError as error:  # no more file descriptors, or hung up already
                self.seen["refused"] += 1
                log.warning("a connection could not be accepted: %s", error.strerror)
                await asyncio.sleep(0.05)
                continue
            address = str(peer[0])
            full = self._open.total() >= self.limits.connections
            if full or self._open[address] >= self.limits.connections_per_peer or self.stopping.is_set():
                self.seen["refused"] += 1
                connection.close()
                continue
            self._open[address] += 1
            task = loop.create_task(self._connected(connection, address, tls))
            self._tasks.add(task)

    async def _connected(self, connection: socket.socket, address: str, tls: ssl.SSLContext | None) -> None:
        """Serves one connection to its end."""
        writer = None
        try:
            reader, writer = await _streams(connection, tls)
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
            self._tasks.discard(asyncio.current_task())
            if writer is None:
                connection.close()
            else:
                await _closed(writer)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: Peer) -> None:
        deframer = Deframer(self.limits.message)
        loop = asyncio.get_running_loop()
        later: set[asyncio.Task[None]] = set()
        begun, goes_on, held = 0.0, True, 0
        try:
            while goes_on:
                begun = (begun or loop.time()) if deframer.inside else 0.0
                data = await self._read(reader, deframer, begun)
                events = deframer.feed(data) if data else deframer.end()
                held = self._holds(held, deframer.pending + sum(len(e.body) for e in events if isinstance(e, Frame)))
                if held > LARGE and self.held > self._most_held:
                    self.seen["shed"] += 1
                    return
                for event in events:
                    if not await self._answer(event, writer, peer, later):
                        return
                held = self._holds(held, deframer.pending)
                goes_on = bool(data) and deframer.junk <= self.limits.junk
            self.seen["junk"] += deframer.junk
        finally:
            self._holds(held, 0)
            if later:  # what was asked for is answered, even to one who says no more
                await asyncio.wait(later, timeout=self.limits.answer)

    def _holds(self, before: int, now: int) -> int:
        """Counts what a connection holds of the bytes of frames."""
        self.held += now - before
        return now

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

    async def _answer(
        self, event: Event, writer: asyncio.StreamWriter, peer: Peer, later: set[asyncio.Task[None]]
    ) -> bool:
        """Receives one event and writes its acknowledgment; whether the connection goes on."""
        if isinstance(event, Truncated):
            self.seen["truncated"] += 1
            return True
        if isinstance(event, TooLong):
            self.seen["refused"] += 1
            await self._write(writer, self.refuse(event.head, event.limit))
            return False
        self.seen["messages"] += 1
        async with self._room.of(len(event.body)):
            reply = await self.receive(event.body, peer)
        if reply.acknowledgment is not None:
            await self._write(writer, reply.acknowledgment)
        if reply.later is not None:
            while len(later) >= MOST_LATER:
                await asyncio.wait(later, return_when=asyncio.FIRST_COMPLETED)
            task = asyncio.create_task(self._follow(writer, reply.later))
            later.add(task)
            task.add_done_callback(later.discard)
        return True

    async def _follow(self, writer: asyncio.StreamWriter, later: Awaitable[bytes | None]) -> None:
        """Writes an application acknowledgment when it is there; whoever has hung up does without."""
        with contextlib.suppress(OSError, ssl.SSLError, TimeoutError):
            if (acknowledgment := await later) is not None:
                await self._write(writer, acknowledgment)

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
    listening = await _listening(host, port)
    accepting = [asyncio.create_task(listener.accept(each, tls)) for each in listening]
    ready(listening[0].getsockname()[1])
    await stop.wait()
    for task, each in zip(accepting, listening, strict=True):
        task.cancel()
        each.close()
    await listener.drained()
    return listener.seen


async def _listening(host: str, port: int) -> list[socket.socket]:
    """A listening socket for each address that the host has."""
    loop, made = asyncio.get_running_loop(), list[socket.socket]()
    found = await loop.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    for family, _, _, _, address in dict.fromkeys(found):
        each = socket.create_server(address, family=family, backlog=BACKLOG)
        each.setblocking(False)
        made.append(each)
    return made


async def _streams(
    connection: socket.socket, tls: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The streams of an accepted connection, after its handshake where it is to be a TLS one."""
    loop = asyncio.get_running_loop()
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    reader = asyncio.StreamReader(limit=READ_BYTES, loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport, _ = await loop.connect_accepted_socket(
        lambda: protocol, connection, ssl=tls, ssl_handshake_timeout=HANDSHAKE_SECONDS if tls else None
    )
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


class Certificate:
    """Our certificate, read anew when its file has changed: a renewed one needs no restart."""

    def __init__(self, certificate: Path, key: Path, clients: Path | None = None) -> None:
        self.files = (certificate, key)
        self.context = server_context(certificate, key, clients)
        self._read = self._written()

    def _written(self) -> list[int]:
        return [path.stat().st_mtime_ns for path in self.files]

    async def watch(self, seconds: float = 60.0) -> None:
        """Looks at the files until cancelled. One that cannot be read leaves the certificate that is in use."""
        while True:
            await asyncio.sleep(seconds)
            try:
                if (now := self._written()) != self._read:
                    self.context.load_cert_chain(*self.files)
                    self._read = now
                    log.info("the certificate of the listener was read anew")
            except (OSError, ssl.SSLError) as error:
                log.error("the certificate of the listener could not be read anew: %s", error)


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
    subject = ", ".join(f"{SHORT.get(name, name)}={value}" for part in names for name, value in part)
    return Peer(address, hashlib.sha256(certificate).hexdigest(), subject)


async def _closed(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, ssl.SSLError, TimeoutError):
        writer.close()
        async with asyncio.timeout(5):
            await writer.wait_closed()
