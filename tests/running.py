"""A real `fhirserver up` in a process of its own, for tests that need the whole installation."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from fhirserver import embedded, lifeline
from fhirserver.settings import bare_environ
from tests.commands import Commands

_COMMANDS = Commands()


@dataclass
class Running:
    """An installation on a data folder of its own and on free ports, reached at `base_url` and on `mllp_port`."""

    data: Path
    env: dict[str, str] = field(default_factory=dict)
    port: int = field(default_factory=embedded.free_port)
    mllp_port: int = field(default_factory=embedded.free_port)
    metrics_port: int = field(default_factory=embedded.free_port)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.data.with_name(self.data.name + ".log")

    def environ(self) -> dict[str, str]:
        """The environment of its commands: nothing of ours from outside, notifications to loopback allowed."""
        given = {
            "FHIRSERVER_DATA": str(self.data),
            "FHIRSERVER_PORT": str(self.port),
            "FHIRSERVER_MLLP_PORT": str(self.mllp_port),
            "FHIRSERVER_MONGO_CACHE_GB": "0.25",
            "FHIRSERVER_QUEUE_WORKERS": "1",
            "FHIRSERVER_METRICS_PORT": str(self.metrics_port),
            "FHIRSERVER_WEBHOOK_ALLOW": "127.0.0.0/8",
        }
        return bare_environ() | given | self.env

    def start(self, timeout: float = 180.0) -> Running:
        """Start it and wait until GET /healthz answers 200."""
        if not (self.data / "embedded.json").exists():
            self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
            embedded.remembered(self.data)  # ports of this process's range, which those of `up` need not be
        with open(self.log, "ab") as log:
            argv = [sys.executable, "-m", "fhirserver", "up"]
            self.process = subprocess.Popen(
                argv,
                env=self.environ(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=partial(lifeline.tie, signal.SIGTERM, os.getpid()),  # gone with the tests, however these end
            )
        wait_until(self.healthy, timeout, lambda: self.process.poll() is None, self.log)
        return self

    def healthy(self) -> bool:
        """Whether GET /healthz answers 200 now."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def children(self) -> dict[str, int]:
        """The pids of its child processes by name."""
        return dict(json.loads((self.data / "run.json").read_text())["children"])

    def fresh(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `fhirserver` with these words beside it in a new process, as people do, whatever comes of it."""
        argv = [sys.executable, "-m", "fhirserver", *words]
        return subprocess.run(argv, env=self.environ(), capture_output=True, text=True, timeout=100, check=False)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run `fhirserver` with these words beside it, whatever comes of it."""
        return _COMMANDS.run(words, self.environ())

    def cli(self, *words: str) -> str:
        """What `fhirserver` with these words prints on standard output, without the last line end."""
        done = self.run(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout.rstrip("\n")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal the supervisor, wait for its end, answer its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(60)


def wait_until(
    true: Callable[[], object],
    timeout: float = 30.0,
    going: Callable[[], bool] = lambda: True,
    log: Path | None = None,
) -> None:
    """Return once `true()` is true; fail after `timeout` seconds or when `going()` is not."""
    deadline = time.monotonic() + timeout
    while not true():
        if time.monotonic() > deadline or not going():
            raise AssertionError(f"waited in vain; {log and log.read_text()[-4000:]}")
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Whether this process runs (one that has ended but was not waited for does not)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def descendants(pid: int) -> set[int]:
    """The pids of all processes below this one."""
    below: set[int] = set()
    fresh = {pid}
    parents = {int(each.name): _parent(each) for each in Path("/proc").iterdir() if each.name.isdigit()}
    while fresh:
        fresh = {child for child, parent in parents.items() if parent in fresh} - below
        below |= fresh
    return below


def _parent(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def kill(pid: int) -> None:
    """End a process as nobody wishes to be ended."""
    os.kill(pid, signal.SIGKILL)
