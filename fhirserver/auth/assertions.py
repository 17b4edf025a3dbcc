"""Client assertions: a client proves who it is by a JWT signed with its own key. RFC 7523; SMART App Launch 2.2,
asymmetric.

RS384 and ES384 only; the key is one that the client registered; an assertion lives five minutes at most.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from joserfc import jws, jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from fhirserver.auth.tokens import LEEWAY, MOST_TOKEN

TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
MOST_LIFETIME = 300
LEAST_RSA_BITS = 2048
"""RFC 7518 3.3."""

_ALGORITHMS: Mapping[str, Any] = {"RS384": RSAKey, "ES384": ECKey}


class Refused(Exception):
    """The assertion is no good; the text says why, for the client's developer."""


def subject(assertion: str) -> str:
    """The client id an assertion claims to be of, to find its keys by; not verified yet. Raises Refused for what is no
    JWT.
    """
    return str(_unverified(assertion)[1].get("sub", ""))


def key_id(assertion: str) -> str:
    """The kid of the key an assertion claims to be signed with; not verified yet. Raises Refused for what is no JWT."""
    return str(_unverified(assertion)[0].get("kid", ""))


def verify(
    jwks: Mapping[str, Any], assertion: str, client: str, audiences: Collection[str], now: datetime, jku: str = ""
) -> dict[str, Any]:
    """The claims of an assertion of `client` for one of `audiences`, signed by a key of the set.

    Raises Refused. The caller must refuse the same `jti` until `exp`.
    """
    header, _ = _unverified(assertion)
    if header.get("alg") not in _ALGORITHMS:
        raise Refused(f"sign the assertion with {' or '.join(_ALGORITHMS)}")
    if "jku" in header and header["jku"] != jku:
        raise Refused("the assertion's jku is not the one registered")
    key = _key(jwks, header)
    try:
        claims = jwt.decode(assertion, key, algorithms=[header["alg"]]).claims
    except (JoseError, ValueError, TypeError):
        raise Refused("the assertion's signature is wrong") from None
    _check(claims, client, audiences, now.timestamp())
    return claims


def _unverified(assertion: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    if len(assertion) > MOST_TOKEN:
        raise Refused("the assertion is too long")
    try:
        parsed = jws.extract_compact(assertion.encode())
        claims = json.loads(parsed.payload)
    except (JoseError, ValueError, TypeError, RecursionError):
        raise Refused("the assertion is not a JWT") from None
    if not isinstance(claims, dict):
        raise Refused("the assertion's claims are not an object")
    return parsed.protected, claims


def _key(jwks: Mapping[str, Any], header: Mapping[str, Any]) -> Any:
    kind = _ALGORITHMS[header["alg"]]
    keys = jwks.get("keys")
    for key in keys if isinstance(keys, list) else ():
        if isinstance(key, dict) and key.get("kid") == header.get("kid") and key.get("kty") == kind.key_type:
            try:
                found = kind.import_key({name: key[name] for name in ("kty", "n", "e", "crv", "x", "y") if name in key})
                if kind is RSAKey and found.raw_value.key_size < LEAST_RSA_BITS:
                    raise Refused(f"an RSA key needs {LEAST_RSA_BITS} bits")
                return found
            except (JoseError, ValueError, TypeError, KeyError):
                raise Refused("the registered key of this kid cannot be read") from None
    raise Refused("the assertion's kid is none of the registered keys")


def _check(claims: Mapping[str, Any], client: str, audiences: Collection[str], now: float) -> None:
    if claims.get("iss") != client or claims.get("sub") != client:
        raise Refused("iss and sub must both be the client's id")
    held = claims.get("aud", [])
    if not set([held] if isinstance(held, str) else held if isinstance(held, list) else []) & set(audiences):
        raise Refused("aud must be the URL of the token endpoint")
    expires = claims.get("exp")
    if not isinstance(expires, int | float) or expires <= now:
        raise Refused("the assertion has expired")
    if expires > now + MOST_LIFETIME + LEEWAY:
        raise Refused(f"exp must be at most {MOST_LIFETIME} seconds ahead")
    if any(isinstance(claims.get(name), int | float) and claims[name] > now + LEEWAY for name in ("nbf", "iat")):
        raise Refused("the assertion is not valid yet")
    if not isinstance(claims.get("jti"), str) or not 0 < len(claims["jti"]) <= 256:
        raise Refused("jti must be a text that is different each time")
