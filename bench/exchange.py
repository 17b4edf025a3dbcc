"""The exchange whose console is measured: 10,000 clients of one application provider, all let in by one hospital, some
with a subscription there, and very many audit records of theirs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

from flask import Flask
from flask.testing import FlaskClient

from bench import people
from bench.installation import Servers
from fhirserver import app, local
from fhirserver.auditing.owners import begin
from fhirserver.auditing.recording import ship
from fhirserver.auth.access import CLIENT_SYSTEM
from fhirserver.auth.principal import Principal
from fhirserver.exchange import profiles
from fhirserver.fhir.json import encode
from fhirserver.fhir.problem import Problem, problem
from fhirserver.interactions.audit import facts
from fhirserver.interactions.dispatch import dispatch
from fhirserver.interactions.model import Request, Response
from fhirserver.interactions.publishing import publish
from fhirserver.rules.authorization import authorization_id
from fhirserver.rules.model import reference
from fhirserver.rules.organization import kind_concept
from fhirserver.rules.subscription import CLIENT
from fhirserver.settings import Secret, Settings
from fhirserver.store.spool import Spool
from fhirserver.subscriptions.topics import TOPIC

CLIENTS = 10_000
EVENTS = int(os.environ.get("EVENTS", "1000000"))
SUBSCRIPTIONS, PATIENTS = 2_000, 2_000
BATCH = 2_000
DAYS = 90
IN_A_ROW = 20
"""Records of a client that follow each other."""
SHIPPED = 20_000
PASSWORD = "correct-horse-battery-9"
SYSTEM = Principal("system", id="bench", operator=True, name="bench")
WORLDS = {"application": "application", "hospital": "provider"}
"""Audience -> the kind of its organization."""


class Exchange:
    """An installation in this process, filled once and kept in its data folder."""

    def __init__(self, servers: Servers) -> None:
        self.settings = Settings(
            data=servers.data,
            public_url="http://127.0.0.1",
            mongo_url=Secret(servers.known.mongo_url),
            redis_url=Secret(servers.known.redis_url),
            mongo_database=f"console_{EVENTS}",
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
        begin(self.server)  # here are no records from before
        profiles.lay_out(self.server)
        publish(self.server, app.catalogue().drafts(), TOPIC)
        for audience, kind in WORLDS.items():
            body = {"resourceType": "Organization", "name": f"The {audience}", "type": [kind_concept(kind)]}
            self.places[audience] = self.create(body)
        for who in (*WORLDS, "operator"):
            user = {"resourceType": "User", "email": f"{who}@bench.example", "name": who, "password": PASSWORD}
            user |= {"role": "operator"} if who == "operator" else {"role": "admin"}
            if who in WORLDS:
                user["organization"] = reference("Organization", self.places[who])  # type: ignore[assignment]
            self.places[f"{who} user"] = self.create(user)
        path = people.write(self.settings.data / "people.ndjson.gz", PATIENTS, PATIENTS)
        local.load(self.settings, [path], self.places["hospital"], True, lambda so_far: None)
        self.subscriptions(clients := self.clients())
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
        self.places |= {"client": ids[77], "authorization": self._id("ClientAuthorization", ids[77])}
        return ids

    def subscriptions(self, clients: Sequence[str]) -> None:
        """One that a client asked for, copied for others."""
        base = self.places["hospital"]
        named = {"type": "ClientApplication", "identifier": {"system": CLIENT_SYSTEM, "value": clients[0]}}
        channel = {"type": "rest-hook", "endpoint": "https://hook.example/in", "payload": "application/fhir+json"}
        body = {
            "resourceType": "Subscription", "status": "requested", "reason": "For measuring", "channel": channel,
            "criteria": "Observation?code=8867-4", "extension": [{"url": CLIENT, "valueReference": named}],
        }  # fmt: skip
        own = self.places["application"]
        asking = Principal("user", self.places["application user"], own, {own: "admin"}, name="application")
        asked = Request("create", base, self.server.base(base), asking, type="Subscription", body=body)
        first = str((dispatch(self.server, asked).content() or {})["id"])
        whole = self.database.collection("Subscription")
        template = whole.find_one({"i": first}) or {}
        template.pop("ev", None)
        copies = (
            _copied(template, {first: f"bench-{number:06d}", clients[0]: clients[number]})
            for number in range(1, SUBSCRIPTIONS)
        )
        _insert(whole, copies)
        self.places["subscription"] = "bench-000077"

    def _id(self, type: str, client: str) -> str:
        return client if type == "ClientApplication" else authorization_id(client, self.places["hospital"])

    def records(self, clients: Sequence[str]) -> None:
        """The records of their calls over the last months, on the way that all take: through the spool, sealed."""
        folder, seals = self.settings.data / app.SPOOL, app.seals(self.installation)
        now, step = self.server.now(), timedelta(days=DAYS) / EVENTS
        for start in range(0, EVENTS, SHIPPED):
            spool = Spool(folder)
            for number in range(start, min(start + SHIPPED, EVENTS)):
                kept = facts(*self._call(number, clients), now - step * (EVENTS - number))
                assert kept is not None
                spool.append(encode(kept))
            spool.close()
            while ship(self.server, folder, seals):
                pass
        last = self.database.current("AuditEvent").find_one(
            {"o": self.places["hospital"], "p.owner": self.places["application"]}
        )
        self.places["event"] = (last or {})["i"]

    def _call(self, number: int, clients: Sequence[str]) -> tuple[Request, Response | Problem]:
        """One call of a client: most are reads, some searches, some are refused."""
        at = number // IN_A_ROW * 7919 % CLIENTS
        client = Principal("client", clients[at], self.places["application"], name=f"Client {at}")
        id = f"p{number * 31 % PATIENTS:07d}"
        searches = number % 4 == 3
        type = ("Observation", "Encounter", "Condition")[number % 3] if searches else "Patient"
        base = self.places["hospital"]
        request = Request(
            "search-type" if searches else "read", base, self.server.base(base), client, type=type,
            id=None if searches else id, query=(("patient", id),) if searches else (),
            facts={"request": f"{number:032x}", "method": "GET", "path": type, "address": f"192.0.2.{at % 250}"},
        )  # fmt: skip
        if number % 10 == 9:
            return request, problem("forbidden", "not permitted")
        return request, Response(200, seen=(f"Patient/{id}",))

    def signed_in(self, who: str) -> FlaskClient:
        """A browser in which that person is signed in."""
        client = self.web.test_client()
        form = client.get("/console/sign-in").text
        found = re.search(r'name="csrf" value="([^"]+)"', form)
        given = {"csrf": found[1] if found else "", "email": f"{who}@bench.example", "password": PASSWORD}
        if client.post("/console/sign-in", data=given).status_code != 303:
            raise SystemExit(f"{who} cannot sign in")
        return client


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
