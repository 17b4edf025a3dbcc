"""Every screen of application providers, narrow and wide, light and dark, with something in it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests

from fhirserver.auth.access import CLIENT_SYSTEM
from fhirserver.rules.model import CANONICAL
from fhirserver.rules.subscription import CLIENT
from tests.browser.conftest import Installed
from tests.running import wait_until

WARDS = ("Bed planner", "Discharge letters", "Fax bridge", "Research extract")


class _Receiver(BaseHTTPRequestHandler):
    """Accepts notifications, until it is full."""

    room = 3

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        _Receiver.room -= 1
        body = b"thank you" if _Receiver.room >= 0 else b"the disk is full"
        self.send_response(200 if _Receiver.room >= 0 else 500)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing."""


@pytest.fixture(scope="module")
def receiver() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/notifications"
    server.shutdown()
    server.server_close()


@dataclass(frozen=True)
class Furnished:
    """The ids of what the screens show."""

    client: str
    authorization: str
    subscription: str
    delivery: str
    member: str
    event: str


def parameters(**given: Any) -> dict[str, Any]:
    parts = [
        {"name": name, "valueReference" if isinstance(value, dict) else "valueString": value}
        for name, value in given.items()
    ]
    return {"resourceType": "Parameters", "parameter": parts}


def register(installed: Installed, name: str, **more: Any) -> dict[str, Any]:
    client = {"resourceType": "ClientApplication", "name": name, "kind": "production", **more}
    made: dict[str, Any] = installed.api(
        "POST", "ClientApplication", "application", {"grantType": ["client_credentials"], **client}
    )
    return made


def ask(installed: Installed, client: str, reason: str) -> str:
    to = {"reference": f"Organization/{installed.organizations['hospital']}"}
    path = f"ClientApplication/{client}/$request-authorization"
    id: str = installed.api("POST", path, "application", parameters(organization=to, reason=reason))["id"]
    return id


def called(installed: Installed, client: dict[str, Any]) -> None:
    """Calls of the client, one of them refused."""
    given = {"grant_type": "client_credentials", "client_id": client["id"], "client_secret": client["secret"]}
    token = requests.post(f"{installed.url}/oauth2/token", data=given, timeout=30).json()["access_token"]
    base = f"{installed.url}/1/health/organizations/{installed.organizations['hospital']}/fhir/4"
    for path in ("Patient?gender=female", "Patient", "Encounter", "Observation?status=final"):
        requests.get(f"{base}/{path}", headers={"Authorization": f"Bearer {token}"}, timeout=30)


def subscribe(installed: Installed, client: str, endpoint: str) -> str:
    """A subscription of the client that the hospital approved, with three notifications accepted and two given up."""
    named = {"url": CLIENT, "valueReference": {"identifier": {"system": CLIENT_SYSTEM, "value": client}}}
    once = {"url": f"{CANONICAL}/StructureDefinition/subscription-retry-hours", "valueUnsignedInt": 0}
    body = {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "The ward board shows who was admitted",
        "criteria": "create.patient",
        "extension": [named],
        "channel": {
            "type": "rest-hook",
            "endpoint": endpoint,
            "header": ["Authorization: Bearer 3c9a"],
            "extension": [once],
        },
    }
    id: str = installed.api("POST", "Subscription", "application", body, base="hospital")["id"]
    installed.api("POST", f"Subscription/{id}/$approve", "hospital", parameters(note="Welcome"), base="hospital")
    for _ in range(5):
        installed.api("POST", "Patient", "hospital", {"resourceType": "Patient"}, base="hospital")
    done = f"NotificationDelivery?subscription=Subscription/{id}&status=delivered,dead-letter&_summary=count"
    wait_until(lambda: installed.api("GET", done, "application", base="hospital")["total"] == 5, 120)
    return id


@pytest.fixture(scope="module")
def furnished(installed: Installed, receiver: str) -> Furnished:
    """A client with everything, others in every state, and a colleague."""
    text = "Shows the nurses of a ward who is in, where, and since when."
    scope = "system/Patient.rs system/Encounter.rs system/Location.rs"
    more = {"description": text, "scope": scope, "iheProfile": ["pdqm-consumer"], "uri": "https://acme.example/board"}
    client = register(installed, "Ward board", **more)
    authorization = ask(installed, client["id"], "To show the nurses of the ward who is in.")
    installed.api("POST", f"ClientAuthorization/{authorization}/$approve", "hospital", parameters(note="Since May"))
    for name, step in zip(WARDS, ("", "reject", "disable", ""), strict=True):
        id = ask(installed, register(installed, name, scope=scope)["id"], "To help with our work.")
        for taken in {"disable": ("approve", "disable")}.get(step, (step,) if step else ()):
            installed.api("POST", f"ClientAuthorization/{id}/${taken}", "hospital", parameters(note="Not this year"))
    register(installed, "Try-out", kind="test", scope="system/*.rs", description="For our developers.")
    subscription = subscribe(installed, client["id"], receiver)
    called(installed, client)
    found = f"NotificationDelivery?subscription=Subscription/{subscription}&status=dead-letter"
    dead = installed.api("GET", found, "application", base="hospital")["entry"][0]["resource"]["id"]
    user = {"resourceType": "User", "email": "grace@acme.example", "name": "Grace Ho", "role": "member"}
    member = installed.api("POST", "User", "application", user)["id"]
    records = f"AuditEvent?agent:identifier=ClientApplication/{client['id']}&outcome=4"
    wait_until(lambda: installed.api("GET", records, "application").get("entry"), 60)
    event = installed.api("GET", records, "application")["entry"][0]["resource"]["id"]
    return Furnished(client["id"], authorization, subscription, dead, member, event)


CLIENT_AT, PLACE = "/clients/{client}", "/subscriptions/{hospital}"


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("home", ""),
        ("notifications", "/notifications"),
        ("clients", "/clients"),
        ("client", CLIENT_AT),
        ("scopes", f"{CLIENT_AT}/scopes"),
        ("change", f"{CLIENT_AT}/scopes/change"),
        ("credentials", f"{CLIENT_AT}/credentials"),
        ("activity", f"{CLIENT_AT}/activity"),
        ("client-subscriptions", f"{CLIENT_AT}/subscriptions"),
        ("subscribe", f"{CLIENT_AT}/subscriptions/new?by=fhirpath"),
        ("settings", f"{CLIENT_AT}/settings"),
        ("request", f"{CLIENT_AT}/authorize"),
        ("why", f"{CLIENT_AT}/why?at={{hospital}}&type=Observation&interaction=search-type"),
        ("authorizations", "/authorizations"),
        ("authorization", "/authorizations/{authorization}"),
        ("subscriptions", PLACE),
        ("subscription", f"{PLACE}/{{subscription}}"),
        ("delivery", f"{PLACE}/{{subscription}}/deliveries/{{delivery}}"),
        ("audit", "/audit"),
        ("record", "/audit/{event}"),
        ("members", "/members"),
        ("member", "/members/{member}"),
    ],
)
def test_a_screen_can_be_used_by_anybody(
    name: str, path: str, furnished: Furnished, installed: Installed, looked: Callable[..., None]
) -> None:
    ids = {each: getattr(furnished, each) for each in furnished.__dataclass_fields__}
    address = path.format_map(ids | {"hospital": installed.organizations["hospital"]})

    looked("application", installed.at("application", address), f"application-{name}")
