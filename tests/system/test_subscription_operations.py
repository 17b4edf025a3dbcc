"""What both sides can ask about notifications: status, events, why, preview, test, once more, another secret."""

from __future__ import annotations

import json
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from fhirserver.hl7v2.process import process
from tests.system.delivering import Exchange, secret_of


def ask(exchange: Exchange, who: str, path: str, status: int = 200, **values: Any) -> Any:
    """A POST of an operation; values become valueString or valueInteger parameters."""
    kinds = {str: "valueString", int: "valueInteger"}
    given = [{"name": name, kinds[type(value)]: value} for name, value in values.items()]
    body = {"resourceType": "Parameters", "parameter": given}
    return exchange.call("POST", f"{exchange.base}/{path}", who, body, status)


def values(parameters: dict[str, Any]) -> dict[str, Any]:
    return {p["name"]: next(v for k, v in p.items() if k != "name") for p in parameters["parameter"]}


def checks(parameters: dict[str, Any]) -> dict[str, tuple[bool, str]]:
    found = {}
    for parameter in parameters["parameter"]:
        if parameter["name"] == "check":
            part = {p["name"]: next(v for k, v in p.items() if k != "name") for p in parameter["part"]}
            found[part["name"]] = (part["passed"], part.get("reason", ""))
    return found


def test_status_counts_events_delivered_or_not(exchange: Exchange) -> None:
    subscription = exchange.subscribe("Patient", content="id-only")
    exchange.patient()
    exchange.run()
    exchange.receiver.reply = exchange.receiver.answering(500)
    exchange.patient()
    exchange.run()
    path = f"{exchange.base}/Subscription/{subscription['id']}/$status"
    bundle = exchange.call("GET", path, "client", None, 200)
    assert bundle["type"] == "searchset"
    told = values(bundle["entry"][0]["resource"])
    assert (told["type"], told["status"], told["events-since-subscription-start"]) == ("query-status", "active", "2")
    assert told["subscription"]["reference"].endswith(f"/Subscription/{subscription['id']}")


def test_status_of_the_type_finds_by_id_and_status_and_shows_a_client_only_its_own(exchange: Exchange) -> None:
    active, waiting = exchange.subscribe("Patient"), exchange.subscribe("Patient", approve=False)

    def found(query: str, who: str = "client") -> int:
        bundle = exchange.call("GET", f"{exchange.base}/Subscription/$status{query}", who, None, 200)
        assert bundle["total"] == len(bundle.get("entry", []))
        return int(bundle["total"])

    assert found("") == 2
    assert found("?status=active") == 1
    assert found("?status=active&status=requested") == 2
    assert found(f"?id={active['id']}&id={waiting['id']}&status=requested") == 1
    assert found("?status=off") == 0


def test_events_answers_a_range_of_numbers(exchange: Exchange) -> None:
    subscription = exchange.subscribe("Patient", content="id-only")
    ids = [exchange.patient() for _ in range(5)]
    exchange.run()
    path = f"{exchange.base}/Subscription/{subscription['id']}/$events"

    def told(query: str) -> tuple[list[str], dict[str, Any]]:
        bundle = exchange.call("GET", path + query, "client", None, 200)
        parameters = bundle["entry"][0]["resource"]["parameter"]
        events = [p["part"] for p in parameters if p["name"] == "notification-event"]
        return [part[0]["valueString"] for part in events], bundle

    assert told("")[0] == ["1", "2", "3", "4", "5"]
    assert told("?eventsSinceNumber=2&eventsUntilNumber=3")[0] == ["2", "3"]
    assert told("?eventsSinceNumber=4&eventsUntilNumber=99")[0] == ["4", "5"]
    bundle = told("?eventsSinceNumber=5&content=full-resource")[1]
    assert bundle["type"] == "history"
    assert bundle["entry"][1]["resource"]["id"] == ids[4]
    assert len(told("?content=empty")[1]["entry"]) == 1
    exchange.call("GET", path + "?content=all", "client", None, 400)
    exchange.call("GET", path + "?eventsSinceNumber=x", "client", None, 400)


def test_websockets_are_refused_with_a_reason(exchange: Exchange) -> None:
    path = f"{exchange.base}/Subscription/$get-ws-binding-token"
    answer = exchange.call("GET", path, "client", None, 400)
    assert answer["issue"][0]["code"] == "not-supported"
    assert "rest-hook" in answer["issue"][0]["diagnostics"]


def test_a_dead_letter_can_be_sent_once_more(exchange: Exchange) -> None:
    subscription = exchange.subscribe("Patient")
    exchange.receiver.reply = exchange.receiver.answering(500)
    for _ in range(2):
        exchange.patient()
    exchange.run()
    exchange.later(73 * 3600)
    exchange.later(1000)
    assert {one["status"] for one in exchange.deliveries(subscription)} == {"dead-letter"}
    exchange.receiver.reply = None
    exchange.receiver.arrived.clear()
    assert values(ask(exchange, "client", f"Subscription/{subscription['id']}/$redeliver")) == {"queued": 2, "found": 2}
    exchange.later(600)
    assert len(exchange.receiver.arrived) == 2
    assert {one["status"] for one in exchange.deliveries(subscription)} == {"delivered"}


def test_a_range_or_one_delivery_can_be_sent_once_more_under_the_same_id(exchange: Exchange) -> None:
    subscription = exchange.subscribe("Patient")
    for _ in range(4):
        exchange.patient()
    exchange.run()
    path = f"Subscription/{subscription['id']}/$redeliver"
    assert values(ask(exchange, "client", path, **{"from": 2, "to": 3}))["queued"] == 2
    exchange.run()
    sent = [json.loads(body)["id"] for _, _, body in exchange.receiver.arrived]
    assert sorted(sent[4:]) == sorted(sent[:4])[1:3]
    one = exchange.deliveries(subscription)[3]
    assert values(ask(exchange, "hospital", f"NotificationDelivery/{one['id']}/$redeliver"))["queued"] == 1
    exchange.run()
    assert json.loads(exchange.receiver.arrived[-1][2])["id"] == one["id"]
    assert exchange.deliveries(subscription)[3]["attempts"] == 2


def test_why_names_what_stopped_it(exchange: Exchange) -> None:
    subscription = exchange.subscribe("Patient?gender=female")
    other, match = exchange.patient(gender="male"), exchange.patient(gender="female")
    exchange.run()
    path = f"Subscription/{subscription['id']}/$why"
    told = ask(exchange, "client", path, reference=f"Patient/{match}")
    assert values(told)["matched"] is True
    assert all(passed for passed, _ in checks(told).values())
    told = ask(exchange, "client", path, reference=f"Patient/{other}")
    assert values(told)["matched"] is False
    assert "Patient?gender=female does not hold" in checks(told)["criteria"][1]
    exchange.step("disable")
    told = ask(exchange, "hospital", path, reference=f"Patient/{match}")
    assert checks(told)["permission"][0] is False
    assert "disabled" in checks(told)["permission"][1]


def test_why_knows_an_event_by_its_id_and_names_the_delivery(exchange: Exchange) -> None:
    subscription, deaf = exchange.subscribe("Patient"), exchange.subscribe("Observation")
    exchange.patient()
    exchange.run()
    [recorded] = exchange.deliveries(subscription)
    told = ask(exchange, "client", f"Subscription/{subscription['id']}/$why", event=recorded["event"])
    assert values(told)["delivery"] == {"reference": f"NotificationDelivery/{recorded['id']}"}
    told = ask(exchange, "client", f"Subscription/{deaf['id']}/$why", event=recorded["event"])
    assert values(told)["matched"] is False
    assert "not Observation" in checks(told)["criteria"][1]
    ask(exchange, "client", f"Subscription/{subscription['id']}/$why", 404, event="unknown")
    ask(exchange, "client", f"Subscription/{subscription['id']}/$why", 400)


def test_preview_counts_before_anybody_approves(exchange: Exchange) -> None:
    for gender in ("male", "female", "female"):
        exchange.patient(gender=gender)
    subscription = exchange.subscribe("Patient?gender=female", approve=False)
    told = ask(exchange, "hospital", f"Subscription/{subscription['id']}/$preview")
    assert values(told)["events"] == 3
    assert values(told)["matched"] == 2
    assert len([p for p in told["parameter"] if p["name"] == "match"]) == 2
    assert exchange.receiver.arrived == []


def admitted(exchange: Exchange, event: str, number: str, more: str = "PV1|1|I|W^1^1||||||||||||||||V1\r") -> None:
    """An HL7v2 message, taken in and processed."""
    intake = exchange.installation.intake()
    text = f"MSH|^~\\&|ADT1|LAKESIDE|X|Y|20260101120000+0000||ADT^{event}|{event}{number}|P|2.5\rEVN|{event}\r"
    text += f"PID|1||{number}^^^LAKESIDE^MR||Doe^Ann\r{more}"
    assert intake.take(text.encode(), "", exchange.hospital)
    path = f"{exchange.base}/InboundMessage?status=received"
    for entry in exchange.call("GET", path, "hospital", None, 200).get("entry", []):
        process(intake, exchange.hospital, entry["resource"]["lane"])


def test_preview_and_why_know_what_messages_triggered(exchange: Exchange) -> None:
    admitted(exchange, "A01", "10")
    admitted(exchange, "A08", "10")
    admitted(exchange, "A01", "20")
    admitted(exchange, "A40", "20", "MRG|10^^^LAKESIDE^MR\r")
    for criteria, expected in (("ADT_A01", 2), ("create.encounter", 2), ("merge.patient", 1), ("ADT_A02", 0)):
        subscription = exchange.subscribe(criteria, approve=False)
        told = ask(exchange, "hospital", f"Subscription/{subscription['id']}/$preview")
        assert values(told)["matched"] == expected, criteria
    [first] = exchange.call("GET", f"{exchange.base}/Patient?identifier=20", "hospital", None, 200)["entry"]
    reference = f"Patient/{first['resource']['id']}/_history/1"
    for criteria, expected in (("ADT_A01", True), ("ADT_A02", False)):
        subscription = exchange.subscribe(criteria, approve=False)
        told = ask(exchange, "hospital", f"Subscription/{subscription['id']}/$why", reference=reference)
        assert values(told)["matched"] is expected, criteria


def test_a_preview_shows_nothing_of_what_may_not_be_read(exchange: Exchange) -> None:
    admitted(exchange, "A01", "10")
    subscription = exchange.subscribe("ADT_A01", approve=False)
    told = ask(exchange, "client", f"Subscription/{subscription['id']}/$preview")
    references = [p["valueReference"]["reference"] for p in told["parameter"] if p["name"] == "match"]
    assert not [reference for reference in references if reference.startswith("Encounter")], "no scope for it"


def test_test_posts_once_and_tells_what_came_of_it(exchange: Exchange) -> None:
    subscription = exchange.subscribe("Patient", approve=False)
    told = values(ask(exchange, "client", f"Subscription/{subscription['id']}/$test"))
    assert (told["accepted"], told["status"]) == (True, 200)
    [(_, headers, body)] = exchange.receiver.arrived
    assert headers["X-Key"] == "s3cret"
    Webhook(secret_of(subscription)).verify(body, {k.lower(): v for k, v in headers.items()})
    exchange.receiver.reply = exchange.receiver.answering(500)
    told = values(ask(exchange, "client", f"Subscription/{subscription['id']}/$test"))
    assert (told["accepted"], told["status"]) == (False, 500)


def test_a_rotated_secret_overlaps_with_the_one_before_for_a_day(exchange: Exchange) -> None:
    subscription = exchange.subscribe("Patient")
    first = secret_of(subscription)
    second = values(ask(exchange, "client", f"Subscription/{subscription['id']}/$rotate-secret"))["secret"]
    assert second.startswith("whsec_")
    assert second != first
    exchange.patient()
    exchange.run()
    _, headers, body = exchange.receiver.arrived[0]
    low = {k.lower(): v for k, v in headers.items()}
    assert Webhook(first).verify(body, low)
    assert Webhook(second).verify(body, low)
    exchange.later(24 * 3600 + 1)
    exchange.people["hospital"] = exchange.again("hospital")
    exchange.patient()
    exchange.run()
    assert len(exchange.receiver.arrived[-1][1]["webhook-signature"].split()) == 1
    shown = json.dumps(exchange.deliveries(subscription, "hospital"))
    assert first not in shown
    with pytest.raises(WebhookVerificationError):
        Webhook(first).verify(body + b" ", low)


def test_a_client_cannot_ask_about_anothers_subscription(exchange: Exchange) -> None:
    mine = exchange.subscribe("Patient")
    exchange.stranger()
    for operation in ("$status", "$events", "$why", "$preview"):
        path = f"{exchange.base}/Subscription/{mine['id']}/{operation}"
        exchange.call("GET", path, "stranger", None, 404)
    ask(exchange, "stranger", f"Subscription/{mine['id']}/$redeliver", 404)
    ask(exchange, "stranger", f"Subscription/{mine['id']}/$rotate-secret", 404)
