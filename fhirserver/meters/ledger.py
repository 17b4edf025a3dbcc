"""A process's counts in a file, so that another process can tell them; and the files of all of them, read.

Whoever begins goes on with the file of a process of its kind that has ended: counts never fall, and there are as many
files as there were processes at once. A killed process loses the counts of its last seconds, nothing else.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fhirserver.meters.meter import Meter

SECONDS = 2.0
"""Between two times that a process writes its counts."""
FOLDER = "metrics"
"""The folder, in the data folder, of what the processes count."""
SUFFIX, LOCK = ".json", ".lock"
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Process:
    """A process of this machine: its kind (web, worker, ...), pid, when it began and last wrote (Unix time), whether it
    lives, and its memory in bytes (0 where that cannot be read).
    """

    kind: str
    pid: int
    began: float
    wrote: float
    lives: bool
    memory: int


class Ledger:
    """Writes a meter into a folder until `close`; `kind` is the name of what this process is."""

    def __init__(self, folder: Path, kind: str, meter: Meter) -> None:
        self._kind, self._meter = kind, meter
        self._began = time.time()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._path, self._locked = _place(folder, kind)
        except OSError as trouble:  # a full disk is no reason not to work
            log.warning("the counts of this process are not kept: %s", type(trouble).__name__)
            return
        with suppress(ValueError, TypeError, KeyError, OSError):  # nothing there yet, or half of it
            meter.add(json.loads(self._path.read_text()))
        self._counting = _Counting(kind, meter)
        logging.getLogger().addHandler(self._counting)
        self._thread = threading.Thread(target=self._work, daemon=True, name="meters")
        self._thread.start()

    def close(self) -> None:
        """Writes the last counts, and leaves the file to the next process of this kind."""
        if self._thread is None:
            return
        self._over.set()
        self._thread.join()
        logging.getLogger().removeHandler(self._counting)
        os.close(self._locked)

    def _work(self) -> None:
        told, ends = False, False
        while True:
            try:
                self._write()
                told = False
            except OSError as trouble:  # a full disk: the counts stay in memory
                if not told:
                    log.warning("the counts of this process cannot be written: %s", type(trouble).__name__)
                told = True
            if ends:
                return
            ends = self._over.wait(SECONDS)

    def _write(self) -> None:
        facts = {"kind": self._kind, "pid": os.getpid(), "began": self._began, "wrote": time.time()}
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps(facts | self._meter.held()))
        os.replace(fresh, self._path)


class _Counting(logging.Handler):
    """Counts the log lines that an operator should not have to read to know that there are some."""

    def __init__(self, kind: str, meter: Meter) -> None:
        super().__init__(logging.WARNING)
        self._kind, self._meter = kind, meter

    def emit(self, record: logging.LogRecord) -> None:
        self._meter.count("log_lines", self._kind, "error" if record.levelno >= logging.ERROR else "warning")


def read(folder: Path, meter: Meter) -> list[Process]:
    """Adds what all processes of a folder counted to a meter; answers the processes."""
    return [each for path in sorted(folder.glob(f"*{SUFFIX}")) for each in _read(path, meter)]


def lives(data: Path, kind: str, seconds: float) -> bool:
    """Whether a process of this kind on a data folder lives, and has written its counts within so many seconds."""
    found = [each for each in read(data / FOLDER, Meter()) if each.kind == kind and each.lives]
    return any(time.time() - each.wrote < seconds for each in found)


def _read(path: Path, meter: Meter) -> Iterator[Process]:
    try:
        held = json.loads(path.read_text())
        meter.add(held)
        lives = not _free(path.with_suffix(LOCK))
        memory = _memory(int(held["pid"])) if lives else 0
        yield Process(str(held["kind"]), int(held["pid"]), float(held["began"]), float(held["wrote"]), lives, memory)
    except (OSError, ValueError, TypeError, KeyError):
        log.warning("a file of counts cannot be read: %s", path.name)


def _place(folder: Path, kind: str) -> tuple[Path, int]:
    """The file that this process writes, and the open lock that says so for as long as it lives."""
    number = 0
    while True:
        number += 1
        path = folder / f"{kind}-{number}{LOCK}"
        opened = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(opened)
            continue
        return path.with_suffix(SUFFIX), opened


def _free(lock: Path) -> bool:
    """Whether no process holds this lock."""
    with suppress(FileNotFoundError), open(lock) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _memory(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0
