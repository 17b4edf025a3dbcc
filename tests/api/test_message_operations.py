"""$convert, $validate-v2 and $trace on an organization's base: what an interface engineer asks before and after."""

from __future__ import annotations

from typing import Any

from tests.api.client import Api

RAW = (
    "MSH|^~\\&|ADT1|LAKESIDE|X|Y|20260101120000||ADT^A01|C1|P|2.5\rEVN|A01|20260101120000\r"
    "PID|1||77^^^LAKESIDE^MR||Bramwell^Ottilie||19790423|F\rPV1|1|I|W7^1^1\r"
)


def asked(**values: str) -> dict[str, Any]:
    parameter = [{"name": name, "valueString": value} for name, value in values.items()]
    return {"resourceType": "Parameters", "parameter": parameter}


def test_a_message_is_converted_and_nothing_is_stored(api: Api) -> None:
    answer = api.post("InboundMessage/$convert", asked(message=RAW))
    assert answer.status == 200, answer.data
    parts = {part["name"]: part for part in answer.json["parameter"]}
    types = [entry["resource"]["resourceType"] for entry in parts["bundle"]["resource"]["entry"]]
    assert types[0] == "MessageHeader"
    assert {"Patient", "Encounter", "Provenance"} <= set(types)
    assert api.found("Patient") == []


def test_what_cannot_be_mapped_says_why(api: Api) -> None:
    refused = api.post("InboundMessage/$convert", asked(message="this is no message"))
    assert refused.status in (400, 422)
    assert refused.issue["diagnostics"]


def test_a_conformance_report_is_made(api: Api) -> None:
    answer = api.post("InboundMessage/$validate-v2", asked(message=RAW))
    assert answer.status == 200, answer.data
