"""The supervisor's children, with real processes: what dies comes back, what is stopped is gone."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fhirserver.supervisor import Child, Children
from tests.running import alive, kill, wait_until

SLEEP = (sys.executable, "-c", "import time; time.sleep(600)")


@pytest.fixture
def children() -> Iterator[Children]:
    under_test = Children()
    try:
        yield under_test
    finally:
        under_test.stop()


def _child(name: str, code: str, stage: int = 0, patience: float = 10.0) -> Child:
    return Child(name, (sys.executable, "-c", code), dict(os.environ), stage, patience=patience)


def test_a_killed_child_is_started_again(children: Children) -> None:
    seen: list[dict[str, int]] = []
    children.changed = lambda pids: seen.append(dict(pids))
    children.start(Child("sleeper", SLEEP, dict(os.environ), stage=0))
    first = seen[-1]["sleeper"]

    kill(first)

    wait_until(lambda: children.tend() or len(seen) == 2)
    assert seen[-1]["sleeper"] != first
    assert alive(seen[-1]["sleeper"])


def test_a_child_that_keeps_dying_is_started_again_ever_later(
    children: Children, caplog: pytest.LogCaptureFixture
) -> None:
    children.start(_child("mayfly", "raise SystemExit(3)"))

    with caplog.at_level(logging.WARNING):
        wait_until(lambda: children.tend() or len(caplog.records) >= 3)

    facts = [record.facts for record in caplog.records]  # type: ignore[attr-defined] # given by `extra`
    assert {(each["child"], each["exit"]) for each in facts} == {("mayfly", 3)}
    assert facts[0]["pause"] < facts[1]["pause"] < facts[2]["pause"]


def test_a_full_disk_does_not_end_it(children: Children) -> None:
    told: list[dict[str, int]] = []
    full = [True]

    def changed(pids: dict[str, int]) -> None:
        if full:
            raise OSError(errno.ENOSPC, "No space left on device")
        told.append(pids)

    children.changed = changed
    children.start(Child("a", SLEEP, dict(os.environ), stage=0))
    children.tend()
    assert not told
    full.clear()
    children.tend()
    assert [list(each) for each in told] == [["a"]]
    children.tend()
    assert len(told) == 1, "once, when there is room again"


def test_the_highest_stage_is_stopped_first(children: Children, tmp_path: Path) -> None:
    story = tmp_path / "story"
    story.touch()
    for name, stage in (("database", 0), ("web", 2), ("worker", 1)):
        leave = f"open({str(story)!r}, 'a').write('{name} '), sys.exit()"
        code = (
            f"import signal, sys, time; signal.signal(15, lambda *_: ({leave})); open({str(tmp_path / name)!r}, 'w'); "
        )
        children.start(_child(name, code + "time.sleep(600)", stage))
        wait_until((tmp_path / name).exists)

    children.stop()

    assert story.read_text().split() == ["web", "worker", "database"]


def test_a_child_that_does_not_listen_is_killed_with_all_that_it_started(children: Children, tmp_path: Path) -> None:
    note = tmp_path / "pids"
    code = (
        "import os, signal, subprocess, sys, time; signal.signal(15, signal.SIG_IGN); "
        f"below = subprocess.Popen({list(SLEEP)!r}); "
        f"open({str(note)!r}, 'w').write(f'{{os.getpid()}} {{below.pid}}\\n'); time.sleep(600)"
    )
    children.start(_child("deaf", code, patience=0.2))
    wait_until(lambda: note.exists() and note.read_text().endswith("\n"))

    children.stop()

    wait_until(lambda: not any(alive(int(pid)) for pid in note.read_text().split()))


def test_when_the_supervisor_is_killed_its_children_end(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    code = (
        "import os, pathlib, time; from fhirserver.supervisor import Child, Children; "
        f"children = Children(lambda pids: pathlib.Path({str(note)!r}).write_text(str(pids['sleeper']) + '.')); "
        f"children.start(Child('sleeper', {list(SLEEP)!r}, dict(os.environ), 0)); time.sleep(600)"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", code])
    wait_until(lambda: note.exists() and note.read_text().endswith("."))
    pid = int(note.read_text()[:-1])
    assert alive(pid)

    supervisor.send_signal(signal.SIGKILL)
    supervisor.wait()

    wait_until(lambda: not alive(pid))
