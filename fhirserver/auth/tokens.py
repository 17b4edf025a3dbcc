"""Access tokens: JWTs that this installation issues and verifies itself. RFC 7519, 9068, 6750.

The algorithm is pinned, so neither `none` nor a public key used as an HMAC key gets through.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from joserfc import jws, jwt
from joserfc.errors import JoseError

from fhirserver.auth.keys import ALGORITHM, SigningKey
from fhirserver.auth.principal import Principal
from fhirserver.fhir.problem import Problem, problem

TYPE = "at+jwt"
MOST_TOKEN = 16_384
LEEWAY = 5
"""Seconds by which the clocks of two machines of one installation may differ."""


def claims_of(
    principal: Principal, *, issuer: str, audience: str | list[str], now: datetime, lifetime: int, token_id: str
) -> dict[str, Any]:
    """The claims of an access token for this principal, good for `lifetime` seconds from `now`."""
    start = int(now.timestamp())
    claims = {
        "iss": issuer,
        "sub": principal.id,
        "aud": audience,
        "client_id": principal.id if principal.kind == "client" else principal.client,
        "scope": principal.scopes,
        "iat": start,
        "exp": start + lifetime,
        "jti": token_id,
        "kind": principal.kind,
        "organization": principal.organization,
        "name": principal.name,
        "patient": principal.patient,
        "client_since": principal.client_since,
        "user_since": principal.user_since,
    }
    return {name: value for name, value in claims.items() if value != "" or name == "scope"}


def issue(key: SigningKey, claims: Mapping[str, Any]) -> str:
    """The signed token of these claims."""
    header = {"alg": ALGORITHM, "kid": key.kid, "typ": TYPE}
    return jwt.encode(header, dict(claims), key.pair, algorithms=[ALGORITHM], default_type=None)


def verify(
    keys: Mapping[str, SigningKey], token: str, issuer: str, now: datetime, audience: str | None = None
) -> dict[str, Any]:
    """The claims of a token that one of `keys` signed, from this issuer, in force now, and for `audience` if that is
    given.

    Raises Problem(login), 401 with WWW-Authenticate, for every other token; it says what is wrong with it.
    """
    if len(token) > MOST_TOKEN:
        raise refused("The access token is too long.")
    try:
        header = jws.extract_compact(token.encode()).protected
        key = keys.get(str(header.get("kid", "")))
        if key is None or header.get("typ") != TYPE:
            raise refused("The access token was not issued by this server, or its key has been retired.")
        claims = jwt.decode(token, key.pair, algorithms=[ALGORITHM]).claims
    except (JoseError, ValueError, TypeError):
        raise refused("The access token is malformed or its signature is wrong.") from None
    _check(claims, issuer, now.timestamp(), audience)
    return claims


def hinted(keys: Mapping[str, SigningKey], token: str, issuer: str) -> Mapping[str, Any]:
    """The claims of an id token that we issued once, expired or not: a hint, no proof of anything. Empty for others."""
    if len(token) > MOST_TOKEN:
        return {}
    try:
        key = keys.get(str(jws.extract_compact(token.encode()).protected.get("kid", "")))
        claims = jwt.decode(token, key.pair, algorithms=[ALGORITHM]).claims if key else {}
    except (JoseError, ValueError, TypeError):
        return {}
    return claims if claims.get("iss") == issuer else {}


def _check(claims: Mapping[str, Any], issuer: str, now: float, audience: str | None) -> None:
    if claims.get("iss") != issuer:
        raise refused("The access token is from another issuer.")
    expires = claims.get("exp")
    if not isinstance(expires, int) or expires <= now:
        raise refused("The access token has expired: ask the token endpoint for a new one.")
    if any(isinstance(claims.get(name), int) and claims[name] > now + LEEWAY for name in ("nbf", "iat")):
        raise refused("The access token is not valid yet.")
    held = claims.get("aud", [])
    if audience is not None and audience not in ([held] if isinstance(held, str) else held):
        raise refused("The access token is for another audience.")


def refused(diagnostics: str, error: str = "invalid_token") -> Problem:
    """The Problem for a request whose credentials are no good: 401, with the challenge of RFC 6750; without an `error`
    for a request that has none of a kind we know (RFC 6750 3.1).
    """
    why = f', error="{error}", error_description="{diagnostics}"' if error else ""
    challenge = f'Bearer realm="fhir"{why}'
    return problem("login", diagnostics, headers={"WWW-Authenticate": challenge})


def principal_of(claims: Mapping[str, Any], **more: Any) -> Principal:
    """The principal that the claims of a token name; `more` are what is known of it beside the token (roles, name,
    ...).
    """
    held = claims.get("aud", [])
    known = {
        "kind": str(claims.get("kind", "client")),
        "id": str(claims.get("sub", "")),
        "organization": str(claims.get("organization", "")),
        "scopes": str(claims.get("scope", "")),
        "token": str(claims.get("jti", "")),
        "client": str(claims.get("client_id", "")) if claims.get("kind") == "user" else "",
        "name": str(claims.get("name", "")),
        "patient": str(claims.get("patient", "")),
        "issued": int(claims.get("iat", 0)),
        "client_since": str(claims.get("client_since", "")),
        "user_since": str(claims.get("user_since", "")),
        "audience": (held,) if isinstance(held, str) else tuple(held),
    }
    return Principal(**{**known, **more})


class TokenCache:
    """The claims of tokens verified before, by the hash of the token, until they expire. Bounded; safe among
    threads.
    """

    def __init__(self, size: int = 10_000) -> None:
        self._size = size
        self._keys: object = None
        self._claims: OrderedDict[bytes, Mapping[str, Any]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, token: str, now: datetime) -> Mapping[str, Any] | None:
        """The claims of this very token while it is in force, None where it must be verified."""
        digest = _digest(token)
        with self._lock:
            claims = self._claims.get(digest)
            if claims is None:
                return None
            if claims["exp"] <= now.timestamp():
                del self._claims[digest]
                return None
            self._claims.move_to_end(digest)
            return claims

    def under(self, keys: object) -> TokenCache:
        """Itself, emptied if the keys are others than when it was asked last: a token counts while its key does."""
        if keys is not self._keys:
            with self._lock:
                self._keys = keys
                self._claims.clear()
        return self

    def put(self, token: str, claims: Mapping[str, Any]) -> None:
        """Remembers a token that has just been verified; the least recently used one gives way."""
        with self._lock:
            self._claims[_digest(token)] = claims
            while len(self._claims) > self._size:
                self._claims.popitem(last=False)

    def __len__(self) -> int:
        return len(self._claims)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
