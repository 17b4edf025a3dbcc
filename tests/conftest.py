"""Fixtures for everybody: a real MongoDB, a real Redis, a real `fhirserver up`; and how tests are dealt out to several
pytest processes (`pytest -n 2`), each of which has its own of these.
"""

from __future__ import annotations

import ast
import os
import signal
import subprocess
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadFileScheduling

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: ROOMS.index(room) if (room := _room(item)) in ROOMS else len(ROOMS))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    config.option.loadscopereorder = False
    return Together(config, log)


class Together(LoadFileScheduling):
    """The tests of a file go to one process, and so do all files that use one browser or one installation, so that no
    second is started.
    """

    def _split_scope(self, nodeid: str) -> str:
        return _group(super()._split_scope(nodeid))


@cache
def _group(file: str) -> str:
    if file.startswith("tests/browser/"):
        return "browser"
    tree = ast.parse((Path(__file__).parents[1] / file).read_bytes())
    asked = (node for node in tree.body if isinstance(node, ast.FunctionDef) and _is_called(node))
    return "running" if any(each.arg == "running" for node in asked for each in node.args.args) else file


def _is_called(node: ast.FunctionDef) -> bool:
    return node.name.startswith("test_") or any("fixture" in ast.unparse(each) for each in node.decorator_list)


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
