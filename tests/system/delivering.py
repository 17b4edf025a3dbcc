"""An exchange in this process for tests of notifications: a hospital, one authorized client, a receiver, a clock that
can be moved, and relay and deliverer driven step by step."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from werkzeug.test import Client, TestResponse

from fhirserver import app
from fhirserver.auth.principal import Principal
from fhirserver.interactions.dispatch import dispatch
from fhirserver.interactions.model import Request, Server
from fhirserver.notices.telling import Teller
from fhirserver.rules import RULES
from fhirserver.rules.organization import kind_concept
from fhirserver.rules.subscription import SIGNING_SECRET
from fhirserver.settings import Secret, Settings, folder
from fhirserver.subscriptions.admission import admitting
from fhirserver.subscriptions.deliver import Deliverer
from fhirserver.subscriptions.endpoint import Guard
from fhirserver.subscriptions.notification import CONTENT
from fhirserver.subscriptions.operations import Operations
from fhirserver.subscriptions.post import Endpoints
from fhirserver.subscriptions.relay import Relay
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
    users: dict[str, str]
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
        quick = Schedule(first=10, jitter=0, error_hours=1000)
        server.rules = admitting(RULES, lambda: server, CATALOGUE, self.endpoints.guard)
        rows = Operations(CATALOGUE, self.endpoints, decrypt).rows()
        server.operations = {**server.operations, **{app._operation_key(row): row for row in rows}}
        gave_up = Teller(server).gave_up
        self.deliverer = Deliverer(server, self.endpoints, decrypt, self.enqueue, lambda: 0.5, quick, gave_up)
        self.schedule = quick
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

    def subscribe(
        self, criteria: str, *, approve: bool = True, content: str = "", end: str = "", **channel: Any
    ) -> dict[str, Any]:
        made = {
            "resourceType": "Subscription",
            "status": "requested",
            "reason": "test",
            "criteria": criteria,
            **({"end": end} if end else {}),
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

    def authorize(self, name: str) -> tuple[str, str]:
        """A new client, approved by the hospital; answers the ids of both."""
        client = {
            "resourceType": "ClientApplication",
            "name": "Results",
            "kind": "production",
            "grantType": ["client_credentials"],
            "scope": SCOPE,
        }
        id = self.call("POST", f"{REGISTRY}/ClientApplication", "acme", client, 201)["id"]
        self.people[name] = self.installation.tokens.issue(Principal("client", id, scopes=SCOPE))
        asked = {
            "resourceType": "Parameters",
            "parameter": [
                {"name": "organization", "valueReference": {"reference": f"Organization/{self.hospital}"}},
                {"name": "reason", "valueString": "To show results"},
            ],
        }
        path = f"{REGISTRY}/ClientApplication/{id}/$request-authorization"
        authorization = str(self.call("POST", path, "acme", asked, 200)["id"])
        self.step("approve", authorization)
        return str(id), authorization

    def stranger(self) -> None:
        """Another authorized client."""
        self.authorize("stranger")

    def again(self, who: str) -> str:
        """A new token for somebody whose own has expired."""
        return self.installation.tokens.issue(Principal("user", self.users[who]))

    def step(self, action: str, authorization: str = "") -> None:
        body = {"resourceType": "Parameters", "parameter": [{"name": "note", "valueString": "because"}]}
        self.call(
            "POST",
            f"{REGISTRY}/ClientAuthorization/{authorization or self.authorization}/${action}",
            "hospital",
            body,
            200,
        )

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


@contextmanager
def installed(mongo_url: str) -> Iterator[app.Installation]:
    """An installation on a database of its own."""
    folder = TemporaryDirectory()
    settings = Settings(
        data=Path(folder.name),
        mongo_url=Secret(mongo_url),
        mongo_database=f"delivery-{uuid.uuid4().hex[:8]}",
        master_key=Secret("m" * 40),
        public_url="https://exchange.example",
        webhook_allow=(ip_network("127.0.0.0/8"),),
    )
    made = app.build(settings)
    yield made
    made.server.store.database.close()
    folder.cleanup()


@contextmanager
def exchanging(installation: app.Installation, folder: Path) -> Iterator[Exchange]:
    """A hospital and a client of their own."""
    server = installation.server
    hospital, acme = (_create(server, _organization(kind)) for kind in ("provider", "application"))
    people, users = {}, {}
    for name, organization in (("hospital", hospital), ("acme", acme)):
        email = f"{name}-{uuid.uuid4().hex[:6]}@example.org"
        reference = {"reference": f"Organization/{organization}"}
        user = {"resourceType": "User", "email": email, "role": "admin", "organization": reference}
        users[name] = _create(server, user)
        people[name] = installation.tokens.issue(Principal("user", users[name]))
    clock = server.now
    with receiving(folder) as receiver:
        made = Exchange(installation, Client(app.create_app(installation)), receiver, hospital, people, users)
        made.client, made.authorization = made.authorize("client")
        yield made
        made.deliverer.close()
    server.now = clock


def secret_of(subscription: dict[str, Any]) -> str:
    extensions = subscription["channel"]["extension"]
    return next(str(e["valueString"]) for e in extensions if e["url"] == SIGNING_SECRET)
