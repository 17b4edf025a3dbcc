"""$convert, $validate-v2 and $trace on an organization's base: what an interface engineer asks before and after."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest

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


@pytest.mark.parametrize("operation", ["$convert", "$validate-v2"])
def test_a_message_is_given_as_it_is_or_as_text_or_as_base64(api: Api, operation: str) -> None:
    raw = RAW.replace("Ottilie", "Öttilie").replace("P|2.5\r", "P|2.5||||||8859/1\r").encode("latin-1")
    path, coded = f"InboundMessage/{operation}", {"name": "content", "valueBase64Binary": b64encode(raw).decode()}
    ways = [
        api.post(path, raw, Content_Type="application/hl7-v2"),
        api.post(path, raw, Content_Type="x-application/hl7-v2+er7"),
        api.post(path, {"resourceType": "Parameters", "parameter": [coded]}),
    ]
    assert [each.status for each in ways] == [200] * 3, ways[0].data
    assert all(("Öttilie" in each.data.decode()) is (operation == "$convert") for each in ways)
    text = [api.post(path, asked(**{name: RAW})).status for name in ("message", "content")]
    assert text == [200, 200]
    assert api.post("Patient", raw, Content_Type="application/hl7-v2").status == 415


def test_what_a_message_becomes_is_taken_as_a_fhir_message(api: Api) -> None:
    [bundle] = [
        part["resource"] for part in api.post("InboundMessage/$convert", asked(message=RAW)).json["parameter"][:1]
    ]
    answer = api.post("$process-message", bundle)
    assert answer.status == 200, answer.data
    [patient] = api.get("Patient").resources
    assert patient["name"][0]["family"] == "Bramwell"


def test_what_cannot_be_mapped_says_why(api: Api) -> None:
    refused = api.post("InboundMessage/$convert", asked(message="this is no message"))
    assert refused.status in (400, 422)
    assert refused.issue["diagnostics"]


def test_a_conformance_report_is_made(api: Api) -> None:
    answer = api.post("InboundMessage/$validate-v2", asked(message=RAW))
    assert answer.status == 200, answer.data
