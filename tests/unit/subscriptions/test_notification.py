"""The Bundles that are sent: valid FHIR by two validators, and as the Backport and its test kit want them."""

from __future__ import annotations

from typing import Any

import pytest
from fhir.resources.R4B.bundle import Bundle

from fhirserver.fhir import Resource
from fhirserver.fhir.definitions import Definitions
from fhirserver.fhir.json import encode
from fhirserver.fhir.validation import validate
from fhirserver.subscriptions.notification import (
    CONTENT,
    STATUS_PROFILE,
    TIMEOUT,
    About,
    Notified,
    Part,
    channel_number,
    content_of,
    headers,
    history,
    message,
    status,
)

BASE = "https://exchange.example/1/health/organizations/h1/fhir/4"
NOW = "2026-01-02T03:04:05.678Z"
PATIENT: Resource = {"resourceType": "Patient", "id": "p1", "meta": {"versionId": "1"}, "active": True}
ENCOUNTER: Resource = {
    "resourceType": "Encounter", "id": "e1", "status": "in-progress", "class": {"code": "IMP"},
    "subject": {"reference": "Patient/p1"},
}  # fmt: skip
PARTS = (Part("Patient", "p1", "create", PATIENT), Part("Encounter", "e1", "update", ENCOUNTER, focus=False))
EVENT = Notified(7, NOW, PARTS)


def about(content: str = "id-only", **more: Any) -> About:
    return About(BASE, "s1", "active", 7, "https://exchange.example/topic", content, **more)


def valid(bundle: Resource) -> Resource:
    assert [issue for issue in validate(Definitions.load(), bundle) if issue.severity != "warning"] == []
    Bundle.model_validate_json(encode(bundle))
    return bundle


def parameters(bundle: Resource) -> dict[str, Any]:
    found = bundle["entry"][0]["resource"]["parameter"]
    return {p["name"]: next((v for k, v in p.items() if k.startswith("value")), p.get("part")) for p in found}


def test_a_message_has_its_header_first_and_the_resources_under_their_urls() -> None:
    bundle = valid(message("s1.7", about(), EVENT, "https://app.example/in", "ADT_A01", "fhirserver 1"))
    assert bundle["type"] == "message"
    header, patient, encounter = bundle["entry"]
    assert header["resource"]["eventCoding"] == {
        "system": "http://terminology.hl7.org/CodeSystem/v2-0003", "code": "A01", "display": "ADT_A01",
    }  # fmt: skip
    assert header["resource"]["focus"] == [{"reference": f"{BASE}/Patient/p1"}]
    assert header["resource"]["destination"] == [{"endpoint": "https://app.example/in"}]
    assert patient == {"fullUrl": f"{BASE}/Patient/p1", "resource": PATIENT}
    assert encounter["resource"] == ENCOUNTER


def test_a_name_of_ours_is_a_code_of_our_own_system() -> None:
    bundle = valid(message("s1.7", about(), EVENT, "https://app.example/in", "create.patient", "fhirserver"))
    assert bundle["entry"][0]["resource"]["eventCoding"]["code"] == "create.patient"


def test_a_deletion_is_told_without_a_resource() -> None:
    deleted = Notified(1, NOW, (Part("Patient", "p1", "delete"),))
    bundle = valid(message("s1.1", about(), deleted, "https://app.example/in", "delete.patient", "fhirserver"))
    assert len(bundle["entry"]) == 1
    assert bundle["entry"][0]["resource"]["focus"] == [{"reference": f"{BASE}/Patient/p1"}]
    told = valid(history("event-notification", about("full-resource"), [deleted], NOW, "s1.1"))
    assert told["entry"][1] == {
        "fullUrl": f"{BASE}/Patient/p1",
        "request": {"method": "DELETE", "url": "Patient/p1"},
        "response": {"status": "204"},
    }  # fmt: skip


def test_the_same_delivery_makes_the_same_bytes() -> None:
    first, second = (message("s1.7", about(), EVENT, "https://app.example/in", "ADT_A01", "x") for _ in range(2))
    assert encode(first) == encode(second)
    assert encode(history("event-notification", about(), [EVENT], NOW, "i")) == encode(
        history("event-notification", about(), [EVENT], NOW, "i")
    )


@pytest.mark.parametrize("kind", ["handshake", "heartbeat", "event-notification", "query-event"])
@pytest.mark.parametrize("content", ["empty", "id-only", "full-resource"])
def test_what_every_history_bundle_has(kind: str, content: str) -> None:
    events = [EVENT] if "event" in kind else []
    bundle = valid(history(kind, about(content), events, NOW, "b1"))
    assert bundle["type"] == "history"
    assert all("request" in entry and "response" in entry for entry in bundle["entry"])
    first = bundle["entry"][0]
    assert first["request"]["url"].endswith("Subscription/s1/$status")
    assert first["resource"]["meta"]["profile"] == [STATUS_PROFILE]
    told = parameters(bundle)
    assert told["type"] == kind
    assert told["subscription"] == {"reference": f"{BASE}/Subscription/s1"}
    assert told["events-since-subscription-start"] == "7"
    assert ("notification-event" in told) is bool(events)


def test_a_handshake_says_requested_and_zero() -> None:
    told = parameters(history("handshake", About(BASE, "s1", "requested", 0), [], NOW, "b1"))
    assert (told["status"], told["events-since-subscription-start"]) == ("requested", "0")


def test_empty_tells_number_and_time_and_nothing_of_what_changed() -> None:
    bundle = history("event-notification", about("empty"), [EVENT], NOW, "b1")
    assert len(bundle["entry"]) == 1
    assert "topic" not in parameters(bundle)
    assert [part["name"] for part in parameters(bundle)["notification-event"]] == ["event-number", "timestamp"]
    assert b"Patient" not in encode(bundle)


def test_id_only_names_the_resources_without_them() -> None:
    bundle = history("event-notification", about("id-only"), [EVENT], NOW, "b1")
    assert [part["name"] for part in parameters(bundle)["notification-event"]][2:] == ["focus", "additional-context"]
    assert bundle["entry"][1] == {
        "fullUrl": f"{BASE}/Patient/p1", "request": {"method": "POST", "url": "Patient"}, "response": {"status": "201"},
    }  # fmt: skip
    assert all("resource" not in entry for entry in bundle["entry"][1:])


def test_full_resource_has_every_focus() -> None:
    bundle = history("event-notification", about("full-resource"), [EVENT], NOW, "b1")
    assert [entry["resource"] for entry in bundle["entry"][1:]] == [PATIENT, ENCOUNTER]
    assert bundle["entry"][2]["request"] == {"method": "PUT", "url": "Encounter/e1"}


def test_status_of_a_query_stands_alone() -> None:
    found = status("query-status", about())
    assert [issue for issue in validate(Definitions.load(), found) if issue.severity != "warning"] == []
    assert {"name": "type", "valueCode": "query-status"} in found["parameter"]


def test_what_a_subscription_asks_for_is_read_from_its_channel() -> None:
    channel = {
        "_payload": {"extension": [{"url": CONTENT, "valueCode": "full-resource"}]},
        "extension": [{"url": TIMEOUT, "valueUnsignedInt": 20}],
    }
    assert content_of({"channel": channel}) == "full-resource"
    assert content_of({"channel": {}}) == ""
    assert channel_number({"channel": channel}, TIMEOUT) == 20
    assert channel_number({"channel": {}}, TIMEOUT) is None


def test_the_channels_headers_go_verbatim() -> None:
    sent = headers("application/fhir+json", "s1", {"Authorization": "Bearer x"})
    assert sent["Content-Type"].startswith("application/fhir+json")
    assert sent["Authorization"] == "Bearer x"
