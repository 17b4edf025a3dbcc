"""The audit spool: what was appended is shipped, whatever happens beside it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from fhirserver.store.spool import Spool, batches, gathered, shipped, unshipped


def lines(folder: Path) -> list[bytes]:
    return [line for batch in batches(folder, 1000) for _, line in batch.records]


def test_a_file_just_opened_is_not_taken_for_an_abandoned_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipper looks at the worst moment: the file is there, its writer has not locked it yet."""
    flock = fcntl.flock

    def late(file: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        assert list(batches(tmp_path, 1000)) == []
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    spool = Spool(tmp_path)
    spool.append(b"one")
    assert lines(tmp_path) == [b"one"]


def test_a_line_torn_by_a_full_disk_takes_no_other_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    def short(file: int, data: bytes) -> int:
        monkeypatch.setattr(os, "write", write)
        return write(file, data[:2])

    spool = Spool(tmp_path)
    spool.append(b"one")
    monkeypatch.setattr(os, "write", short)
    with pytest.raises(OSError, match="a part of a record"):
        spool.append(b"two")
    spool.append(b"three")
    assert sorted(lines(tmp_path)) == [b"one", b"three"]


@pytest.mark.parametrize("left", [b"", bytes(20)])
def test_a_mark_lost_in_a_crash_ships_again_with_the_same_ids(left: bytes, tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append(b"one")
    (before,) = batches(tmp_path, 1000)
    shipped(before)
    assert list(batches(tmp_path, 1000)) == []
    next(tmp_path.glob("*.done")).write_bytes(left)
    (after,) = batches(tmp_path, 1000)
    assert after.records == before.records


def test_a_file_whose_writer_is_gone_is_removed_once_it_is_shipped(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append(b"one")
    spool.close()
    for batch in batches(tmp_path, 1000):
        shipped(batch)
    assert list(batches(tmp_path, 1000)) == []
    assert list(tmp_path.iterdir()) == []


def test_what_many_threads_wrote_is_put_together_and_never_to_more_than_was_asked_for(tmp_path: Path) -> None:
    for number in range(5):
        spool = Spool(tmp_path)
        for line in range(4):
            spool.append(f"{number} {line}".encode())
    groups = list(gathered(tmp_path, 9))
    assert [sum(len(batch.records) for batch in group) for group in groups] == [8, 8, 4]
    for batch in (batch for group in groups for batch in group):
        shipped(batch)
    assert (list(gathered(tmp_path, 9)), unshipped(tmp_path)) == ([], 0)


def test_the_mark_of_how_far_a_file_is_shipped_moves_on(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    seen = []
    for number in range(12):
        spool.append(b"x" * 10 ** (number % 4))
        (batch,) = batches(tmp_path, 1)
        seen.append(len(batch.records[0][1]))
        shipped(batch)
    assert seen == [10 ** (number % 4) for number in range(12)]
