"""$process-message: a FHIR message is stored by what identifies its resources, once, and answered. R4: messaging."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable
from typing import Any

import pytest

from fhirserver.app import Installation
from fhirserver.fhir.json import decode
from fhirserver.fhir.problem import problem
from fhirserver.hl7v2.process import process
from fhirserver.messaging import process_message
from tests.api.client import Answer, Api
from tests.api.samples import bundle, entry, observation, patient

SENDER = "http://sender.example/fhir"


def header(id: str = "m1", event: str = "admission", **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "MessageHeader",
        "id": id,
        "eventCoding": {"system": "urn:events", "code": event},
        "source": {"name": "Ward system", "endpoint": SENDER},
        **more,
    }


def message(*resources: dict[str, Any], control: str = "1", head: dict[str, Any] | None = None) -> dict[str, Any]:
    """A message as a hospital sends it: full URLs of its own, references relative to them."""
    parts = [head or header(), *resources]
    return {
        "resourceType": "Bundle",
        "identifier": {"system": "urn:messages", "value": control},
        "type": "message",
        "entry": [{"fullUrl": f"{SENDER}/{p['resourceType']}/{p['id']}", "resource": p} for p in parts],
    }


def identified(value: str, **more: Any) -> dict[str, Any]:
    return patient(id="ida", identifier=[{"system": "urn:mrn", "value": value}], **more)


def send(api: Api, body: dict[str, Any]) -> Answer:
    return api.post("$process-message", body)


def test_a_message_is_stored_and_answered_by_a_message(api: Api) -> None:
    sent = message(identified("7"), observation("Patient/ida", id="o"))
    answer = send(api, sent)

    assert answer.status == 200
    head = answer.json["entry"][0]["resource"]
    assert (answer.json["type"], head["resourceType"]) == ("message", "MessageHeader")
    assert head["response"] == {"identifier": "m1", "code": "ok"}
    assert head["destination"] == [{"endpoint": SENDER}]
    assert api.post("Bundle/$validate", answer.json).json["issue"][0]["severity"] != "error"
    (id,) = api.found("Patient?identifier=urn:mrn|7")
    assert id != "ida"
    assert api.get(f"Observation?patient={id}").resources[0]["subject"] == {"reference": f"Patient/{id}"}
    kept = api.get("InboundMessage?status=processed").resources[0]
    assert (kept["event"], kept["controlId"], kept["patient"]["reference"]) == ("admission", "1", f"Patient/{id}")
    assert decode(base64.b64decode(kept["content"]["data"])) == sent
    assert f"Patient/{id}/_history/1" in [each["reference"] for each in kept["result"]]


def test_what_is_identified_is_updated_with_what_the_message_says(api: Api) -> None:
    made = api.create(patient(identifier=[{"system": "urn:mrn", "value": "7"}], birthDate="1961-04-17", gender="male"))
    send(api, message(identified("7", gender="female")))

    after = api.get(f"Patient/{made['id']}").json
    assert (after["gender"], after["birthDate"], after["meta"]["versionId"]) == ("female", "1961-04-17", "2")
    assert len(api.found("Patient")) == 1


def test_the_same_message_again_gets_the_same_answer_and_changes_nothing(api: Api) -> None:
    body = message(identified("7"), observation("Patient/ida", id="o"))
    first, second = send(api, body), send(api, body)

    assert second.data == first.data
    assert len(api.found("Observation")) == 1
    assert len(api.found("InboundMessage")) == 1


def test_the_same_message_many_times_at_once_is_applied_once(api: Api) -> None:
    body = message(identified("7"), observation("Patient/ida", id="o"))
    answers: list[Answer] = []
    threads = [threading.Thread(target=lambda: answers.append(send(api, body))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert {answer.status for answer in answers} == {200}
    assert len({answer.data for answer in answers}) == 1
    assert len(api.found("Observation")) == 1


def test_an_identifier_used_again_for_other_content_is_another_message(api: Api) -> None:
    send(api, message(identified("7")))
    send(api, message(identified("8")))
    assert len(api.found("Patient")) == 2
    assert len(api.found("InboundMessage")) == 2


def test_its_event_carries_the_code_and_every_change(api: Api, installation: Installation) -> None:
    api.create(patient(identifier=[{"system": "urn:mrn", "value": "7"}]))
    send(api, message(identified("7", gender="female"), observation("Patient/ida", id="o")))

    waiting = installation.server.store.pending(1_000, ["InboundMessage"])
    (event,) = [each.event for each in waiting if each.organization == api.organization]
    assert set(event["names"]) == {"admission", "update.patient", "create.observation"}
    assert event["trigger"] == "admission"
    assert [change["action"] for change in event["changes"]] == ["update", "create"]


def test_a_message_that_was_set_aside_can_be_processed_again(
    api: Api, installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise problem("transient", "The database is away.")

    with monkeypatch.context() as patched:
        patched.setattr(process_message, "accept", away)
        assert send(api, message(identified("7"))).status == 503
    kept = api.get("InboundMessage").resources[0]
    assert (kept["status"], kept["issue"][0]["diagnostics"][:22]) == ("failed", "Processing did not end")

    assert api.post(f"InboundMessage/{kept['id']}/$reprocess").status == 200
    process(installation.intake(), api.organization, kept["lane"])

    assert api.get(f"InboundMessage/{kept['id']}").json["status"] == "processed"
    assert len(api.found("Patient?identifier=urn:mrn|7")) == 1
    assert send(api, message(identified("7"))).json["entry"][0]["resource"]["response"]["code"] == "ok"


def test_one_invalid_resource_refuses_the_whole(api: Api) -> None:
    answer = send(api, message(identified("7"), observation("Patient/ida", id="o", status="blue")))

    assert (answer.status, answer.issue["expression"]) == (400, ["Bundle.entry[2].resource.status"])
    assert api.found("Patient") == api.found("InboundMessage") == []


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (patient(), "structure"),
        (bundle("transaction", entry("POST", "Patient", patient())), "structure"),
        ({"resourceType": "Bundle", "type": "message"}, "required"),
        ({**message(), "entry": [{"fullUrl": "urn:uuid:1", "resource": patient(id="p")}]}, "required"),
        (message(head={"resourceType": "MessageHeader", "id": "m"}), "required"),
        (message({"resourceType": "Subscription", "id": "s", "status": "active"}), ""),
    ],
)
def test_what_is_no_message_is_refused(api: Api, body: dict[str, Any], code: str) -> None:
    answer = send(api, body)
    assert answer.status in (400, 422)
    assert code in ("", answer.issue["code"]) or answer.issue["code"] == "invariant"
    assert api.found("InboundMessage") == []


@pytest.mark.parametrize(
    "resource",
    [
        {"resourceType": "AuditEvent", "id": "a"},
        {"resourceType": "InboundMessage", "id": "i"},
    ],
)
def test_what_has_rules_of_its_own_does_not_come_by_message(api: Api, resource: dict[str, Any]) -> None:
    assert send(api, message(resource)).status in (400, 422)
    assert api.found("InboundMessage") == []


def test_who_may_not_create_messages_is_refused(api: Api, scoped: Callable[[str], Api]) -> None:
    body = message(identified("7"))
    assert send(scoped("system/Patient.cruds"), body).status == 403
    assert send(scoped("system/InboundMessage.c"), body).status == 200


def test_it_is_called_by_post_on_an_organizations_base(api: Api, registry: Api) -> None:
    assert api.get("$process-message").status == 405
    assert registry.post("$process-message", message()).status == 404
    assert api.post("Patient/$process-message", message()).status == 404
    assert api.post("$process-message?async=true", message()).status == 400
    assert "process-message" in [each["name"] for each in api.get("metadata").json["rest"][0]["operation"]]


def test_a_message_without_full_urls_and_identifiers_makes_new_resources(api: Api) -> None:
    body = message(patient(id="p"), observation("Patient/p", id="o"))
    for each in body["entry"]:
        del each["fullUrl"]
    assert send(api, body).status == 200
    (id,) = api.found("Patient")
    assert api.get("Observation").resources[0]["subject"] == {"reference": f"Patient/{id}"}


@pytest.mark.parametrize(
    "criteria", ["identifier=urn:mrn|{0}", "identifier={0}", "identifier=urn:mrn|{0}&family=adler"]
)
def test_messages_and_conditional_creates_at_once_make_one_resource(api: Api, criteria: str) -> None:
    send(api, message(identified("first")))  # so that all is in place and nobody waits
    api.post("Patient", identified("first"), If_None_Exist=criteria.format("first"))
    for turn in range(6):
        value = f"7-{turn}"
        start = threading.Barrier(4)
        answers: list[int] = []

        def create(value: str, start: threading.Barrier, answers: list[int]) -> None:
            start.wait()
            made = api.post("Patient", identified(value), If_None_Exist=criteria.format(value))
            answers.append(made.status)

        def intake(value: str, start: threading.Barrier, answers: list[int], number: int) -> None:
            start.wait()
            answers.append(send(api, message(identified(value), control=f"{value}-{number}")).status)

        threads = [threading.Thread(target=create, args=(value, start, answers)) for _ in range(2)]
        threads += [threading.Thread(target=intake, args=(value, start, answers, number)) for number in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(api.found(f"Patient?identifier=urn:mrn|{value}")) == 1, answers
        assert set(answers) <= {200, 201}


def test_a_second_identifier_of_a_message_is_locked_too(api: Api) -> None:
    both = [{"system": "urn:mrn", "value": "x"}, {"system": "urn:ssn", "value": "0"}]
    send(api, message(patient(id="ida", identifier=both)))
    for turn in range(6):
        start = threading.Barrier(2)
        numbers = [{"system": "urn:mrn", "value": f"m{turn}"}, {"system": "urn:ssn", "value": f"s{turn}"}]

        def create(turn: int, start: threading.Barrier) -> None:
            start.wait()
            body = patient(identifier=[{"system": "urn:ssn", "value": f"s{turn}"}])
            api.post("Patient", body, If_None_Exist=f"identifier=urn:ssn|s{turn}")

        thread = threading.Thread(target=create, args=(turn, start))
        thread.start()
        start.wait()
        answer = send(api, message(patient(id="ida", identifier=numbers), control=f"c{turn}"))
        thread.join()
        assert answer.status == 200
        assert len(api.found(f"Patient?identifier=urn:ssn|s{turn}")) == 1
