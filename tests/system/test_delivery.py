"""Notifications from the write to the receiver: real MongoDB, real HTTPS, relay and deliverer driven step by step."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

from fhirserver.auth.access import everything
from fhirserver.fhir.instants import instant_text
from fhirserver.jobs import Queue, run_worker
from fhirserver.store.database import Database
from fhirserver.store.resources import Store
from fhirserver.subscriptions import delivery
from fhirserver.subscriptions.gate import RETRY_HOURS, WHILE_STOPPED
from fhirserver.subscriptions.notification import HEARTBEAT
from fhirserver.subscriptions.relay import ORDER, Relay
from tests.system.delivering import CATALOGUE, Exchange, secret_of


def test_a_new_patient_arrives_as_a_signed_message_with_the_channels_headers(exchange: Exchange) -> None:
    subscription = exchange.subscribe("create.patient")
    id = exchange.patient(gender="female")
    exchange.run()
    [(path, headers, body)] = exchange.receiver.arrived
    assert path == "/in"
    assert headers["X-Key"] == "s3cret"
    assert headers["Content-Type"].startswith("application/fhir+json")
    bundle = Webhook(secret_of(subscription)).verify(body, {k.lower(): v for k, v in headers.items()})
    assert bundle["type"] == "message"
    assert bundle["entry"][0]["resource"]["eventCoding"]["code"] == "create.patient"
    assert bundle["entry"][1]["resource"]["id"] == id
    assert bundle["entry"][1]["resource"]["gender"] == "female"
    [recorded] = exchange.deliveries(subscription)
    assert recorded["status"] == "delivered"
    assert recorded["number"] == 1
    assert recorded["attempt"][0]["status"] == 200
    assert recorded["attempt"][0]["endpoint"] == exchange.receiver.url()
    assert "nextAttempt" not in recorded
    assert [one["id"] for one in exchange.deliveries(subscription, "hospital")] == [recorded["id"]]
    exchange.run()
    assert len(exchange.receiver.arrived) == 1


def test_nothing_is_sent_before_approval_nor_of_what_was_before_it(exchange: Exchange) -> None:
    subscription = exchange.subscribe("create.patient", approve=False)
    exchange.patient()
    exchange.run()
    exchange.call("POST", f"{exchange.base}/Subscription/{subscription['id']}/$approve", "hospital", None, 200)
    exchange.run()
    assert exchange.receiver.arrived == []
    exchange.patient()
    exchange.run()
    assert len(exchange.receiver.arrived) == 1


def test_events_of_a_patient_arrive_in_order_and_numbered_without_gaps(exchange: Exchange) -> None:
    subscription = exchange.subscribe("Patient")
    id = exchange.patient()
    for turn in range(20):
        exchange.update(id, gender=("male", "female")[turn % 2])
    exchange.run()
    versions = [bundle["entry"][1]["resource"]["meta"]["versionId"] for bundle in exchange.bundles()]
    assert versions == [str(number) for number in range(1, 22)], "each tells the version of its time"
    assert [one["number"] for one in exchange.deliveries(subscription)] == list(range(1, 22))


def test_a_failing_event_holds_back_its_patient_and_nobody_else(exchange: Exchange) -> None:
    exchange.subscribe("Patient")
    first, second = exchange.patient(), exchange.patient()
    exchange.run()
    exchange.receiver.arrived.clear()

    def picky(request: Any) -> None:
        body = exchange.receiver.arrived[-1][2].decode()
        exchange.receiver.answering(422 if first in body else 200, b"no thanks")(request)

    exchange.receiver.reply = picky
    exchange.update(first, gender="male")
    exchange.run()
    exchange.update(first, gender="female")
    exchange.update(second, gender="male")
    exchange.run()
    told = [bundle["entry"][1]["resource"] for bundle in exchange.bundles()]
    assert [(r["id"], r["meta"]["versionId"]) for r in told] == [(first, "2"), (second, "2")]
    exchange.receiver.reply = None
    exchange.later(11)
    told = [bundle["entry"][1]["resource"] for bundle in exchange.bundles()][2:]
    assert [(r["id"], r["meta"]["versionId"]) for r in told] == [(first, "2"), (first, "3")]


def test_a_strict_subscription_waits_as_a_whole(exchange: Exchange) -> None:
    subscription = exchange.subscribe("Patient", extension=[{"url": ORDER, "valueCode": "subscription"}])
    exchange.receiver.reply = exchange.receiver.answering(500)
    exchange.patient()
    exchange.run()
    exchange.patient()
    exchange.run()
    assert len(exchange.receiver.arrived) == 1
    exchange.receiver.reply = None
    exchange.later(11)
    assert [one["status"] for one in exchange.deliveries(subscription)] == ["delivered", "delivered"]


def test_every_attempt_is_recorded_and_waits_grow(exchange: Exchange) -> None:
    subscription = exchange.subscribe("Patient")
    exchange.receiver.reply = exchange.receiver.answering(500, b"x" * 5000)
    exchange.patient()
    exchange.run()
    [failed] = exchange.deliveries(subscription)
    assert failed["status"] == "retrying"
    assert failed["statusReason"] == "The endpoint answered 500."
    assert len(failed["attempt"][0]["answer"]) == 1024
    exchange.later(9)
    assert len(exchange.receiver.arrived) == 1
    exchange.later(2)
    assert len(exchange.receiver.arrived) == 2
    exchange.later(11)
    assert len(exchange.receiver.arrived) == 2, "the second wait is twice as long"
    exchange.later(10)
    assert len(exchange.receiver.arrived) == 3
    [failed] = exchange.deliveries(subscription)
    assert failed["attempts"] == 3
    ids = {
        headers["Webhook-Id"] if "Webhook-Id" in headers else headers["webhook-id"]
        for _, headers, _ in exchange.receiver.arrived
    }
    assert ids == {failed["id"]}, "a repeat is told by its id"
    assert len({body for _, _, body in exchange.receiver.arrived}) == 1


def test_after_three_days_it_is_a_dead_letter_and_the_next_goes_on(exchange: Exchange) -> None:
    subscription = exchange.subscribe("Patient")
    id = exchange.patient()
    exchange.receiver.reply = exchange.receiver.answering(500)
    exchange.run()
    exchange.later(71.9 * 3600)
    exchange.update(id, gender="male")
    exchange.run()
    exchange.later(3700)
    exchange.receiver.reply = None
    exchange.later(3700)
    assert [one["status"] for one in exchange.deliveries(subscription)] == ["dead-letter", "delivered"]
    told = exchange.installation.server.store.database.collection("Communication")
    about = f"{exchange.installation.server.public_url}{exchange.base}/Subscription/{subscription['id']}"
    assert told.count_documents({"s.about": about}) == 1, "the application's organization is told of it"


@pytest.mark.parametrize(("hours", "attempts"), [(0, 1), (1, 9)])
def test_a_subscription_says_how_long_its_deliveries_are_tried(exchange: Exchange, hours: int, attempts: int) -> None:
    asked = [{"url": RETRY_HOURS, "valueUnsignedInt": hours}]
    subscription = exchange.subscribe("Patient", extension=asked)
    exchange.receiver.reply = exchange.receiver.answering(500)
    exchange.patient()
    for _ in range(attempts + 3):
        exchange.run()
        exchange.ahead += timedelta(seconds=900)
    [one] = exchange.deliveries(subscription)
    assert one["status"] == "dead-letter"
    assert one["attempts"] <= attempts


@pytest.mark.parametrize("value", [{"valueUnsignedInt": 721}, {"valueString": "12"}, {"valueUnsignedInt": -1}])
def test_hours_that_are_none_are_refused(exchange: Exchange, value: dict[str, Any]) -> None:
    channel = {"type": "rest-hook", "endpoint": exchange.receiver.url(), "extension": [{"url": RETRY_HOURS, **value}]}
    body = {"resourceType": "Subscription", "criteria": "Patient", "channel": channel}
    answer = exchange.call("POST", f"{exchange.base}/Subscription", "client", body, 400)
    assert answer["issue"][0]["expression"] == ["Subscription.channel.extension"]


def test_an_endpoint_that_fails_is_left_alone_between_single_tries(exchange: Exchange) -> None:
    exchange.subscribe("Patient")
    exchange.receiver.reply = exchange.receiver.answering(503)
    for _ in range(30):
        exchange.patient()
    exchange.run()
    first = len(exchange.receiver.arrived)
    assert first < 30
    for _ in range(6):
        exchange.later(3)
    assert len(exchange.receiver.arrived) <= first + 40
    settled = len(exchange.receiver.arrived)
    exchange.run()
    assert len(exchange.receiver.arrived) == settled, "the breaker is open"
    exchange.receiver.reply = None
    exchange.later(400)
    exchange.later(1)
    delivered = {bundle["entry"][1]["resource"]["id"] for bundle in exchange.bundles()[settled:]}
    assert len(delivered) == 30


def test_retry_after_is_honoured(exchange: Exchange) -> None:
    exchange.subscribe("Patient")
    exchange.receiver.reply = exchange.receiver.answering(429, Retry_After="600")
    exchange.patient()
    exchange.run()
    exchange.receiver.reply = None
    exchange.patient()
    exchange.later(300)
    assert len(exchange.receiver.arrived) == 1
    exchange.later(301)
    assert len(exchange.receiver.arrived) == 3


def test_gone_turns_the_subscription_off(exchange: Exchange) -> None:
    subscription = exchange.subscribe("Patient")
    exchange.receiver.reply = exchange.receiver.answering(410)
    exchange.patient()
    exchange.run()
    shown = exchange.call("GET", f"{exchange.base}/Subscription/{subscription['id']}", "client", None, 200)
    assert (shown["status"], shown["error"]) == ("off", "The endpoint answered 410 Gone.")
    assert [one["status"] for one in exchange.deliveries(subscription)] == ["skipped"]
    exchange.patient()
    exchange.run()
    assert len(exchange.receiver.arrived) == 1


def test_a_disabled_client_gets_nothing_and_later_all_of_it_in_order(exchange: Exchange) -> None:
    subscription = exchange.subscribe("Patient")
    exchange.step("disable")
    id = exchange.patient()
    exchange.update(id, gender="male")
    exchange.run()
    assert exchange.receiver.arrived == []
    held = exchange.deliveries(subscription, "hospital")
    assert [one["status"] for one in held] == ["held", "held"]
    assert "disabled" in held[0]["statusReason"]
    exchange.step("enable")
    exchange.run()
    versions = [bundle["entry"][1]["resource"]["meta"]["versionId"] for bundle in exchange.bundles()]
    assert versions == ["1", "2"]
    assert [one["status"] for one in exchange.deliveries(subscription)] == ["delivered", "delivered"]


def test_a_subscription_may_ask_to_skip_what_happens_meanwhile(exchange: Exchange) -> None:
    subscription = exchange.subscribe("Patient", extension=[{"url": WHILE_STOPPED, "valueCode": "skip"}])
    exchange.step("disable")
    exchange.patient()
    exchange.run()
    exchange.step("enable")
    second = exchange.patient()
    exchange.run()
    assert [bundle["entry"][1]["resource"]["id"] for bundle in exchange.bundles()] == [second]
    assert [one["status"] for one in exchange.deliveries(subscription)] == ["skipped", "delivered"]


def test_scopes_are_asked_at_delivery_time(exchange: Exchange) -> None:
    subscription = exchange.subscribe("Encounter")
    encounter = {"resourceType": "Encounter", "status": "planned", "class": {"code": "IMP"}}
    exchange.call("POST", f"{exchange.base}/Encounter", "hospital", encounter, 201)
    exchange.run()
    assert exchange.receiver.arrived == []
    [skipped] = exchange.deliveries(subscription)
    assert skipped["status"] == "skipped"
    assert "may not read Encounter/" in skipped["statusReason"]


def test_a_deleted_subscription_is_told_nothing_more(exchange: Exchange) -> None:
    subscription = exchange.subscribe("Patient")
    exchange.receiver.reply = exchange.receiver.answering(500)
    exchange.patient()
    exchange.run()
    exchange.call("DELETE", f"{exchange.base}/Subscription/{subscription['id']}", "client", None, 200)
    exchange.later(100)
    assert len(exchange.receiver.arrived) == 1
    assert [one["status"] for one in exchange.deliveries(subscription, "hospital")] == ["skipped"]


@pytest.mark.parametrize(("content", "entries"), [("empty", 1), ("id-only", 2), ("full-resource", 2)])
def test_the_backport_form_is_sent_where_it_is_asked_for(exchange: Exchange, content: str, entries: int) -> None:
    exchange.subscribe("Patient?gender=female", content=content)
    exchange.patient(gender="male")
    id = exchange.patient(gender="female")
    exchange.run()
    _handshake, bundle = exchange.bundles()
    assert bundle["type"] == "history"
    assert len(bundle["entry"]) == entries
    assert (id in json.dumps(bundle)) is (content != "empty")
    assert ("resource" in bundle["entry"][-1]) is (content in ("full-resource", "empty"))


def test_the_relay_numbers_and_clears_in_one_transaction(exchange: Exchange) -> None:
    """Two relays at once: every event is told once, and numbers have no gap."""
    subscription = exchange.subscribe("Patient")
    other = Relay(exchange.installation.server, CATALOGUE, exchange.put, "test")
    for _ in range(40):
        exchange.patient()
    threads = [threading.Thread(target=relay.drain) for relay in (exchange.relay, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    numbers = [one["number"] for one in exchange.deliveries(subscription)]
    assert numbers == list(range(1, 41))


def test_a_relay_that_is_told_to_end_while_the_database_is_away_ends(exchange: Exchange) -> None:
    away = Store(Database("mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=200", "none"))
    relay = Relay(replace(exchange.installation.server, store=away), CATALOGUE, exchange.put, "test")
    stop = threading.Event()
    stop.set()
    try:
        relay.run(stop)
    finally:
        away.database.client.close()


def test_what_the_queue_lost_is_found_by_the_sweep(exchange: Exchange) -> None:
    exchange.subscribe("Patient")
    exchange.patient()
    exchange.relay.drain()
    exchange.jobs.clear()
    exchange.relay.sweep()
    assert len(exchange.jobs) == 1
    exchange.run()
    assert len(exchange.receiver.arrived) == 1
    exchange.relay.sweep()
    assert exchange.jobs == [], "nothing waits any more"


def test_an_endpoint_inside_is_refused_when_it_is_connected(exchange: Exchange) -> None:
    subscription = exchange.subscribe("Patient")
    exchange.endpoints.guard._allowed = ()
    exchange.patient()
    exchange.run()
    assert exchange.receiver.arrived == []
    assert "not public" in exchange.deliveries(subscription)[0]["attempt"][0]["error"]


def test_the_whole_line_with_queue_and_workers_is_quick(exchange: Exchange, redis_url: str) -> None:
    server = exchange.installation.server
    exchange.subscribe("Patient")
    exchange.run()
    queue, stop = Queue(redis_url), threading.Event()
    relay = Relay(server, CATALOGUE, queue.enqueue_many, "line")
    server.store.release("relay", "test")
    threads = [
        threading.Thread(target=relay.run, args=(stop,)),
        threading.Thread(target=run_worker, args=(redis_url, {"deliver": exchange.deliverer.deliver}, stop)),
    ]
    for thread in threads:
        thread.start()
    try:
        time.sleep(1.5)
        latencies = []
        for number in range(10):
            exchange.patient()
            begun = time.monotonic()
            while len(exchange.receiver.arrived) <= number and time.monotonic() - begun < 10:
                time.sleep(0.001)
            latencies.append(time.monotonic() - begun)
        assert len(exchange.receiver.arrived) == 10
        assert sorted(latencies)[5] < 0.5, latencies
    finally:
        stop.set()
        for thread in threads:
            thread.join(15)
        queue.close()


def test_deliveries_have_no_history_and_cannot_be_written(exchange: Exchange) -> None:
    subscription = exchange.subscribe("Patient")
    exchange.patient()
    exchange.run()
    [recorded] = exchange.deliveries(subscription)
    found = list(delivery.waiting(exchange.installation.server, exchange.hospital, subscription["id"]))
    assert found == []
    stored = exchange.installation.server.store.read(everything(exchange.hospital), delivery.TYPE, recorded["id"])
    assert stored
    assert stored.version == 2


def parameters(bundle: dict[str, Any]) -> dict[str, Any]:
    found = bundle["entry"][0]["resource"]["parameter"]
    return {p["name"]: next(v for k, v in p.items() if k != "name") for p in found}


def shown(exchange: Exchange, subscription: dict[str, Any]) -> dict[str, Any]:
    path = f"{exchange.base}/Subscription/{subscription['id']}"
    found: dict[str, Any] = exchange.call("GET", path, "client", None, 200)
    return found


def test_the_backport_begins_with_a_handshake_and_has_one_only(exchange: Exchange) -> None:
    exchange.subscribe("Patient", content="id-only")
    exchange.run()
    [handshake] = exchange.bundles()
    told = parameters(handshake)
    assert (told["type"], told["status"], told["events-since-subscription-start"]) == ("handshake", "requested", "0")
    assert len(handshake["entry"]) == 1
    exchange.patient()
    exchange.run()
    assert [parameters(bundle)["type"] for bundle in exchange.bundles()] == ["handshake", "event-notification"]


def test_a_handshake_that_fails_ends_in_error_and_the_client_may_ask_again(exchange: Exchange) -> None:
    subscription = exchange.subscribe("Patient", content="id-only")
    exchange.receiver.reply = exchange.receiver.answering(500)
    assert shown(exchange, subscription)["status"] == "requested", "approved, but not greeted"
    exchange.run()
    assert shown(exchange, subscription)["status"] == "requested"
    exchange.later(11)
    exchange.later(21)
    failed = shown(exchange, subscription)
    assert (failed["status"], failed["error"]) == ("error", "The handshake failed: the endpoint answered 500.")
    exchange.patient()
    exchange.later(3600)
    assert len(exchange.receiver.arrived) == 3, "in error nothing is sent"
    exchange.receiver.reply = None
    asked = {**failed, "status": "active"}
    waits = exchange.call("PUT", f"{exchange.base}/Subscription/{subscription['id']}", "client", asked, 200)
    assert (waits["status"], waits["error"]) == ("requested", failed["error"])
    exchange.run()
    kinds = [parameters(bundle)["type"] for bundle in exchange.bundles()[3:]]
    assert kinds == ["handshake", "event-notification"]
    again = shown(exchange, subscription)
    assert again["status"] == "active"
    assert "error" not in again


def test_what_happens_between_approval_and_handshake_is_told_after_it(exchange: Exchange) -> None:
    subscription = exchange.subscribe("Patient", content="id-only")
    exchange.patient()
    exchange.run()
    told = [parameters(bundle)["type"] for bundle in exchange.bundles()]
    assert told == ["handshake", "event-notification"]
    assert shown(exchange, subscription)["status"] == "active"


def test_pausing_needs_no_second_handshake(exchange: Exchange) -> None:
    subscription = exchange.subscribe("Patient", content="id-only")
    exchange.run()
    path = f"{exchange.base}/Subscription/{subscription['id']}"
    for status in ("off", "active"):
        answer = exchange.call("PUT", path, "client", {**shown(exchange, subscription), "status": status}, 200)
        assert answer["status"] == status
        exchange.run()
    assert len(exchange.receiver.arrived) == 1


def test_what_is_in_error_says_so_in_its_heartbeats_and_in_status(exchange: Exchange) -> None:
    exchange.deliverer._schedule = replace(exchange.schedule, error_hours=24)
    asked = [{"url": HEARTBEAT, "valueUnsignedInt": 60}]
    subscription = exchange.subscribe("Patient", content="empty", extension=asked)
    exchange.run()
    exchange.receiver.reply = exchange.receiver.answering(500)
    exchange.patient()
    exchange.run()
    for _ in range(2):
        exchange.later(23.9 * 3600)
    assert shown(exchange, subscription)["status"] == "error"
    exchange.receiver.arrived.clear()
    exchange.relay.survey()
    exchange.relay.round()
    exchange.later(61)
    exchange.relay.round()
    exchange.run()
    [beat] = exchange.bundles()
    told = parameters(beat)
    assert (told["type"], told["status"], told["events-since-subscription-start"]) == ("heartbeat", "error", "1")
    assert "has failed since" in told["error"]["text"]
    assert shown(exchange, subscription)["status"] == "error"
    path = f"{exchange.base}/Subscription/{subscription['id']}/$status"
    assert parameters(exchange.call("GET", path, "client", None, 200))["error"] == told["error"]


def test_an_endpoint_that_fails_for_a_day_puts_its_subscription_in_error(exchange: Exchange) -> None:
    exchange.deliverer._schedule = replace(exchange.schedule, error_hours=24)
    subscription = exchange.subscribe("Patient")
    exchange.receiver.reply = exchange.receiver.answering(500)
    exchange.patient()
    exchange.run()
    exchange.later(23.9 * 3600)
    assert shown(exchange, subscription)["status"] == "active"
    exchange.later(3700)
    exchange.later(3700)
    failed = shown(exchange, subscription)
    assert failed["status"] == "error"
    assert "has failed since" in failed["error"]
    exchange.run()
    assert exchange.deliveries(subscription)[0]["status"] == "held"


def test_heartbeats_come_where_they_are_asked_for_and_nowhere_else(exchange: Exchange) -> None:
    exchange.subscribe("Patient", content="empty", extension=[{"url": HEARTBEAT, "valueUnsignedInt": 60}])
    exchange.subscribe("Observation", content="empty")
    exchange.run()
    exchange.relay.survey()

    def beats() -> list[dict[str, Any]]:
        exchange.relay.round()
        exchange.run()
        told = [parameters(bundle) for bundle in exchange.bundles()]
        return [each for each in told if each["type"] == "heartbeat"]

    assert beats() == []
    exchange.later(61)
    assert len(beats()) == 1
    assert len(beats()) == 1
    exchange.patient()
    exchange.later(61)
    assert [each["events-since-subscription-start"] for each in beats()] == ["0", "1"]
    assert beats()[0]["status"] == "active"


def test_a_subscription_ends_when_it_said(exchange: Exchange) -> None:
    end = instant_text(exchange.installation.server.now() + timedelta(hours=1))
    subscription = exchange.subscribe("Patient", end=end)
    exchange.patient()
    exchange.run()
    assert len(exchange.receiver.arrived) == 1
    exchange.later(3300)
    exchange.relay.survey()
    assert shown(exchange, subscription)["status"] == "active"
    exchange.later(301)
    exchange.patient()
    exchange.run()
    assert len(exchange.receiver.arrived) == 1
    exchange.relay.survey()
    assert shown(exchange, subscription)["status"] == "off"


def test_a_slow_endpoint_does_not_hold_up_another(exchange: Exchange) -> None:
    """Sixty patients for an endpoint that never answers, and one for another: the other is told at once."""
    hold = threading.Event()

    def reply(request: Any) -> None:
        if request.path == "/slow":
            hold.wait(20)
        exchange.receiver.answering(200)(request)

    exchange.receiver.reply = reply
    slow = exchange.subscribe("Patient?gender=male", endpoint=exchange.receiver.url(path="/slow"))
    quick = exchange.subscribe("Patient?gender=female", endpoint=exchange.receiver.url(path="/quick"))
    for _ in range(60):
        exchange.patient(gender="male")
    exchange.patient(gender="female")
    exchange.relay.drain()
    thread = threading.Thread(target=exchange.deliverer.deliver, args=(exchange.hospital, slow["id"]))
    thread.start()
    try:
        while not exchange.receiver.arrived:
            time.sleep(0.01)
        begun = time.monotonic()
        exchange.deliverer.deliver(exchange.hospital, quick["id"])
        assert time.monotonic() - begun < 3
        assert exchange.deliveries(quick)[0]["status"] == "delivered"
        assert len([path for path, _, _ in exchange.receiver.arrived if path == "/slow"]) <= 8
    finally:
        hold.set()
        thread.join(30)
    assert {one["status"] for one in exchange.deliveries(slow)} == {"delivered"}
