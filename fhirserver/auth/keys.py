"""The keys that sign access tokens: RS256 (fast to verify), each with its thumbprint as `kid`. RFC 7517, 7518, 7638."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from joserfc.jwk import RSAKey

ALGORITHM = "RS256"
_BITS = 2048


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One RSA key pair; `kid` is the thumbprint of its public half."""

    kid: str
    pair: RSAKey

    def public(self) -> dict[str, Any]:
        """The public JWK, as the key set shows it."""
        return {**self.pair.as_dict(private=False), "kid": self.kid, "use": "sig", "alg": ALGORITHM}

    def exported(self) -> str:
        """The private JWK as JSON text, to be encrypted and stored."""
        return json.dumps({**self.pair.as_dict(private=True), "kid": self.kid})


def new_key() -> SigningKey:
    """A new key pair. The one function of this room that draws randomness by itself: RSA generation takes no argument
    for it.
    """
    return _key(RSAKey.generate_key(_BITS))


def imported(text: str) -> SigningKey:
    """The key of what `exported` gave."""
    return _key(RSAKey.import_key(json.loads(text)))


def _key(pair: RSAKey) -> SigningKey:
    return SigningKey(pair.thumbprint(), pair)


def public_set(keys: Iterable[SigningKey]) -> dict[str, Any]:
    """The JWK Set that anyone may read, current key first."""
    return {"keys": [key.public() for key in keys]}


def by_kid(keys: Iterable[SigningKey]) -> Mapping[str, SigningKey]:
    """The keys by their `kid`, as `tokens.verify` wants them."""
    return {key.kid: key for key in keys}
