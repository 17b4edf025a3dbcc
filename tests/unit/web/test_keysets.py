"""Key sets are kept for a while, asked again for a new key, and nobody can have a stranger's server asked often."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest

from fhirserver.auth.assertions import Refused
from fhirserver.fhir.problem import Problem
from fhirserver.web.keysets import AGAIN_SECONDS, FRESH_SECONDS, MOST_WAITING, KeySets

URL = "https://app.example/keys"


class Stranger:
    """A server of a key set, and the clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.asked = 0
        self.answer: tuple[int, bytes, str] = (200, b"", "")
        self.publish("one")
        self.sets = KeySets(self.get, lambda: self.now)

    def publish(self, *kids: str) -> None:
        self.answer = (200, json.dumps({"keys": [{"kid": kid} for kid in kids]}).encode(), "")

    def get(self, url: str) -> tuple[int, bytes, str]:
        self.asked += 1
        return self.answer

    def kids(self, wanted: str) -> list[str]:
        return [key["kid"] for key in self.sets.fetch(URL, wanted)["keys"]]


@pytest.fixture
def stranger() -> Stranger:
    return Stranger()


def test_a_key_set_is_kept_for_five_minutes(stranger: Stranger) -> None:
    assert [stranger.kids("one") for _ in range(3)] == [["one"]] * 3
    stranger.now += FRESH_SECONDS - 1
    stranger.kids("one")
    assert stranger.asked == 1
    stranger.now += 1
    stranger.kids("one")
    assert stranger.asked == 2


def test_a_new_key_is_found_and_unknown_ones_are_asked_for_once_a_minute(stranger: Stranger) -> None:
    stranger.kids("one")
    stranger.now += AGAIN_SECONDS
    stranger.publish("one", "two")
    assert stranger.kids("two") == ["one", "two"]
    for number in range(50):
        assert stranger.kids(f"made up {number}") == ["one", "two"]
    assert stranger.asked == 2
    stranger.now += AGAIN_SECONDS
    stranger.kids("made up")
    assert stranger.asked == 3


@pytest.mark.parametrize(
    "answer",
    [
        (0, b"", "no answer in time"),
        (404, b"{}", ""),
        (302, b'{"keys": []}', ""),
        (200, b"<html>", ""),
        (200, b"[]", ""),
        (200, b'{"keys": {}}', ""),
        (200, b'{"keys": ["x"]}', ""),
        (200, b"[" * 60_000, ""),
    ],
)
def test_a_failure_is_kept_for_a_minute_and_says_why(stranger: Stranger, answer: tuple[int, bytes, str]) -> None:
    stranger.answer = answer
    for _ in range(3):
        with pytest.raises(Refused, match="jwksUri"):
            stranger.kids("one")
    assert stranger.asked == 1
    stranger.publish("one")
    stranger.now += AGAIN_SECONDS
    assert stranger.kids("one") == ["one"]


def test_keys_are_not_used_beyond_their_time_because_the_server_is_gone(stranger: Stranger) -> None:
    stranger.kids("one")
    stranger.answer = (0, b"", "the connection was refused")
    stranger.now += FRESH_SECONDS
    with pytest.raises(Refused, match="refused"):
        stranger.kids("one")


def test_slow_servers_hold_a_few_threads_at_most() -> None:
    waits, begun = threading.Event(), threading.Semaphore(0)

    def slow(url: str) -> tuple[int, bytes, str]:
        begun.release()
        waits.wait(30)
        return 200, b'{"keys": []}', ""

    sets = KeySets(slow)
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda n=n: found.append(sets.fetch(f"{URL}/{n}", ""))) for n in range(MOST_WAITING)
    ]
    for thread in threads:
        thread.start()
        assert begun.acquire(timeout=30)
    with pytest.raises(Problem) as refused:
        sets.fetch(f"{URL}/more", "")
    assert refused.value.status == 503
    waits.set()
    for thread in threads:
        thread.join()
    assert len(found) == MOST_WAITING
