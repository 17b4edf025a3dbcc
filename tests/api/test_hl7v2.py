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
