"""The examples on the pages of docs/api run as they stand against a real installation."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.running import Running

PAGES = Path(__file__).resolve().parents[2] / "docs" / "api"
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)
NAMES = sorted(page.name for page in PAGES.glob("*.md") if page.name not in ("README.md", "search.md"))
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not shutil.which("curl"), reason="the examples use curl")]


@pytest.fixture(scope="module")
def prelude(running: Running) -> str:
    """What the README's example sets, for the installation under test."""
    hospital = running.cli("organization", "create", "Lakeside Hospital").split()[-1]
    token = running.cli("token", "--organization", hospital).split()[-1]
    (block,) = BLOCK.findall((PAGES / "README.md").read_text())
    function = next(line for line in block.splitlines() if line.startswith("fhir()"))
    base = f"{running.base_url}/1/health/organizations/{hospital}/fhir/4"
    return f"set -e -o pipefail\nhospital={hospital}\ntoken={token}\nbase={base}\n{function}\n"


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_of_a_page_work(prelude: str, name: str) -> None:
    blocks = BLOCK.findall((PAGES / name).read_text())
    done = subprocess.run(
        ["bash", "-c", prelude + "\n".join(blocks)], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    assert '"severity":"error"' not in done.stdout or name == "operation.md"
