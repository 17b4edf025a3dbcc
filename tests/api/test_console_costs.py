"""What a page of the console asks of the database: so much as it shows, however much there is. What that takes is
measured by `bench/console.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from fhirserver import app
from fhirserver.auditing import owners
from fhirserver.auditing.recording import ship
from fhirserver.auth.principal import Principal
from fhirserver.fhir.problem import problem
from fhirserver.interactions.model import Request
from tests.api.browser import Visitor
from tests.api.exchange import PASSWORD, REGISTRY, Exchange, exchange_of
from tests.api.relaying import relay_events
from tests.api.subscribing import asked

MANY = 300
"""Clients, changes and audit records: more than any of these pages may look at."""


@pytest.fixture(scope="module")
def exchange(mongo_url: str) -> Iterator[Exchange]:
    with exchange_of(mongo_url, "test_console_costs") as made:
        owners.begin(made.installation.server)
        user = {"resourceType": "User", "email": "olga@example.org", "role": "operator", "password": PASSWORD}
        assert made.call("POST", f"{REGISTRY}/User", made.operator(), user).status_code == 201
        yield made


@dataclass
class World:
    """What the addresses of the pages name."""

    exchange: Exchange
    names: dict[str, str]
    visitors: dict[str, Visitor]

    def costs(self, who: str, path: str) -> list[tuple[str, int]]:
        """The commands that a page needs: on what and by what index, and how many documents each looks at."""
        path, raw = path.format_map(self.names), self.exchange.installation.server.store.database.raw
        for _ in range(2):  # the first search by a parameter makes its index
            answer = self.visitors[who].get(path)
            assert answer.status_code == 200, answer.text
        raw.command("profile", 2)
        try:
            self.visitors[who].get(path)
        finally:
            raw.command("profile", 0)
        rows = [row for row in raw["system.profile"].find() if not row["ns"].endswith("system.profile")]
        raw.drop_collection("system.profile")
        return [(f"{row['ns']} {row.get('planSummary')}", row.get("docsExamined", 0)) for row in rows]


@pytest.fixture(scope="module")
def world(exchange: Exchange) -> World:
    server = exchange.installation.server
    client = exchange.register(name="Client 0")
    authorization = exchange.authorize(client)
    copied(exchange, "ClientApplication", {client["id"]: "copy-{}", "Client 0": "Client {}"})
    copied(exchange, "ClientAuthorization", {authorization: "granted-{}", client["id"]: "copy-{}"})
    entries = [{"request": {"method": "POST", "url": "Patient"}, "resource": {"resourceType": "Patient"}}] * MANY
    bundle = {"resourceType": "Bundle", "type": "batch", "entry": entries}
    assert exchange.call("POST", exchange.base, exchange.people["hospital"], bundle).status_code == 200
    wanted = exchange.call("POST", f"{exchange.base}/Subscription", exchange.people["acme"], asked(client["id"]))
    principal, base = Principal("client", client["id"], exchange.acme, name="Client 0"), server.base(exchange.hospital)
    for number in range(MANY):
        request = Request("read", exchange.hospital, base, principal, type="Patient", id=f"p{number}")
        server.audit(server, request, problem("not-found", "not here"))
    while ship(server, exchange.installation.settings.data / app.SPOOL, app.seals(exchange.installation)):
        pass
    relay_events(server)
    event = server.store.database.current("AuditEvent").find_one({"p.client": client["id"], "o": exchange.hospital})
    visitors = {who: Visitor(exchange) for who in ("acme", "hospital", "olga")}
    for who, visitor in visitors.items():
        assert visitor.sign_in(who).status_code == 303
    names = {
        "application": f"/console/application/{exchange.acme}", "hospital": f"/console/hospital/{exchange.hospital}",
        "client": client["id"], "subscription": dict(wanted.json or {})["id"], "event": (event or {})["i"],
    }  # fmt: skip
    return World(exchange, names, visitors)


def copied(exchange: Exchange, type: str, instead: dict[str, str]) -> None:
    """The one resource of a type, many times, with other texts in it."""
    collection = exchange.installation.server.store.database.current(type)
    template = collection.find_one({"o": "registry"}) or {}
    template.pop("ev", None)

    def other(value: Any, number: int) -> Any:
        if isinstance(value, dict):
            return {name: other(each, number) for name, each in value.items()}
        if isinstance(value, list):
            return [other(each, number) for each in value]
        if isinstance(value, str):
            for old, new in instead.items():
                value = value.replace(old, new.format(number)).replace(old.lower(), new.format(number).lower())
        return value

    collection.insert_many([other(template, number) for number in range(1, MANY)])


@pytest.mark.parametrize(("who", "path", "commands", "documents"), [
    ("acme", "{application}", 15, 40),
    ("acme", "{application}/clients", 12, 80),
    ("acme", "{application}/clients/{client}/activity", 12, 350),  # the last 500 calls are counted
    ("acme", "{application}/audit/{event}", 12, 40),
    ("acme", "{application}/audit?client=ClientApplication/{client}&outcome=8", 14, 250),  # 200 clients to choose from
    ("hospital", "{hospital}", 20, 40),
    ("hospital", "{hospital}/subscriptions/{subscription}", 25, 300),  # the last 100 changes, tried
    ("hospital", "{hospital}/audit?outcome=8", 12, 150),  # 100 clients to choose from
    ("hospital", "{hospital}/audit/{event}", 8, 40),
    ("olga", "/console/operator/history/registry/ClientApplication/{client}", 10, 40),
    ("olga", "/console/operator/resources/registry/ClientApplication", 10, 60),
])  # fmt: skip
def test_a_page_looks_at_no_more_than_it_shows(
    who: str, path: str, commands: int, documents: int, world: World
) -> None:
    found = world.costs(who, path)
    assert len(found) <= commands, found
    assert sum(looked for _, looked in found) <= documents, found
