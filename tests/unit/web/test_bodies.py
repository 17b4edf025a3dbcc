"""Whose turn it is to have a body read, and what becomes of one that does not come."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

from fhirserver.web.bodies import TURN_SECONDS, Bodies

READY = 5.0


class Slow(BytesIO):
    """A body that takes a moment to arrive."""

    def read(self, size: int | None = -1) -> bytes:
        time.sleep(0.2)
        return super().read(size)


def test_requests_that_come_together_after_a_quiet_time_wait_for_their_turn() -> None:
    def beyond(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        return [environ["wsgi.input"].read()]

    bodies = Bodies(beyond, most=100, waiting=1)
    time.sleep(TURN_SECONDS + 0.1)

    def ask(number: int) -> Iterable[bytes]:
        text = b"body %d" % number
        environ = {"CONTENT_LENGTH": str(len(text)), "wsgi.input": Slow(text), "REQUEST_METHOD": "POST"}
        return bodies(environ, lambda *given: None)

    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(ask, range(3)))

    assert answers == [[b"body 0"], [b"body 1"], [b"body 2"]]


class Protocol:
    """Who answers a request, as granian's does: whoever comes first."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, bytes]] = []

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        assert ("Content-Length", str(len(body))) in headers
        self.answers.append((status, body))


class Held(BytesIO):
    """A body of which nothing comes until the connection ends."""

    def __init__(self) -> None:
        super().__init__(b"{}")
        self.ended = threading.Event()

    def read(self, size: int | None = -1) -> bytes:
        self.ended.wait(READY)
        return super().read(size)


def called(bodies: Bodies, proto: Protocol, stream: BytesIO) -> list[bytes]:
    """Calls the application as granian does: what answers the request is a local name of the caller."""
    environ = {"CONTENT_LENGTH": "2", "wsgi.input": stream, "REQUEST_METHOD": "POST", "SERVER_NAME": "x"}
    return list(bodies(environ | {"wsgi.url_scheme": "http", "SERVER_PORT": "80"}, lambda *given: None))


def reader_of(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Says which thread reads the body, and answers with it."""
    return [environ["wsgi.input"].read()]


def test_a_body_that_does_not_come_is_answered_by_the_watch_and_holds_a_spare_thread_alone() -> None:
    bodies = Bodies(reader_of, most=100, waiting=1, seconds=0.3, direct=1)
    slow, stream = Protocol(), Held()
    with ThreadPoolExecutor(1) as pool:
        given_up = pool.submit(called, bodies, slow, stream)
        until = time.monotonic() + READY
        while not slow.answers and time.monotonic() < until:
            time.sleep(0.01)
        assert [status for status, _ in slow.answers] == [408]
        assert b"did not arrive within" in slow.answers[0][1]
        assert not given_up.done(), "the thread is held until the connection ends"
        assert called(bodies, Protocol(), BytesIO(b"{}")) == [b"{}"], "another body is read, by a thread of the module"
        stream.ended.set()
        assert given_up.result() == [], "and nothing is done with what comes too late"
    assert len(slow.answers) == 1


def test_a_body_that_is_there_is_read_by_the_thread_that_wants_it() -> None:
    threads = []

    class Noting(BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            threads.append(threading.current_thread())
            return super().read(size)

    bodies = Bodies(reader_of, most=100, waiting=1, direct=1)
    assert [called(bodies, Protocol(), Noting(b"{}")) for _ in range(3)] == [[b"{}"]] * 3
    assert set(threads) == {threading.current_thread()}
