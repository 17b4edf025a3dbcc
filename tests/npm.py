"""Packages of npm for tests: fetched once into the user's cache folder; the test is skipped where npm cannot get them.

Which registry npm asks is npm's own configuration.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SECONDS = 90


def packed(name: str, version: str) -> Path:
    """The .tgz of a package."""
    folder = _cache("packages")
    found = folder / f"{name}-{version}.tgz"
    if not found.exists():
        _npm("pack", f"{name}@{version}", "--silent", "--pack-destination", str(folder))
    return found


def installed(name: str, version: str) -> Path:
    """A folder in which node finds a package."""
    folder = _cache(f"{name}-{version}")
    if not (folder / "node_modules" / name).exists():
        words = ("--no-audit", "--no-fund", "--no-save", "--no-package-lock", "--prefix", str(folder))
        _npm("install", *words, f"{name}@{version}")
    return folder


def _npm(*words: str) -> None:
    if not shutil.which("npm") or not shutil.which("node"):
        pytest.skip("needs node and npm, which are no part of the installation")
    try:
        done = subprocess.run(["npm", *words], capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm {words[0]} did not end within {SECONDS} s")
    if done.returncode:
        pytest.skip(f"npm {words[0]} failed: {done.stderr.strip()[-200:]}")


def _cache(name: str) -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "fhirserver-tests" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder
