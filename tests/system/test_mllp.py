"""HL7v2 over a real socket into a real MongoDB: taken, acknowledged, processed, once each, whatever the wire does."""

from __future__ import annotations

import asyncio
import base64
import socket
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fhirserver import app, local
from fhirserver.auth.access import everything
from fhirserver.hl7v2.framing import frame
from fhirserver.hl7v2.ingest import Intake, Receiver
from fhirserver.hl7v2.mapping import load
from fhirserver.hl7v2.message import Message
from fhirserver.hl7v2.mllp import Limits, serve
from fhirserver.hl7v2.process import process, sweep
from fhirserver.hl7v2.send import Connection
from fhirserver.hl7v2.senders import endpoint_resource
from fhirserver.rules.organization import kind_concept
from fhirserver.search.parse import parse
from fhirserver.settings import Secret, Settings
from fhirserver.store.search import compile_search, find

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples" / "hl7v2"


@dataclass
class Hospital:
    """A listener on a free port, an organization, and what stands in its store."""

    intake: Intake
    organization: str
    port: int

    def connect(self) -> Connection:
        return Connection("127.0.0.1", self.port, timeout=20)

    def send(self, raw: bytes) -> Message:
        with self.connect() as connection:
            return Message.parse(connection.send(raw))

    def stored(self, type: str, *pairs: tuple[str, str], organization: str = "") -> list[dict[str, Any]]:
        server, key = self.intake.server, organization or self.organization
        query = parse(server.definitions, type, pairs, strict=True)
        search = compile_search(server.store, everything(key), type, query.clauses, None)
        return [each.resource() for each in find(server.store, search, query.sort, 1000).matches] if search else []

    def drain(self) -> None:
        for message in self.stored("InboundMessage", ("status", "received"), ("_sort", "sequence")):
            process(self.intake, self.organization, message["lane"])


@pytest.fixture(scope="module")
def intake(mongo_url: str) -> Iterator[Intake]:
    settings = Settings(
        mongo_url=Secret(mongo_url),
        mongo_database=f"mllp-{uuid.uuid4().hex[:8]}",
        master_key=Secret("a master key for tests that is long enough"),
        public_url="http://mllp.test",
    )
    server = app.build(settings).server
    server.refresh()
    yield Intake(server, load(ROOT / "mappings", server.definitions))
    server.store.database.client.close()


@pytest.fixture(scope="module")
def listener(intake: Intake) -> Iterator[int]:
    loop, ready, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    ports: list[int] = []

    async def listen() -> None:
        receiver = Receiver(intake)
        committing = asyncio.create_task(receiver.run())
        limits = Limits(message=200_000, frame=2.0)
        await serve(
            "127.0.0.1", 0, receiver.receive, refuse=intake.too_long, limits=limits, stop=stop,
            ready=lambda port: (ports.append(port), ready.set())[0],  # type: ignore[func-returns-value]
        )  # fmt: skip
        committing.cancel()
        receiver.close()

    thread = threading.Thread(target=loop.run_until_complete, args=(listen(),), daemon=True)
    thread.start()
    assert ready.wait(20)
    yield ports[0]
    loop.call_soon_threadsafe(stop.set)
    thread.join(20)
    loop.close()


@pytest.fixture
def hospital(intake: Intake, listener: int) -> Hospital:
    """An organization of its own; its messages carry its own facility in MSH-4."""
    kind = [kind_concept("provider")]
    resource = {"resourceType": "Organization", "active": True, "name": "Lakeside", "type": kind}
    organization = local._create(intake.server, resource)
    local._create(intake.server, endpoint_resource(organization, "", facility(organization), False))
    return Hospital(intake, organization, listener)


def facility(organization: str) -> str:
    return f"F{organization[-8:]}".upper()


def example(name: str, hospital: Hospital) -> bytes:
    """An example message as if this hospital had sent it."""
    return (EXAMPLES / name).read_bytes().replace(b"|LAKESIDE", b"|" + facility(hospital.organization).encode(), 1)


def test_an_admission_is_kept_acknowledged_and_stored(hospital: Hospital) -> None:
    answer = hospital.send(example("01-admit-a01-2.3.hl7", hospital))
    assert (answer["MSA-1"], answer["MSA-2"], answer["MSH-9.1"], answer["MSH-5"]) == ("AA", "LS00001", "ACK", "ADT1")
    [kept] = hospital.stored("InboundMessage", ("control-id", "LS00001"))
    assert (kept["status"], kept["event"], kept["acknowledgmentCode"]) == ("received", "ADT_A01", "AA")
    assert base64.b64decode(kept["content"]["data"]) == example("01-admit-a01-2.3.hl7", hospital)
    hospital.drain()
    [patient] = hospital.stored("Patient", ("identifier", "450011"))
    assert patient["name"][0]["family"] == "Bramwell"
    [encounter] = hospital.stored("Encounter")
    assert encounter["subject"]["reference"] == f"Patient/{patient['id']}"
    [done] = hospital.stored("InboundMessage", ("patient", f"Patient/{patient['id']}"))
    assert done["status"] == "warning", "the times of a message without a zone are cut to the day, and that is said"
    [provenance] = hospital.stored("Provenance", ("target", f"Patient/{patient['id']}"))
    assert provenance["entity"][0]["what"]["reference"] == f"InboundMessage/{kept['id']}"


def test_an_update_changes_what_it_says_and_leaves_the_rest(hospital: Hospital) -> None:
    with hospital.connect() as connection:
        for name in ("01-admit-a01-2.3.hl7", "03-update-a08-2.5.hl7"):
            assert Message.parse(connection.send(example(name, hospital)))["MSA-1"] == "AA"
    hospital.drain()
    [patient] = hospital.stored("Patient", ("identifier", "450011"))
    assert patient["meta"]["versionId"] == "2"
    assert patient["name"][0]["family"] == "Bramwell-Ångström", "Latin-1, as MSH-18 says"
    assert patient["communication"], "the update says nothing of the language"
    [encounter] = hospital.stored("Encounter")
    assert [place["status"] for place in encounter["location"]] == ["active"]
    assert len(hospital.stored("RelatedPerson")) == 1


def test_an_explicit_null_deletes(hospital: Hospital) -> None:
    for name in ("02-register-a04-2.4.hl7", "08-null-a08-2.7.hl7"):
        hospital.send(example(name, hospital))
    hospital.drain()
    [patient] = hospital.stored("Patient", ("identifier", "450012"))
    assert "address" not in patient
    assert "telecom" not in patient
    assert patient["deceasedDateTime"] == "2026-09-14"


def test_the_same_message_again_gets_the_same_acknowledgment_and_no_second_effect(hospital: Hospital) -> None:
    raw = example("06-z-segments-a01-2.5.hl7", hospital)
    with hospital.connect() as connection:
        answers = {connection.send(raw) for _ in range(3)}
    hospital.drain()
    with hospital.connect() as connection:
        answers.add(connection.send(raw))
    assert len(answers) == 1
    hospital.drain()
    assert len(hospital.stored("InboundMessage")) == 1
    [patient] = hospital.stored("Patient")
    assert patient["meta"]["versionId"] == "1"


def test_the_same_control_id_with_other_content_is_another_message(hospital: Hospital) -> None:
    raw = example("06-z-segments-a01-2.5.hl7", hospital)
    hospital.send(raw)
    hospital.send(raw.replace(b"Clement", b"Clemens"))
    hospital.drain()
    assert len(hospital.stored("InboundMessage", ("control-id", "LS00006"))) == 2
    [patient] = hospital.stored("Patient")
    assert patient["name"][0]["given"] == ["Clemens"]


def test_many_connections_at_once_lose_and_repeat_nothing(hospital: Hospital) -> None:
    raw = example("02-register-a04-2.4.hl7", hospital)

    def sender(number: int) -> None:
        with hospital.connect() as connection:
            for each in range(10):
                one = raw.replace(b"LS00002", b"C%d-%d" % (number, each)).replace(b"450012", b"9%d" % number)
                assert b"MSA|CA|" in connection.send(one)

    threads = [threading.Thread(target=sender, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(hospital.stored("InboundMessage")) == 80
    hospital.drain()
    assert len(hospital.stored("Patient")) == 8
    assert not hospital.stored("InboundMessage", ("status", "received"))


def test_faulty_messages_are_answered_and_kept(hospital: Hospital) -> None:
    expected = {
        "bad-1-no-patient.hl7": ("AE", "100", "parse-error"),
        "bad-2-no-control-id.hl7": ("AE", "101", "parse-error"),
        "bad-4-unknown-event.hl7": ("AR", "201", "failed"),
    }
    for name, (code, condition, status) in expected.items():
        answer = hospital.send(example(name, hospital))
        assert (answer["MSA-1"], answer["ERR-3.1"]) == (code, condition), name
        assert answer["ERR-8"], name
        assert [m for m in hospital.stored("InboundMessage", ("status", status)) if m["acknowledgmentCode"] == code]
    assert not hospital.stored("Patient")


def test_an_unknown_sender_is_refused_and_its_message_kept_apart(hospital: Hospital) -> None:
    raw = (EXAMPLES / "bad-5-unknown-sender.hl7").read_bytes().replace(b"XX00095", uuid.uuid4().hex.encode())
    answer = hospital.send(raw)
    assert answer["MSA-1"] == "AR"
    control = Message.parse(raw).control_id
    assert not hospital.stored("InboundMessage")
    [kept] = hospital.stored("InboundMessage", ("control-id", control), organization="registry")
    assert (kept["status"], kept["reason"]) == ("failed", "unknown-sender")


def test_bytes_that_are_no_message_get_an_answer(hospital: Hospital) -> None:
    assert hospital.send(b"This is not a message at all")["MSA-1"] == "AE"


def test_frames_come_split_and_joined_and_with_junk_between(hospital: Hospital) -> None:
    raw = example("06-z-segments-a01-2.5.hl7", hospital)
    two = frame(raw.replace(b"LS00006", b"S1")) + b"\x00junk\r\n" + b"\x0b" + frame(raw.replace(b"LS00006", b"S2"))
    with hospital.connect() as connection:
        for start in range(0, len(two), 7):
            connection.raw(two[start : start + 7])
        answers = [Message.parse(connection.answer())["MSA-2"] for _ in range(2)]
    assert answers == ["S1", "S2"]


def test_a_frame_that_is_too_long_is_refused_and_the_listener_goes_on(hospital: Hospital) -> None:
    raw = example("06-z-segments-a01-2.5.hl7", hospital)
    with hospital.connect() as connection:
        connection.raw(frame(raw + b"ZZZ|" + b"x" * 300_000))
        answer = Message.parse(connection.answer())
    assert (answer["MSA-1"], answer["ERR-3.1"]) == ("AR", "104")
    assert hospital.send(raw)["MSA-1"] == "AA"


def test_half_frames_garbage_and_hang_ups_end_nothing_but_their_connection(hospital: Hospital) -> None:
    for data in (b"\x0bMSH|^~\\&|half", b"\xff" * 1000, b"GET / HTTP/1.1\r\n\r\n", b"\x0b\x1c\r", b""):
        with socket.create_connection(("127.0.0.1", hospital.port), timeout=5) as raw:
            raw.sendall(data)
    with socket.create_connection(("127.0.0.1", hospital.port), timeout=10) as slow:
        slow.sendall(b"\x0bMSH|^~\\&|never ends")
        assert slow.recv(10) == b"", "a frame that does not end in time is given up"
    assert hospital.send(example("06-z-segments-a01-2.5.hl7", hospital))["MSA-1"] == "AA"


def test_the_sweep_finds_lanes_whose_job_was_lost(hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    hospital.send(example("06-z-segments-a01-2.5.hl7", hospital))
    monkeypatch.setattr("fhirserver.hl7v2.process.STALE_SECONDS", -60.0)
    jobs: list[tuple[str, ...]] = []
    monkeypatch.setattr(hospital.intake.server, "enqueue", lambda *job: jobs.append(job))
    sweep(hospital.intake)
    [kept] = hospital.stored("InboundMessage")
    assert ("process", hospital.organization, kept["lane"]) in jobs
