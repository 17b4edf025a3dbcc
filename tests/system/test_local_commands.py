"""The commands beside a running installation: what they do, and what they say of what is not there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fhirserver.settings import bare_environ
from tests.running import Running

MESSAGES = Path(__file__).resolve().parents[2] / "examples" / "hl7v2"
MESSAGE = MESSAGES / "01-admit-a01-2.3.hl7"


@pytest.mark.parametrize(
    "words",
    [
        ("token", "--organization", "nowhere"),
        ("user", "create", "a@b.example", "--organization", "nowhere"),
        ("endpoint", "create", "--organization", "nowhere", "--default"),
        ("hl7v2", "convert", str(MESSAGE), "--organization", "nowhere"),
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_an_organization_that_is_not_there_is_named(running: Running, words: tuple[str, ...]) -> None:
    refused = running.run(*words)

    assert refused.returncode == 2
    assert refused.stdout == ""
    assert refused.stderr == "fhirserver: There is no organization nowhere here.\n"


@pytest.mark.parametrize("process", ["web", "worker", "relay", "mllp"])
def test_a_process_of_its_own_names_the_settings_that_it_lacks(process: str) -> None:
    environ = bare_environ() | {"FHIRSERVER_REDIS_URL": "redis://127.0.0.1:1/0"}

    ended = subprocess.run(
        [sys.executable, "-m", "fhirserver", process],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert ended.returncode == 1
    assert f"`fhirserver {process}` needs FHIRSERVER_MONGO_URL, FHIRSERVER_MASTER_KEY;" in ended.stderr


def test_messages_are_sent_and_their_acknowledgments_printed(running: Running, tmp_path: Path) -> None:
    hospital = running.cli("organization", "create", "Lakeside Hospital")
    facility = f"F{hospital[-12:]}"
    running.cli("endpoint", "create", "--organization", hospital, "--sending-facility", facility)
    message = MESSAGE.read_bytes().replace(b"|LAKESIDE|", f"|{facility}|".encode(), 1)
    (tmp_path / "two.hl7").write_bytes(message + message.replace(b"LS00001", b"LS00002"))

    sent = running.cli("hl7v2", "send", str(tmp_path / "two.hl7"))
    stranger = running.run("hl7v2", "send", str(MESSAGES / "bad-5-unknown-sender.hl7"))
    nobody = running.run("hl7v2", "send", str(MESSAGE), "--to", "127.0.0.1:1")

    assert sent.count("\nMSA|AA|") == 2
    assert stranger.returncode == 1
    assert "\nMSA|AR|" in stranger.stdout
    assert nobody.returncode == 1
    assert "127.0.0.1:1: Connection refused" in nobody.stderr


def test_a_message_is_converted_without_being_stored(running: Running) -> None:
    hospital = running.cli("organization", "create", "Lakeside Hospital")

    bundle = json.loads(running.cli("hl7v2", "convert", str(MESSAGE), "--organization", hospital))

    types = [entry["resource"]["resourceType"] for entry in bundle["entry"]]
    assert types[0] == "MessageHeader"
    assert "Patient" in types


def test_messages_in_files_are_taken_for_an_organization_and_counted(running: Running, tmp_path: Path) -> None:
    hospital = running.cli("organization", "create", "Lakeside Hospital")
    message = MESSAGE.read_bytes()
    batch = b"BHS|^~\\&|ADT1|LAKESIDE\r" + message + message.replace(b"LS00001", b"LS00002") + b"BTS|2\r"
    (tmp_path / "batch.hl7").write_bytes(batch)

    good = running.run("hl7v2", "load", str(tmp_path / "batch.hl7"), "--organization", hospital)
    mixed = running.run(
        "hl7v2", "load", str(MESSAGE), str(MESSAGES / "bad-1-no-patient.hl7"), "--organization", hospital
    )
    nowhere = running.run("hl7v2", "load", str(MESSAGE), "--organization", "nowhere")

    assert (good.returncode, good.stdout) == (0, "2 AA, 2 received\n")
    assert (mixed.returncode, mixed.stdout) == (1, "1 AA, 1 AE, 1 parse-error, 1 received\n")
    assert nowhere.returncode == 2
