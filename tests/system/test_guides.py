"""The examples in the guide for interface engineers run as they stand against a real installation."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import Running

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "guides" / "interface-engineers.md"
FIRST = ROOT / "docs" / "api" / "README.md"
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.mark.skipif(not shutil.which("curl"), reason="the examples use curl")
def test_an_engineer_maps_z_segments_by_an_overlay(running: Running, tmp_path: Path) -> None:
    hospital = running.cli("organization", "create", "Lakeside Hospital").split()[-1]
    token = running.cli("token", "--organization", hospital).split()[-1]
    (block,) = BLOCK.findall(FIRST.read_text())
    function = next(line for line in block.splitlines() if line.startswith("fhir()"))
    base = f"{running.base_url}/1/health/organizations/{hospital}/fhir/4"
    prelude = f"set -e -o pipefail\nhospital={hospital}\ntoken={token}\nbase={base}\n{function}\n"
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    script = prelude + "\n".join(BLOCK.findall(GUIDE.read_text()))
    script = script.replace(".venv/bin/fhirserver", f"{sys.executable} -m fhirserver")
    environ = {**running.environ(), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert '{"name":"compared","valueInteger":1}' in done.stdout
    assert "Northern region" in done.stdout
    assert (tmp_path / "before.json").read_text() != (tmp_path / "after.json").read_text()
