"""The Subscriptions R5 Backport for R4, as Inferno's subscriptions test kit asks for it: the life cycle, what every
notification has, several events in one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from fhirserver.subscriptions.notification import BACKPORT, CONTENTS, HEARTBEAT, MAX_COUNT, STATUS_PROFILE
from fhirserver.subscriptions.topics import TOPIC
from tests.system.delivering import Exchange

COUNTED = "events-since-subscription-start"
TOPIC_URL = f"{TOPIC}create.patient"


def parameters(bundle: dict[str, Any]) -> dict[str, Any]:
    found = bundle["entry"][0]["resource"]["parameter"]
    return {p["name"]: next(v for k, v in p.items() if k != "name") for p in found if p["name"] != "notification-event"}


def events(bundle: dict[str, Any]) -> list[dict[str, Any]]:
    parts = [p["part"] for p in bundle["entry"][0]["resource"]["parameter"] if p["name"] == "notification-event"]
    return [{p["name"]: next(v for k, v in p.items() if k != "name") for p in part} for part in parts]


def numbers(bundle: dict[str, Any]) -> list[str]:
    return [event["event-number"] for event in events(bundle)]


Told = tuple[str, dict[str, Any], dict[str, Any]]
"""One of the notifications that the receiver got: the kind it is, its headers, its Bundle."""

# What must hold of a notification -> whether it does, by the kind, its headers, its Bundle and the content asked for.
EVERY: list[tuple[str, Callable[[str, dict[str, Any], dict[str, Any], str], bool]]] = [
    ("the Bundle is a history", lambda k, h, b, c: b["type"] == "history"),
    ("its first entry is Parameters", lambda k, h, b, c: b["entry"][0]["resource"]["resourceType"] == "Parameters"),
    ("of the profile", lambda k, h, b, c: b["entry"][0]["resource"]["meta"]["profile"] == [STATUS_PROFILE]),
    ("all have request and response", lambda k, h, b, c: all("request" in e and "response" in e for e in b["entry"])),
    ("every entry has a fullUrl", lambda k, h, b, c: all(e["fullUrl"] for e in b["entry"])),
    ("the first request is of $status", lambda k, h, b, c: b["entry"][0]["request"]["url"].endswith("/$status")),
    ("the Content-Type is the payload's", lambda k, h, b, c: h["Content-Type"].startswith("application/fhir+json")),
    ("the channel's header arrives", lambda k, h, b, c: h["X-Key"] == "s3cret"),
    (
        "the status is requested for a handshake, else active",
        lambda k, h, b, c: parameters(b)["status"] == ("requested" if k == "handshake" else "active"),
    ),
    ("only events bring events", lambda k, h, b, c: bool(events(b)) is (k == "event-notification")),
    ("a handshake counts from nothing", lambda k, h, b, c: k != "handshake" or parameters(b)[COUNTED] == "0"),
    (
        "empty has nothing but the status",
        lambda k, h, b, c: c != "empty" or (len(b["entry"]) == 1 and all("focus" not in e for e in events(b))),
    ),
    (
        "empty events name no topic, others do",
        lambda k, h, b, c: ("topic" in parameters(b)) is not (c == "empty" and k == "event-notification"),
    ),
    (
        "id-only has no resources",
        lambda k, h, b, c: c != "id-only" or all("resource" not in e for e in b["entry"][1:]),
    ),
    (
        "full-resource has every focus",
        lambda k, h, b, c: c != "full-resource"
        or {e["focus"]["reference"] for e in events(b)} <= {e["fullUrl"] for e in b["entry"] if "resource" in e},
    ),
]  # fmt: skip


@pytest.fixture(params=CONTENTS)
def told(request: pytest.FixtureRequest, exchange: Exchange) -> tuple[str, list[Told]]:
    """The payload content, and a handshake, a heartbeat and an event notification of such a subscription."""
    beat = [{"url": HEARTBEAT, "valueUnsignedInt": 60}]
    made = exchange.subscribe(TOPIC_URL, content=request.param, extension=beat)
    assert made["status"] == "requested"
    exchange.run()
    exchange.relay.survey()
    exchange.relay.round()
    exchange.patient()
    exchange.later(61)
    exchange.relay.round()
    exchange.run()
    found = [(headers, json.loads(body)) for _, headers, body in exchange.receiver.arrived]
    return request.param, [(parameters(bundle)["type"], headers, bundle) for headers, bundle in found]


def test_every_notification_is_as_the_guide_says(told: tuple[str, list[Told]]) -> None:
    content, notifications = told
    assert [kind for kind, _, _ in notifications] == ["handshake", "event-notification", "heartbeat"]
    for text, holds in EVERY:
        for kind, headers, bundle in notifications:
            assert holds(kind, headers, bundle, content), f"{text}: {kind} {json.dumps(bundle)}"


def batched(exchange: Exchange, most: int, content: str = "id-only") -> dict[str, Any]:
    subscription = exchange.subscribe(
        "Patient", content=content, extension=[{"url": MAX_COUNT, "valuePositiveInt": most}]
    )
    exchange.run()
    exchange.receiver.arrived.clear()
    return subscription


@pytest.mark.parametrize("content", CONTENTS)
def test_several_events_go_into_one_notification(exchange: Exchange, content: str) -> None:
    subscription = batched(exchange, 3, content)
    ids = [exchange.patient() for _ in range(4)]
    for id in ids[:3]:
        exchange.update(id, gender="male")
    exchange.run()
    assert [numbers(bundle) for bundle in exchange.bundles()] == [["1", "2", "3"], ["4", "5", "6"], ["7"]]
    assert [parameters(bundle)[COUNTED] for bundle in exchange.bundles()] == ["3", "6", "7"]
    stored = exchange.deliveries(subscription)
    assert [(one["status"], one["attempts"]) for one in stored] == [("delivered", 1)] * 7
    if content != "empty":
        focus = [
            event["focus"]["reference"].rpartition("/")[2] for bundle in exchange.bundles() for event in events(bundle)
        ]
        assert focus == [*ids, *ids[:3]]


def test_a_batch_that_fails_is_sent_again_under_the_same_id_and_loses_nothing(exchange: Exchange) -> None:
    subscription = batched(exchange, 2)
    exchange.receiver.reply = exchange.receiver.answering(500)
    for _ in range(3):
        exchange.patient()
    exchange.run()
    exchange.receiver.reply = None
    exchange.later(11)
    arrived = exchange.receiver.arrived
    assert [numbers(bundle) for bundle in exchange.bundles()] == [["1", "2"], ["3"], ["1", "2"], ["3"]]
    for first, second in ((0, 2), (1, 3)):
        assert arrived[first][1]["webhook-id"] == arrived[second][1]["webhook-id"]
        assert arrived[first][2] == arrived[second][2]
    assert len({headers["webhook-id"] for _, headers, _ in arrived}) == 2
    assert [one["attempts"] for one in exchange.deliveries(subscription)] == [2, 2, 2]


def test_what_may_not_be_read_is_left_out_of_a_batch(exchange: Exchange) -> None:
    subscription = batched(exchange, 5)
    kept, gone = exchange.patient(), exchange.patient(gender="male")
    path = f"/1/health/fhir/4/ClientApplication/{exchange.client}"
    client = exchange.call("GET", path, "acme", None, 200)
    narrow = "system/Patient.rs?gender:missing=true system/Subscription.cruds system/NotificationDelivery.rs"
    exchange.call("PUT", path, "acme", {**client, "scope": narrow}, 200)
    exchange.run()
    [bundle] = exchange.bundles()
    assert numbers(bundle) == ["1"]
    assert kept in json.dumps(bundle)
    assert gone not in json.dumps(bundle)
    assert [one["status"] for one in exchange.deliveries(subscription)] == ["delivered", "skipped"]


@pytest.mark.parametrize("count", [0, -1, "x"])
def test_a_count_that_is_none_is_refused(exchange: Exchange, count: Any) -> None:
    body = {
        "resourceType": "Subscription",
        "criteria": "Patient",
        "channel": {
            "type": "rest-hook",
            "endpoint": exchange.receiver.url(),
            "extension": [{"url": MAX_COUNT, "valuePositiveInt": count}],
        },
    }
    answer = exchange.call("POST", f"{exchange.base}/Subscription", "client", body, 400)
    assert answer["issue"][0]["expression"] == ["Subscription.channel.extension"]


R5 = "http://hl7.org/fhir/5.0/StructureDefinition/extension-Subscription.topic"


@pytest.mark.parametrize("where", ["_criteria", "channel", "_payload", "root"])
def test_an_extension_of_r5_is_refused_wherever_it_is(exchange: Exchange, where: str) -> None:
    more = {"extension": [{"url": R5, "valueUri": "x"}]}
    channel = {"type": "rest-hook", "endpoint": exchange.receiver.url(), "payload": "application/fhir+json"}
    body: dict[str, Any] = {"resourceType": "Subscription", "criteria": "Patient", "channel": channel}
    at = {"_criteria": {"_criteria": more}, "root": more, "channel": {"channel": {**channel, **more}}}
    body |= at.get(where, {"channel": {**channel, "_payload": more}})
    answer = exchange.call("POST", f"{exchange.base}/Subscription", "client", body, 400)
    assert answer["issue"][0]["code"] == "not-supported"


def test_the_server_says_that_it_does_this(exchange: Exchange) -> None:
    statement = exchange.call("GET", f"{exchange.base}/metadata", "client", None, 200)
    row = next(each for each in statement["rest"][0]["resource"] if each["type"] == "Subscription")
    assert row["supportedProfile"] == [f"{BACKPORT}/backport-subscription"]
    assert {"url", "status"} <= {each["name"] for each in row["searchParam"]}
    assert {"status", "events", "get-ws-binding-token"} <= {each["name"] for each in row["operation"]}
