"""What a Subscription cannot ask for is refused when it is written, with the element named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fhirserver import app
from fhirserver.subscriptions.admission import CHANNEL_TYPE, CROSS_VERSION
from fhirserver.subscriptions.criteria import FHIRPATH, FILTER
from fhirserver.subscriptions.gate import WHILE_STOPPED
from fhirserver.subscriptions.notification import CONTENT
from fhirserver.subscriptions.topics import TOPIC
from tests.system.delivering import Exchange, exchanging, installed


@pytest.fixture(scope="module")
def installation(mongo_url: str) -> Iterator[app.Installation]:
    with installed(mongo_url) as made:
        yield made


@pytest.fixture(scope="module")
def exchange(installation: app.Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Exchange]:
    with exchanging(installation, Path(tmp_path_factory.mktemp("receiver"))) as made:
        yield made


def asking(exchange: Exchange, criteria: str = "create.patient", **elements: Any) -> dict[str, Any]:
    channel = {"type": "rest-hook", "endpoint": exchange.receiver.url(), "payload": "application/fhir+json"}
    channel |= elements.pop("channel", {})
    made = {"resourceType": "Subscription", "status": "requested", "reason": "test", "criteria": criteria}
    return {**made, "channel": channel, **elements}


def extension(url: str, **value: Any) -> dict[str, Any]:
    return {"extension": [{"url": url, **value}]}


# What is changed, and the element that the refusal names.
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("an unknown topic", {"criteria": "http://unknown.example/topic"}, "Subscription.criteria"),
    ("an unknown search parameter", {"criteria": "Patient?nonsense=1"}, "Subscription.criteria"),
    (
        "a filter of another type",
        {"criteria": TOPIC + "create.patient", "_criteria": extension(FILTER, valueString="Observation?code=1")},
        "Subscription.criteria",
    ),
    (
        "a filter that cannot be parsed",
        {"criteria": TOPIC + "create.patient", "_criteria": extension(FILTER, valueString="Patient?nonsense=1")},
        "Subscription.criteria",
    ),
    ("no FHIRPath", extension(FHIRPATH, valueString="gender ="), "Subscription.criteria"),
    ("another channel", {"channel": {"type": "websocket"}}, "Subscription.channel.type"),
    (
        "a channel of the Backport's own",
        {"channel": extension(CHANNEL_TYPE, valueCoding={"code": "zulip"})},
        "Subscription.channel.type",
    ),
    ("another payload", {"channel": {"payload": "application/fhir+xml"}}, "Subscription.channel.payload"),
    (
        "a payload with a FHIR version",
        {"channel": {"payload": "application/fhir+json;fhirVersion=1.0"}},
        "Subscription.channel.payload",
    ),
    (
        "an unknown content",
        {"channel": {"_payload": extension(CONTENT, valueCode="some")}},
        "Subscription.channel.payload.extension",
    ),
    ("no URL", {"channel": {"endpoint": "nowhere"}}, "Subscription.channel.endpoint"),
    ("an inside address", {"channel": {"endpoint": "https://10.0.0.1/in"}}, "Subscription.channel.endpoint"),
    (
        "the metadata address",
        {"channel": {"endpoint": "https://169.254.169.254/latest"}},
        "Subscription.channel.endpoint",
    ),
    ("an extension of R5", extension(CROSS_VERSION + "extension-Subscription.topic", valueUri="x"), "Subscription"),
    ("an unknown choice", {"channel": extension(WHILE_STOPPED, valueCode="maybe")}, "Subscription.channel.extension"),
    ("audit events", {"criteria": "AuditEvent"}, "Subscription.criteria"),
    ("subscriptions", {"criteria": "create.subscription"}, "Subscription.criteria"),
]


@pytest.mark.parametrize(("change", "where"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_cannot_be_honoured_is_refused(
    exchange: Exchange, change: dict[str, Any], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = exchange.endpoints.guard
    monkeypatch.setattr(guard, "_lookup", lambda host, port: ["127.0.0.1"] if host == "hooks.example" else [host])
    answer = exchange.call("POST", f"{exchange.base}/Subscription", "client", asking(exchange, **change))
    assert answer["resourceType"] == "OperationOutcome", answer
    issue = answer["issue"][0]
    assert issue["severity"] == "error"
    assert issue["diagnostics"]
    assert issue.get("expression", [""]) == [where]


def test_what_can_be_honoured_is_accepted(exchange: Exchange) -> None:
    for criteria in ("create.patient", "ADT_A01", "Patient?name:contains=x", TOPIC + "ADT-A01"):
        exchange.call("POST", f"{exchange.base}/Subscription", "client", asking(exchange, criteria), 201)


def test_a_topic_is_refused_where_it_cannot_be_matched(exchange: Exchange) -> None:
    topic: dict[str, Any] = {"resourceType": "SubscriptionTopic", "url": "http://hospital.example/t", "status": "draft"}
    good = {**topic, "resourceTrigger": [{"resource": "Patient", "queryCriteria": {"current": "gender=male"}}]}
    exchange.call("POST", f"{exchange.base}/SubscriptionTopic", "hospital", good, 201)
    for trigger in (
        {"resource": "Patient", "queryCriteria": {"current": "nonsense=1"}},
        {"resource": "Patient", "fhirPathCriteria": "gender ="},
        {"resource": "AuditEvent"},
        {"resource": "Nothing"},
    ):
        bad = {**topic, "resourceTrigger": [trigger]}
        exchange.call("POST", f"{exchange.base}/SubscriptionTopic", "hospital", bad, 400)


def test_a_draft_topic_does_not_fire_and_an_active_one_does(exchange: Exchange) -> None:
    url = "http://hospital.example/women"
    topic: dict[str, Any] = {
        "resourceType": "SubscriptionTopic",
        "url": url,
        "status": "active",
        "resourceTrigger": [{"resource": "Patient", "queryCriteria": {"current": "gender=female"}}],
    }
    made = exchange.call("POST", f"{exchange.base}/SubscriptionTopic", "hospital", topic, 201)
    exchange.subscribe(url)
    exchange.patient(gender="male")
    exchange.patient(gender="female")
    exchange.run()
    assert len(exchange.receiver.arrived) == 1
    draft = {**topic, "id": made["id"], "status": "draft"}
    exchange.call("PUT", f"{exchange.base}/SubscriptionTopic/{made['id']}", "hospital", draft, 200)
    exchange.patient(gender="female")
    exchange.run()
    assert len(exchange.receiver.arrived) == 1


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_nobody_writes_a_delivery(exchange: Exchange, method: str) -> None:
    body = {"resourceType": "NotificationDelivery", "id": "x"} if method == "PUT" else None
    exchange.call(method, f"{exchange.base}/NotificationDelivery/x", "hospital", body, 405)
