"""The fault run of intake, short; and that its checker can find what it looks for."""

from __future__ import annotations

import pytest

from tests.system.fault_intake import Kept, Sent, judged, run


def sent(number: int, acknowledged: bool = True) -> Sent:
    return Sent(f"S{number}", "p", number, b"%d" % number, b"AA" if acknowledged else b"", 1)


def kept(number: int, status: str = "processed", applied: int = 1) -> Kept:
    return Kept(b"%d" % number, status, applied)


@pytest.mark.parametrize(
    ("stored", "history", "fault"),
    [
        ([kept(1), kept(2)], [1, 2], {}),
        ([kept(1)], [1], {"lost": 1}),
        ([kept(1), kept(2, "mapping-error", 0)], [1], {"lost": 1}),
        ([kept(1), kept(2), kept(2)], [1, 2], {"applied twice": 1}),
        ([kept(1), kept(2, applied=2)], [1, 2], {"applied twice": 1}),
        ([kept(1), kept(2)], [2, 1], {"out of order": 1}),
        ([kept(1), kept(2)], [1, 2, 2], {"out of order": 1}),
        ([kept(1), kept(2), kept(3)], [1, 2, 3], {}),
    ],
)
def test_the_checker_finds_every_fault(stored: list[Kept], history: list[int], fault: dict[str, int]) -> None:
    figures = judged([sent(1), sent(2), sent(3, acknowledged=False)], stored, {"p": history})
    faults = {name: figures[name] for name in ("lost", "applied twice", "out of order")}
    assert faults == {"lost": 0, "applied twice": 0, "out of order": 0} | fault
    assert (figures["sent"], figures["acknowledged"]) == (3, 2)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_nothing_acknowledged_is_lost_or_applied_twice_whatever_is_killed() -> None:
    figures = run(400, seed=2)
    assert figures["acknowledged"] >= 390
    faults = ("lost", "applied twice", "out of order", "answered otherwise")
    assert [figures[name] for name in faults] == [0, 0, 0, 0]
