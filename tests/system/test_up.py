"""`fhirserver up` as its user meets it: one a data folder, everything comes back, nothing is left, data stays."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from fhirserver import embedded
from tests.running import Running, alive, descendants, kill, wait_until


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    under_test = Running(tmp_path_factory.mktemp("up") / "data")
    try:
        yield under_test.start()
    finally:
        under_test.stop()


def printed(installation: Running, *words: str) -> str:
    """What a command prints that is started as people start it."""
    done = installation.fresh(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout.rstrip("\n")


def test_it_prints_where_it_is_and_how_to_stop_it(installation: Running) -> None:
    wait_until(lambda: "Ctrl-C stops everything." in installation.log.read_text())

    printed = installation.log.read_text()
    assert f"{installation.base_url}/1/health/fhir/4" in printed
    assert f"127.0.0.1:{installation.mllp_port}" in printed


def test_a_second_one_on_the_same_data_is_refused(installation: Running) -> None:
    second = Running(installation.data).fresh("up")

    assert second.returncode == 2
    assert "another `fhirserver up` runs on the data folder" in second.stderr
    assert installation.healthy()


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", embedded.free_port())) as other:
        refused = Running(tmp_path / "data", port=other.getsockname()[1]).fresh("up")

    assert refused.returncode == 2
    assert "--port" in refused.stderr


def test_settings_that_cannot_be_are_all_named_before_anything_starts(tmp_path: Path) -> None:
    refused = Running(tmp_path / "data", env={"FHIRSERVER_WORKERS": "many", "FHIRSERVER_NOPE": "1"}).fresh("up")

    assert refused.returncode == 2
    assert "FHIRSERVER_WORKERS" in refused.stderr
    assert "FHIRSERVER_NOPE" in refused.stderr
    assert not (tmp_path / "data").exists()


def test_commands_say_that_nothing_runs(tmp_path: Path) -> None:
    refused = Running(tmp_path / "data").fresh("token", "--organization", "x")

    assert refused.returncode == 2
    assert "nothing runs on the data folder" in refused.stderr


def test_secrets_are_on_no_command_line_in_no_log_and_in_no_file_of_others(installation: Running) -> None:
    secrets = [
        json.loads((installation.data / "embedded.json").read_text())["password"],
        (installation.data / "master.key").read_text(),
    ]
    pids = descendants(installation.process.pid)
    texts = [installation.log.read_text(), *(Path(f"/proc/{pid}/cmdline").read_text() for pid in pids)]

    assert not any(secret in text for secret in secrets for text in texts)
    for name in ("embedded.json", "master.key", "mongo.key", "run.json", "redis/redis.conf"):
        assert stat.S_IMODE(os.stat(installation.data / name).st_mode) == 0o600


@pytest.mark.parametrize("name", ["mongod", "redis", "worker-1", "relay", "mllp", "web"])
def test_a_killed_process_comes_back(installation: Running, name: str) -> None:
    first = installation.children()[name]

    kill(first)

    wait_until(lambda: installation.children()[name] != first, log=installation.log)
    wait_until(installation.healthy, log=installation.log)
    assert not alive(first)


def test_a_killed_web_worker_comes_back(installation: Running) -> None:
    web = installation.children()["web"]
    wait_until(lambda: len(descendants(web)) == 2)
    before = descendants(web)
    victim = min(before)

    kill(victim)

    wait_until(lambda: len(descendants(web) - {victim}) == 2, log=installation.log)
    assert installation.children()["web"] == web
    wait_until(installation.healthy, log=installation.log)


def test_after_a_stop_or_a_kill_nothing_is_left_and_the_next_finds_the_data(tmp_path: Path) -> None:
    for end in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
        installation = Running(tmp_path / "data").start()
        if end == signal.SIGTERM:
            organization = printed(installation, "organization", "create", "Lakeside Hospital")
        else:
            assert printed(installation, "token", "--organization", organization).count(".") == 2
        below = descendants(installation.process.pid)
        assert len(below) >= 6

        code = installation.stop(end)

        assert code == (-signal.SIGKILL if end == signal.SIGKILL else 0)
        wait_until(lambda below=below: not any(alive(pid) for pid in below))  # type: ignore[misc] # bound now


def test_servers_that_are_named_are_used_and_none_is_started(mongo_url: str, redis_url: str, tmp_path: Path) -> None:
    named = {"FHIRSERVER_MONGO_URL": mongo_url, "FHIRSERVER_REDIS_URL": redis_url, "FHIRSERVER_MONGO_DATABASE": "named"}
    installation = Running(tmp_path / "data", env=named).start()
    try:
        assert sorted(installation.children()) == ["mllp", "relay", "web", "worker-1"]
        organization = printed(installation, "organization", "create", "Lakeside Hospital")
        assert not (installation.data / "mongo").exists()
    finally:
        installation.stop()

    # Beside a database that is named the commands need nothing that runs.
    assert printed(installation, "token", "--organization", organization).count(".") == 2
