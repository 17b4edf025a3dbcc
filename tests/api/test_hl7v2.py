"""HL7v2 over HTTP: every acknowledgment is 200, a fault of transport is a status of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.api.client import Answer, Api

MESSAGE = (
    b"MSH|^~\\&|ADT1|LAKESIDE|X|Y|20260101120000||ADT^A01|H1|P|2.5\rEVN|A01|20260101120000\r"
    b"PID|1||88^^^LAKESIDE^MR||Bramwell^Ottilie||19790423|F\rPV1|1|I|W7^1^1\r"
)


@pytest.fixture
def send(api: Api) -> Callable[..., Any]:
    """POSTs a message to the organization's endpoint and answers what came back."""
    client = api.app.test_client()
    path = f"/1/health/organizations/{api.organization}/hl7v2"

    def post(body: bytes, media: str = "application/hl7-v2", token: str = api.token) -> Any:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return client.post(path, data=body, content_type=media, headers=headers)

    return post


def test_a_message_is_kept_and_acknowledged(api: Api, send: Callable[..., Any]) -> None:
    answer = send(MESSAGE)
    assert answer.status_code == 200
    assert answer.mimetype == "application/hl7-v2"
    assert b"MSA|AA|H1" in answer.data
    kept: Answer = api.get("InboundMessage?control-id=H1")
    assert [each["status"] for each in kept.resources] == ["received"]
    assert all(each["received"].endswith("Z") for each in kept.resources), "an instant as all others are written"


def test_the_same_message_again_has_no_second_effect(api: Api, send: Callable[..., Any]) -> None:
    assert send(MESSAGE).data == send(MESSAGE).data
    assert len(api.found("InboundMessage?control-id=H1")) == 1


def test_a_fault_of_content_is_an_acknowledgment_too(send: Callable[..., Any]) -> None:
    answer = send(b"MSH|^~\\&|ADT1|LAKESIDE|X|Y|20260101120000||ADT^A01|H2|P|2.5\rEVN|A01\rPV1|1|I\r")
    assert answer.status_code == 200
    assert b"MSA|AE|H2" in answer.data
    assert b"\rERR|" in answer.data


@pytest.mark.parametrize(
    ("media", "bearer", "status"), [("application/json", None, 415), ("application/hl7-v2", "", 401)]
)
def test_a_fault_of_transport_is_refused(send: Callable[..., Any], media: str, bearer: str | None, status: int) -> None:
    answer = send(MESSAGE, media, *([] if bearer is None else [bearer]))
    assert answer.status_code == status
    assert answer.get_json(force=True)["resourceType"] == "OperationOutcome"


def test_a_client_needs_the_scope_to_send(new_base: Callable[..., Api], api: Api, send: Callable[..., Any]) -> None:
    reader = new_base("system/Patient.rs", api.organization)
    assert send(MESSAGE, token=reader.token).status_code == 403


def batch(*controls: str, count: str = "", files: bool = True) -> bytes:
    """A batch of admissions; one whose control id begins with B has no patient."""
    parts = [MESSAGE.replace(b"H1", each.encode()) for each in controls]
    parts = [part.split(b"PID|")[0] if each[0] == "B" else part for part, each in zip(parts, controls, strict=True)]
    head = b"FHS|^~\\&|ADT1|LAKESIDE|X|Y\r" * files + b"BHS|^~\\&|ADT1|LAKESIDE|X|Y|20260101||||B77\r"
    return head + b"".join(parts) + f"BTS|{count or len(controls)}\r".encode() + b"FTS|1\r" * files


def test_a_batch_is_answered_by_a_batch_of_acknowledgments(api: Api, send: Callable[..., Any]) -> None:
    answer = send(batch("G1", "B2", "G3"))
    assert answer.status_code == 200
    lines = answer.data.split(b"\r")
    assert [line[:3] for line in lines if line] == [
        *(b"FHS", b"BHS"), *(b"MSH", b"MSA"), *(b"MSH", b"MSA", b"ERR"), *(b"MSH", b"MSA"), *(b"BTS", b"FTS")
    ]  # fmt: skip
    assert [line.split(b"|")[1:3] for line in lines if line[:3] == b"MSA"] == [
        [b"AA", b"G1"], [b"AE", b"B2"], [b"AA", b"G3"]
    ]  # fmt: skip
    assert lines[1].split(b"|")[2:6] == [b"X", b"Y", b"ADT1", b"LAKESIDE"], "turned round"
    assert b"B77" in lines[1]
    assert len(api.found("InboundMessage")) == 3
    again = send(batch("G1", "B2", "G3"))
    assert [line for line in again.data.split(b"\r") if line[:3] == b"MSA"] == [x for x in lines if x[:3] == b"MSA"]
    assert len(api.found("InboundMessage")) == 3


def test_a_batch_without_a_file_gets_none_around_its_answer(send: Callable[..., Any]) -> None:
    answer = send(batch("G1", files=False))
    assert answer.data.startswith(b"BHS|")
    assert answer.data.endswith(b"BTS|1\r")


@pytest.mark.parametrize(
    ("body", "status"), [(batch("G1", "G2", count="3"), 400), (b"BHS|^~\\&|ADT1|LAKESIDE\rBTS|0\r", 400)]
)
def test_a_batch_that_is_not_whole_is_not_taken(api: Api, send: Callable[..., Any], body: bytes, status: int) -> None:
    answer = send(body)
    assert answer.status_code == status
    assert answer.get_json(force=True)["issue"][0]["severity"] == "error"
    assert not api.found("InboundMessage")


def test_a_message_that_is_kept_is_not_changed_or_deleted_by_hand(api: Api, send: Callable[..., Any]) -> None:
    send(MESSAGE)
    [id] = api.found("InboundMessage?control-id=H1")
    path = f"InboundMessage/{id}"
    kept = api.get(path).json
    patch = [{"op": "replace", "path": "/status", "value": "processed"}]
    patched = api.patch(path, patch, content_type="application/json-patch+json")
    answers = [api.delete(path), api.put(path, kept), patched]
    assert [answer.status for answer in answers] == [405, 405, 405]
    assert "$resolve" in answers[0].issue["diagnostics"]
    assert api.get(path).json == kept


def test_a_resource_that_no_message_wrote_has_an_empty_trace(api: Api) -> None:
    api.put("Patient/untold", {"resourceType": "Patient", "id": "untold"})
    assert api.get("Patient/untold/$trace").json == {"resourceType": "Parameters"}, "no list may be empty"


def test_messages_are_found_by_their_type(api: Api, send: Callable[..., Any]) -> None:
    send(MESSAGE)
    send(MESSAGE.replace(b"ADT^A01", b"MDM^T02").replace(b"|H1|", b"|H3|"))
    assert len(api.found("InboundMessage?type=ADT")) == 1
    assert len(api.found("InboundMessage?type=MDM_T02")) == 1
    assert api.found("InboundMessage?type=SIU") == []
