"""How fast audit records are shipped: the relay rests between batches until too much waits."""

from __future__ import annotations

import pytest

from fhirserver.auditing.pace import MOST_REST, MOST_WAITING, RESTS, Pace


class Clock:
    """A clock that goes on when it is told to, or waited by."""

    def __init__(self) -> None:
        self.now = 100.0
        self.waited: list[float] = []

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.waited.append(seconds)
        self.now += seconds


@pytest.mark.parametrize(
    ("took", "waiting", "rest"),
    [
        (0.05, 0, [RESTS * 0.05]),
        (0.2, MOST_WAITING, [RESTS * 0.2]),
        (30.0, 0, [MOST_REST]),  # the database was away: that is no reason to rest long
        (0.05, MOST_WAITING + 1, []),
    ],
)
def test_a_batch_is_followed_by_a_rest_unless_too_much_waits(took: float, waiting: int, rest: list[float]) -> None:
    clock = Clock()
    pace = Pace(lambda: waiting, clock.wait, clock)
    for _ in range(2):
        clock.waited.clear()
        pace.begin()
        clock.now += took
        pace.rest()
        assert clock.waited == pytest.approx(rest)


def test_the_rest_itself_is_no_work() -> None:
    clock = Clock()
    pace = Pace(lambda: 0, clock.wait, clock)
    for _ in range(3):
        clock.now += 0.1
        pace.rest()
    assert clock.waited == pytest.approx([0.2, 0.2, 0.2])
