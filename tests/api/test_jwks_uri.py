"""A client that publishes its keys at its jwksUri: it gets tokens by them, and nobody gets to our inside by it."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from joserfc import jwt
from joserfc.jwk import ECKey, RSAKey
from werkzeug.test import TestResponse

from fhirserver import app
from fhirserver.subscriptions.endpoint import Guard
from fhirserver.subscriptions.post import Endpoints
from fhirserver.web.keysets import KeySets
from tests.api.exchange import ISSUER, REGISTRY, Exchange, exchange_of
from tests.webhook import Receiver, receiving

TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@pytest.fixture(scope="module")
def exchange(mongo_url: str) -> Iterator[Exchange]:
    with exchange_of(mongo_url, "test_jwks_uri") as made:
        yield made


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    with receiving(tmp_path) as made:
        yield made


@pytest.fixture
def endpoints(receiver: Receiver) -> Iterator[Endpoints]:
    guard = Guard([ip_network("127.0.0.0/8")], lambda host, port: ["127.0.0.1"])
    made = Endpoints(guard, authorities=receiver.authority)
    yield made
    made.close()


@pytest.fixture
def http(exchange: Exchange, endpoints: Endpoints) -> FlaskClient:
    """The exchange's authorization server, with the receiver's authority trusted and its own network opened."""

    def get(url: str) -> tuple[int, bytes, str]:
        answer = endpoints.get(url, 2, app.MOST_KEY_SET)
        return answer.status, answer.body, answer.error

    held = exchange.installation
    return app.create_app(replace(held, tokens=replace(held.tokens, fetch=KeySets(get).fetch))).test_client()


@pytest.fixture
def client(exchange: Exchange, receiver: Receiver) -> dict[str, Any]:
    return exchange.register(jwksUri=receiver.url(path="/jwks"))


def published(*keys: Any) -> bytes:
    return json.dumps({"keys": [{**key.as_dict(private=False), "kid": key.kid} for key in keys]}).encode()


def ec_key(kid: str) -> ECKey:
    return ECKey.generate_key("P-384", {"kid": kid})


def asked(http: FlaskClient, client: dict[str, Any], key: Any, alg: str = "ES384", **header: str) -> TestResponse:
    now = int(time.time())
    claims = {
        "iss": client["id"],
        "sub": client["id"],
        "aud": f"{ISSUER}/oauth2/token",
        "exp": now + 200,
        "iat": now,
        "jti": uuid.uuid4().hex,
    }
    assertion = jwt.encode({"alg": alg, "kid": key.kid, **header}, claims, key, algorithms=[alg])
    form = {"grant_type": "client_credentials", "client_assertion_type": TYPE, "client_assertion": assertion}
    return http.post("/oauth2/token", data=form)


def test_a_client_gets_tokens_by_the_keys_it_publishes(
    http: FlaskClient, client: dict[str, Any], receiver: Receiver
) -> None:
    assert "secret" not in client
    one, two = ec_key("one"), RSAKey.generate_key(2048, {"kid": "two"})
    receiver.reply = receiver.answering(200, published(one, two))
    for key, alg in ((one, "ES384"), (two, "RS384"), (one, "ES384")):
        answer = asked(http, client, key, alg)
        assert answer.status_code == 200, answer.text
        assert answer.json["scope"] == "system/*.cruds"  # type: ignore[index]
    assert asked(http, client, one, jku=client["jwksUri"]).status_code == 200
    assert len(receiver.arrived) == 1


def test_a_key_of_the_same_name_that_is_not_published_is_none(
    http: FlaskClient, client: dict[str, Any], receiver: Receiver
) -> None:
    receiver.reply = receiver.answering(200, published(ec_key("one")))
    for key in (ec_key("one"), ec_key("another")):
        answer = asked(http, client, key)
        assert answer.status_code == 401
        assert answer.json["error"] == "invalid_client"  # type: ignore[index]
    other = ec_key("one")
    assert asked(http, client, other, jku="https://attacker.example/jwks").status_code == 401
    assert {path for path, _, _ in receiver.arrived} == {"/jwks"}


@pytest.mark.filterwarnings("ignore:.*2048")
def test_a_short_rsa_key_is_none(http: FlaskClient, client: dict[str, Any], receiver: Receiver) -> None:
    short = RSAKey.generate_key(1024, {"kid": "short"})
    receiver.reply = receiver.answering(200, published(short))
    answer = asked(http, client, short, "RS384")
    assert answer.status_code == 401
    assert "2048" in answer.json["error_description"]  # type: ignore[index]


@pytest.mark.parametrize("status", [302, 404, 500])
def test_a_published_set_that_cannot_be_read_is_a_plain_refusal(
    http: FlaskClient, client: dict[str, Any], receiver: Receiver, status: int
) -> None:
    key = ec_key("one")
    receiver.reply = receiver.answering(status, published(key), Location=receiver.url(path="/inside"))
    answer = asked(http, client, key)
    assert answer.status_code == 401
    assert str(status) in answer.json["error_description"]  # type: ignore[index]
    assert [path for path, _, _ in receiver.arrived] == ["/jwks"]


@pytest.mark.parametrize(
    "uri",
    [
        "http://app.example/jwks",
        "https://127.0.0.1/jwks",
        "https://10.0.0.7/jwks",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/jwks",
        "https://[::ffff:10.0.0.1]/jwks",
        "https://0x7f000001/jwks",
        "https://user:pass@app.example/jwks",
        "https:///jwks",
        "ftp://app.example/jwks",
        "https://localhost/jwks",
    ],
)
def test_a_jwks_uri_into_the_inside_is_refused_when_it_is_saved(exchange: Exchange, uri: str) -> None:
    given = {
        "resourceType": "ClientApplication",
        "name": "Inside",
        "grantType": ["client_credentials"],
        "jwksUri": uri,
    }
    answer = exchange.call("POST", f"{REGISTRY}/ClientApplication", exchange.people["acme"], given)
    assert answer.status_code in (400, 422), answer.text
    assert "ClientApplication.jwksUri" in answer.json["issue"][0]["expression"]  # type: ignore[index]
    registered = exchange.register(jwksUri="https://app.example/jwks")
    changed = {**registered, "jwksUri": uri}
    path = f"{REGISTRY}/ClientApplication/{registered['id']}"
    assert exchange.call("PUT", path, exchange.people["acme"], changed).status_code in (400, 422)


def test_a_name_that_was_public_when_it_was_saved_reaches_nothing_inside(
    exchange: Exchange, client: dict[str, Any]
) -> None:
    """The installation itself opens no network: at the fetch the name resolves to loopback and is refused."""
    inside = Endpoints(Guard((), lambda host, port: ["127.0.0.1"]))

    def get(url: str) -> tuple[int, bytes, str]:
        answer = inside.get(url, 2, app.MOST_KEY_SET)
        return answer.status, answer.body, answer.error

    held = exchange.installation
    made = app.create_app(replace(held, tokens=replace(held.tokens, fetch=KeySets(get).fetch))).test_client()
    answer = asked(made, client, ec_key("one"))
    assert answer.status_code == 401
    assert "not public" in answer.json["error_description"]  # type: ignore[index]
    inside.close()


@pytest.mark.parametrize("uri", ["https://192.168.1.4/jwks", "http://app.example/jwks"])
def test_dynamic_registration_refuses_the_inside_as_well(exchange: Exchange, uri: str) -> None:
    metadata = {"client_name": "Inside", "grant_types": ["client_credentials"], "jwks_uri": uri}
    headers = {"Authorization": f"Bearer {exchange.people['acme']}"}
    answer = exchange.http.post("/oauth2/register", json=metadata, headers=headers)
    assert answer.status_code == 400
    assert answer.json["error"] == "invalid_client_metadata"  # type: ignore[index]
    assert "jwksUri" in answer.json["error_description"]  # type: ignore[index]
    good = exchange.http.post(
        "/oauth2/register", json={**metadata, "jwks_uri": "https://app.example/k"}, headers=headers
    )
    assert good.status_code == 201, good.text
    assert good.json["token_endpoint_auth_method"] == "private_key_jwt"  # type: ignore[index]
