"""Clients that are slow, or say one thing and send another: they cost themselves, not everybody else."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from tests.running import Running, wait_until


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """An installation with one worker of two threads."""
    env = {"FHIRSERVER_WORKERS": "1", "FHIRSERVER_THREADS": "2"}
    made = Running(tmp_path_factory.mktemp("small") / "data", env)
    try:
        yield made.start()
    finally:
        made.stop()


@pytest.fixture(scope="module")
def head(small: Running) -> bytes:
    """The head of a create by somebody who may, but for its length."""
    hospital = small.cli("organization", "create", "Hospital of the Patient")
    token = small.cli("token", "--organization", hospital)
    return (
        f"POST /1/health/organizations/{hospital}/fhir/4/Patient HTTP/1.1\r\nHost: x\r\n"
        f"Authorization: Bearer {token}\r\nContent-Type: application/fhir+json\r\n"
    ).encode()


def connected(small: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", small.port), timeout=10)


HALVES = {
    "nothing": b"",
    "half a head": b"X-Slow: ",
    "half a body": b"Content-Length: 1000\r\n\r\n{",
    "half a chunk": b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
}


@pytest.mark.parametrize("name", HALVES)
def test_clients_that_send_half_a_request_hold_nobody_up(small: Running, head: bytes, name: str) -> None:
    with ExitStack() as stack:
        for _ in range(40):
            slow = stack.enter_context(connected(small))
            slow.sendall(head + HALVES[name] if HALVES[name] else b"")
        time.sleep(0.5)
        began = time.monotonic()
        assert small.healthy()
        assert time.monotonic() - began < 4


def test_a_body_that_does_not_come_is_given_up(small: Running, head: bytes) -> None:
    whole = head + b"Content-Length: 26\r\n\r\n" + BODY
    wait_until(lambda: answers(small, whole).startswith(b"HTTP/1.1 201"), 20)  # those of other tests are given up
    with connected(small) as slow:
        slow.settimeout(20)
        slow.sendall(head + HALVES["half a body"])
        assert slow.recv(65536).startswith(b"HTTP/1.1 408")
    assert answers(small, whole).startswith(b"HTTP/1.1 201")


def answers(small: Running, data: bytes, wait: float = 2) -> bytes:
    """What is answered to these bytes, until the connection ends or is silent for `wait` seconds."""
    with connected(small) as connection:
        connection.settimeout(wait)
        found = b""
        with suppress(TimeoutError, BrokenPipeError, ConnectionResetError):
            connection.sendall(data)
        with suppress(TimeoutError, ConnectionResetError):
            while part := connection.recv(65536):
                found += part
        return found


BODY = b'{"resourceType":"Patient"}'


@pytest.mark.parametrize(
    "lengths",
    [
        b"Content-Length: 2\r\nContent-Length: 26\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        b"Content-Length: +26\r\n",
        b"Content-Length: 26, 2\r\n",
        b"Content-Length : 26\r\n",
        b"Content-Length: 99999999999999999999\r\n",
        b"Transfer-Encoding: xchunked\r\n",
    ],
)
def test_a_request_whose_length_is_not_certain_is_refused(small: Running, head: bytes, lengths: bytes) -> None:
    found = answers(small, head + lengths + b"\r\n" + BODY)
    assert found.startswith((b"HTTP/1.1 400", b"HTTP/1.1 413")), found[:300]
    assert found.count(b"HTTP/1.1") == 1
    assert small.healthy()


def test_a_body_in_chunks_is_read(small: Running, head: bytes) -> None:
    found = answers(small, head + b"Transfer-Encoding: chunked\r\n\r\n1a\r\n" + BODY + b"\r\n0\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 201"), found[:300]


def test_a_body_in_chunks_is_bounded(small: Running, head: bytes) -> None:
    chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    found = answers(small, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 20 + b"0\r\n\r\n", 5)
    assert found.startswith(b"HTTP/1.1 413"), found[:300]
    assert small.healthy()
