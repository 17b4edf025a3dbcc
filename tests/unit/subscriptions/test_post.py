"""One POST, against a real HTTPS receiver that behaves in every way a receiver can."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from fhirserver.subscriptions.endpoint import Guard
from fhirserver.subscriptions.post import Endpoints
from tests.webhook import Receiver

LOOPBACK = [ip_network("127.0.0.0/8")]


def sending(receiver: Receiver, *, trusted: bool = True) -> Endpoints:
    return Endpoints(
        Guard(LOOPBACK, lambda host, port: ["127.0.0.1"]), authorities=receiver.authority if trusted else None
    )


@pytest.fixture
def endpoints(receiver: Receiver) -> Iterator[Endpoints]:
    made = sending(receiver)
    yield made
    made.close()


def test_body_and_headers_arrive_under_the_endpoints_own_name(receiver: Receiver, endpoints: Endpoints) -> None:
    answer = endpoints.post(
        receiver.url(path="/in?a=b%20c"), {"X-Key": "k", "Content-Type": "application/fhir+json"}, b"{}", 5
    )
    assert (answer.status, answer.error) == (200, "")
    path, headers, body = receiver.arrived[0]
    assert (path, body) == ("/in?a=b%20c", b"{}")
    assert headers["Host"] == f"hooks.example:{receiver.port}"
    assert headers["X-Key"] == "k"
    assert headers["Content-Type"] == "application/fhir+json"


def test_the_connection_is_used_again(receiver: Receiver, endpoints: Endpoints) -> None:
    for _ in range(5):
        assert endpoints.post(receiver.url(), {}, b"{}", 5).status == 200
    assert receiver.connections == 1


def test_a_certificate_for_another_name_or_of_an_unknown_authority_is_refused(receiver: Receiver) -> None:
    trusting, strict = sending(receiver), sending(receiver, trusted=False)
    assert "certificate" in trusting.post(receiver.url("other.example"), {}, b"{}", 5).error
    assert "certificate" in strict.post(receiver.url(), {}, b"{}", 5).error
    assert receiver.arrived == []
    trusting.close()
    strict.close()


def test_a_redirect_is_an_answer_and_not_followed(receiver: Receiver, endpoints: Endpoints) -> None:
    receiver.reply = receiver.answering(307, Location="https://127.0.0.1/inside")
    assert endpoints.post(receiver.url(), {}, b"{}", 5).status == 307
    assert len(receiver.arrived) == 1


def test_retry_after_and_a_little_of_the_body_are_kept(receiver: Receiver, endpoints: Endpoints) -> None:
    receiver.reply = receiver.answering(503, "Wärme \x1b[31m".encode() + b"x" * 100_000, Retry_After="120")
    answer = endpoints.post(receiver.url(), {}, b"{}", 5)
    assert (answer.status, answer.retry_after) == (503, "120")
    assert answer.excerpt.startswith("Wärme [31mx")
    assert len(answer.excerpt.encode()) <= 1024


def test_a_proxy_of_the_environment_is_ignored(
    receiver: Receiver, endpoints: Endpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    assert endpoints.post(receiver.url(), {}, b"{}", 5).status == 200


def test_a_server_that_never_answers_is_left_in_time(receiver: Receiver, endpoints: Endpoints) -> None:
    hold = threading.Event()
    receiver.reply = lambda request: (hold.wait(10), None)[1]
    started = time.monotonic()
    answer = endpoints.post(receiver.url(), {}, b"{}", 0.5)
    hold.set()
    assert answer.status == 0
    assert answer.error
    assert time.monotonic() - started < 2


@pytest.mark.parametrize("part", ["head", "body"])
def test_a_server_that_drips_is_left_in_time(receiver: Receiver, endpoints: Endpoints, part: str) -> None:
    def drip(request: http.server.BaseHTTPRequestHandler) -> None:
        start = b"HTTP/1.1 200 OK\r\n" if part == "head" else b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n"
        request.wfile.write(start)
        for _ in range(100):
            request.wfile.write(b"x")
            time.sleep(0.1)

    receiver.reply = drip
    started = time.monotonic()
    answer = endpoints.post(receiver.url(), {}, b"{}", 0.6)
    assert answer.status == 0
    assert answer.error == "no complete answer within 0.6 s"
    assert time.monotonic() - started < 3


def test_a_kept_connection_that_was_closed_meanwhile_is_made_again(receiver: Receiver, endpoints: Endpoints) -> None:
    def once_and_close(request: http.server.BaseHTTPRequestHandler) -> None:
        receiver.answering(200)(request)
        request.close_connection = True  # without saying so

    receiver.reply = once_and_close
    assert [endpoints.post(receiver.url(), {}, b"{}", 5).status for _ in range(3)] == [200, 200, 200]


def test_refused_and_reset_connections_are_named(receiver: Receiver, endpoints: Endpoints) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        answer = endpoints.post(f"https://hooks.example:{closed.getsockname()[1]}/", {}, b"{}", 2)
    assert answer.error == "the connection was refused"
    receiver.reply = lambda request: request.connection.shutdown(socket.SHUT_RDWR)
    assert "connection" in endpoints.post(receiver.url(), {}, b"{}", 2).error


def test_a_name_that_moves_inside_after_it_was_judged_is_not_followed(receiver: Receiver) -> None:
    answers = iter([["127.0.0.1"], ["10.0.0.1"], ["10.0.0.1"]])
    moving = Endpoints(Guard(LOOPBACK, lambda host, port: next(answers)), authorities=receiver.authority)
    assert moving.post(receiver.url(), {}, b"{}", 5).status == 200
    assert moving.post(receiver.url(), {}, b"{}", 5).status == 200
    moving.guard.forget(receiver.url())
    assert "not public" in moving.post(receiver.url(), {}, b"{}", 5).error
    moving.close()
