"""Dynamic client registration (RFC 7591) by somebody who may register clients."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from joserfc.jwk import RSAKey
from werkzeug.test import TestResponse

from tests.api.exchange import ISSUER, REGISTRY, Exchange, exchange_of

KEYS = {"keys": [{**RSAKey.generate_key(2048).as_dict(private=False), "kid": "k1"}]}
SERVICE = {"client_name": "Feed", "grant_types": ["client_credentials"], "scope": "system/Patient.rs"}
PORTAL = {"client_name": "Portal", "redirect_uris": ["https://p.example/cb"], "scope": "openid user/Patient.rs"}


@pytest.fixture(scope="module")
def exchange(mongo_url: str) -> Iterator[Exchange]:
    with exchange_of(mongo_url, "test_registration") as made:
        yield made


def register(exchange: Exchange, metadata: Any, who: str = "acme") -> TestResponse:
    return exchange.call("POST", "/oauth2/register", exchange.people[who], metadata)


def test_a_service_gets_its_secret_once_and_can_use_it(exchange: Exchange) -> None:
    answer = register(exchange, SERVICE)
    assert answer.status_code == 201, answer.text
    made = dict(answer.json or {})
    assert answer.headers["Cache-Control"] == "no-store"
    assert made["token_endpoint_auth_method"] == "client_secret_basic"
    assert made["client_secret_expires_at"] == 0
    client = {"id": made["client_id"], "secret": made["client_secret"]}
    assert exchange.token(client).json["scope"] == "system/Patient.rs"  # type: ignore[index]
    stored = exchange.call("GET", f"{REGISTRY}/ClientApplication/{made['client_id']}", exchange.people["acme"]).json
    assert stored["managingOrganization"]["reference"] == f"Organization/{exchange.acme}"  # type: ignore[index]
    assert stored["kind"] == "production"  # type: ignore[index]


@pytest.mark.parametrize(
    ("metadata", "way"),
    [
        (PORTAL, "none"),
        ({**PORTAL, "token_endpoint_auth_method": "none"}, "none"),
        ({**SERVICE, "jwks": KEYS}, "private_key_jwt"),
        ({**SERVICE, "token_endpoint_auth_method": "client_secret_post"}, "client_secret_basic"),
    ],
)
def test_the_way_to_authenticate_follows_from_grants_and_keys(exchange: Exchange, metadata: Any, way: str) -> None:
    made = dict(register(exchange, metadata).json or {})
    assert made["token_endpoint_auth_method"] == way
    assert ("client_secret" in made) is (way == "client_secret_basic")


@pytest.mark.parametrize(
    ("metadata", "error"),
    [
        ([], "invalid_client_metadata"),
        ({}, "invalid_redirect_uri"),
        ({**PORTAL, "redirect_uris": ["http://p.example/cb"]}, "invalid_redirect_uri"),
        ({**PORTAL, "redirect_uris": []}, "invalid_redirect_uri"),
        ({**SERVICE, "scope": "nonsense"}, "invalid_client_metadata"),
        ({**SERVICE, "client_name": 5}, "invalid_client_metadata"),
        ({**SERVICE, "grant_types": ["password"]}, "invalid_client_metadata"),
        ({**SERVICE, "grant_types": "client_credentials"}, "invalid_client_metadata"),
        ({**SERVICE, "token_endpoint_auth_method": "none"}, "invalid_client_metadata"),
        ({**SERVICE, "token_endpoint_auth_method": "tls_client_auth"}, "invalid_client_metadata"),
        ({**SERVICE, "jwks": {"keys": []}}, "invalid_client_metadata"),
    ],
)
def test_metadata_that_cannot_be_registered_are_refused(exchange: Exchange, metadata: Any, error: str) -> None:
    answer = register(exchange, metadata)
    assert answer.status_code == 400, answer.text
    assert answer.json["error"] == error, answer.text  # type: ignore[index]


def test_strangers_register_nothing(exchange: Exchange) -> None:
    nobody = exchange.http.post("/oauth2/register", data=json.dumps(SERVICE), content_type="application/json")
    assert nobody.status_code == 401
    client = exchange.register()
    token = exchange.token(client).json["access_token"]  # type: ignore[index]
    assert exchange.call("POST", "/oauth2/register", token, SERVICE).status_code == 401


def test_discovery_names_the_endpoint(exchange: Exchange) -> None:
    found = exchange.http.get("/.well-known/oauth-authorization-server").json or {}
    assert found["registration_endpoint"] == f"{ISSUER}/oauth2/register"


def test_registering_without_end_is_slowed_down(exchange: Exchange) -> None:
    statuses = [register(exchange, {**SERVICE, "scope": "nonsense"}, "hospital").status_code for _ in range(61)]
    assert statuses[0] == 400
    assert statuses[-2:] == [400, 429]
    answer = register(exchange, SERVICE, "hospital")
    assert answer.status_code == 429
    assert 0 < int(answer.headers["Retry-After"]) <= 120
    assert register(exchange, SERVICE).status_code == 201, "others are not slowed down"
