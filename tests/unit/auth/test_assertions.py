"""Client assertions: the good one is taken, every other refused with its reason."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OctKey, RSAKey

from fhirserver.auth import assertions
from fhirserver.auth.assertions import Refused

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SECONDS = int(NOW.timestamp())
URL = "https://exchange.example/oauth2/token"
RSA, EC, P256, STRANGER = (
    RSAKey.generate_key(2048),
    ECKey.generate_key("P-384"),
    ECKey.generate_key("P-256"),
    RSAKey.generate_key(2048),
)
JWKS = {"keys": [{**key.as_dict(private=False), "kid": name} for name, key in (("r", RSA), ("e", EC), ("p", P256))]}


def signed(
    key: Any = RSA, alg: str = "RS384", kid: str = "r", header: dict[str, Any] | None = None, **claims: Any
) -> str:
    made = {"iss": "cli", "sub": "cli", "aud": URL, "exp": SECONDS + 300, "iat": SECONDS, "jti": "1", **claims}
    made = {name: value for name, value in made.items() if value is not None}
    return jwt.encode({"alg": alg, "kid": kid, **(header or {})}, made, key, algorithms=[alg])


def verified(assertion: str) -> dict[str, Any]:
    return assertions.verify(JWKS, assertion, "cli", (URL,), NOW, "https://app.example/jwks")


@pytest.mark.parametrize(
    "assertion",
    [
        signed(),
        signed(EC, "ES384", "e"),
        signed(aud=[URL, "https://other.example"]),
        signed(header={"jku": "https://app.example/jwks"}),
        signed(iat=None),
    ],
)
def test_an_assertion_signed_with_a_registered_key_is_taken(assertion: str) -> None:
    assert verified(assertion)["jti"] == "1"
    assert assertions.subject(assertion) == "cli"


@pytest.mark.parametrize(
    ("assertion", "reason"),
    [
        ("", "not a JWT"),
        ("a.b.c", "not a JWT"),
        ("x" * 20_000, "too long"),
        (signed(STRANGER), "signature"),
        (signed(kid="e"), "kid"),
        (signed(kid="unknown"), "kid"),
        (signed(alg="RS256"), "RS384 or ES384"),
        (signed(OctKey.import_key("x" * 48), "HS384"), "RS384 or ES384"),
        (signed(header={"jku": "https://evil.example/jwks"}), "jku"),
        (signed(iss="other"), "iss and sub"),
        (signed(sub="other"), "iss and sub"),
        (signed(aud="https://exchange.example"), "aud"),
        (signed(aud=None), "aud"),
        (signed(aud={"x": 1}), "aud"),
        (signed(exp=SECONDS), "expired"),
        (signed(exp="soon"), "expired"),
        (signed(exp=None), "expired"),
        (signed(exp=SECONDS + 3600), "300 seconds"),
        (signed(nbf=SECONDS + 60), "not valid yet"),
        (signed(jti=None), "jti"),
        (signed(jti=""), "jti"),
        (signed(jti="x" * 300), "jti"),
    ],
)
def test_every_other_assertion_is_refused_with_its_reason(assertion: str, reason: str) -> None:
    with pytest.raises(Refused, match=reason):
        verified(assertion)


def test_a_key_on_another_curve_is_refused() -> None:
    made = jwt.encode({"alg": "ES256", "kid": "p"}, {"iss": "cli"}, P256, algorithms=["ES256"])
    header, payload, signature = made.split(".")
    with pytest.raises(Refused):
        verified(signed(EC, "ES384", "p"))
    with pytest.raises(Refused):
        verified(f"{header}.{payload}.{signature}")
