"""HL7v2 over a real socket into a real MongoDB: taken, acknowledged, processed, once each, whatever the wire does."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import socket
import ssl
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme

from fhirserver import app, local
from fhirserver.auth.access import everything
from fhirserver.auth.principal import SYSTEM
from fhirserver.fhir.problem import Problem, problem
from fhirserver.hl7v2.framing import frame
from fhirserver.hl7v2.inbound import Peer, Reply
from fhirserver.hl7v2.ingest import Intake, Receiver
from fhirserver.hl7v2.mapping import load
from fhirserver.hl7v2.message import Message
from fhirserver.hl7v2.mllp import Certificate, Limits, serve, server_context
from fhirserver.hl7v2.operations import operations
from fhirserver.hl7v2.points import settled
from fhirserver.hl7v2.process import process, sweep
from fhirserver.hl7v2.send import Connection
from fhirserver.hl7v2.senders import CERTIFICATE, EXTENSION, Senders, endpoint_resource
from fhirserver.interactions.model import Request, Server
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
    yield settled(Intake(server, load(ROOT / "mappings", server.definitions)))
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
    other = raw.replace(b"Clement", b"Clemens")
    hospital.send(raw)
    answers = {hospital.send(other)["MSA-1"] for _ in range(2)}
    assert answers == {"AA"}
    hospital.drain()
    assert len(hospital.stored("InboundMessage", ("control-id", "LS00006"))) == 2
    [flagged] = hospital.stored("InboundMessage", ("repeated-control-id", "true"))
    assert base64.b64decode(flagged["content"]["data"]) == other
    [patient] = hospital.stored("Patient")
    assert patient["name"][0]["given"] == ["Clemens"]


def batch(hospital: Hospital, *messages: bytes, count: int) -> bytes:
    """A file with one batch, in a frame."""
    names = f"|^~\\&|ADT1|{facility(hospital.organization)}|EXCHANGE|HUB|20260914\r"
    ends = (f"FHS{names}BHS{names}".encode(), f"BTS|{count}\rFTS|1\r".encode())
    return b"".join((ends[0], *messages, ends[1]))


def test_a_batch_in_a_frame_is_taken_whole_and_in_order(hospital: Hospital) -> None:
    first = example("06-z-segments-a01-2.5.hl7", hospital)
    renamed = first.replace(b"LS00006", b"LS00007").replace(b"A01", b"A08").replace(b"Clement", b"Clemens")
    broken = first.replace(b"LS00006", b"LS00008").split(b"PID|")[0]
    whole = batch(hospital, first, broken, renamed, count=3)
    with hospital.connect() as connection:
        answers = [connection.send(whole) for _ in range(2)]
        assert Message.parse(connection.send(first))["MSA-1"] == "AA", "the connection goes on"
    told = [[line.split(b"|")[1:3] for line in each.split(b"\r") if line[:3] == b"MSA"] for each in answers]
    assert told[0] == [[b"AA", b"LS00006"], [b"AE", b"LS00008"], [b"AA", b"LS00007"]]
    assert told[1] == told[0], "the same batch again has no second effect"
    assert [line[:3] for line in answers[0].split(b"\r")[:2]] == [b"FHS", b"BHS"]
    hospital.drain()
    assert len(hospital.stored("InboundMessage")) == 3
    [patient] = hospital.stored("Patient")
    assert patient["name"][0]["given"] == ["Clemens"]


def test_a_batch_in_a_frame_that_is_not_whole_is_not_taken(hospital: Hospital) -> None:
    with hospital.connect() as connection:
        answer = connection.send(batch(hospital, example("06-z-segments-a01-2.5.hl7", hospital), count=2))
    assert b"MSA|AE" in answer
    assert b"BTS-1" in answer
    assert hospital.stored("InboundMessage") == []


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


def test_a_process_that_could_not_read_the_endpoints_takes_nothing(
    hospital: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Endpoint is part of what makes a message the same: taken without it, it would be another the next time."""

    def away(server: Server) -> list[dict[str, Any]]:
        raise problem("transient", "away")

    fresh, raw = Intake(hospital.intake.server, hospital.intake.maps), example("06-z-segments-a01-2.5.hl7", hospital)
    with monkeypatch.context() as while_away:
        while_away.setattr("fhirserver.hl7v2.ingest._endpoints", away)
        refused = fresh.take(raw, "127.0.0.1", hospital.organization)
        assert refused is not None
        assert Message.parse(refused)["MSA-1"] == "AR"
        with pytest.raises(Problem):
            fresh.prepare(raw, Peer("127.0.0.1"))
    assert hospital.stored("InboundMessage") == []
    other = Intake(hospital.intake.server, hospital.intake.maps)
    taken = [each.take(raw, "127.0.0.1", hospital.organization) for each in (fresh, other)]
    assert taken[0] == taken[1]
    assert len(hospital.stored("InboundMessage")) == 1


def test_the_sweep_finds_lanes_whose_job_was_lost(hospital: Hospital, monkeypatch: pytest.MonkeyPatch) -> None:
    hospital.send(example("06-z-segments-a01-2.5.hl7", hospital))
    monkeypatch.setattr("fhirserver.hl7v2.process.STALE_SECONDS", -60.0)
    jobs: list[tuple[str, ...]] = []
    monkeypatch.setattr(hospital.intake.server, "enqueue", lambda *job: jobs.append(job))
    sweep(hospital.intake)
    [kept] = hospital.stored("InboundMessage")
    assert ("process", hospital.organization, kept["lane"]) in jobs


def case(name: str, hospital: Hospital) -> bytes:
    """A case message as if this hospital had sent it."""
    raw = (ROOT / "tests" / "cases" / "hl7v2" / f"{name}.hl7").read_bytes()
    return raw.replace(b"|LAKESIDE|", b"|" + facility(hospital.organization).encode() + b"|", 1)


def called(
    hospital: Hospital, name: str, type: str = "InboundMessage", id: str | None = None, **values: str
) -> dict[str, Any]:
    """The answer of an operation on the hospital's base."""
    server = hospital.intake.server
    row = next(row for row in operations(lambda _: hospital.intake) if row.name == name)
    body = {
        "resourceType": "Parameters",
        "parameter": [{"name": key, "valueString": value} for key, value in values.items()],
    }
    base = server.base(hospital.organization)
    request = Request(
        "operation", hospital.organization, base, SYSTEM, type=type, id=id, operation=f"${name}", body=body
    )
    answer = row.function(server, request, everything(hospital.organization))
    assert answer.resource is not None
    return answer.resource


def test_a_merge_makes_one_patient_of_two_and_keeps_both(hospital: Hospital) -> None:
    prior = case("adt-a28", hospital).replace(b"700100", b"700150").replace(b"CADT_A28", b"PRIOR")
    for raw in (prior, case("adt-a28", hospital), case("adt-a40", hospital)):
        assert hospital.send(raw)["MSA-1"] == "AA"
    hospital.drain()
    [survivor] = hospital.stored("Patient", ("identifier", "700100"))
    [merged] = hospital.stored("Patient", ("identifier", "700150"))
    assert merged["active"] is False
    assert [(k["type"], k["other"]["reference"]) for k in merged["link"]] == [
        ("replaced-by", f"Patient/{survivor['id']}")
    ]
    assert [(k["type"], k["other"]["reference"]) for k in survivor["link"]] == [("replaces", f"Patient/{merged['id']}")]
    assert merged["meta"]["versionId"] == "2"


def test_a_changed_number_stays_the_same_patient(hospital: Hospital) -> None:
    hospital.send(case("adt-a28", hospital).replace(b"700100", b"700150"))
    hospital.send(case("adt-a47", hospital))
    hospital.drain()
    [patient] = hospital.stored("Patient")
    assert {i["value"]: i.get("use") for i in patient["identifier"]} | {} == {
        "700150": "old", "700100": None, "ALT-7": "old", "P-9": "old"
    }  # fmt: skip


def test_an_appointment_is_booked_moved_and_cancelled(hospital: Hospital) -> None:
    for name in ("siu-s12", "siu-s13", "siu-s15"):
        assert hospital.send(case(name, hospital))["MSA-1"] == "AA"
    hospital.drain()
    [appointment] = hospital.stored("Appointment")
    assert (appointment["status"], appointment["meta"]["versionId"]) == ("cancelled", "3")
    [patient] = hospital.stored("Patient")
    assert f"Patient/{patient['id']}" in {p["actor"].get("reference") for p in appointment["participant"]}


def test_an_order_and_its_results_meet(hospital: Hospital) -> None:
    for name in ("oml-o21-lab", "oru-r01-lab"):
        assert hospital.send(case(name, hospital))["MSA-1"] == "AA"
    hospital.drain()
    [order] = hospital.stored("ServiceRequest")
    [report] = hospital.stored("DiagnosticReport")
    assert report["basedOn"] == [{"reference": f"ServiceRequest/{order['id']}"}]
    assert order["status"] == "completed"
    assert len(report["result"]) == 2


def test_what_is_said_twice_about_an_allergy_is_one_allergy(hospital: Hospital) -> None:
    raw = case("oru-r01-lab", hospital)
    hospital.send(raw)
    hospital.send(raw.replace(b"CORU_R01", b"AGAIN"))
    hospital.drain()
    assert len(hospital.stored("AllergyIntolerance")) == 1
    assert {r["meta"]["versionId"] for r in hospital.stored("Observation")} == {"1"}, "nothing new was said"


def test_a_message_is_converted_without_being_stored(hospital: Hospital) -> None:
    answer = called(hospital, "convert", message=case("adt-a01-rich", hospital).decode())
    assert answer["parameter"][0]["resource"]["type"] == "message"
    traces = [{p["name"]: p["valueString"] for p in t["part"]} for t in answer["parameter"] if t["name"] == "trace"]
    assert {"element": "Patient.gender", "field": "PID[1]-8.1", "rule": "PID.Patient/pid8"}.items() <= next(
        t for t in traces if t["element"] == "Patient.gender"
    ).items()
    assert not hospital.stored("InboundMessage")
    outcome = called(hospital, "validate-v2", message=case("adt-a01-rich", hospital).decode())
    assert outcome["resourceType"] == "OperationOutcome"


def test_every_element_of_a_stored_resource_is_traced_to_message_field_and_rule(hospital: Hospital) -> None:
    hospital.send(case("adt-a28", hospital))
    hospital.drain()
    [patient] = hospital.stored("Patient")
    [trace] = called(hospital, "trace", "Patient", patient["id"])["parameter"]
    [kept] = hospital.stored("InboundMessage")
    assert trace["part"][0]["valueReference"]["reference"] == f"InboundMessage/{kept['id']}"
    rows = [{p["name"]: p["valueString"] for p in part["part"]} for part in trace["part"] if part["name"] == "element"]
    package = f"{hospital.intake.maps.package}#{hospital.intake.maps.version}"
    wrote = {"element": "Patient.birthDate", "field": "PID[1]-7", "rule": "PID.Patient/pid7", "layer": package}
    assert wrote in rows


def test_a_message_that_failed_is_put_off_processed_again_and_resolved(hospital: Hospital) -> None:
    raw = case("adt-a28", hospital).replace(b"700100^^^LAKESIDE^MR", b"").replace(b"Marlowe^Iris^T^^^^L", b"")
    raw = raw[: raw.index(b"PID|")] + b"PID|1\rPV1|1|N\r"
    assert hospital.send(raw)["MSA-1"] == "AA"
    hospital.drain()
    [kept] = hospital.stored("InboundMessage", ("status", "mapping-error"))
    assert (kept["reason"], kept["issue"][0]["expression"]) == ("unmapped", ["PID"])
    called(hospital, "defer", id=kept["id"], note="asked the sender")
    [deferred] = hospital.stored("InboundMessage", ("status", "deferred"))
    assert deferred["issue"][-1]["diagnostics"] == "Made deferred by hand: asked the sender"
    called(hospital, "reprocess", filter="status=deferred")
    assert hospital.stored("InboundMessage", ("status", "received"))
    hospital.drain()
    [again] = hospital.stored("InboundMessage", ("status", "mapping-error"))
    assert again["attempts"] == 2
    called(hospital, "resolve", id=kept["id"])
    [done] = hospital.stored("InboundMessage")
    assert done["status"] == "processed"
    with pytest.raises(Problem, match="cannot be made deferred"):
        called(hospital, "defer", id=kept["id"])


def test_the_endpoint_says_time_zone_and_acknowledgment(intake: Intake, listener: int) -> None:
    kind = [kind_concept("provider")]
    organization = local._create(
        intake.server, {"resourceType": "Organization", "active": True, "name": "Zoned", "type": kind}
    )
    parts = [
        {"url": "timezone", "valueString": "America/Los_Angeles"},
        {"url": "acknowledgment", "valueCode": "aa"},
        {"url": "authority", "valueString": "LAKESIDE=urn:oid:1.2.840.99999.1"},
    ]
    endpoint = {
        **endpoint_resource(organization, "", facility(organization), False),
        "extension": [{"url": EXTENSION, "extension": parts}],
    }
    local._create(intake.server, endpoint)
    zoned = Hospital(intake, organization, listener)
    assert zoned.send(example("02-register-a04-2.4.hl7", zoned))["MSA-1"] == "AA", (
        "MSH-15 asks for CA, the endpoint says AA"
    )
    zoned.drain()
    [encounter] = zoned.stored("Encounter")
    assert encounter["period"]["start"] == "2026-09-14T09:30:00-07:00"
    [patient] = zoned.stored("Patient")
    assert patient["identifier"][0]["system"] == "urn:oid:1.2.840.99999.1"


def pointed(intake: Intake, listener: int, point: str) -> Hospital:
    """A hospital whose Endpoint has this acknowledgment point."""
    made = {"resourceType": "Organization", "active": True, "name": point, "type": [kind_concept("provider")]}
    organization = local._create(intake.server, made)
    parts = [{"url": "acknowledgment-point", "valueCode": point}]
    endpoint = endpoint_resource(organization, "", facility(organization), False)
    local._create(intake.server, {**endpoint, "extension": [{"url": EXTENSION, "extension": parts}]})
    return Hospital(intake, organization, listener)


NO_PATIENT = b"PID|1\rPV1|1|N\r"
CLASH = b"PID|1||7^^^LAKESIDE^MR\rMRG|7^^^LAKESIDE^MR\r"
"""A merge into itself: it is mapped, and cannot be stored."""


def short(hospital: Hospital, event: str, segments: bytes, accept: bytes = b"", application: bytes = b"") -> bytes:
    """A message with a control id of its own; MSH-13 is 41."""
    head = b"|".join([
        b"MSH", b"^~\\&", b"A", facility(hospital.organization).encode(), b"", b"", b"20260101", b"",
        event.encode(), uuid.uuid4().hex[:20].encode(), b"P", b"2.5", b"41", b"", accept, application,
    ])  # fmt: skip
    return head + b"\r" + segments


def test_stored_is_acknowledged_before_it_is_mapped(hospital: Hospital) -> None:
    assert hospital.send(short(hospital, "ADT^A31", NO_PATIENT))["MSA-1"] == "AA"


def test_an_endpoint_may_want_its_messages_mapped_before_they_are_acknowledged(intake: Intake, listener: int) -> None:
    hospital = pointed(intake, listener, "transformed")
    answer = hospital.send(short(hospital, "ADT^A31", NO_PATIENT))
    assert (answer["MSA-1"], answer["ERR-3.1"], answer["ERR-2.1"]) == ("AE", "101", "PID")
    [kept] = hospital.stored("InboundMessage")
    assert (kept["status"], kept["acknowledgmentCode"]) == ("mapping-error", "AE")
    assert hospital.send(short(hospital, "ADT^A40", CLASH))["MSA-1"] == "AA", (
        "it is mapped, and that is all that is said"
    )


def test_an_endpoint_may_want_resources_committed_before_they_are_acknowledged(intake: Intake, listener: int) -> None:
    hospital = pointed(intake, listener, "persisted")
    good = short(hospital, "ADT^A31", b"PID|1||7^^^LAKESIDE^MR||Marlowe\rPV1|1|N\r")
    with hospital.connect() as connection:
        first = connection.send(good)
        assert hospital.stored("Patient"), "there when the acknowledgment is"
        assert connection.send(good) == first
    assert Message.parse(first)["MSA-1"] == "AA"
    bad = short(hospital, "ADT^A40", CLASH)
    answers = [hospital.send(bad) for _ in range(2)]
    assert [each["MSA-1"] for each in answers] == ["AE", "AE"]
    assert "same resource" in answers[0]["ERR-8"]
    [kept] = hospital.stored("InboundMessage", ("status", "mapping-error"))
    assert kept["acknowledgmentCode"] == "AE"
    assert len(hospital.stored("InboundMessage")) == 2


def test_persisted_is_not_said_of_what_waits_too_long(
    intake: Intake, listener: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    hospital = pointed(intake, listener, "persisted")
    monkeypatch.setattr("fhirserver.hl7v2.points.PATIENCE_SECONDS", 0.3)
    raw = short(hospital, "ADT^A31", b"PID|1||7^^^LAKESIDE^MR||Marlowe\rPV1|1|N\r")
    monkeypatch.setattr("fhirserver.hl7v2.points.process", lambda *_: 0)
    assert hospital.send(raw)["MSA-1"] == "AR"
    monkeypatch.undo()
    assert hospital.send(raw)["MSA-1"] == "AA"
    assert len(hospital.stored("InboundMessage")) == 1


def test_enhanced_mode_gets_what_became_of_a_message_on_the_same_connection(hospital: Hospital) -> None:
    good = short(hospital, "ADT^A31", b"PID|1||7^^^LAKESIDE^MR||Marlowe\rPV1|1|N\r", b"AL", b"AL")
    bad = short(hospital, "ADT^A31", NO_PATIENT, b"AL", b"AL")
    silent = short(hospital, "ADT^A31", NO_PATIENT, b"AL", b"SU")
    with hospital.connect() as connection:
        for raw in (good, bad, silent):
            connection.post(raw)
        answers = [Message.parse(connection.answer()) for _ in range(5)]
    said = {(each["MSA-1"], each["MSA-2"]) for each in answers}
    good_id, bad_id, silent_id = (Message.parse(raw).control_id for raw in (good, bad, silent))
    assert said == {("CA", good_id), ("AA", good_id), ("CA", bad_id), ("AE", bad_id), ("CA", silent_id)}
    assert len({each["MSH-10"] for each in answers}) == 5


def test_a_sequence_number_is_answered_with_the_next(hospital: Hospital) -> None:
    assert hospital.send(short(hospital, "ADT^A31", NO_PATIENT))["MSA-4"] == "42"
    assert hospital.send(short(hospital, "QRY^A31", NO_PATIENT))["MSA-4"] == "41", "not taken: the same once more"
    unnumbered = short(hospital, "ADT^A31", NO_PATIENT).replace(b"|41|", b"|-1|")
    assert not hospital.send(unnumbered)["MSA-4"]


def test_a_client_certificate_says_whose_a_message_is(intake: Intake, tmp_path: Path) -> None:
    authority, server = trustme.CA(), tmp_path / "server.pem"
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(server)
    client = authority.issue_cert("lakeside@hospital.example")
    client.private_key_and_cert_chain_pem.write_to_path(tmp_path / "client.pem")
    der = ssl.PEM_cert_to_DER_cert(client.cert_chain_pems[0].bytes().decode())
    fingerprint = hashlib.sha256(der).hexdigest()
    seen: list[Peer] = []

    async def receive(raw: bytes, peer: Peer) -> Reply:
        seen.append(peer)
        return Reply(b"MSH|^~\\&\rMSA|AA|1\r")

    async def exchange() -> None:
        stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
        context = server_context(server, server, tmp_path / "ca.pem")
        task = asyncio.create_task(
            serve("127.0.0.1", 0, receive, refuse=intake.too_long, ready=ready.set_result, stop=stop, tls=context)
        )
        trust = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        trust.load_cert_chain(tmp_path / "client.pem")

        def send() -> bytes:
            with Connection("127.0.0.1", ready.result(), tls=trust) as connection:
                return connection.send(b"MSH|^~\\&|A")

        await ready
        assert b"MSA|AA" in await asyncio.to_thread(send)
        stop.set()
        await task

    asyncio.run(exchange())
    assert (seen[0].certificate, seen[0].address) == (fingerprint, "127.0.0.1")
    resource = {**endpoint_resource("o1", "", "", False), "id": "e"}
    resource["identifier"] = [{"system": CERTIFICATE, "value": fingerprint.upper()}]
    senders = Senders([resource])
    assert senders.find(("ANY",), ("ANY",), fingerprint) is not None
    assert senders.find(("ANY",), ("ANY",), "") is None


def test_a_renewed_certificate_is_used_without_a_restart(intake: Intake, tmp_path: Path) -> None:
    first, second, path = trustme.CA(), trustme.CA(), tmp_path / "server.pem"
    first.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(path)

    async def receive(raw: bytes, peer: Peer) -> Reply:
        return Reply(b"MSH|^~\\&\rMSA|AA|1\r")

    def trusted(authority: trustme.CA, port: int) -> bool:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        try:
            with Connection("127.0.0.1", port, tls=context) as connection:
                return b"MSA|AA" in connection.send(b"MSH|^~\\&|A")
        except ssl.SSLError:
            return False

    async def exchange() -> None:
        stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
        certificate = Certificate(path, path)
        beside = asyncio.create_task(certificate.watch(0.05))
        task = asyncio.create_task(
            serve(
                "127.0.0.1", 0, receive,
                refuse=intake.too_long, ready=ready.set_result, stop=stop, tls=certificate.context,
            )
        )  # fmt: skip
        port = await ready
        assert await asyncio.to_thread(trusted, first, port)
        path.write_text("no certificate")
        await asyncio.sleep(0.2)
        assert await asyncio.to_thread(trusted, first, port), "one that cannot be read leaves the one in use"
        second.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(path)
        async with asyncio.timeout(20):
            while not await asyncio.to_thread(trusted, second, port):
                await asyncio.sleep(0.05)
        beside.cancel()
        stop.set()
        await task

    asyncio.run(exchange())
