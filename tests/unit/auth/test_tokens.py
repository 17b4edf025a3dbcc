"""Access tokens: the good one passes, every forged or stale one is refused with 401 and a challenge."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc import jwt
from joserfc.jwk import OctKey

from fhirserver.auth import keys, tokens
from fhirserver.auth.principal import Principal
from fhirserver.fhir.problem import Problem

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ISSUER, AUDIENCE = "https://exchange.example", "https://exchange.example/1/health"
KEY, OTHER = keys.new_key(), keys.new_key()
KEYS = keys.by_kid([KEY])
CLIENT = Principal("client", "cli", scopes="system/*.rs")


def claims(**changes: Any) -> dict[str, Any]:
    made = tokens.claims_of(CLIENT, issuer=ISSUER, audience=AUDIENCE, now=NOW, lifetime=300, token_id="t1")
    return {**made, **changes}


def part(value: object) -> str:
    return urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def with_header(**changes: Any) -> str:
    header = {"alg": "RS256", "kid": KEY.kid, "typ": "at+jwt", **changes}
    _, payload, signature = tokens.issue(KEY, claims()).split(".")
    return f"{part(header)}.{payload}.{signature}"


def signed_with_the_public_key() -> str:
    public = KEY.pair.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    header = {"alg": "HS256", "kid": KEY.kid, "typ": "at+jwt"}
    return jwt.encode(header, claims(), OctKey.import_key(urlsafe_b64encode(public)), default_type=None)


def changed_payload() -> str:
    header, _, signature = tokens.issue(KEY, claims()).split(".")
    return f"{header}.{part(claims(scope='system/*.cruds'))}.{signature}"


def test_a_token_of_ours_is_verified_and_names_its_principal() -> None:
    token = tokens.issue(KEY, claims())
    found = tokens.verify(KEYS, token, ISSUER, NOW, AUDIENCE)
    assert found == claims()
    principal = tokens.principal_of(found, name="CLI")
    assert (principal.kind, principal.id, principal.scopes, principal.name) == ("client", "cli", "system/*.rs", "CLI")
    assert principal.token == "t1"
    assert principal.audience == (AUDIENCE,)


@pytest.mark.parametrize(
    "token",
    [
        "",
        "x",
        "a.b.c",
        "é.é.é",
        "x" * 20_000,
        with_header(alg="none"),
        with_header(alg="none")[: with_header(alg="none").rindex(".") + 1],
        with_header(alg="HS256"),
        with_header(alg="RS512"),
        with_header(kid="unknown"),
        with_header(kid=["x"]),
        with_header(typ="JWT"),
        with_header(jwk=KEY.public()),
        with_header(crit=["exp"]),
        signed_with_the_public_key(),
        changed_payload(),
        tokens.issue(OTHER, claims()),
        tokens.issue(KEY, claims(iss="https://elsewhere.example")),
        tokens.issue(KEY, claims(iss=None)),
        tokens.issue(KEY, claims(exp=NOW.timestamp().__int__())),
        tokens.issue(KEY, claims(exp="tomorrow")),
        tokens.issue(KEY, claims(exp=None)),
        tokens.issue(KEY, claims(nbf=int(NOW.timestamp()) + 60)),
        tokens.issue(KEY, claims(iat=int(NOW.timestamp()) + 60)),
        tokens.issue(KEY, claims(aud="https://elsewhere.example")),
        tokens.issue(KEY, claims(aud=[])),
    ],
)
def test_every_other_token_is_refused_with_401(token: str) -> None:
    with pytest.raises(Problem) as refusal:
        tokens.verify(KEYS, token, ISSUER, NOW, AUDIENCE)
    assert refusal.value.status == 401
    assert refusal.value.headers["WWW-Authenticate"].startswith('Bearer realm="fhir", error="invalid_token"')


def test_a_retired_key_refuses_the_tokens_it_signed() -> None:
    with pytest.raises(Problem):
        tokens.verify(keys.by_kid([OTHER]), tokens.issue(KEY, claims()), ISSUER, NOW)


def test_a_key_survives_being_stored_and_its_public_half_tells_no_secret() -> None:
    again = keys.imported(KEY.exported())
    assert tokens.verify(keys.by_kid([again]), tokens.issue(KEY, claims()), ISSUER, NOW) == claims()
    assert set(KEY.public()) == {"kty", "n", "e", "kid", "use", "alg"}
    assert keys.public_set([KEY, OTHER])["keys"][1]["kid"] == OTHER.kid
    assert len(urlsafe_b64decode(KEY.public()["n"] + "==")) == 256


def test_an_operators_token_says_its_organization_and_a_clients_does_not() -> None:
    operator = Principal("operator", "local", organization="o1", scopes="system/*.cruds")
    made = tokens.claims_of(operator, issuer=ISSUER, audience=AUDIENCE, now=NOW, lifetime=60, token_id="t2")
    assert made["organization"] == "o1"
    assert tokens.principal_of(made).organization == "o1"
    assert "organization" not in claims()


def test_the_cache_remembers_a_token_until_it_expires() -> None:
    cache = tokens.TokenCache()
    cache.put("token", claims())
    assert cache.get("token", NOW) == claims()
    assert cache.get("other", NOW) is None
    assert cache.get("token", NOW + timedelta(seconds=300)) is None
    assert len(cache) == 0


def test_the_cache_lets_go_of_the_least_recently_used() -> None:
    cache = tokens.TokenCache(size=2)
    cache.put("a", claims())
    cache.put("b", claims())
    cache.get("a", NOW)
    cache.put("c", claims())
    assert cache.get("a", NOW) is not None
    assert cache.get("b", NOW) is None
    assert len(cache) == 2
