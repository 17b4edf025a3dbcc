"""The fault run, short; and that its checker can find what it looks for."""

from __future__ import annotations

import pytest

from tests.system.fault_delivery import Arrival, _disorder, run


def arrivals(*versions: tuple[int, bool]) -> list[Arrival]:
    return [Arrival(0, "p", version, float(at), accepted) for at, (version, accepted) in enumerate(versions)]


def test_the_checker_tells_order_from_disorder() -> None:
    assert _disorder(arrivals((1, True), (2, False), (2, True), (2, True), (3, True))) == 0
    assert _disorder(arrivals((1, True), (3, True))) == 1
    assert _disorder(arrivals((1, False), (2, True))) == 1
    assert _disorder(arrivals((1, True), (2, False), (3, True), (2, True))) == 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nothing_is_lost_whatever_is_killed() -> None:
    figures = run(2000, 50, seed=2)
    assert figures["events"] >= 2000
    assert (figures["lost"], figures["out of order"], figures["unauthorized"]) == (0, 0, 0)
