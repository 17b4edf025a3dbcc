"""Fixtures for everybody: a real MongoDB, a real Redis, a real `fhirserver up`; and how tests are dealt out to several
pytest processes (`pytest -n 2 --dist loadgroup`), each of which has its own of these.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadGroupScheduling

from fhirserver import embedded, lifeline
from fhirserver.store import bootstrap
from tests.running import Running

ROOMS = ("browser", "system", "properties", "api", "house", "unit")
"""In this order: what takes long comes first, so that no process is left with it at the end."""

# How long an example takes says nothing on a machine that does other things too.
hypothesis.settings.register_profile("unhurried", hypothesis.settings.default, deadline=None)
hypothesis.settings.load_profile("unhurried")


def pytest_configure(config: pytest.Config) -> None:
    """Each process that runs tests takes free ports from a range of its own: none loses one between look and use."""
    number = int(getattr(config, "workerinput", {}).get("workerid", "gw0").removeprefix("gw")) % 8
    width = len(embedded._PORTS) // 8
    embedded._PORTS = embedded._PORTS[number * width : (number + 1) * width]


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in this hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Orders the rooms; the files that use one installation go to one process, so that only one is started."""
    items.sort(key=lambda item: ROOMS.index(room) if (room := _room(item)) in ROOMS else len(ROOMS))
    shared = {item.path for item in items if "running" in getattr(item, "fixturenames", ())}
    for item in items:
        group = "browser" if _room(item) == "browser" else "running" if item.path in shared else ""
        if group:
            item.add_marker(pytest.mark.xdist_group(group))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadGroupScheduling:
    config.option.loadscopereorder = False
    return ByFile(config, log)


class ByFile(LoadGroupScheduling):
    """Tests of one group go to one process, and so do those of one file that are in none."""

    def _split_scope(self, nodeid: str) -> str:
        group = super()._split_scope(nodeid)
        return group if group != nodeid else nodeid.split("::", 1)[0]


def _room(item: pytest.Item) -> str:
    return Path(item.path).relative_to(Path(__file__).parent).parts[0]


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> embedded.Embedded:
    """Ports and password of this test session's own database servers."""
    return embedded.remembered(tmp_path_factory.mktemp("servers"))


@pytest.fixture(scope="session")
def mongo_url(servers: embedded.Embedded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real mongod, PRIMARY of a one-node replica set, for the whole session. Use a database name of your own."""
    with _Process(embedded.mongod(tmp_path_factory.mktemp("mongo"), servers, cache_gb=0.25)):
        bootstrap.initiate(servers.mongo_port, servers.password, timeout=30)
        yield servers.mongo_url


@pytest.fixture(scope="session")
def redis_url(servers: embedded.Embedded, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real Redis for the whole session."""
    with _Process(embedded.redis(tmp_path_factory.mktemp("redis"), servers)):
        embedded.wait_for_redis(servers)
        yield servers.redis_url


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A real `fhirserver up` for the whole session, on free ports: `base_url`, `mllp_port`, `data`, `cli(*words)`.

    Everybody shares it: make organizations of your own in it and leave its processes alone. A test that kills processes
    or needs other settings starts one with `Running(tmp_path / "data").start()`.
    """
    installation = Running(tmp_path_factory.mktemp("running") / "data")
    try:
        yield installation.start()
    finally:
        installation.stop()


class _Process:
    """A child process for the length of a `with`; killed, since its data is thrown away."""

    def __init__(self, argv: list[str]) -> None:
        self._argv = argv

    def __enter__(self) -> subprocess.Popen[bytes]:
        tied = partial(lifeline.tie, signal.SIGKILL, os.getpid())  # gone with the tests, however these end
        self._process = subprocess.Popen(self._argv, stdout=subprocess.DEVNULL, preexec_fn=tied)
        return self._process

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
