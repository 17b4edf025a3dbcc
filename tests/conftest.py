"""Fixtures for everybody: a real MongoDB, a real Redis, a real `fhirserver up`."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from functools import partial

import pytest

from fhirserver import embedded, lifeline
from fhirserver.store import bootstrap
from tests.running import Running


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
