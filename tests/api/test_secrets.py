"""When a client's secrets were used: seen by its own side, written once in a while, and part of no version."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey

from fhirserver.store.uses import Uses
from fhirserver.web.codes import Consent
from fhirserver.web.grants import refresh_lifetime
from tests.api.exchange import ISSUER, REGISTRY, Exchange, exchange_of


@pytest.fixture(scope="module")
def exchange(mongo_url: str) -> Iterator[Exchange]:
    with exchange_of(mongo_url, "test_secrets") as made:
        yield made


def seen(exchange: Exchange, client: dict[str, Any], who: str = "acme") -> list[dict[str, Any]]:
    path = f"{REGISTRY}/ClientApplication/{client['id']}/$secrets"
    answer = exchange.call("GET", path, exchange.people[who])
    assert answer.status_code == 200, answer.text
    parts = answer.json.get("parameter", [])  # type: ignore[union-attr]
    return [
        {part["name"]: next(v for k, v in part.items() if k != "name") for part in each["part"]}
        if "part" in each
        else {each["name"]: each["valueInstant"]}
        for each in parts
    ]


def test_the_owner_sees_when_each_secret_was_used(exchange: Exchange) -> None:
    client = exchange.register()
    (fresh,) = seen(exchange, client)
    assert set(fresh) == {"created", "current"}
    assert exchange.token({**client, "secret": "wrong"}).status_code == 401
    assert "lastUsed" not in seen(exchange, client)[0]
    before = datetime.now(UTC) - timedelta(seconds=1)
    assert exchange.token(client).status_code == 200
    (used,) = seen(exchange, client)
    assert before <= datetime.fromisoformat(used["lastUsed"]) <= datetime.now(UTC)

    path = f"{REGISTRY}/ClientApplication/{client['id']}/$rotate-secret"
    rotated = exchange.call("POST", path, exchange.people["acme"], {"resourceType": "Parameters"}).json
    old, new = seen(exchange, client)
    assert (old["current"], new["current"]) == (False, True)
    assert "expires" in old
    assert old["lastUsed"] == used["lastUsed"]
    assert "lastUsed" not in new
    assert exchange.token({**client, "secret": rotated["secret"]}).status_code == 200  # type: ignore[index]
    assert "lastUsed" in seen(exchange, client)[1]


def test_nothing_of_a_secret_is_shown_and_nobody_else_is_answered(exchange: Exchange) -> None:
    client = exchange.register()
    path = f"{REGISTRY}/ClientApplication/{client['id']}/$secrets"
    answer = exchange.call("GET", path, exchange.people["acme"])
    assert client["secret"] not in answer.text
    assert "h1." not in answer.text
    assert exchange.call("GET", path, exchange.people["hospital"]).status_code == 404
    own = exchange.token(client).json["access_token"]  # type: ignore[index]
    assert exchange.call("GET", path, own).status_code == 200
    assert exchange.http.get(path).status_code == 401


def test_a_use_is_no_version_and_is_written_once_a_minute_whoever_writes(exchange: Exchange) -> None:
    client = exchange.register()
    database = exchange.installation.server.store.database
    collection = database.collection("ClientApplication")

    def held() -> dict[str, Any]:
        found = collection.find_one({"_id": f"registry/{client['id']}"})
        assert found is not None
        return found

    before, hash = held(), held()["p"]["secrets"][0]["hash"]
    first = datetime(2026, 4, 1, 10, 0, 0, tzinfo=UTC)
    workers = [Uses(database) for _ in range(3)]
    for second in range(0, 50, 10):
        for worker in workers:
            worker.mark(client["id"], hash, first + timedelta(seconds=second))
    assert held()["p"]["secrets"][0]["used"] == first
    assert {name: held()[name] for name in ("v", "t", "d")} == {name: before[name] for name in ("v", "t", "d")}
    assert held().get("ev") == before.get("ev")
    workers[0].mark(client["id"], hash, first + timedelta(seconds=60))
    assert held()["p"]["secrets"][0]["used"] == first + timedelta(seconds=60)
    workers[1].mark("nobody", hash, first)
    assert collection.find_one({"_id": "registry/nobody"}) is None


def test_a_weak_secret_is_warned_of_as_long_as_it_is_in_force(exchange: Exchange) -> None:
    given = {
        "resourceType": "ClientApplication",
        "name": "Weak",
        "grantType": ["client_credentials"],
        "secret": "my-super-secret",
    }
    answer = exchange.call("POST", f"{REGISTRY}/ClientApplication", exchange.people["acme"], given)
    assert answer.status_code == 201
    assert "The secret is weak" in answer.headers["Warning"]
    client = dict(answer.json)  # type: ignore[arg-type]
    assert "weak" in seen(exchange, client)[0]["warning"]
    body = {"resourceType": "Parameters", "parameter": [{"name": "overlap", "valueInteger": 0}]}
    exchange.call("POST", f"{REGISTRY}/ClientApplication/{client['id']}/$rotate-secret", exchange.people["acme"], body)
    (strong,) = seen(exchange, client)
    assert "warning" not in strong


def test_of_a_client_with_keys_the_last_assertion_is_seen(exchange: Exchange) -> None:
    key = ECKey.generate_key("P-384", {"kid": "k"})
    keys = json.dumps({"keys": [{**key.as_dict(private=False), "kid": "k"}]})
    client = exchange.register(jwks=keys)
    assert seen(exchange, client) == []
    now = int(time.time())
    claims = {"iss": client["id"], "sub": client["id"], "aud": f"{ISSUER}/oauth2/token", "exp": now + 60}
    assertion = jwt.encode({"alg": "ES384", "kid": "k"}, {**claims, "jti": uuid.uuid4().hex}, key, algorithms=["ES384"])
    kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    form = {"grant_type": "client_credentials", "client_assertion_type": kind, "client_assertion": assertion}
    assert exchange.http.post("/oauth2/token", data=form).status_code == 200
    (found,) = seen(exchange, client)
    assert set(found) == {"keyLastUsed"}


def test_refresh_tokens_slide_unless_the_client_wants_an_end() -> None:
    now = datetime(2026, 4, 1, tzinfo=UTC)
    consent = Consent("c", "u", "openid", "base", signed_in=int((now - timedelta(hours=2)).timestamp()))
    assert refresh_lifetime({"refreshTokenLifetime": 10_800}, consent, now) == timedelta(hours=3)
    absolute = {"refreshTokenLifetime": 10_800, "refreshTokenExpiry": "absolute"}
    assert refresh_lifetime(absolute, consent, now) == timedelta(hours=1)
    assert refresh_lifetime(absolute, replace(consent, signed_in=0), now) < timedelta()


def test_the_refresh_policy_is_part_of_the_registration(exchange: Exchange) -> None:
    client = exchange.register(
        grantType=["authorization_code", "refresh_token"],
        redirectUri=["https://portal.example/callback"],
        refreshTokenLifetime=3600,
        refreshTokenExpiry="absolute",
    )
    assert client["refreshTokenExpiry"] == "absolute"
    path = f"{REGISTRY}/ClientApplication/{client['id']}"
    assert exchange.call(
        "PUT", path, exchange.people["acme"], {**client, "refreshTokenExpiry": "never"}
    ).status_code in (
        400,
        422,
    )
