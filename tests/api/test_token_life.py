"""What becomes of a token after it is issued: introspection, revocation; and clients that prove themselves by keys."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey

from fhirserver.auth import assertions
from tests.api.exchange import ISSUER, REGISTRY, Exchange, exchange_of

KEY = RSAKey.generate_key(2048)
JWKS = json.dumps({"keys": [{**KEY.as_dict(private=False), "kid": "k1"}]})


@pytest.fixture(scope="module")
def exchange(mongo_url: str) -> Iterator[Exchange]:
    with exchange_of(mongo_url, "test_token_life") as made:
        yield made


@pytest.fixture(scope="module")
def client(exchange: Exchange) -> dict[str, Any]:
    client = exchange.register()
    exchange.authorize(client)
    return client


def asked(exchange: Exchange, what: str, client: dict[str, Any], token: str) -> Any:
    form = {"client_id": client["id"], "client_secret": client["secret"], "token": token}
    return exchange.http.post(f"/oauth2/{what}", data=form)


def test_a_client_is_told_about_its_own_tokens_only(exchange: Exchange, client: dict[str, Any]) -> None:
    token = exchange.token(client, scope="system/Patient.rs").json["access_token"]  # type: ignore[index]
    told = asked(exchange, "introspect", client, token).json
    assert told["active"] is True
    assert (told["client_id"], told["scope"], told["iss"]) == (client["id"], "system/Patient.rs", ISSUER)
    assert told["exp"] > time.time()
    stranger = exchange.register()
    assert asked(exchange, "introspect", stranger, token).json == {"active": False}
    assert asked(exchange, "introspect", client, "garbage").json == {"active": False}
    wrong = asked(exchange, "introspect", {**client, "secret": "wrong"}, token)
    assert wrong.status_code == 401
    assert wrong.json["error"] == "invalid_client"
    public = exchange.register(grantType=["authorization_code"], redirectUri=["https://a.example/cb"])
    nobody = exchange.http.post("/oauth2/introspect", data={"client_id": public["id"], "token": token})
    assert nobody.status_code == 400


def test_a_revoked_token_is_refused_on_the_very_next_call(exchange: Exchange, client: dict[str, Any]) -> None:
    token = exchange.token(client).json["access_token"]  # type: ignore[index]
    path = f"{exchange.base}/Patient"
    assert exchange.call("GET", path, token).status_code == 200
    stranger = exchange.register()
    assert asked(exchange, "revoke", stranger, token).status_code == 200
    assert exchange.call("GET", path, token).status_code == 200, "a stranger's revocation does nothing"
    assert asked(exchange, "revoke", client, token).status_code == 200
    refused = exchange.call("GET", path, token)
    assert refused.status_code == 401
    assert "revoked" in refused.text
    assert asked(exchange, "introspect", client, token).json == {"active": False}
    assert asked(exchange, "revoke", client, token).status_code == 200
    assert asked(exchange, "revoke", client, "garbage").status_code == 200


def assertion(id_: str, **claims: Any) -> str:
    now = int(time.time())
    made = {"iss": id_, "sub": id_, "aud": f"{ISSUER}/oauth2/token", "exp": now + 60, "jti": str(time.time_ns())}
    return jwt.encode({"alg": "RS384", "kid": "k1"}, {**made, **claims}, KEY, algorithms=["RS384"])


def with_assertion(exchange: Exchange, text: str, **more: str) -> Any:
    form = {"grant_type": "client_credentials", "client_assertion_type": assertions.TYPE, "client_assertion": text}
    return exchange.http.post("/oauth2/token", data=form | more)


def test_a_client_with_keys_signs_its_request_and_each_assertion_counts_once(exchange: Exchange) -> None:
    keyed = exchange.register(jwks=JWKS)
    assert "secret" not in keyed
    text = assertion(keyed["id"])
    answer = with_assertion(exchange, text)
    assert answer.status_code == 200, answer.text
    exchange.authorize(keyed)
    assert exchange.call("GET", f"{exchange.base}/Patient", answer.json["access_token"]).status_code == 200
    replayed = with_assertion(exchange, text)
    assert replayed.status_code == 401
    assert "used before" in replayed.json["error_description"]


def test_every_other_assertion_is_invalid_client(exchange: Exchange, client: dict[str, Any]) -> None:
    keyed = exchange.register(jwks=JWKS)
    id_ = keyed["id"]
    for text, more in (
        (assertion(id_, aud="https://elsewhere.example"), {}),
        (assertion(id_, exp=int(time.time()) - 1), {}),
        (assertion("nobody"), {}),
        (assertion(client["id"]), {}),
        (assertion(id_), {"client_assertion_type": "other"}),
        (assertion(id_), {"client_id": client["id"]}),
        ("garbage", {}),
    ):
        answer = with_assertion(exchange, text, **more)
        assert answer.status_code == 401, answer.text
        assert answer.json["error"] == "invalid_client"
    both = with_assertion(exchange, assertion(id_), client_secret="x")
    assert both.status_code == 400


def test_a_deleted_client_is_out_and_its_namesake_inherits_nothing(exchange: Exchange) -> None:
    admin, path = exchange.operator(), f"{REGISTRY}/ClientApplication/phoenix"
    client = {
        "resourceType": "ClientApplication",
        "id": "phoenix",
        "name": "Phoenix",
        "kind": "production",
        "grantType": ["client_credentials"],
        "scope": "system/*.cruds",
    }
    first = exchange.call("PUT", path, admin, client).json or {}
    exchange.authorize(first)
    token = exchange.token(first).json["access_token"]  # type: ignore[index]
    patients = f"{exchange.base}/Patient"
    assert exchange.call("GET", patients, token).status_code == 200
    assert exchange.call("DELETE", path, admin).status_code == 200
    assert exchange.call("GET", patients, token).status_code == 401
    assert exchange.token(first).status_code == 401
    time.sleep(1.1)
    second = exchange.call("PUT", path, admin, client).json or {}
    assert exchange.token(first).status_code == 401, "the old secret is gone"
    assert exchange.call("GET", patients, token).status_code == 401, "so is the old token"
    fresh = exchange.token(second).json["access_token"]  # type: ignore[index]
    assert exchange.call("GET", patients, fresh).status_code == 403, "and the old approval"


def operation(exchange: Exchange, client: dict[str, Any], name: str, who: str, **values: Any) -> Any:
    parameters = [{"name": given, **value} for given, value in values.items()]
    body = {"resourceType": "Parameters", "parameter": parameters}
    return exchange.call("POST", f"{REGISTRY}/ClientApplication/{client['id']}/${name}", exchange.people[who], body)


def test_a_secret_is_rotated_and_both_work_meanwhile(exchange: Exchange) -> None:
    client = exchange.register()
    answer = operation(exchange, client, "rotate-secret", "acme", overlap={"valueInteger": 600})
    assert answer.status_code == 200, answer.text
    rotated = answer.json
    assert rotated["secret"] != client["secret"]
    assert exchange.token(client).status_code == 200
    assert exchange.token(rotated).status_code == 200
    at_once = operation(exchange, client, "rotate-secret", "acme", overlap={"valueInteger": 0}).json
    assert exchange.token(at_once).status_code == 200
    assert exchange.token(rotated).status_code == 401
    shown = exchange.call("GET", f"{REGISTRY}/ClientApplication/{client['id']}", exchange.people["acme"])
    assert "secret" not in shown.json
    assert operation(exchange, client, "rotate-secret", "hospital").status_code in (403, 404)


def test_a_client_is_told_who_permits_and_who_does_not(exchange: Exchange) -> None:
    client = exchange.register(scope="system/Patient.rs")
    asked_for = {
        "organization": {"valueReference": {"reference": f"Organization/{exchange.hospital}"}},
        "type": {"valueCode": "Patient"},
        "interaction": {"valueCode": "read"},
    }
    before = operation(exchange, client, "why", "acme", **asked_for).json["parameter"]
    assert before[0] == {"name": "permitted", "valueBoolean": False}
    assert "$request-authorization" in str(before)
    id_ = exchange.authorize(client)
    path = f"{REGISTRY}/ClientAuthorization/{id_}/$why?type=Patient&interaction=read"
    assert exchange.call("GET", path, exchange.people["hospital"]).json["parameter"][0]["valueBoolean"] is True  # type: ignore[index]
    after = operation(exchange, client, "why", "acme", **asked_for).json["parameter"]
    assert after[0]["valueBoolean"] is True
    create = {**asked_for, "interaction": {"valueCode": "create"}}
    refused = operation(exchange, client, "why", "acme", **create).json["parameter"]
    assert refused[0]["valueBoolean"] is False
    assert "system/Patient.c" in str(refused)
    assert operation(exchange, client, "why", "acme", **{**asked_for, "type": {"valueCode": "X"}}).status_code == 400


def test_an_approved_client_asks_for_more_scopes_and_keeps_what_it_has(exchange: Exchange) -> None:
    client = exchange.register(scope="system/Patient.rs")
    id_ = exchange.authorize(client)
    admin, path = exchange.people["acme"], f"{REGISTRY}/ClientApplication/{client['id']}"
    wider = {name: value for name, value in client.items() if name not in ("secret", "meta")}
    assert exchange.call("PUT", path, admin, wider | {"scope": "system/*.rs"}).status_code == 200
    token = exchange.token(client).json["access_token"]  # type: ignore[index]
    assert exchange.call("GET", f"{exchange.base}/Patient", token).status_code == 200
    assert exchange.call("GET", f"{exchange.base}/Encounter", token).status_code == 403
    asked_for = {
        "organization": {"valueReference": {"reference": f"Organization/{exchange.hospital}"}},
        "reason": {"valueString": "Visits too"},
    }
    pending = operation(exchange, client, "request-authorization", "acme", **asked_for).json
    assert (pending["status"], pending["pendingScope"]) == ("approved", "system/*.rs")
    assert exchange.call("GET", f"{exchange.base}/Encounter", token).status_code == 403
    assert exchange.step(id_, "approve").status_code == 200
    assert exchange.call("GET", f"{exchange.base}/Encounter", token).status_code == 200
