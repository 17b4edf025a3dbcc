"""From IHE profiles to scopes: computed from the requirements, explained, kept with the client for its reviewers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fhirserver.auth import scopes
from fhirserver.exchange import profiles
from fhirserver.interactions.model import Server
from tests.api.exchange import REGISTRY, Exchange, exchange_of

ROOT = Path(__file__).resolve().parents[2]
# Which test shows each profile's transactions at work: a profile without one is not offered.
SHOWN = {
    "pdqm-consumer": "test_ihe_pdqm.py",
    "pixm-consumer": "test_ihe_pixm.py",
    "pixm-source": "test_ihe_pixm.py",
    "pixm-source-remove": "test_ihe_pixm.py",
    "mhd-source": "test_ihe_mhd.py",
    "mhd-consumer": "test_ihe_mhd.py",
    "mcsd-consumer": "test_ihe_mcsd.py",
    "atna-source": "test_ihe_atna.py",
    "atna-consumer": "test_ihe_atna.py",
    **{
        f"qedm-{option}": "test_ihe_qedm.py"
        for option in (
            *("allergy", "condition", "diagnostic-report", "encounter", "immunization", "medication", "observation"),
            *("procedure", "provenance"),
        )
    },
}


@pytest.fixture(scope="module")
def exchange(mongo_url: str) -> Iterator[Exchange]:
    with exchange_of(mongo_url, "test_profile_scopes") as made:
        yield made


@pytest.fixture
def server(exchange: Exchange) -> Server:
    return exchange.installation.server


def asked(exchange: Exchange, *parameter: dict[str, Any], who: str = "acme") -> Any:
    body = {"resourceType": "Parameters", "parameter": list(parameter)}
    if not parameter:
        del body["parameter"]
    return exchange.call("POST", f"{REGISTRY}/ClientApplication/$profile-scopes", exchange.people[who], body)


def profile(code: str) -> dict[str, Any]:
    return {"name": "profile", "valueCode": code}


def resource(type: str, *actions: str) -> dict[str, Any]:
    parts = [{"name": "type", "valueCode": type}, *({"name": "action", "valueCode": action} for action in actions)]
    return {"name": "resource", "part": parts}


def named(parameters: list[dict[str, Any]], name: str) -> list[Any]:
    found = [each for each in parameters if each["name"] == name]
    return [next((v for k, v in each.items() if k.startswith("value")), each.get("part")) for each in found]


def test_only_profiles_that_a_test_shows_at_work_are_offered(exchange: Exchange) -> None:
    parameters = asked(exchange).json["parameter"]
    codes = [named(part, "profile")[0] for part in named(parameters, "offered")]
    assert set(codes) == set(SHOWN)
    assert {name for name in SHOWN.values() if not (ROOT / "tests" / "api" / name).is_file()} == set()


def test_the_scopes_of_profiles_and_of_chosen_resources_are_joined_and_explained(exchange: Exchange) -> None:
    answer = asked(
        exchange,
        profile("pdqm-consumer"),
        profile("pixm-source"),
        profile("mhd-consumer"),
        resource("Observation", "read", "search"),
        resource("Patient", "read"),
        {"name": "scope", "valueString": "openid system/Encounter.rs?status=finished"},
    )
    assert answer.status_code == 200, answer.text
    parameters = answer.json["parameter"]
    assert named(parameters, "scope") == [
        "openid system/Binary.r system/DocumentReference.rs system/Encounter.rs?status=finished system/List.rs"
        " system/Observation.rs system/Patient.crus"
    ]
    of_patient = next(part for part in named(parameters, "permission") if named(part, "type") == ["Patient"])
    assert named(of_patient, "action") == ["create", "read", "update", "search"]
    assert named(of_patient, "words") == ["Create Patient, Read Patient, Update Patient, Search Patient"]
    sources = [(*named(part, "action"), *named(part, "profile")) for part in named(of_patient, "from")]
    assert ("search", "pdqm-consumer") in sources
    assert ("search", "pixm-source") in sources
    assert ("create", "pixm-source") in sources
    assert ("read",) in sources
    reasons = [reason for part in named(of_patient, "from") for reason in named(part, "reason")]
    assert any(reason.startswith("ITI-78") for reason in reasons)
    assert any(reason.startswith("ITI-104") for reason in reasons)


def test_a_scope_text_alone_is_shown_as_pairs(exchange: Exchange) -> None:
    path = f"{REGISTRY}/ClientApplication/$profile-scopes?scope=system/Patient.read%20system/*.cruds"
    parameters = exchange.call("GET", path, exchange.people["acme"]).json["parameter"]  # type: ignore[index]
    assert [named(part, "type") for part in named(parameters, "permission")] == [["*"]]


@pytest.mark.parametrize(
    "wrong",
    [
        profile("xds"),
        resource("Nothing", "read"),
        resource("Patient"),
        resource("Patient", "destroy"),
        {"name": "resource", "valueString": "Patient"},
        {"name": "scope", "valueString": "nonsense"},
        {"name": "other", "valueString": "x"},
        {"name": "profile", "part": [{"name": "x", "valueCode": "y"}]},
    ],
)
def test_what_cannot_be_computed_is_refused(exchange: Exchange, wrong: dict[str, Any]) -> None:
    answer = asked(exchange, wrong)
    assert answer.status_code == 400, answer.text


def test_nobody_is_not_answered(exchange: Exchange) -> None:
    assert exchange.http.get(f"{REGISTRY}/ClientApplication/$profile-scopes").status_code == 401


@pytest.mark.parametrize("code", sorted(SHOWN))
def test_the_scopes_of_a_profile_can_be_registered(exchange: Exchange, code: str) -> None:
    text = named(asked(exchange, profile(code)).json["parameter"], "scope")[0]
    types = exchange.installation.server.definitions.resource_types
    assert str(scopes.parse(text, types)) == text


def test_reviewers_see_which_profiles_the_scopes_come_from(exchange: Exchange) -> None:
    client = exchange.register(iheProfile=["pdqm-consumer"], scope="system/Patient.rs")
    assert client["iheProfile"] == ["pdqm-consumer"]
    id = exchange.authorize(client)
    seen = exchange.call("GET", f"{REGISTRY}/ClientAuthorization/{id}", exchange.people["hospital"]).json
    assert seen["iheProfile"] == ["pdqm-consumer"]  # type: ignore[index]
    assert asked(exchange, profile("pdqm-consumer"), who="hospital").status_code == 200
    made_up = {**client, "iheProfile": ["made-up"]}
    made_up.pop("secret")
    path = f"{REGISTRY}/ClientApplication/{client['id']}"
    assert exchange.call("PUT", path, exchange.people["acme"], made_up).status_code in (400, 422)


def test_the_statements_are_resources_of_the_registry(exchange: Exchange, server: Server) -> None:
    assert profiles.lay_out(server) == len(SHOWN)
    assert profiles.lay_out(server) == 0
    path = f"{REGISTRY}/CapabilityStatement/ihe-mhd-source"
    found = exchange.call("GET", path, exchange.people["hospital"]).json
    assert found is not None
    assert (found["kind"], found["rest"][0]["mode"]) == ("requirements", "client")
    every = exchange.call("GET", f"{REGISTRY}/CapabilityStatement?mode=client&_count=50", exchange.people["acme"]).json
    assert every["total"] == len(SHOWN)  # type: ignore[index]
