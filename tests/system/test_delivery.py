"""Notifications from the write to the receiver: real MongoDB, real HTTPS, relay and deliverer driven step by step."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml
from standardwebhooks.webhooks import Webhook
from werkzeug.test import Client, TestResponse

from fhirserver import app
from fhirserver.auth.access import everything
from fhirserver.auth.principal import Principal
from fhirserver.interactions.dispatch import dispatch
from fhirserver.interactions.model import Request, Server
from fhirserver.jobs import Queue, run_worker
from fhirserver.rules.organization import kind_concept
from fhirserver.rules.subscription import SIGNING_SECRET
from fhirserver.settings import Secret, Settings, folder
from fhirserver.subscriptions import delivery
from fhirserver.subscriptions.deliver import Deliverer
from fhirserver.subscriptions.endpoint import Guard
from fhirserver.subscriptions.gate import WHILE_STOPPED
from fhirserver.subscriptions.notification import CONTENT
from fhirserver.subscriptions.post import Endpoints
from fhirserver.subscriptions.relay import ORDER, Relay
from fhirserver.subscriptions.schedule import Schedule
from fhirserver.subscriptions.topics import Catalogue
from tests.webhook import Receiver, receiving

REGISTRY = "/1/health/fhir/4"
CATALOGUE = Catalogue.read(yaml.safe_load((folder("capability") / "topics" / "topics.yaml").read_text()))
SCOPE = "system/Patient.cruds system/Observation.cruds system/Subscription.cruds system/NotificationDelivery.rs"


@dataclass
class Exchange:
    """An installation in this process with a hospital and one authorized client; time can be moved forward."""

    installation: app.Installation
    http: Client
    receiver: Receiver
    hospital: str
    people: dict[str, str]
    client: str = ""
    authorization: str = ""
    ahead: timedelta = field(default_factory=timedelta)
    jobs: list[tuple[str, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        server, receiver = self.installation.server, self.receiver
        clock = server.now
        server.now = lambda: clock() + self.ahead
        self.relay = Relay(server, CATALOGUE, self.put, "test")
        self.endpoints = self.sending()
        decrypt = self.installation.vault.decrypt
        quick = Schedule(first=10, jitter=0)
        self.deliverer = Deliverer(server, self.endpoints, decrypt, self.enqueue, lambda: 0.5, quick)
        receiver.reply = None

    def sending(self) -> Endpoints:
        guard = Guard([ip_network("127.0.0.0/8")], lambda host, port: ["127.0.0.1"])
        return Endpoints(guard, self.receiver.authority)

    def put(self, name: str, jobs: Any) -> int:
        found = [(name, *ids) for ids in jobs if ids[0] == self.hospital]
        self.jobs += [job for job in found if job not in self.jobs]
        return len(found)

    def enqueue(self, name: str, *ids: str) -> None:
        self.put(name, [ids])

    def run(self) -> None:
        """Relays what is pending, and runs the jobs that follow."""
        self.relay.drain()
        self.relay.sweep()
        while self.jobs:
            name, *ids = self.jobs.pop(0)
            assert name == "deliver"
            self.deliverer.deliver(*ids)

    def later(self, seconds: float) -> None:
        self.ahead += timedelta(seconds=seconds)
        self.run()

    # Through the API

    @property
    def base(self) -> str:
        return f"/1/health/organizations/{self.hospital}/fhir/4"

    def call(self, method: str, path: str, who: str, body: Any = None, status: int | None = None) -> Any:
        headers = {"Authorization": f"Bearer {self.people[who]}"}
        answer: TestResponse = self.http.open(path, method=method, json=body, headers=headers)
        assert status is None or answer.status_code == status, answer.text
        return answer.json if answer.data else None

    def subscribe(self, criteria: str, *, approve: bool = True, content: str = "", **channel: Any) -> dict[str, Any]:
        made = {
            "resourceType": "Subscription",
            "status": "requested",
            "reason": "test",
            "criteria": criteria,
            "channel": {
                "type": "rest-hook",
                "endpoint": self.receiver.url(),
                "payload": "application/fhir+json",
                "header": ["X-Key: s3cret"],
                **({"_payload": {"extension": [{"url": CONTENT, "valueCode": content}]}} if content else {}),
                **channel,
            },
        }
        answer: dict[str, Any] = self.call("POST", f"{self.base}/Subscription", "client", made, 201)
        if approve:
            self.call("POST", f"{self.base}/Subscription/{answer['id']}/$approve", "hospital", None, 200)
        return answer

    def patient(self, **elements: Any) -> str:
        made = {"resourceType": "Patient", "active": True, **elements}
        return str(self.call("POST", f"{self.base}/Patient", "hospital", made, 201)["id"])

    def update(self, id: str, **elements: Any) -> None:
        made = {"resourceType": "Patient", "id": id, "active": True, **elements}
        self.call("PUT", f"{self.base}/Patient/{id}", "hospital", made, 200)

    def step(self, action: str) -> None:
        body = {"resourceType": "Parameters", "parameter": [{"name": "note", "valueString": "because"}]}
        self.call("POST", f"{REGISTRY}/ClientAuthorization/{self.authorization}/${action}", "hospital", body, 200)

    def deliveries(self, subscription: dict[str, Any], who: str = "client") -> list[dict[str, Any]]:
        path = f"{self.base}/NotificationDelivery?subscription=Subscription/{subscription['id']}&_sort=event-number"
        return [entry["resource"] for entry in self.call("GET", path, who, None, 200).get("entry", [])]

    def bundles(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, _, body in self.receiver.arrived]


def _create(server: Server, resource: dict[str, Any]) -> str:
    operator = Principal("system", id="tests", operator=True)
    type = resource["resourceType"]
    response = dispatch(
        server, Request("create", "registry", server.base("registry"), operator, type=type, body=resource)
    )
    assert response.location
    return response.location.split("/_history/")[0].rpartition("/")[2]


def _organization(kind: str) -> dict[str, Any]:
    return {"resourceType": "Organization", "active": True, "name": kind.title(), "type": [kind_concept(kind)]}


@pytest.fixture(scope="module")
def installation(mongo_url: str) -> Iterator[app.Installation]:
    settings = Settings(
        mongo_url=Secret(mongo_url),
        mongo_database=f"delivery-{uuid.uuid4().hex[:8]}",
        master_key=Secret("m" * 40),
        public_url="https://exchange.example",
        webhook_allow=(ip_network("127.0.0.0/8"),),
    )
    made = app.build(settings)
    yield made
    made.server.store.database.close()


@pytest.fixture
def exchange(installation: app.Installation, tmp_path: Path) -> Iterator[Exchange]:
    server = installation.server
    hospital, acme = (_create(server, _organization(kind)) for kind in ("provider", "application"))
    people = {}
    for name, organization in (("hospital", hospital), ("acme", acme)):
        email = f"{name}-{uuid.uuid4().hex[:6]}@example.org"
        reference = {"reference": f"Organization/{organization}"}
        user = {"resourceType": "User", "email": email, "role": "admin", "organization": reference}
        people[name] = installation.tokens.issue(Principal("user", _create(server, user)))
    clock = server.now
    with receiving(tmp_path) as receiver:
        made = Exchange(installation, Client(app.create_app(installation)), receiver, hospital, people)
        client = {
            "resourceType": "ClientApplication",
            "name": "Results",
            "kind": "production",
            "grantType": ["client_credentials"],
            "scope": SCOPE,
        }
        made.client = made.call("POST", f"{REGISTRY}/ClientApplication", "acme", client, 201)["id"]
        people["client"] = installation.tokens.issue(Principal("client", made.client, scopes=SCOPE))
        asked = {
            "resourceType": "Parameters",
            "parameter": [
                {"name": "organization", "valueReference": {"reference": f"Organization/{hospital}"}},
                {"name": "reason", "valueString": "To show results"},
            ],
        }
        path = f"{REGISTRY}/ClientApplication/{made.client}/$request-authorization"
        made.authorization = made.call("POST", path, "acme", asked, 200)["id"]
        made.step("approve")
        yield made
        made.deliverer.close()
    server.now = clock


def secret_of(subscription: dict[str, Any]) -> str:
    extensions = subscription["channel"]["extension"]
    return next(str(e["valueString"]) for e in extensions if e["url"] == SIGNING_SECRET)


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
    [bundle] = exchange.bundles()
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
