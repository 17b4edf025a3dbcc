"""Children by forking, with real processes: they end with their parent, keep nothing of its, and come back."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.running import alive, kill, wait_until

# What a supervisor with one thread does; pytest may have several, so that the tests fork in a process of their own.
PARENT = """
import fcntl, os, pathlib, signal, sys, time
from fhirserver.forked import fork
from fhirserver.supervisor import Child, Children
folder = pathlib.Path(sys.argv[1])
lock = open(folder / "lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX)
def note(name, text):
    (folder / f"{name}.new").write_text(text)
    os.replace(folder / f"{name}.new", folder / name)
"""


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[bytes]]]:
    processes: list[subprocess.Popen[bytes]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


def run(started: list[subprocess.Popen[bytes]], folder: Path, code: str) -> subprocess.Popen[bytes]:
    process = subprocess.Popen([sys.executable, "-c", PARENT + code, str(folder)])
    started.append(process)
    return process


def noted(folder: Path, name: str) -> str:
    wait_until((folder / name).exists, 30)
    return (folder / name).read_text()


SLEEPER = """
child = fork(lambda: (note("child", str(os.getpid())), time.sleep(600)), {"A": "b"}, "sleeper", signal.SIGKILL)
time.sleep(600)
"""


def test_when_the_parent_is_killed_its_forked_child_ends(
    started: list[subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    parent = run(started, tmp_path, SLEEPER)
    pid = int(noted(tmp_path, "child"))

    kill(parent.pid)

    wait_until(lambda: not alive(pid))


def test_a_child_has_nothing_of_its_parent_but_what_is_loaded(
    started: list[subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    work = """
def work():
    held = [each for each in range(3, 100) if os.path.exists(f"/proc/self/fd/{each}")]
    own = os.getsid(0) == os.getpid()
    default = signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    note("child", repr((dict(os.environ), held, own, default)))
signal.signal(signal.SIGTERM, lambda *_: None)
code = fork(work, {"A": "b"}, "curious", signal.SIGKILL).wait()
note("code", str(code))
"""
    run(started, tmp_path, work)
    assert noted(tmp_path, "code") == "0"
    assert noted(tmp_path, "child") == repr(({"A": "b"}, [], True, True))


@pytest.mark.parametrize(
    ("work", "code"),
    [("None", 0), ("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", -9), ("1 / 0", 1), ("sys.exit('why')", 1)],
)
def test_how_a_child_ended_is_known(
    started: list[subprocess.Popen[bytes]], tmp_path: Path, work: str, code: int
) -> None:
    run(started, tmp_path, f"note('code', str(fork(lambda: {work}, {{}}, 'x', signal.SIGKILL).wait()))")
    assert noted(tmp_path, "code") == str(code)


def test_a_forked_child_that_is_killed_is_forked_again_and_stopped_at_the_end(
    started: list[subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    again = """
children = Children(lambda pids: note("pid", str(pids["sleeper"])))
children.start(Child("sleeper", (), {}, 0, work=lambda: time.sleep(600)))
while not (folder / "stop").exists():
    children.tend()
    time.sleep(0.02)
children.stop()
note("stopped", "")
"""
    run(started, tmp_path, again)
    first = int(noted(tmp_path, "pid"))

    kill(first)

    wait_until(lambda: int(noted(tmp_path, "pid")) != first)
    second = int(noted(tmp_path, "pid"))
    assert alive(second)
    (tmp_path / "stop").touch()
    noted(tmp_path, "stopped")
    assert not alive(second)
