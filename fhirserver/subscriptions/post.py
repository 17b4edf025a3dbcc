"""One request to an endpoint of a stranger: to a judged address under the endpoint's own name, over at its deadline.

A name that changes its mind after it was judged (DNS rebinding) is not asked again: the connection goes to the address.
SNI, the check of the certificate and Host stay the name's. Redirects are answers like any other, proxies of the
environment are ignored, and no more than a little of an answer is read.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult

from urllib3 import BaseHTTPResponse, PoolManager, Timeout
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError
from urllib3.util import parse_url

from fhirserver.fhir.problem import Problem
from fhirserver.subscriptions.endpoint import Guard, parts_of

if TYPE_CHECKING:
    from urllib3._base_connection import BaseHTTPConnection

EXCERPT_BYTES = 1024
DRAIN_BYTES = 64 * 1024  # An answer that ends within this is read out, so that its connection can be used again.
CONNECT_SECONDS = 5.0
TICK_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request came to.

    `status` is the HTTP status, 0 where there was no complete answer; then `error` says why. `excerpt` is text of at
    most 1 KB, `retry_after` the header of that name, `body` what a GET was answered.
    """

    status: int
    milliseconds: int
    excerpt: str = ""
    retry_after: str = ""
    error: str = ""
    body: bytes = b""


class TooLong(Exception):
    """The answer has more bytes than are read."""


class Endpoints:
    """Sends requests and keeps connections open between them. Threads may share it; a child process must make its own.

    `authorities` is the path of a PEM file with further certificate authorities to trust.
    """

    def __init__(self, guard: Guard, authorities: str | None = None) -> None:
        self.guard = guard
        context = ssl.create_default_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if authorities:
            context.load_verify_locations(authorities)
        self._context = context
        self._pools = PoolManager(num_pools=512, maxsize=32)
        self._pools.pool_classes_by_scheme = {"http": _Plain, "https": _Secure}

    def post(self, url: str, headers: Mapping[str, str], body: bytes, seconds: float) -> Answer:
        """One POST, over within about `seconds`. Never raises for what the other side or the network does."""
        return self._within(seconds, url, lambda: self._posted(url, headers, body, seconds))

    def get(self, url: str, seconds: float, most: int) -> Answer:
        """One GET, over within about `seconds`; an answer of more than `most` bytes is an error. Never raises, as
        `post`.
        """
        return self._within(seconds, url, lambda: self._got(url, seconds, most))

    def _within(self, seconds: float, url: str, work: Callable[[], Answer]) -> Answer:
        started = time.monotonic()
        running = _DEADLINES.begin(seconds)
        try:
            answer = self._persistently(work)
        except Problem as refusal:
            answer = Answer(0, 0, error=str(refusal))
        except TooLong as error:
            answer = Answer(0, 0, error=str(error))
        except (HTTPError, OSError, http.client.HTTPException) as error:
            self.guard.forget(url)
            answer = Answer(0, 0, error=_said(error))
        except ValueError:
            answer = Answer(0, 0, error="a header of the channel cannot be sent over HTTP")
        finally:
            _DEADLINES.end(running)
        if running.shut:
            answer = Answer(0, 0, error=f"no complete answer within {seconds:g} s")
        return replace(answer, milliseconds=_since(started))

    def close(self) -> None:
        """Ends the kept connections."""
        self._pools.clear()

    def _persistently(self, work: Callable[[], Answer]) -> Answer:
        """A kept connection may have been closed by the other side a moment before: worth a second try at once."""
        try:
            return work()
        except HTTPError as error:
            if not any(mark in repr(error) for mark in _CLOSED):
                raise
            return work()

    def _posted(self, url: str, headers: Mapping[str, str], body: bytes, seconds: float) -> Answer:
        with self._sent("POST", url, headers, body, seconds) as response:
            excerpt = response.read(EXCERPT_BYTES, decode_content=False) or b""
            if len(excerpt) == EXCERPT_BYTES:
                response.read(DRAIN_BYTES, decode_content=False)
            retry_after = response.headers.get("Retry-After", "")[:64]
            return Answer(response.status, 0, _text(excerpt), retry_after)

    def _got(self, url: str, seconds: float, most: int) -> Answer:
        with self._sent("GET", url, {"Accept": "application/json"}, None, seconds) as response:
            body = response.read(most + 1, decode_content=False) or b""
            if len(body) > most:
                raise TooLong(f"the answer has more than {most} bytes")
            return Answer(response.status, 0, body=body)

    @contextmanager
    def _sent(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, seconds: float
    ) -> Iterator[BaseHTTPResponse]:
        parts, port = parts_of(url)
        own = {"Host": parts.netloc, "Accept-Encoding": "identity", "User-Agent": "fhirserver"}
        response = self._pool(parts, port, url).urlopen(
            method,
            parse_url(url).request_uri,
            body=body,
            headers={**headers, **own},
            retries=False,
            redirect=False,
            assert_same_host=False,
            timeout=Timeout(connect=min(CONNECT_SECONDS, seconds), read=seconds),
            preload_content=False,
            decode_content=False,
        )
        try:
            yield response
        finally:
            response.close()
            response.release_conn()

    def _pool(self, parts: SplitResult, port: int, url: str) -> HTTPConnectionPool:
        """The kept connections to the judged address under the endpoint's own name."""
        address, tls = self.guard.addresses(url)[0], dict[str, Any]()
        if parts.scheme == "https":
            names = {"server_hostname": parts.hostname, "assert_hostname": parts.hostname}
            tls = {"ssl_context": self._context, "cert_reqs": "CERT_REQUIRED", **names}
        return self._pools.connection_from_host(address, port, parts.scheme, pool_kwargs=tls)


@dataclass(eq=False, slots=True)
class _Running:
    """A request under way: when it must be over, the connection it took, whether that was shut at the deadline."""

    deadline: float
    connection: BaseHTTPConnection | None = None
    shut: bool = False


class _Deadlines:
    """Ends requests at their deadline: a server that sends a byte now and then never meets a socket's timeout."""

    def __init__(self) -> None:
        self._running: set[_Running] = set()
        self._lock = threading.Lock()
        self._of_thread = threading.local()
        self._thread: threading.Thread | None = None

    def begin(self, seconds: float) -> _Running:
        """The calling thread begins a request that may last so long."""
        running = _Running(time.monotonic() + seconds)
        self._of_thread.running = running
        with self._lock:
            self._running.add(running)
            if self._thread is None or not self._thread.is_alive():  # the second after a fork
                self._thread = threading.Thread(target=self._run, daemon=True, name="webhook-deadlines")
                self._thread.start()
        return running

    def took(self, connection: BaseHTTPConnection) -> None:
        """The calling thread's request goes over this connection."""
        running: _Running | None = getattr(self._of_thread, "running", None)
        if running is not None:
            running.connection = connection

    def end(self, running: _Running) -> None:
        """The request is over."""
        with self._lock:
            self._running.discard(running)
        self._of_thread.running = None

    def _run(self) -> None:
        while True:
            time.sleep(TICK_SECONDS)
            with self._lock:
                late = [running for running in self._running if time.monotonic() > running.deadline]
            for running in late:
                running.shut = True
                _shut(running.connection)


_DEADLINES = _Deadlines()


def _shut(connection: BaseHTTPConnection | None) -> None:
    held = getattr(connection, "sock", None)
    if held is not None:
        try:
            held.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # Closed already: that is what was wanted.


class _Plain(HTTPConnectionPool):
    """A pool that says which thread took which connection."""

    def _get_conn(self, timeout: float | None = None) -> BaseHTTPConnection:
        connection = super()._get_conn(timeout)
        _DEADLINES.took(connection)
        return connection


class _Secure(HTTPSConnectionPool):
    """The same over TLS."""

    def _get_conn(self, timeout: float | None = None) -> BaseHTTPConnection:
        connection = super()._get_conn(timeout)
        _DEADLINES.took(connection)
        return connection


def _since(started: float) -> int:
    return int((time.monotonic() - started) * 1000)


def _text(data: bytes) -> str:
    text = data.decode("utf-8", "replace")
    return "".join(character for character in text if character.isprintable() or character in "\n\t")


# What it looks like when the other side has closed a connection that was kept: before the request, or into it.
_CLOSED = ("RemoteDisconnected", "SSLEOFError", "SSLZeroReturnError", "BrokenPipeError")

# What a failure is called in a delivery's record: the first mark found in the error names it.
_NAMES: tuple[tuple[str, str], ...] = (
    ("CERTIFICATE_VERIFY_FAILED", "the server's certificate is not trusted or not for this name"),
    ("match", "the server's certificate is not trusted or not for this name"),
    ("SSL", "the TLS connection failed"),
    ("ConnectTimeout", "no connection in time"),
    ("timed out", "no answer in time"),
    ("refused", "the connection was refused"),
    ("reset", "the connection was reset"),
    ("RemoteDisconnected", "the connection was closed without an answer"),
)


def _said(error: Exception) -> str:
    text = repr(error)
    return next((name for mark, name in _NAMES if mark in text), "the connection failed")
