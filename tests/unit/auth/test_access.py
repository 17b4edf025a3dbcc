"""The decision: what permits, what caps, what narrows, and that a refusal says which of them it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fhirserver.auth.access import CLIENT_SYSTEM, REGISTRY, Access, decide, everything
from fhirserver.auth.policies import closed, compiled
from fhirserver.auth.principal import ANONYMOUS, SYSTEM, Principal
from fhirserver.fhir import Resource
from fhirserver.fhir.definitions import Definitions
from fhirserver.fhir.problem import Problem
from fhirserver.search.index import indexer
from fhirserver.search.match import matches
from fhirserver.search.query import And

PROFILES = Path(__file__).parents[3] / "profiles"
DEFINITIONS = Definitions.load().extended([json.loads(f.read_text()) for f in sorted(PROFILES.glob("*.json"))], 1)

HOSPITAL, PROVIDER = "hospital", "acme"
CLIENT = {"resourceType": "ClientApplication", "id": "cli", "name": "CLI", "active": True, "scope": "system/*.cruds"}
APPROVED = {"resourceType": "ClientAuthorization", "status": "approved", "scope": "system/*.cruds"}


def client(scope: str) -> Principal:
    return Principal("client", "cli", PROVIDER, scopes=scope, name="CLI")


def user(organization: str, role: str, **more: Any) -> Principal:
    return Principal("user", "u1", organization, roles={organization: role}, name="Ann", **more)


def decided(principal: Principal, organization: str = HOSPITAL, **given: Any) -> Access:
    known: dict[str, Any] = {"definitions": DEFINITIONS}
    if principal.kind == "client" or principal.client:
        known |= {"client": CLIENT, "authorization": APPROVED if organization != REGISTRY else None}
    return decide(principal, organization, **{**known, **given})


def permits(access: Access, resource: Resource, letter: str = "r") -> bool:
    clauses = access.clauses(resource["resourceType"], letter)
    entry = indexer(DEFINITIONS, resource["resourceType"])(resource)
    return clauses is not None and matches(And(clauses), entry, resource["id"])


def observation(category: str, status: str = "final", patient: str = "p1") -> Resource:
    return {
        "resourceType": "Observation",
        "id": "o1",
        "status": status,
        "category": [{"coding": [{"code": category}]}],
        "subject": {"reference": f"Patient/{patient}"},
    }


def test_an_approved_client_may_do_what_its_scope_says() -> None:
    access = decided(client("system/Patient.rs"))
    assert access.require("Patient", "r") == ()
    assert access.require("Patient", "s") == ()
    with pytest.raises(Problem) as refusal:
        access.require("Patient", "c")
    assert refusal.value.status == 403
    assert "scope of the access token" in str(refusal.value)
    assert 'scope="system/Patient.c"' in refusal.value.headers["WWW-Authenticate"]


@pytest.mark.parametrize(
    ("token", "registered", "approved", "at_fault"),
    [
        ("system/*.rs", "system/*.cruds", "system/*.cruds", "scope of the access token"),
        ("system/*.cruds", "system/*.rs", "system/*.cruds", "client registered"),
        ("system/*.cruds", "system/*.cruds", "system/*.rs", "ClientAuthorization"),
        ("", "system/*.cruds", "system/*.cruds", "scope of the access token"),
        ("not a scope", "system/*.cruds", "system/*.cruds", "scope of the access token"),
        ("user/*.cruds patient/*.cruds", "user/*.cruds", "user/*.cruds", "scope of the access token"),
    ],
)
def test_a_refusal_says_which_of_token_registration_and_approval_it_was(
    token: str, registered: str, approved: str, at_fault: str
) -> None:
    access = decided(
        client(token), client={**CLIENT, "scope": registered}, authorization={**APPROVED, "scope": approved}
    )
    with pytest.raises(Problem, match=at_fault):
        access.require("Patient", "u")
    assert access.clauses("Patient", "u") is None
    assert any(not said for _, said, _ in access.explain("Patient", "u"))


@pytest.mark.parametrize("status", ["waiting-for-approval", "rejected", "disabled", "withdrawn", "removed", ""])
def test_an_authorization_that_is_not_approved_permits_nothing(status: str) -> None:
    with pytest.raises(Problem, match="not authorized by organization hospital") as refusal:
        decided(client("system/*.cruds"), authorization={**APPROVED, "status": status})
    assert refusal.value.status == 403


def test_without_an_authorization_the_refusal_says_how_to_request_one() -> None:
    with pytest.raises(Problem, match=r"ClientApplication/cli/\$request-authorization"):
        decided(client("system/*.cruds"), authorization=None)


def test_a_client_that_is_gone_or_switched_off_is_refused() -> None:
    with pytest.raises(Problem) as gone:
        decided(client("system/*.cruds"), client=None)
    assert gone.value.status == 401
    with pytest.raises(Problem) as off:
        decided(client("system/*.cruds"), client={**CLIENT, "active": False})
    assert off.value.status == 403


def test_what_was_decided_about_a_deleted_client_of_the_same_id_does_not_count() -> None:
    again = {**CLIENT, "registered": "2026-01-01T00:00:00.000Z"}
    with pytest.raises(Problem, match="not authorized"):
        decided(
            client("system/*.rs"), client=again, authorization={**APPROVED, "requested": "2025-12-31T00:00:00.000Z"}
        )
    fresh = {**APPROVED, "requested": "2026-01-01T00:00:01.000Z"}
    assert decided(client("system/*.rs"), client=again, authorization=fresh).require("Patient", "r") == ()
    older = Principal("client", "cli", scopes="system/*.rs", issued=1767225599)
    with pytest.raises(Problem) as refusal:
        decided(older, client=again, authorization=fresh)
    assert refusal.value.status == 401
    same = Principal("client", "cli", scopes="system/*.rs", issued=1767225600)
    assert decided(same, client=again, authorization=fresh).require("Patient", "r") == ()


@pytest.mark.parametrize(
    ("audience", "organization", "good"),
    [
        ("https://x.example", HOSPITAL, True),
        ("https://x.example/1/health/organizations/hospital/fhir/4", HOSPITAL, True),
        ("https://x.example/1/health/organizations/hospital/fhir/4", REGISTRY, False),
        ("https://x.example/1/health/organizations/other-hospital/fhir/4", HOSPITAL, False),
        ("https://x.example/1/health/fhir/4", REGISTRY, True),
        ("https://x.example/1/health/fhir/4", HOSPITAL, False),
    ],
)
def test_a_token_for_one_base_is_no_good_on_another(audience: str, organization: str, good: bool) -> None:
    principal = user(HOSPITAL, "admin", audience=(audience,))
    if good:
        assert decided(principal, organization).require("Organization", "r") is not None
    else:
        with pytest.raises(Problem) as refusal:
            decided(principal, organization)
        assert refusal.value.status == 401


def test_nobody_is_asked_to_log_in() -> None:
    with pytest.raises(Problem) as refusal:
        decided(ANONYMOUS)
    assert refusal.value.status == 401
    assert refusal.value.headers["WWW-Authenticate"] == 'Bearer realm="fhir"'


def test_a_granular_scope_is_a_search_clause() -> None:
    access = decided(client("system/Observation.rs?category=exam system/Observation.rs?status=amended"))
    assert permits(access, observation("exam"))
    assert permits(access, observation("lab", "amended"))
    assert not permits(access, observation("lab"))
    assert access.clauses("Observation", "c") is None


def test_a_granular_approval_narrows_a_wide_token() -> None:
    access = decided(
        client("system/*.cruds"), authorization={**APPROVED, "scope": "system/Observation.rs?category=exam"}
    )
    assert permits(access, observation("exam"))
    assert not permits(access, observation("lab"))


@pytest.mark.parametrize("params", ["unknown=x", "subject.name=x", "code:in=http://x.org/vs", "status:foo=x"])
def test_a_narrowing_that_cannot_be_served_permits_nothing(params: str) -> None:
    access = decided(client(f"system/Observation.rs?{params}"))
    assert access.clauses("Observation", "r") is None


def test_a_client_sees_only_its_own_subscriptions_and_no_internals() -> None:
    access = decided(client("system/*.cruds"))

    def subscription(of: str) -> Resource:
        url = "https://fhirserver.example/fhir/StructureDefinition/subscription-client"
        reference = {"identifier": {"system": CLIENT_SYSTEM, "value": of}}
        return {
            "resourceType": "Subscription",
            "id": "s1",
            "status": "active",
            "extension": [{"url": url, "valueReference": reference}],
        }

    assert permits(access, subscription("cli"))
    assert not permits(access, subscription("other"))
    assert not permits(access, {"resourceType": "Subscription", "id": "s1"})
    assert access.clauses("User", "r") is None


def test_a_user_may_do_what_the_role_says_in_its_own_organization_only() -> None:
    admin, member = decided(user(HOSPITAL, "admin")), decided(user(HOSPITAL, "member"))
    assert admin.require("Patient", "d") == ()
    assert member.require("Patient", "s") == ()
    with pytest.raises(Problem, match="member of organization hospital"):
        member.require("Patient", "c")
    with pytest.raises(Problem, match="no role in organization elsewhere"):
        decided(user(HOSPITAL, "admin"), "elsewhere")


def test_a_platform_operator_has_no_access_to_an_organizations_data() -> None:
    operator = Principal("user", "u9", operator=True, name="Olga")
    with pytest.raises(Problem, match="no role"):
        decided(operator)
    assert decided(operator, REGISTRY).require("Organization", "c") == ()


def test_the_local_operators_token_is_good_for_its_organization_and_the_registry() -> None:
    operator = Principal("operator", "local", HOSPITAL, scopes="system/*.rs")
    assert decided(operator).require("Patient", "r") == ()
    assert decided(operator, REGISTRY).require("User", "s") == ()
    for organization in (HOSPITAL, REGISTRY):
        with pytest.raises(Problem, match="scope"):
            decided(operator, organization).require("Patient", "c")
    with pytest.raises(Problem, match="another organization"):
        decided(operator, "elsewhere")


def test_a_user_through_an_application_needs_the_authorization_too() -> None:
    acting = user(HOSPITAL, "admin", client="cli", scopes="user/Patient.rs")
    registered = {**CLIENT, "scope": "user/*.cruds"}
    approved = {**APPROVED, "scope": "user/*.rs"}
    access = decided(acting, client=registered, authorization=approved)
    assert access.require("Patient", "r") == ()
    assert access.clauses("Patient", "u") is None
    with pytest.raises(Problem, match="disabled"):
        decided(acting, client=registered, authorization={**approved, "status": "disabled"})


def test_a_patient_scope_is_confined_to_the_compartment_of_the_patient_in_context() -> None:
    held = "patient/*.rs"
    acting = user(HOSPITAL, "member", client="app", scopes=held, patient="p1")
    given = {"client": {**CLIENT, "scope": held}, "authorization": {**APPROVED, "scope": held}}
    access = decided(acting, **given)
    assert permits(access, observation("lab", patient="p1"))
    assert not permits(access, observation("lab", patient="p2"))
    assert permits(access, {"resourceType": "Patient", "id": "p1"})
    assert not permits(access, {"resourceType": "Patient", "id": "p2"})
    assert access.clauses("Organization", "r") is None
    without = user(HOSPITAL, "member", client="app", scopes=held)
    assert decided(without, **given).clauses("Patient", "r") is None


def own(type_: str, **elements: Any) -> Resource:
    return {"resourceType": type_, "id": "x", **{k: {"reference": v} for k, v in elements.items()}}


APPLICATION = own("ClientApplication", managingOrganization="Organization/acme")
ASKED = own("ClientAuthorization", client="ClientApplication/cli", provider="Organization/acme")
ASKED |= {"organization": {"reference": "Organization/hospital"}}
FOREIGN = own("ClientApplication", managingOrganization="Organization/other")
COLLEAGUE = own("User", organization="Organization/acme")
ENDPOINT = own("Endpoint", managingOrganization="Organization/hospital")


@pytest.mark.parametrize(
    ("principal", "resource", "letters"),
    [
        (user(PROVIDER, "admin"), APPLICATION, "cruds"),
        (user(PROVIDER, "member"), APPLICATION, "rs"),
        (user(PROVIDER, "admin"), FOREIGN, ""),
        (user(PROVIDER, "admin"), ASKED, "rs"),
        (user(HOSPITAL, "admin"), ASKED, "rs"),
        (user("other", "admin"), ASKED, ""),
        (user(PROVIDER, "admin"), COLLEAGUE, "cruds"),
        (user(PROVIDER, "member"), COLLEAGUE, "rs"),
        (user("other", "admin"), COLLEAGUE, ""),
        (user("other", "member"), {"resourceType": "User", "id": "u1"}, "r"),
        (user(HOSPITAL, "admin"), ENDPOINT, "cruds"),
        (user(PROVIDER, "admin"), ENDPOINT, ""),
        (user(PROVIDER, "admin"), {"resourceType": "Organization", "id": "x"}, "rs"),
        (user(PROVIDER, "member"), {"resourceType": "StructureDefinition", "id": "x"}, "rs"),
        (user(PROVIDER, "admin"), {"resourceType": "Patient", "id": "x"}, ""),
        (client("system/Patient.r"), {**APPLICATION, "id": "cli"}, "rs"),
        (client("system/*.cruds"), APPLICATION, ""),
        (client("system/Patient.r"), ASKED, "rs"),
        (client("system/*.cruds"), own("ClientAuthorization", client="ClientApplication/x"), ""),
        (client("system/*.cruds"), {"resourceType": "Organization", "id": "x"}, "rs"),
        (client("system/Patient.r"), {"resourceType": "Organization", "id": "x"}, ""),
        (client("system/*.cruds"), COLLEAGUE, ""),
        (Principal("user", "u1"), APPLICATION, ""),
        (Principal("operator", "local", PROVIDER, scopes="system/*.cruds"), COLLEAGUE, "cruds"),
    ],
)
def test_the_registrys_table_of_rights(principal: Principal, resource: Resource, letters: str) -> None:
    access = decided(principal, REGISTRY)
    assert "".join(letter for letter in "cruds" if permits(access, resource, letter)) == letters


def test_a_policy_is_one_more_layer_that_only_narrows() -> None:
    shut = closed({"name": "Nothing for anybody"})
    with pytest.raises(Problem, match="'Nothing for anybody'"):
        decided(client("system/*.cruds"), policies=[shut]).require("Patient", "r")
    open_ = compiled({"name": "Everything", "engine": "allow"}, DEFINITIONS)
    with pytest.raises(Problem, match="scope"):
        decided(client("system/Patient.r"), policies=[open_]).require("Patient", "u")


def test_operators_are_subject_to_no_policy() -> None:
    operator = Principal("operator", "op", HOSPITAL, operator=True, scopes="system/*.cruds")
    assert decided(operator, policies=[closed({"name": "Nothing"})]).clauses("Patient", "r") == ()


@pytest.mark.parametrize(("elements", "concerned"), [
    ({}, True),
    ({"organization": {"reference": f"Organization/{HOSPITAL}"}}, True),
    ({"organization": {"reference": "Organization/another"}}, False),
    ({"link": [{"reference": "ClientApplication/c1"}]}, True),
    ({"link": [{"reference": "ClientApplication/c2"}]}, False),
    ({"link": [{"reference": "User/c1"}]}, False),
    ({"link": [{"reference": "ClientApplication/c2"}, {"reference": "Organization/acme"}]}, True),
])  # fmt: skip
def test_a_policy_concerns_whom_and_where_it_says(elements: dict[str, Any], concerned: bool) -> None:
    caller = Principal("client", "c1", "acme", scopes="system/*.cruds")
    assert closed({"name": "x", **elements}).concerns(caller, HOSPITAL, "acme") is concerned


def test_the_server_itself_may_do_everything() -> None:
    assert everything(HOSPITAL).require("InboundMessage", "d") == ()
    assert decide(SYSTEM, HOSPITAL, definitions=DEFINITIONS).clauses("Patient", "c") == ()
