"""One GET of a stranger's document: bounded in time and size, never to the inside, never onward."""

from __future__ import annotations

import http.server
import time
from collections.abc import Iterator
from ipaddress import ip_network

import pytest

from fhirserver.subscriptions.endpoint import Guard
from fhirserver.subscriptions.post import Endpoints
from tests.webhook import Receiver

LOOPBACK = [ip_network("127.0.0.0/8")]
MOST = 65_536


@pytest.fixture
def endpoints(receiver: Receiver) -> Iterator[Endpoints]:
    made = Endpoints(Guard(LOOPBACK, lambda host, port: ["127.0.0.1"]), authorities=receiver.authority)
    yield made
    made.close()


def test_the_document_comes_back_whole(receiver: Receiver, endpoints: Endpoints) -> None:
    receiver.reply = receiver.answering(200, b"x" * MOST)
    answer = endpoints.get(receiver.url(path="/keys"), 5, MOST)
    assert (answer.status, answer.error, len(answer.body)) == (200, "", MOST)
    path, headers, _ = receiver.arrived[0]
    assert (path, headers["Host"]) == ("/keys", f"hooks.example:{receiver.port}")
    assert "Authorization" not in headers


def test_a_longer_one_is_not_read(receiver: Receiver, endpoints: Endpoints) -> None:
    receiver.reply = receiver.answering(200, b"x" * (MOST + 1))
    answer = endpoints.get(receiver.url(), 5, MOST)
    assert (answer.status, answer.body) == (0, b"")
    assert "more than 65536 bytes" in answer.error


def test_one_that_never_ends_is_left(receiver: Receiver, endpoints: Endpoints) -> None:
    def endless(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        while True:
            request.wfile.write(b"x" * 65_536)

    receiver.reply = endless
    assert "more than" in endpoints.get(receiver.url(), 5, MOST).error


def test_one_that_trickles_is_over_at_its_deadline(receiver: Receiver, endpoints: Endpoints) -> None:
    def trickle(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", "1000")
        request.end_headers()
        for _ in range(100):
            request.wfile.write(b"x")
            time.sleep(0.05)

    receiver.reply = trickle
    answer = endpoints.get(receiver.url(), 0.5, MOST)
    assert (answer.status, answer.body) == (0, b"")
    assert answer.error


def test_a_redirect_is_an_answer_and_nothing_to_follow(receiver: Receiver, endpoints: Endpoints) -> None:
    receiver.reply = receiver.answering(302, b"", Location=receiver.url(path="/inside"))
    assert endpoints.get(receiver.url(), 5, MOST).status == 302
    assert [path for path, _, _ in receiver.arrived] == ["/in"]


def test_a_name_that_changes_its_mind_reaches_nothing_inside(receiver: Receiver) -> None:
    addresses = iter([["93.184.215.14"], ["127.0.0.1"], ["127.0.0.1"]])
    rebinding = Endpoints(Guard((), lambda host, port: next(addresses)), authorities=receiver.authority)
    rebinding.guard.check(receiver.url())  # as it was saved
    answer = rebinding.get(receiver.url(), 5, MOST)
    assert answer.status == 0
    assert "not public" in answer.error
    assert receiver.arrived == []
    rebinding.close()
