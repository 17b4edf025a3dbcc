"""User, Organization and Endpoint: who writes them, and what a password must be."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fhirserver.auth.principal import Principal
from fhirserver.auth.secrets import check_password
from fhirserver.fhir import Resource
from fhirserver.fhir.problem import Problem
from fhirserver.rules import endpoint, organization, user
from tests.unit.rules.conftest import faults

GOOD = "correct-horse-battery-9"
ANN = {"resourceType": "User", "email": "Ann@Example.org", "name": "Ann", "role": "admin", "password": GOOD}


def test_a_user_is_found_by_its_address_and_its_password_is_kept_as_a_hash(made: Any, people: Any) -> None:
    prepared = user.create(made(people["acme"]), dict(ANN))
    assert faults(prepared.resource) == []
    assert prepared.resource["id"] == user.user_id("ann@example.org ")
    assert prepared.resource["email"] == "ann@example.org"
    assert prepared.resource["organization"] == {"reference": "Organization/acme"}
    assert GOOD not in json.dumps([prepared.resource, prepared.private])
    assert check_password(GOOD, (prepared.private or {})["password"])
    assert user.roles(prepared.resource) == {"acme": "admin"}
    assert user.roles({**prepared.resource, "active": False}) == {}


@pytest.mark.parametrize(
    ("password", "rule"),
    [
        ("short-1", "16 to 256 characters"),
        ("x" * 300, "16 to 256 characters"),
        ("no-digits-in-this-one", "a digit"),
        ("nospecialcharacters1", "a special character"),
        ("aaa-correct-horse-9", "more than twice"),
        (12345, "must be a text"),
    ],
)
def test_a_password_that_breaks_a_rule_is_refused_with_the_rule(password: Any, rule: str) -> None:
    with pytest.raises(Problem, match=rule):
        user.check_new_password(password)


@pytest.mark.parametrize(
    "email", ["", "ann", "ann@", "@example.org", "a b@example.org", "ann@example.org\n@x.org", "a" * 400]
)
def test_what_is_no_address_is_refused(email: str) -> None:
    with pytest.raises(Problem):
        user.normal_email(email)


@pytest.mark.parametrize(
    ("who", "changes"),
    [
        ("acme member", {}),
        ("hospital", {"organization": {"reference": "Organization/acme"}}),
        ("acme", {"role": "operator"}),
        ("client", {}),
    ],
)
def test_only_an_administrator_makes_users_of_its_own_organization(
    made: Any, people: Any, who: str, changes: Resource
) -> None:
    with pytest.raises(Problem) as refusal:
        user.create(made(people[who]), {**ANN, **changes})
    assert refusal.value.status == 403


def test_an_operator_makes_operators_and_moves_users(made: Any, people: Any) -> None:
    made_operator = user.create(made(people["operator"]), {**ANN, "role": "operator"})
    assert user.operator(made_operator.resource)
    assert user.roles(made_operator.resource) == {}
    ann = user.create(made(people["acme"]), dict(ANN)).resource
    moved = {**ann, "organization": {"reference": "Organization/hospital"}}
    with pytest.raises(Problem):
        user.update(made(people["acme"]), ann, {}, moved)
    assert user.update(made(people["operator"]), ann, {}, moved).resource == moved


def test_an_update_keeps_password_and_address(made: Any, people: Any) -> None:
    first = user.create(made(people["acme"]), dict(ANN))
    again = {"resourceType": "User", "email": "ann@example.org", "name": "Ann B."}
    prepared = user.update(made(people["acme"]), first.resource, first.private or {}, again)
    assert prepared.private == first.private
    assert (prepared.resource["role"], prepared.resource["active"]) == ("admin", True)
    with pytest.raises(Problem, match="address cannot change"):
        user.update(made(people["acme"]), first.resource, {}, {**again, "email": "b@example.org"})


def test_an_organization_says_its_kind_and_keeps_it(made: Any, people: Any) -> None:
    context = made(people["operator"])
    hospital = {"resourceType": "Organization", "name": "H", "type": [organization.kind_concept("provider")]}
    first = organization.create(context, hospital).resource
    assert organization.kind(first) == "provider"
    assert first["active"] is True
    with pytest.raises(Problem, match="kind of an organization cannot change"):
        organization.update(context, first, {}, {**first, "type": [organization.kind_concept("application")]})
    for broken in (
        [],
        "x",
        [5],
        [{"coding": 5}],
        [{"coding": [5]}],
        [{"coding": [{"system": "other", "code": "provider"}]}],
    ):
        with pytest.raises(Problem, match=r"Organization\.type"):
            organization.create(context, {**hospital, "type": broken})
    with pytest.raises(Problem, match="reserved"):
        organization.create(context, {**hospital, "id": "registry"})


def test_organizations_in_a_hospitals_own_data_are_free(made: Any, people: Any) -> None:
    ward = {"resourceType": "Organization", "name": "Ward"}
    assert organization.create(made(people["hospital"], "hospital"), ward).resource == ward


def test_an_endpoint_is_of_an_organization_that_the_writer_administers(made: Any, people: Any) -> None:
    sender = {"resourceType": "Endpoint"}
    made_here = endpoint.create(made(people["hospital"]), sender).resource
    assert made_here["managingOrganization"] == {"reference": "Organization/hospital"}
    with pytest.raises(Problem):
        endpoint.update(
            made(people["hospital"]),
            made_here,
            {},
            {**sender, "managingOrganization": {"reference": "Organization/other"}},
        )
    with pytest.raises(Problem):
        endpoint.create(made(people["client"]), sender)
    with pytest.raises(Problem, match="missing"):
        endpoint.create(made(Principal("user", "olga", operator=True)), sender)
