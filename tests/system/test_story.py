"""The whole story of `fhirserver demo`, on real processes: it must behave from its first step to its last."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fhirserver.settings import bare_environ


@pytest.mark.timeout(180)
def test_the_whole_story_behaves_and_leaves_nothing_running(tmp_path: Path) -> None:
    environ = bare_environ() | {"TMPDIR": str(tmp_path)}
    argv = [sys.executable, "-m", "fhirserver", "demo"]
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=170)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "15" in done.stdout
    assert "The whole story behaved." in done.stdout
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert str(tmp_path) not in listed  # where its data was; another demo on this machine has another place
    assert list(tmp_path.iterdir()) == []
