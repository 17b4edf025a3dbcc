"""The console's pages with 10,000 clients and very many audit records: how long the server takes for each screen, in
this process, so that nothing but the page is measured. EVENTS says how many audit records (1,000,000 unless said).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median
from typing import Any

from flask.testing import FlaskClient

from bench.exchange import CLIENTS, EVENTS, PATIENTS, SUBSCRIPTIONS, WORLDS, Exchange
from bench.figures import OUT, line
from bench.installation import Servers
from fhirserver.web.console.blueprint import SCREENS

GOAL_MS = 150
TIMES = 7
CALLS = ("client-activity", "client-why", "client-credentials", "client-scopes", "client-settings", "subscribe")
# More than the pages of the navigation: a screen, the parts of its path and what it is asked. A word in braces stands
# for what the exchange has.
MORE: tuple[tuple[str, dict[str, str]], ...] = (
    ("application.clients", {"q": "client 77"}),
    ("application.clients", {"q": "zzzz"}),
    ("application.clients", {"active": "false"}),
    ("application.client", {"client": "{client}"}),
    *((f"application.{name}", {"client": "{client}"}) for name in CALLS),
    ("application.request", {"client": "{client}", "q": "hosp"}),
    ("application.client-subscriptions", {"client": "{client}"}),
    ("application.authorizations", {"status": "disabled"}),
    ("application.authorizations", {"q": "zzzz"}),
    ("application.authorization", {"authorization": "{authorization}"}),
    ("application.subscriptions-at", {"at": "{hospital}"}),
    ("application.subscriptions-at", {"at": "{hospital}", "status": "error"}),
    ("application.subscription", {"at": "{hospital}", "subscription": "{subscription}"}),
    ("application.audit", {"q": "Patient/p0000077"}),
    ("application.audit", {"q": "Patient/zzzz"}),
    ("application.audit", {"client": "ClientApplication/{client}"}),
    ("application.audit", {"outcome": "4"}),
    ("application.audit", {"outcome": "8"}),
    ("application.audit", {"action": "D", "since": "2020-01-01"}),
    ("application.record", {"event": "{event}"}),
    ("hospital.clients", {"status": "approved"}),
    ("hospital.clients", {"status": "rejected"}),
    ("hospital.clients", {"q": "client 77"}),
    ("hospital.clients", {"q": "zzzz"}),
    ("hospital.client", {"id": "{authorization}"}),
    ("hospital.activity", {"id": "{authorization}"}),
    ("hospital.activity", {"id": "{authorization}", "outcome": "8"}),
    ("hospital.subscriptions", {"status": "requested"}),
    ("hospital.subscription", {"id": "{subscription}"}),
    ("hospital.deliveries", {"id": "{subscription}"}),
    ("hospital.records", {"outcome": "8"}),
    ("hospital.records", {"action": "D"}),
    ("hospital.records", {"action": "E", "outcome": "4", "from": "2020-01-01"}),
    ("hospital.records", {"client": "ClientApplication/{client}"}),
    ("hospital.records", {"patient": "Patient/zzzz"}),
    ("hospital.patient", {"patient": "p0000077"}),
    ("hospital.record", {"id": "{event}"}),
    ("hospital.seals", {}),
    ("operator.organizations", {"q": "hosp"}),
    ("operator.organization", {"id": "{hospital}"}),
    ("operator.user", {"id": "{hospital user}"}),
    ("operator.users", {"role": "admin"}),
    ("operator.list", {"base": "registry", "type": "ClientApplication"}),
    ("operator.list", {"base": "registry", "type": "ClientApplication", "q": "name=zzzz"}),
    ("operator.list", {"base": "registry", "type": "AuditEvent"}),
    ("operator.resource", {"base": "registry", "type": "ClientApplication", "id": "{client}"}),
    ("operator.history", {"base": "registry", "type": "ClientApplication", "id": "{client}"}),
    ("operator.edit", {"base": "registry", "type": "ClientApplication", "id": "{client}"}),
    ("operator.decision", {}),
    ("operator.own-list", {"type": "AuditEvent"}),
    ("operator.own-list", {"type": "Patient"}),
)


def run(wanted: Sequence[str]) -> None:
    """Writes a figure for each screen of the navigation, and for those in the table."""
    servers = Servers(OUT / "data-console", 1.0).start()
    try:
        exchange = Exchange(servers)
        exchange.fill()
        pages = [*((name, {}) for name, screen in SCREENS.items() if screen.nav), *MORE]
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
    values: dict[str, Any] = {key: value.format_map(exchange.places) for key, value in asked.items()}
    address = SCREENS[name].address(exchange.places.get(audience, ""), **values)
    _first(people[audience], address)
    times = []
    server, mongod = time.process_time(), servers.mongod_cpu()
    for _ in range(TIMES):
        begin = time.perf_counter()
        answer = people[audience].get(address, follow_redirects=True)
        times.append((time.perf_counter() - begin) * 1e3)
        if answer.status_code != 200:
            raise SystemExit(f"{address}: {answer.status_code} {answer.text[-500:]}")
    narrowed = "".join(f".{value}" for value in asked.values() if "{" not in value).replace(" ", "-")
    cpu = ((time.process_time() - server) / TIMES * 1e6, (servers.mongod_cpu() - mongod) / TIMES * 1e6)
    said = {
        "cpu_ms": round(sum(cpu) / 1e3, 1), "worst_ms": round(max(times), 1), "clients": CLIENTS, "events": EVENTS,
        "patients": PATIENTS, "subscriptions": SUBSCRIPTIONS, "to_reach": GOAL_MS,
    }  # fmt: skip
    line(f"console.{name}{narrowed}", median(times), "ms", round(median(times), 1), None, cpu, said)


def _first(client: FlaskClient, address: str, timeout: float = 300.0) -> None:
    """Opens a page until it is there: the first search by a parameter builds its index."""
    deadline = time.monotonic() + timeout
    while client.get(address).status_code == 503:
        if time.monotonic() > deadline:
            raise SystemExit(f"{address} is not answered")
        time.sleep(1)
