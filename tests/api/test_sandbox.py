"""Sandboxes: made with the first request of a test client, filled, approved, and a world apart."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from fhirserver.auth.principal import Principal
from fhirserver.auth.sandbox import sandbox_of
from tests.api.client import Api


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
