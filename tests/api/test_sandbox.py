"""Sandboxes: made with the first request of a test client, filled, approved, and a world apart."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from fhirserver.auth.principal import Principal
from fhirserver.auth.sandbox import sandbox_of
from fhirserver.interactions.dispatch import dispatch
from fhirserver.interactions.model import Request
from fhirserver.store.model import REGISTRY
from tests.api.client import Api
from tests.api.exchange import OPERATOR, PASSWORD, Exchange, exchange_of


@pytest.fixture
def client(registry: Api) -> dict[str, Any]:
    return registry.create(
        {
            "resourceType": "ClientApplication",
            "name": "Trial",
            "grantType": ["client_credentials"],
            "scope": "system/*.cruds",
        }
    )


@pytest.fixture
def at(registry: Api, token: Callable[[Principal], str]) -> Callable[..., Api]:
    """A client's calls at an organization's base."""

    def calls(client: dict[str, Any], organization: str) -> Api:
        principal = Principal("client", client["id"], scopes=client["scope"], name=client["name"])
        return Api(registry.app, f"/1/health/organizations/{organization}/fhir/4", token(principal))

    return calls


def test_the_first_request_makes_the_sandbox_with_its_data(client: dict[str, Any], at: Callable[..., Api]) -> None:
    api = at(client, sandbox_of(client["id"]))
    assert client["kind"] == "test"
    assert len(api.get("Patient").ids) == 8
    assert api.get("Observation?patient.name=Moreau&category=laboratory").ids
    assert api.get("Patient/ines-moreau/$everything").status == 200
    made = api.create({"resourceType": "Patient", "name": [{"family": "Mine"}]})
    assert api.get(f"Patient/{made['id']}").status == 200


def test_the_operation_names_the_base_and_changes_nothing_the_second_time(
    registry: Api, client: dict[str, Any], at: Callable[..., Api]
) -> None:
    answers = [registry.post(f"ClientApplication/{client['id']}/$sandbox").json for _ in range(2)]
    assert answers[0] == answers[1]
    organization, base = answers[0]["parameter"]
    assert organization["valueReference"]["reference"] == f"Organization/{sandbox_of(client['id'])}"
    assert base["valueUrl"] == f"http://api.test/1/health/organizations/{sandbox_of(client['id'])}/fhir/4"
    assert registry.get(organization["valueReference"]["reference"]).json["meta"]["versionId"] == "1"
    (decided,) = registry.get(f"ClientAuthorization?client=ClientApplication/{client['id']}").resources
    assert [step["action"] for step in decided["decision"]] == ["request", "approve"]


def test_many_first_requests_at_once_make_one_sandbox(
    registry: Api, client: dict[str, Any], at: Callable[..., Api]
) -> None:
    api = at(client, sandbox_of(client["id"]))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: len(api.get("Patient").ids), range(4)))
    assert found == [8, 8, 8, 8]


def test_a_test_client_reaches_no_real_organization(
    registry: Api, api: Api, client: dict[str, Any], at: Callable[..., Api]
) -> None:
    refused = at(client, api.organization).get("Patient")
    assert refused.status == 403
    assert "$sandbox" in refused.json["issue"][0]["diagnostics"]
    body = {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "organization", "valueReference": {"reference": f"Organization/{api.organization}"}},
            {"name": "reason", "valueString": "for real"},
        ],
    }
    assert registry.post(f"ClientApplication/{client['id']}/$request-authorization", body).status == 403


def test_nobody_reaches_another_clients_sandbox(registry: Api, client: dict[str, Any], at: Callable[..., Api]) -> None:
    registry.post(f"ClientApplication/{client['id']}/$sandbox")
    given = {
        "resourceType": "ClientApplication",
        "name": "Other",
        "grantType": ["client_credentials"],
        "scope": "system/*.cruds",
    }
    for kind in ("test", "production"):
        other = registry.create({**given, "kind": kind})
        assert at(other, sandbox_of(client["id"])).get("Patient").status == 403
        assert at(other, sandbox_of(other["id"])).get("Patient").status == (200 if kind == "test" else 404)
    assert registry.post(f"ClientApplication/{other['id']}/$sandbox").status == 422


def test_new_scopes_of_a_test_client_hold_in_its_sandbox_at_once(
    registry: Api, client: dict[str, Any], at: Callable[..., Api]
) -> None:
    narrow = {**client, "scope": "system/Patient.rs"}
    narrow.pop("secret")
    assert registry.put(f"ClientApplication/{client['id']}", narrow).status == 200
    api = at({**client, "scope": "system/*.cruds"}, sandbox_of(client["id"]))
    assert api.get("Observation").status == 403
    assert registry.put(f"ClientApplication/{client['id']}", {**narrow, "scope": "system/*.rs"}).status == 200
    assert api.get("Observation").status == 200


def test_the_ids_of_sandboxes_are_the_servers(registry: Api) -> None:
    kind = {"system": "https://fhirserver.example/fhir/CodeSystem/organization-kind", "code": "provider"}
    mine = {"resourceType": "Organization", "id": "sandbox-mine", "name": "Mine", "type": [{"coding": [kind]}]}
    assert registry.put("Organization/sandbox-mine", mine).status in (400, 422)


@pytest.fixture(scope="module")
def exchange(mongo_url: str) -> Iterator[Exchange]:
    with exchange_of(mongo_url, "test_sandbox") as made:
        yield made


def person(exchange: Exchange, organization: str, role: str) -> str:
    """The token of somebody of an organization."""
    server = exchange.installation.server
    given = {
        "resourceType": "User",
        "email": f"{uuid.uuid4().hex}@example.org",
        "role": role,
        "organization": {"reference": f"Organization/{organization}"},
        "password": PASSWORD,
    }
    made = dispatch(server, Request("create", REGISTRY, server.base(REGISTRY), OPERATOR, type="User", body=given))
    assert made.location
    id = made.location.split("/_history/")[0].rpartition("/")[2]
    return exchange.installation.tokens.issue(Principal("user", id))


def test_people_of_the_owner_look_into_the_sandboxes_of_their_clients(exchange: Exchange) -> None:
    client = exchange.register(kind="test")
    own = exchange.token(client).json["access_token"]  # type: ignore[index]
    base = f"/1/health/organizations/{sandbox_of(client['id'])}/fhir/4"
    assert exchange.call("GET", f"{base}/Patient", own).status_code == 200
    member, stranger = person(exchange, exchange.acme, "member"), person(exchange, exchange.hospital, "admin")
    patient = {"resourceType": "Patient", "id": "by-hand"}
    assert len(exchange.call("GET", f"{base}/Patient", member).json["entry"]) == 8  # type: ignore[index]
    assert exchange.call("PUT", f"{base}/Patient/by-hand", member, patient).status_code == 403
    assert exchange.call("PUT", f"{base}/Patient/by-hand", exchange.people["acme"], patient).status_code == 201
    assert exchange.call("GET", f"{base}/Patient/by-hand", own).status_code == 200
    for who in (stranger, exchange.people["hospital"]):
        assert exchange.call("GET", f"{base}/Patient", who).status_code == 403
    path = f"/1/health/fhir/4/ClientApplication/{client['id']}"
    assert exchange.call("DELETE", path, exchange.people["acme"]).status_code == 200
    assert exchange.call("GET", f"{base}/Patient", exchange.people["acme"]).status_code == 403


def test_the_owner_decides_on_what_its_client_subscribes_to_in_the_sandbox(exchange: Exchange) -> None:
    client = exchange.register(kind="test")
    own = exchange.token(client).json["access_token"]  # type: ignore[index]
    base = f"/1/health/organizations/{sandbox_of(client['id'])}/fhir/4"
    asked = {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "to try",
        "criteria": "create.patient",
        "channel": {"type": "rest-hook", "endpoint": "https://hooks.example/in"},
    }
    id = exchange.call("POST", f"{base}/Subscription", own, asked).json["id"]  # type: ignore[index]
    body = {"resourceType": "Parameters"}
    assert exchange.call("POST", f"{base}/Subscription/{id}/$approve", own, body).status_code == 403
    approved = exchange.call("POST", f"{base}/Subscription/{id}/$approve", exchange.people["acme"], body)
    assert approved.status_code == 200, approved.text
    assert approved.json["status"] == "active"  # type: ignore[index]


def test_the_names_of_sandboxes_are_nobody_elses_business(exchange: Exchange) -> None:
    client = exchange.register(kind="test", name="Secret Plan")
    own = exchange.token(client).json["access_token"]  # type: ignore[index]
    base, path = f"/1/health/organizations/{sandbox_of(client['id'])}/fhir/4", "/1/health/fhir/4/Organization"
    assert exchange.call("GET", f"{base}/Patient", own).status_code == 200
    for who in ("hospital", "acme"):
        seen = exchange.call("GET", f"{path}?name=Sandbox&_count=100", exchange.people[who])
        assert "Secret Plan" not in seen.text
        assert exchange.call("GET", f"{path}?name=Provider", exchange.people[who]).json["total"] == 1  # type: ignore[index]
    assert exchange.call("GET", f"{path}/{sandbox_of(client['id'])}", exchange.people["hospital"]).status_code == 404
    assert exchange.call("GET", f"{path}/{sandbox_of(client['id'])}", own).status_code == 200
