"""The audit spool: records appended to a file per process, shipped to the database by another, so that a read costs
no write.

Invariant: a record that was appended is shipped, however the process that appended it ends. The append is one `write`
to a file opened for appending, so a killed process leaves whole lines (a torn last line was never acknowledged to
anybody). The shipper remembers how far it got only after the database has the records, and gives each an id made of the
file and its place in it: shipping twice is storing once.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

MOST_BYTES = 8 * 1024 * 1024
SUFFIX = ".spool"
OPENING = ".opening"
DONE = ".done"


class _File:
    """An open spool file, and how much is in it."""

    __slots__ = ("number", "size")

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = folder / f"{os.getpid()}-{secrets.token_hex(8)}{SUFFIX}"
        fresh = path.with_suffix(OPENING)
        self.number = os.open(fresh, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        self.size = 0
        # Held until this process ends, however it ends: whoever gets the lock knows that nothing more will come. The
        # file gets its name when it is locked, or the shipper could find it empty and without a writer, and remove it.
        fcntl.flock(self.number, fcntl.LOCK_EX)
        os.rename(fresh, path)


class Spool:
    """The writing end: as many files as threads write at once, each replaced when it has grown large.

    One file for all would make every request wait for the others' writes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._idle: deque[_File] = deque()

    def append(self, line: bytes) -> None:
        """Appends one record (without line end)."""
        try:
            file = self._idle.pop()
        except IndexError:
            file = _File(self._folder)
        whole = False
        try:
            whole = os.write(file.number, line + b"\n") == len(line) + 1
            file.size += len(line) + 1
        finally:
            if whole and file.size < MOST_BYTES:
                self._idle.append(file)
            else:
                os.close(file.number)
        if not whole:
            raise OSError("the audit spool took a part of a record only")

    def close(self) -> None:
        """Ends the files: the shipper may remove them once it has all of them."""
        while self._idle:
            os.close(self._idle.pop().number)


@dataclass(frozen=True, slots=True)
class Batch:
    """Records of one spool file: (id, line) in order, and where the next ones begin."""

    path: Path
    records: tuple[tuple[str, bytes], ...]
    end: int


def batches(folder: Path, most: int) -> Iterator[Batch]:
    """What is to be shipped, at most `most` records of each file. Call `shipped` for each once it is stored.

    A file whose writer is gone and that holds nothing more is removed.
    """
    for path in sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else ():
        batch = _read(path, most)
        if batch.records:
            yield batch
        elif _ended(path, batch.end):
            path.unlink(missing_ok=True)
            _mark(path).unlink(missing_ok=True)


def gathered(folder: Path, most: int) -> Iterator[list[Batch]]:
    """The batches of all files, put together to at most `most` records: many threads write, each little."""
    group: list[Batch] = []
    room = most
    for batch in batches(folder, most):
        if len(batch.records) > room:
            yield group
            group, room = [], most
        group.append(batch)
        room -= len(batch.records)
    if group:
        yield group


def unshipped(folder: Path) -> int:
    """How many bytes wait to be shipped."""
    return sum(_left(path) for path in folder.glob(f"*{SUFFIX}")) if folder.is_dir() else 0


def _left(path: Path) -> int:
    try:
        return path.stat().st_size - _place(path)
    except FileNotFoundError:  # shipped to its end meanwhile, and gone
        return 0


def shipped(batch: Batch) -> None:
    """Remembers that the records of a batch are stored."""
    mark = os.open(_mark(batch.path), os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        # In place and always as long: one write puts it there, and no file system waits for the disk as when one file
        # replaces another.
        os.pwrite(mark, b"%020d" % batch.end, 0)
    finally:
        os.close(mark)


def _place(path: Path) -> int:
    """How far a file is shipped."""
    try:
        # Empty or nothing but zero bytes after a crash of the machine: then everything is shipped again, which stores
        # nothing twice.
        return int(_mark(path).read_bytes().strip(b"\0") or 0)
    except FileNotFoundError:
        return 0


def _read(path: Path, most: int) -> Batch:
    start = end = _place(path)
    records: list[tuple[str, bytes]] = []
    with open(path, "rb") as file:
        file.seek(start)
        for line in file:
            if not line.endswith(b"\n") or len(records) == most:
                break
            records.append((sha256(f"{path.name} {end}".encode()).hexdigest()[:32], line[:-1]))
            end += len(line)
    return Batch(path, tuple(records), end)


def _ended(path: Path, end: int) -> bool:
    """Whether the writer is gone and nothing whole is left after `end`."""
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        file.seek(end)
        return b"\n" not in file.read()


def _mark(path: Path) -> Path:
    return path.with_suffix(DONE)
