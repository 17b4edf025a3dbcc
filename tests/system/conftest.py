"""What the tests of notifications share: an installation over the session's servers, and an exchange set up in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fhirserver import app
from tests.system.delivering import Exchange, exchanging, installed


@pytest.fixture(scope="module")
def installation(mongo_url: str) -> Iterator[app.Installation]:
    with installed(mongo_url) as made:
        yield made


@pytest.fixture
def exchange(installation: app.Installation, tmp_path: Path) -> Iterator[Exchange]:
    with exchanging(installation, tmp_path) as made:
        yield made
