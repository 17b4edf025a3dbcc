"""The database servers that come along, for real: they keep their data, move to other ports, let no stranger in."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pymongo
import pytest
from pymongo.errors import OperationFailure

from fhirserver import embedded
from fhirserver.store import bootstrap


@contextmanager
def _process(argv: list[str]) -> Iterator[None]:
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def _mongod(data: Path, known: embedded.Embedded) -> Iterator[pymongo.MongoClient[dict[str, object]]]:
    with _process(embedded.mongod(data, known, cache_gb=0.25)):
        bootstrap.initiate(known.mongo_port, known.password)
        with pymongo.MongoClient(known.mongo_url) as client:
            yield client


def test_mongod_keeps_its_data_when_it_is_started_again_on_another_port(tmp_path: Path) -> None:
    known = embedded.remembered(tmp_path)
    with _mongod(tmp_path, known) as client:
        client.test.things.insert_one({"_id": 1})
    moved = replace(known, mongo_port=embedded.free_port())

    with _mongod(tmp_path, moved) as client:
        with client.start_session() as session, session.start_transaction():
            client.test.things.insert_one({"_id": 2}, session=session)
        assert client.test.things.count_documents({}) == 2


def test_initiating_twice_changes_nothing(mongo_url: str, servers: embedded.Embedded) -> None:
    with pymongo.MongoClient[dict[str, object]](mongo_url) as client:
        before = client.admin.command("replSetGetConfig")["config"], client.admin.command("usersInfo")["users"]

        bootstrap.initiate(servers.mongo_port, servers.password)

        after = client.admin.command("replSetGetConfig")["config"], client.admin.command("usersInfo")["users"]
    assert after == before


def test_mongod_lets_nobody_in_without_the_password(mongo_url: str, servers: embedded.Embedded) -> None:
    stranger = pymongo.MongoClient[dict[str, object]]("127.0.0.1", servers.mongo_port, directConnection=True)
    with stranger, pytest.raises(OperationFailure):
        stranger.admin.command("listDatabases")


def test_redis_lets_nobody_in_without_the_password(redis_url: str, servers: embedded.Embedded) -> None:
    with socket.create_connection(("127.0.0.1", servers.redis_port)) as stranger:
        stranger.sendall(b"PING\r\n")
        assert stranger.recv(100).startswith(b"-NOAUTH")


def test_waiting_for_a_server_that_is_not_there_ends(tmp_path: Path) -> None:
    with pytest.raises(bootstrap.NotReady):
        bootstrap.initiate(embedded.free_port(), "secret", timeout=0.5)
    with pytest.raises(TimeoutError):
        embedded.wait_for_redis(embedded.remembered(tmp_path), timeout=0.1)


def test_ports_and_password_are_remembered_and_private(tmp_path: Path) -> None:
    first = embedded.remembered(tmp_path)

    assert embedded.remembered(tmp_path) == first
    assert stat.S_IMODE(os.stat(tmp_path / "embedded.json").st_mode) == 0o600


def test_a_remembered_port_that_is_taken_is_replaced(tmp_path: Path) -> None:
    first = embedded.remembered(tmp_path)
    with socket.create_server(("127.0.0.1", first.mongo_port)):
        second = embedded.remembered(tmp_path)

    assert second.mongo_port != first.mongo_port
    assert second.redis_port == first.redis_port
    assert second.password == first.password


def test_a_missing_server_program_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(embedded.Missing, match=r"mongod.*fhirserver\[embedded\].*FHIRSERVER_MONGO_URL"):
        embedded.mongod(tmp_path, embedded.Embedded(1, 2, "secret"), cache_gb=0.25)
