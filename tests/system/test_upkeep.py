"""An installation over the years, in an hour's work: purged, backed up, its master key changed, restored elsewhere."""

from __future__ import annotations

import http.client
import json
import os
import signal
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from fhirserver.settings import Settings
from tests.running import Running, wait_until

MESSAGE = b"MSH|^~\\&|X|Y|A|B|20260101120000||ADT^A01|1|P|2.5\rEVN|A01\rPID|1||7^^^Z^MR||Bramwell\rPV1|1|I\r"


def got(running: Running, path: str, token: str) -> dict[str, Any]:
    with closing(http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)) as connection:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"})
        found: dict[str, Any] = json.loads(connection.getresponse().read())
        return found


def aged(running: Running, days: int) -> None:
    """Lets every message have been written so many days ago."""
    remembered = json.loads((running.data / "run.json").read_text())["settings"]
    settings = Settings.from_env(remembered)
    with MongoClient[dict[str, Any]](settings.mongo_url.reveal()) as client:
        messages = client[settings.mongo_database]["InboundMessage"]
        messages.update_many({}, {"$set": {"t": datetime.now(UTC) - timedelta(days=days)}})


@pytest.mark.slow
def test_an_installation_is_kept_well(tmp_path: Path) -> None:
    first = Running(tmp_path / "first", {"FHIRSERVER_MESSAGE_RETENTION_DAYS": "1"}).start()
    try:
        hospital = first.cli("organization", "create", "Upkeep Hospital")
        base = f"/1/health/organizations/{hospital}/fhir/4"
        (tmp_path / "message.hl7").write_bytes(MESSAGE)
        first.cli("hl7v2", "load", str(tmp_path / "message.hl7"), "--organization", hospital)
        token = first.cli("token", "--organization", hospital)

        def message() -> dict[str, Any]:
            found: dict[str, Any] = got(first, f"{base}/InboundMessage", token)["entry"][0]["resource"]
            return found

        wait_until(lambda: message()["status"] in ("processed", "warning"), 60)
        assert "data" in message()["content"]
        aged(first, 3)
        os.kill(first.children()["relay"], signal.SIGKILL)  # the next one looks when it begins, and then every hour
        wait_until(lambda: "purged" in message(), 60)
        assert "data" not in message()["content"]
        first.cli("backup", str(tmp_path / "taken"))
        assert first.run("master-key", "rotate").returncode == 2  # it runs
    finally:
        first.stop()
    assert first.run("alive", "relay").returncode == 1

    first.cli("master-key", "rotate")
    first.start()
    try:
        assert got(first, f"{base}/Patient", first.cli("token", "--organization", hospital))["entry"]
        assert got(first, f"{base}/Patient", token)["entry"]  # signed before the change
        assert first.run("alive", "relay").returncode == 0
    finally:
        first.stop()
    former = next(first.data.glob("master.key.until-*"))

    second = Running(tmp_path / "second")
    second.data.mkdir()
    assert "master.key" in second.run("restore", str(tmp_path / "taken")).stderr
    (second.data / "master.key").write_text((first.data / "master.key").read_text())
    assert "another master key" in second.run("restore", str(tmp_path / "taken")).stderr
    (second.data / "master.key").write_text(former.read_text())
    second.cli("restore", str(tmp_path / "taken"))
    second.start()
    try:
        token = second.cli("token", "--organization", hospital)
        assert [each["resource"]["name"][0]["family"] for each in got(second, f"{base}/Patient", token)["entry"]] == [
            "Bramwell"
        ]
        assert all(line.startswith("ok") for line in second.cli("audit", "verify").splitlines())
        assert second.run("restore", str(tmp_path / "taken")).returncode == 1  # it has data, and runs
    finally:
        second.stop()
