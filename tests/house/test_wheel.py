"""The wheel carries the data that lies at the top of the checkout, and the installed package finds it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    words = ["-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run([sys.executable, *words], cwd=ROOT, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.mark.parametrize("name", ["profiles", "capability", "mappings"])
def test_the_wheel_carries_every_file_of_the_folder(wheel: Path, name: str) -> None:
    carried = set(zipfile.ZipFile(wheel).namelist())
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / name).rglob("*") if path.is_file()}

    assert files
    assert {f"fhirserver/_data/{file}" for file in files} - carried == set()


def test_the_wheel_carries_what_the_pages_of_the_console_are_made_of(wheel: Path) -> None:
    carried = set(zipfile.ZipFile(wheel).namelist())
    console = ROOT / "fhirserver" / "web" / "console"
    files = {
        path.relative_to(ROOT).as_posix()
        for path in console.rglob("*")
        if path.suffix in (".html", ".yaml", ".css", ".js")
    }

    assert f"{console.relative_to(ROOT).as_posix()}/static/vendor/htmx.js" in files, "run: bash tools/assets.sh"
    assert files - carried == set()


def test_an_installed_package_finds_its_folders(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(tmp_path)
    code = "from fhirserver.settings import folder; print(sum(1 for _ in folder('profiles').glob('*.json')))"
    # -S: without site-packages, so that nothing of this checkout is found.
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)

    assert int(done.stdout) > 0
