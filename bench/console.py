"""The console's pages with 10,000 clients and very many audit records: how long the server takes for each list, in this
process, so that nothing but the page is measured. EVENTS says how many audit records (1,000,000 unless said).
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from statistics import median
from typing import Any

from flask import Flask
from flask.testing import FlaskClient

from bench.figures import OUT, line
from bench.installation import Servers
from fhirserver import app
from fhirserver.auditing.recording import ship
from fhirserver.auth.principal import Principal
from fhirserver.interactions.dispatch import dispatch
from fhirserver.interactions.model import Request
from fhirserver.rules.authorization import authorization_id
from fhirserver.rules.model import reference
from fhirserver.rules.organization import kind_concept
from fhirserver.settings import Secret, Settings
from fhirserver.web.console.blueprint import SCREENS

CLIENTS = 10_000
EVENTS = int(os.environ.get("EVENTS", "1000000"))
GOAL_MS = 150
TIMES = 7
BATCH = 2_000
DAYS = 90
PASSWORD = "correct-horse-battery-9"
SYSTEM = Principal("system", id="bench", operator=True, name="bench")
WORLDS = {"application": "application", "hospital": "provider"}
"""Audience -> the kind of its organization."""
EXTRA = (
    ("hospital.clients", {"status": "approved"}),
    ("hospital.clients", {"q": "client 77"}),
    ("application.clients", {"q": "client 77"}),
    ("operator.list", {"base": "registry", "type": "ClientApplication"}),
    ("operator.list", {"base": "registry", "type": "AuditEvent"}),
    ("operator.own-list", {"type": "AuditEvent"}),
    ("operator.users", {"role": "admin"}),
)
"""More than the pages of the navigation: a screen and what it is asked."""


class Exchange:
    """An installation in this process, filled once and kept in its data folder."""

    def __init__(self, servers: Servers) -> None:
        self.settings = Settings(
            data=servers.data,
            public_url="http://127.0.0.1",
            mongo_url=Secret(servers.known.mongo_url),
            redis_url=Secret(servers.known.redis_url),
            mongo_database=f"console_{CLIENTS}_{EVENTS}",
            master_key=Secret("a master key for measuring, not for people"),
            log_level="error",
        )
        self.installation = app.build(self.settings)
        self.server = self.installation.server
        self.database = self.server.store.database
        self.web: Flask = app.create_app(self.installation)  # type: ignore[assignment]  # it is one, and its test client is used
        self.places: dict[str, str] = {}

    def fill(self) -> None:
        """Organizations, people, clients and records, where they are not there yet."""
        noted = self.database.collection("bench").find_one({"_id": "console"})
        if noted:
            self.places = noted["places"]
            return
        for audience, kind in WORLDS.items():
            body = {"resourceType": "Organization", "name": f"The {audience}", "type": [kind_concept(kind)]}
            self.places[audience] = self.create(body)
        for who in (*WORLDS, "operator"):
            user = {"resourceType": "User", "email": f"{who}@bench.example", "name": who, "password": PASSWORD}
            user |= {"role": "operator"} if who == "operator" else {"role": "admin"}
            if who in WORLDS:
                user["organization"] = reference("Organization", self.places[who])  # type: ignore[assignment]
            self.create(user)
        clients = self.clients()
        self.records(clients)
        self.database.collection("bench").insert_one({"_id": "console", "places": self.places})

    def ask(self, interaction: str, type: str, id: str | None = None, **more: Any) -> dict[str, Any]:
        asked = Request(interaction, "registry", self.server.base("registry"), SYSTEM, type=type, id=id, **more)
        return dispatch(self.server, asked).content() or {}

    def create(self, body: dict[str, Any]) -> str:
        return str(self.ask("create", body["resourceType"], body=body)["id"])

    def clients(self) -> list[str]:
        """One client with its request, written as anybody's is, then copied with other ids and names."""
        owner = reference("Organization", self.places["application"])
        body = {
            "resourceType": "ClientApplication", "name": "Client 0", "description": "For measuring",
            "kind": "production", "grantType": ["client_credentials"], "scope": "system/*.rs",
            "managingOrganization": owner,
        }  # fmt: skip
        first = self.create(body)
        place = {"name": "organization", "valueReference": reference("Organization", self.places["hospital"])}
        asked = {"resourceType": "Parameters", "parameter": [place, {"name": "reason", "valueString": "For measuring"}]}
        made = self.ask("operation", "ClientApplication", first, operation="$request-authorization", body=asked)
        self.ask("operation", "ClientAuthorization", made["id"], operation="$approve")
        ids = [first, *(f"bench-{number:06d}" for number in range(1, CLIENTS))]
        for type, id in (("ClientApplication", first), ("ClientAuthorization", made["id"])):
            whole = self.database.collection(type)
            template = whole.find_one({"i": id}) or {}
            template.pop("ev", None)
            copies = (
                _copied(template, {id: self._id(type, each), first: each, "Client 0": f"Client {number}",
                                   "client 0": f"client {number}"})
                for number, each in enumerate(ids) if number
            )  # fmt: skip
            _insert(whole, copies)
        return ids

    def _id(self, type: str, client: str) -> str:
        return client if type == "ClientApplication" else authorization_id(client, self.places["hospital"])

    def records(self, clients: Sequence[str]) -> None:
        """Some real records of a client's calls, copied for all clients over the last months, as if sealed."""
        base = self.places["hospital"]
        client = Principal("client", clients[0], self.places["application"], scopes="system/*.rs", name="Client 0")
        for type in ("Patient", "Observation", "Encounter", "Condition"):
            asked = Request("search-type", base, self.server.base(base), client, type=type, facts={"method": "GET"})
            dispatch(self.server, asked)
        while ship(self.server, self.settings.data / app.SPOOL):
            pass
        whole = self.database.current("AuditEvent")
        templates = list(whole.find({"o": base, "p.client": clients[0]}))
        now = self.server.now()
        step = timedelta(days=DAYS) / EVENTS
        _insert(whole, (_record(templates[n % len(templates)], n, clients, now - step * n) for n in range(EVENTS)))

    def signed_in(self, who: str) -> FlaskClient:
        """A browser in which that person is signed in."""
        client = self.web.test_client()
        form = client.get("/console/sign-in").text
        found = re.search(r'name="csrf" value="([^"]+)"', form)
        given = {"csrf": found[1] if found else "", "email": f"{who}@bench.example", "password": PASSWORD}
        if client.post("/console/sign-in", data=given).status_code != 303:
            raise SystemExit(f"{who} cannot sign in")
        return client


def _record(template: dict[str, Any], number: int, clients: Sequence[str], when: datetime) -> dict[str, Any]:
    """A copy of an audit record: another id, another time, another client."""
    id, client = f"bench{number:09d}", clients[number * 7919 % len(clients)]
    when = when.replace(microsecond=when.microsecond // 1000 * 1000)
    text = template["d"].replace(template["i"], id).replace(template["p"]["client"], client)
    text = re.sub(r'("recorded"|"lastUpdated"):"[^"]+"', rf'\1:"{when.isoformat(timespec="milliseconds")[:23]}Z"', text)
    span = {"lo": when, "hi": when}
    agent = f"clientapplication/{client}"
    return {
        **template,
        "_id": f"{template['o']}/{id}", "i": id, "d": text, "t": when, "z": 1, "p": {"client": client},
        "s": {**template["s"], "date": [span], "agent:identifier": [agent, f"|{agent}"]},
        "k": {**template["k"], "date": span},
    }  # fmt: skip


def _copied(value: Any, instead: dict[str, str]) -> Any:
    """A document with other texts in it, wherever they stand."""
    if isinstance(value, dict):
        return {name: _copied(each, instead) for name, each in value.items()}
    if isinstance(value, list):
        return [_copied(each, instead) for each in value]
    if isinstance(value, str):
        for old, new in instead.items():
            value = value.replace(old, new)
    return value


def _insert(collection: Any, documents: Iterator[dict[str, Any]]) -> None:
    part: list[dict[str, Any]] = []
    for document in documents:
        part.append(document)
        if len(part) == BATCH:
            collection.insert_many(part, ordered=False)
            part = []
    if part:
        collection.insert_many(part, ordered=False)


def run(wanted: Sequence[str]) -> None:
    """Writes a figure for each list of the navigation, and for some that are narrowed."""
    servers = Servers(OUT / "data-console", 1.0).start()
    try:
        exchange = Exchange(servers)
        exchange.fill()
        pages: list[tuple[str, dict[str, str]]] = [(name, {}) for name, screen in SCREENS.items() if screen.nav] + list(
            EXTRA
        )
        people = {who: exchange.signed_in(who) for who in (*WORLDS, "operator")}
        for name, asked in pages:
            _measured(exchange, servers, people, name, asked)
        exchange.installation.close()
    finally:
        servers.stop()


def _measured(
    exchange: Exchange, servers: Servers, people: dict[str, FlaskClient], name: str, asked: dict[str, str]
) -> None:
    audience = SCREENS[name].audience
    address = SCREENS[name].address(exchange.places.get(audience, ""), **asked)
    _first(people[audience], address)
    times = []
    server, mongod = time.process_time(), servers.mongod_cpu()
    for _ in range(TIMES):
        begin = time.perf_counter()
        answer = people[audience].get(address, follow_redirects=True)
        times.append((time.perf_counter() - begin) * 1e3)
        if answer.status_code != 200:
            raise SystemExit(f"{address}: {answer.status_code} {answer.text[-500:]}")
    narrowed = "".join(f".{value}" for value in asked.values()).replace(" ", "-")
    said = {"clients": CLIENTS, "events": EVENTS, "worst_ms": round(max(times), 1), "to_reach": GOAL_MS}
    cpu = ((time.process_time() - server) / TIMES * 1e6, (servers.mongod_cpu() - mongod) / TIMES * 1e6)
    line(f"console.{name}{narrowed}", median(times), "ms", round(median(times), 1), None, cpu, said)


def _first(client: FlaskClient, address: str, timeout: float = 300.0) -> None:
    """Opens a page until it is there: the first search by a parameter builds its index."""
    deadline = time.monotonic() + timeout
    while client.get(address).status_code == 503:
        if time.monotonic() > deadline:
            raise SystemExit(f"{address} is not answered")
        time.sleep(1)
