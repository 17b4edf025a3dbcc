"""The whole story of `fhirserver demo`, on real processes: it must behave from its first step to its last."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fhirserver.settings import bare_environ


@pytest.mark.timeout(180)
def test_the_whole_story_behaves_and_leaves_nothing_running() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fhirserver", "demo"], env=bare_environ(), capture_output=True, text=True, timeout=170
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "15" in done.stdout
    assert "The whole story behaved." in done.stdout
    assert "demo-" not in _processes()


def _processes() -> str:
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return "\n".join(line for line in listed.splitlines() if "fhirserver-demo-" in line)
