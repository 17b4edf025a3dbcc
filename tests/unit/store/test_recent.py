"""What is read once in a blink: nobody acts on the old state once its change has been answered."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhirserver.store.recent import AGAIN_SECONDS, LEASE_SECONDS, PATIENCE_SECONDS, Recent


class Clock:
    """The time, which passes when somebody says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def read(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def counting(values: list[str]) -> tuple[Callable[[], str], list[str]]:
    """What answers the first value, and how often it was asked."""
    asked: list[str] = []

    def ask() -> str:
        asked.append(values[0])
        return values[0]

    return ask, asked


def test_a_reading_is_good_for_a_lease_and_no_longer() -> None:
    clock = Clock()
    recent = Recent(clock.read, clock.sleep)
    ask, asked = counting(["approved"])

    recent.read("a", ask)
    clock.now += AGAIN_SECONDS * 0.9
    recent.read("a", ask)
    assert len(asked) == 1
    clock.now += LEASE_SECONDS - AGAIN_SECONDS * 0.8
    recent.read("a", ask)
    assert len(asked) == 2


def test_one_asks_again_while_the_others_use_what_there_is_to_the_end_of_its_lease() -> None:
    clock = Clock()
    recent = Recent(clock.read, clock.sleep)
    others: list[str] = []

    def slow() -> str:
        others.append(recent.read("a", lambda: "asked twice"))
        clock.now += LEASE_SECONDS - AGAIN_SECONDS
        others.append(recent.read("a", lambda: "asked after the lease"))
        return "new"

    recent.read("a", lambda: "old")
    clock.now += AGAIN_SECONDS
    assert recent.read("a", slow) == "new"
    assert others == ["old", "asked after the lease"]


def test_a_question_that_failed_is_asked_again_by_the_next() -> None:
    clock = Clock()
    recent = Recent(clock.read, clock.sleep)

    def fails() -> str:
        raise OSError

    recent.read("a", lambda: "old")
    clock.now += AGAIN_SECONDS
    with pytest.raises(OSError):
        recent.read("a", fails)
    assert recent.read("a", lambda: "new") == "new"


def test_the_lease_counts_from_before_the_question() -> None:
    clock = Clock()
    recent = Recent(clock.read, clock.sleep)
    ask, asked = counting(["approved"])

    def slow() -> str:
        clock.now += LEASE_SECONDS * 1.01
        return ask()

    recent.read("a", slow)
    recent.read("a", ask)
    assert len(asked) == 2


def test_only_whoever_has_changed_something_waits() -> None:
    clock = Clock()
    recent = Recent(clock.read, clock.sleep)

    recent.settle()
    assert clock.now == 100.0
    recent.changed()
    recent.settle()
    assert clock.now == 100.0 + PATIENCE_SECONDS
    recent.settle()
    assert clock.now == 100.0 + PATIENCE_SECONDS


@given(st.lists(st.tuples(st.floats(0, 0.3), st.booleans()), max_size=30))
def test_no_other_process_shows_what_was_there_before_an_answered_change(steps: list[tuple[float, bool]]) -> None:
    clock = Clock()
    writer, reader = Recent(clock.read, clock.sleep), Recent(clock.read, clock.sleep)
    stored = [0]
    for pause, writes in steps:
        clock.now += pause
        if writes:
            stored[0] += 1
            writer.changed()
            writer.settle()
        assert reader.read("status", lambda: stored[0]) == stored[0]
