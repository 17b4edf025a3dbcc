"""The list of authorizations, for the hospital and for the application: by client, organization, status, and by the
names that they have now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qsl

import pytest

from fhirserver.auth.access import everything
from fhirserver.auth.principal import SYSTEM
from fhirserver.exchange import errands
from fhirserver.interactions.model import Request, Server
from fhirserver.interactions.search import prepare
from fhirserver.store.errands import waiting
from fhirserver.store.search import compile_search
from tests.api.exchange import REGISTRY, Exchange, exchange_of
from tests.api.plans import stages
from tests.api.relaying import relay_events

LIST = f"{REGISTRY}/ClientAuthorization"


@pytest.fixture(scope="module")
def exchange(mongo_url: str) -> Iterator[Exchange]:
    with exchange_of(mongo_url, "test_authorization_search") as made:
        yield made


@pytest.fixture
def server(exchange: Exchange) -> Server:
    return exchange.installation.server


@pytest.fixture
def settled(server: Server) -> Callable[[], None]:
    """Does what the relay and the jobs do."""

    def work() -> None:
        relay_events(server, lambda pending, session: errands.note(server, pending, session))
        for errand in waiting(server.store.database):
            errands.finish(server, errand.id)

    return work


@pytest.fixture(scope="module")
def clients(exchange: Exchange) -> dict[str, dict[str, Any]]:
    """Two clients: one that was approved, one that was disabled."""
    made = {name: exchange.register(name=name) for name in ("Ward Board", "Blood Results")}
    decided = [exchange.authorize(client) for client in made.values()]
    assert exchange.step(decided[1], "disable").status_code == 200
    return made


def found(exchange: Exchange, query: str, who: str = "hospital") -> list[str]:
    answer = exchange.http.get(
        f"{LIST}?{query}",
        headers={"Authorization": f"Bearer {exchange.people[who]}", "Prefer": "handling=strict"},
    )
    assert answer.status_code == 200, answer.text
    return sorted(entry["resource"]["clientName"] for entry in answer.json.get("entry", []))  # type: ignore[union-attr]


@pytest.mark.parametrize("who", ["hospital", "acme"])
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("organization=Organization/{hospital}", ["Blood Results", "Ward Board"]),
        ("client=ClientApplication/{board}", ["Ward Board"]),
        ("provider=Organization/{acme}&status=disabled", ["Blood Results"]),
        ("status=approved,disabled&_sort=-requested", ["Blood Results", "Ward Board"]),
        ("status=waiting-for-approval", []),
        ("name=ward", ["Ward Board"]),
        ("name:contains=board", ["Ward Board"]),
        ("name=application", ["Blood Results", "Ward Board"]),
        ("name=provider&status=approved", ["Ward Board"]),
        ("name:contains=nothing", []),
        ("kind=production&client-name=blood", ["Blood Results"]),
    ],
)
def test_both_sides_find_what_they_look_for(
    exchange: Exchange, clients: dict[str, dict[str, Any]], who: str, query: str, expected: list[str]
) -> None:
    ids = {"hospital": exchange.hospital, "acme": exchange.acme, "board": clients["Ward Board"]["id"]}
    assert found(exchange, query.format(**ids), who) == expected


@pytest.mark.parametrize(
    "query",
    [
        "name=ward",
        "name:contains=board",
        "status=approved",
        "client=ClientApplication/x",
        "organization=Organization/x",
        "provider=Organization/x",
    ],
)
def test_no_search_of_authorizations_scans_a_collection(
    exchange: Exchange, server: Server, clients: dict[str, Any], query: str
) -> None:
    found(exchange, query)
    access, base = everything("registry"), server.base("registry")
    request = Request("search-type", "registry", base, SYSTEM, type="ClientAuthorization")
    parsed = prepare(server, request, "ClientAuthorization", tuple(parse_qsl(query)))
    search = compile_search(server.store, access, "ClientAuthorization", parsed.clauses, None)
    assert search is not None
    command = {"find": "ClientAuthorization", "filter": search.filter, "sort": {"_id": 1}, "limit": 20}
    plan = server.store.database.raw.command("explain", command, verbosity="queryPlanner")
    used = set(stages(plan["queryPlanner"]["winningPlan"]))
    assert "COLLSCAN" not in used
    assert used & {"IXSCAN", "EOF"}


def test_wider_scopes_are_pending_until_the_hospital_decides(exchange: Exchange, settled: Callable[[], None]) -> None:
    client = exchange.register(name="Widening", scope="system/Patient.rs")
    id = exchange.authorize(client)
    settled()
    path = f"{REGISTRY}/ClientApplication/{client['id']}"

    def written(scope: str, **more: Any) -> dict[str, Any]:
        changed = {**client, "scope": scope, **more}
        changed.pop("secret")
        assert exchange.call("PUT", path, exchange.people["acme"], changed).status_code == 200
        settled()
        return dict(exchange.call("GET", f"{LIST}/{id}", exchange.people["hospital"]).json)  # type: ignore[arg-type]

    wider = "system/Patient.rs system/Encounter.rs"
    pending = written(wider, iheProfile=["pdqm-consumer"])
    assert (pending["status"], pending["scope"], pending["pendingScope"]) == ("approved", "system/Patient.rs", wider)
    assert (len(pending["decision"]), pending["iheProfile"]) == (2, ["pdqm-consumer"])
    token = exchange.token({**client}).json["access_token"]  # type: ignore[index]
    assert exchange.call("GET", f"{exchange.base}/Patient", token).status_code == 200
    assert exchange.call("GET", f"{exchange.base}/Encounter", token).status_code == 403
    assert "pendingScope" not in written("system/Patient.r")  # within what was approved
    assert written(wider)["pendingScope"] == wider
    asked = {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "organization", "valueReference": {"reference": f"Organization/{exchange.hospital}"}},
            {"name": "reason", "valueString": "to show visits"},
        ],
    }
    for status in (200, 409):  # a reason may be given, once
        answer = exchange.call("POST", f"{path}/$request-authorization", exchange.people["acme"], asked)
        assert answer.status_code == status, answer.text
    assert exchange.step(id, "reject").status_code == 200
    left = written(wider, description="the same scope")
    assert (left["status"], left["scope"], left.get("pendingScope")) == ("approved", "system/Patient.rs", None)
    assert written(f"{wider} system/Procedure.r")["pendingScope"] == f"{wider} system/Procedure.r"
    assert exchange.step(id, "approve").status_code == 200
    token = exchange.token({**client}).json["access_token"]  # type: ignore[index]
    assert exchange.call("GET", f"{exchange.base}/Encounter", token).status_code == 200


def test_who_is_renamed_is_found_by_the_new_name(
    exchange: Exchange, server: Server, settled: Callable[[], None]
) -> None:
    client = exchange.register(name="Old Name")
    id = exchange.authorize(client)
    settled()
    version = exchange.call("GET", f"{LIST}/{id}", exchange.people["hospital"]).json["meta"]["versionId"]  # type: ignore[index]
    path = f"{REGISTRY}/ClientApplication/{client['id']}"
    changed = {**client, "name": "New Name"}
    changed.pop("secret")
    assert exchange.call("PUT", path, exchange.people["acme"], changed).status_code == 200
    settled()
    assert found(exchange, "name=old") == []
    assert found(exchange, "name=new") == ["New Name"]
    seen = exchange.call("GET", f"{LIST}/{id}", exchange.people["hospital"]).json
    assert seen is not None
    assert seen["client"]["display"] == "New Name"
    assert seen["status"] == "approved"
    assert len(seen["decision"]) == 2  # nobody has decided anything
    assert int(seen["meta"]["versionId"]) == int(version) + 1
    changed["description"] = "the same name"
    assert exchange.call("PUT", path, exchange.people["acme"], changed).status_code == 200
    settled()
    again = exchange.call("GET", f"{LIST}/{id}", exchange.people["hospital"]).json
    assert again == seen
    organization = f"{REGISTRY}/Organization/{exchange.acme}"
    held = exchange.call("GET", organization, exchange.people["acme"]).json
    operator = exchange.operator()
    assert exchange.call("PUT", organization, operator, {**(held or {}), "name": "Zenith"}).status_code == 200
    settled()
    assert "New Name" in found(exchange, "name=zenith")


def test_those_that_ask_for_more_are_found(exchange: Exchange) -> None:
    client = exchange.register(name="Asks for more", scope="system/Patient.rs")
    id = exchange.authorize(client)
    held = {name: value for name, value in client.items() if name != "secret"} | {"scope": "system/*.rs"}
    exchange.call("PUT", f"{REGISTRY}/ClientApplication/{client['id']}", exchange.people["acme"], held)
    organization = {"name": "organization", "valueReference": {"reference": f"Organization/{exchange.hospital}"}}
    asked = {
        "resourceType": "Parameters",
        "parameter": [organization, {"name": "reason", "valueString": "Another ward"}],
    }
    path = f"{REGISTRY}/ClientApplication/{client['id']}/$request-authorization"
    assert exchange.call("POST", path, exchange.people["acme"], asked).status_code == 200

    def found(query: str) -> list[str]:
        answer = exchange.call("GET", f"{LIST}?{query}", exchange.people["hospital"])
        return [entry["resource"]["id"] for entry in answer.json.get("entry", ())]  # type: ignore[union-attr]

    assert found("pending=true") == [id]
    assert id not in found("pending=false")
    assert exchange.step(id, "approve").status_code == 200
    assert found("pending=true") == []
