"""ClientApplication: registration, its secret, and what may not be registered."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fhirserver.auth.principal import Principal
from fhirserver.auth.secrets import Vault
from fhirserver.fhir import Resource
from fhirserver.fhir.problem import Problem
from fhirserver.fhir.validation import validate
from fhirserver.rules import client as rule
from fhirserver.rules.model import Context, Prepared

CLI = {
    "resourceType": "ClientApplication",
    "id": "cli",
    "name": "CLI",
    "grantType": ["client_credentials"],
    "responseTypes": "token",
    "secret": "my-super-secret",
    "scope": "openid system/*.*",
}
PORTAL = {
    "resourceType": "ClientApplication",
    "id": "patient-portal",
    "name": "Patient Portal",
    "grantType": ["authorization_code", "refresh_token"],
    "responseTypes": "token",
    "redirectUri": ["https://portal.example.com/callback"],
    "scope": "openid profile email patient/*.read offline_access",
    "logoUri": "https://portal.example.com/logo.png",
}
SERVICE = {
    "resourceType": "ClientApplication",
    "id": "svc",
    "name": "Service",
    "kind": "production",
    "grantType": ["client_credentials"],
    "scope": "system/Patient.rs",
}
STRONG = "kD83hf-lqX02mcpzYw7TbQe5UavR1ns4"


@pytest.fixture
def context(made: Any, people: dict[str, Principal]) -> Context:
    made_: Context = made(people["acme"])
    return made_


def without(resource: Resource, *names: str) -> Resource:
    return {name: value for name, value in resource.items() if name not in names}


def errors(context: Context, prepared: Prepared) -> list[str]:
    found = validate(context.definitions, prepared.resource)
    return [issue.diagnostics for issue in found if issue.severity == "error"]


def test_the_command_lines_example_is_accepted_with_a_warning_about_its_secret(context: Context, vault: Vault) -> None:
    prepared = rule.create(context, dict(CLI))
    assert errors(context, prepared) == []
    assert prepared.resource["kind"] == "test"
    assert prepared.resource["active"] is True
    assert prepared.resource["scope"] == "openid system/*.cruds"
    assert prepared.resource["managingOrganization"] == {"reference": "Organization/acme"}
    assert "secret" not in prepared.resource
    assert prepared.shown is not None
    assert prepared.shown["secret"] == "my-super-secret"
    assert [issue.severity for issue in prepared.warnings] == ["warning"]
    assert "my-super-secret" not in json.dumps(prepared.private)
    assert rule.secret_of(prepared.private or {}, vault.matches, "my-super-secret", "2026-01-01T12:00:00Z")
    assert not rule.secret_of(prepared.private or {}, vault.matches, "my-super-secreT", "2026-01-01T12:00:00Z")


def test_the_web_applications_example_is_a_public_client_without_a_secret(context: Context) -> None:
    prepared = rule.create(context, dict(PORTAL))
    assert errors(context, prepared) == []
    assert prepared.shown is None
    assert prepared.private == {"secrets": []}
    assert rule.is_public(prepared.resource)
    assert prepared.resource["scope"] == "openid profile email offline_access patient/*.rs"


def test_a_secret_is_made_where_none_is_sent_and_shown_once(context: Context) -> None:
    prepared = rule.create(context, dict(SERVICE))
    assert errors(context, prepared) == []
    assert prepared.resource["responseTypes"] == "token"
    assert prepared.shown is not None
    assert len(prepared.shown["secret"]) >= 32
    assert prepared.shown["secret"] not in json.dumps([prepared.resource, prepared.private])
    assert prepared.warnings == ()


@pytest.mark.parametrize(
    ("changes", "expression"),
    [
        ({"secret": "weak"}, "ClientApplication.secret"),
        ({"secret": "a" * 40}, "ClientApplication.secret"),
        ({"secret": ""}, "ClientApplication.secret"),
        ({"secret": 5}, "ClientApplication.secret"),
        ({"secret": "x" * 300}, "ClientApplication.secret"),
        ({"scope": "system/Patient.sr"}, None),
        ({"scope": "system/Nothing.r"}, None),
        ({"scope": "system/Patient.rs?nothing=x"}, None),
        ({"grantType": ["authorization_code"]}, "ClientApplication.redirectUri"),
        ({"jwksUri": "http://keys.example/jwks"}, "ClientApplication.jwksUri"),
        ({"jwks": "{}"}, "ClientApplication.jwks"),
        ({"jwks": '{"keys":[{"kty":"oct","k":"x","kid":"1"}]}'}, "ClientApplication.jwks"),
        ({"jwks": '{"keys":[{"kty":"RSA","n":"x","e":"AQAB","d":"x","kid":"1"}]}'}, "ClientApplication.jwks"),
        ({"jwks": "[" * 5000}, "ClientApplication.jwks"),
        ({"jwks": '{"keys":[]}', "jwksUri": "https://keys.example"}, "ClientApplication.jwks"),
        ({"accessTokenLifetime": 10**9}, "ClientApplication.accessTokenLifetime"),
        ({"id": "CLI"}, "ClientApplication.id"),
        ({"managingOrganization": {"reference": "Organization/other"}}, None),
        ({"managingOrganization": "acme"}, "ClientApplication.managingOrganization"),
    ],
)
def test_what_may_not_be_registered_is_refused_with_its_element(
    context: Context, changes: Resource, expression: str | None
) -> None:
    with pytest.raises(Problem) as refusal:
        rule.create(context, {**SERVICE, **changes})
    assert refusal.value.status in (400, 403, 422)
    if expression:
        assert refusal.value.issues[0].expression == (expression,)


@pytest.mark.parametrize("sent", [{}, {"jwksUri": "https://keys.example/jwks", "grantType": ["client_credentials"]}])
def test_a_client_that_needs_no_secret_may_not_bring_one(context: Context, sent: Resource) -> None:
    with pytest.raises(Problem, match="has no secret"):
        rule.create(context, {**PORTAL, **sent, "secret": STRONG})


@pytest.mark.parametrize(
    ("uri", "good"),
    [
        ("https://app.example/cb", True),
        ("https://app.example/cb?x=1", True),
        ("http://localhost:8000/cb", True),
        ("http://127.0.0.1:8000/cb", True),
        ("http://[::1]/cb", True),
        ("com.example.app:/cb", True),
        ("http://app.example/cb", False),
        ("http://localhost.evil.example/cb", False),
        ("https://*.example/cb", False),
        ("https://app.example/cb#x", False),
        ("https://user@app.example/cb", False),
        ("https:///cb", False),
        ("/cb", False),
        ("javascript:alert(1)", False),
        ("data:text/html,x", False),
        ("https://app.example\\@evil.example/cb", False),
        ("https://[app/cb", False),
        ("https://app.example/" + "x" * 3000, False),
        ("", False),
    ],
)
def test_redirect_uris_are_absolute_and_safe(uri: str, good: bool) -> None:
    assert rule.valid_redirect(uri) is good


def registered(context: Context, resource: Resource) -> tuple[Resource, dict[str, Any]]:
    prepared = rule.create(context, dict(resource))
    return prepared.resource, prepared.private or {}


def test_an_update_keeps_the_secret_and_shows_none(context: Context) -> None:
    previous, private = registered(context, SERVICE)
    prepared = rule.update(context, previous, private, {**previous, "name": "New name"})
    assert prepared.private == private
    assert prepared.shown is None
    assert "secret" not in prepared.resource


def test_registering_the_same_again_changes_nothing_but_another_secret_is_refused(context: Context) -> None:
    previous, private = registered(context, CLI)
    assert rule.update(context, previous, private, dict(CLI)).private == private
    with pytest.raises(Problem, match=r"\$rotate-secret"):
        rule.update(context, previous, private, {**CLI, "secret": STRONG})


def test_a_client_that_comes_to_need_a_secret_gets_one_and_one_that_no_longer_does_loses_it(context: Context) -> None:
    previous, private = registered(context, PORTAL)
    both = {**previous, "grantType": ["authorization_code", "client_credentials"]}
    gained = rule.update(context, previous, private, both)
    assert gained.shown is not None
    assert gained.private is not None
    lost = rule.update(context, gained.resource, gained.private, previous)
    assert lost.private == {"secrets": []}


def test_kind_and_owner_do_not_change(context: Context, made: Any, people: dict[str, Principal]) -> None:
    previous, private = registered(context, SERVICE)
    with pytest.raises(Problem, match="kind of a client cannot change"):
        rule.update(context, previous, private, {**previous, "kind": "test"})
    moved = {**previous, "managingOrganization": {"reference": "Organization/other"}}
    with pytest.raises(Problem):
        rule.update(context, previous, private, moved)
    assert rule.update(made(people["operator"]), previous, private, moved).resource == moved
    kept = rule.update(context, previous, private, without(previous, "kind", "active", "managingOrganization"))
    assert kept.resource == previous


def test_a_production_clients_wider_scope_says_that_approvals_stay(context: Context) -> None:
    previous, private = registered(context, SERVICE)
    prepared = rule.update(context, previous, private, {**previous, "scope": "system/*.cruds"})
    assert [issue.severity for issue in prepared.warnings] == ["information"]


def test_only_an_administrator_of_the_own_organization_registers(made: Any, people: dict[str, Principal]) -> None:
    for name in ("acme member", "client"):
        with pytest.raises(Problem) as refusal:
            rule.create(made(people[name]), dict(SERVICE))
        assert refusal.value.status == 403
    assert rule.create(made(people["local acme"]), dict(CLI)).resource["managingOrganization"] == {
        "reference": "Organization/acme"
    }
    assert "managingOrganization" not in rule.create(made(people["operator"]), dict(CLI)).resource


def test_clients_live_on_the_registry(made: Any, people: dict[str, Principal]) -> None:
    with pytest.raises(Problem, match="registry"):
        rule.create(made(people["acme"], "hospital"), dict(SERVICE))


def test_a_rotated_secret_works_beside_the_one_before_for_a_while(context: Context, vault: Vault) -> None:
    previous, private = registered(context, CLI)
    first = rule.rotate(context, previous, private, overlap=60)
    assert first.shown is not None
    new = first.shown["secret"]
    held = first.private or {}
    for secret, now, works in [
        (new, "2026-01-01T12:00:30.000Z", True),
        (new, "2027-01-01T12:00:30.000Z", True),
        ("my-super-secret", "2026-01-01T12:00:30.000Z", True),
        ("my-super-secret", "2026-01-01T12:01:30.000Z", False),
    ]:
        assert bool(rule.secret_of(held, vault.matches, secret, now)) is works
    second = rule.rotate(context, first.resource, held, overlap=60)
    assert len((second.private or {})["secrets"]) == 2
    assert not rule.secret_of(second.private or {}, vault.matches, "my-super-secret", "2026-01-01T12:00:01.000Z")
    at_once = rule.rotate(context, previous, private, overlap=0)
    assert not rule.secret_of(at_once.private or {}, vault.matches, "my-super-secret", "2026-01-01T12:00:00.000Z")
    assert "secret" not in first.resource


def test_only_its_own_side_rotates_a_secret_and_only_where_there_is_one(
    context: Context, made: Any, people: dict[str, Principal]
) -> None:
    previous, private = registered(context, CLI)
    for who in ("acme member", "hospital", "another client", "other"):
        with pytest.raises(Problem) as refusal:
            rule.rotate(made(people[who]), previous, private)
        assert refusal.value.status == 403
    assert rule.rotate(made(people["client"]), previous, private).shown is not None
    with pytest.raises(Problem, match="public client"):
        rule.rotate(context, registered(context, PORTAL)[0], {})
    with pytest.raises(Problem, match="overlap"):
        rule.rotate(context, previous, private, overlap=-1)


def test_the_instant_of_registration_is_the_servers(context: Context) -> None:
    previous, private = registered(context, {**CLI, "registered": "1999-01-01T00:00:00Z"})
    assert previous["registered"] == "2026-01-01T12:00:00.000Z"
    sent = {**previous, "registered": "1999-01-01T00:00:00Z"}
    assert rule.update(context, previous, private, sent).resource["registered"] == previous["registered"]
