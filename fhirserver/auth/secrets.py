"""Secrets at rest: encrypted under the master key (AES-256-GCM), or kept only as a hash that can be compared.

Random secrets are hashed with HMAC-SHA256 under a derived key, passwords with argon2id (RFC 9106). Randomness is
handed in.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64encode, urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

SECRET_BYTES = 32
MOST_PASSWORD = 256
_NONCE = 12

# OWASP's first recommendation for argon2id: 19 MiB, two passes, one lane. About 20 ms here, and a worker survives many
# at once.
_PASSWORDS = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


class Vault:
    """Encrypts, hashes and compares under one master key; reads also what older master keys wrote.

    `master` has at least 32 bytes. `random` gives that many unpredictable bytes (`os.urandom`).
    An envelope is `v1.<key id>.<nonce and ciphertext>`, a hash `h1.<key id>.<HMAC>`, both base64url; `purpose` is
    authenticated with it, so that a value cannot be moved to another place.
    """

    def __init__(self, master: bytes, random: Callable[[int], bytes], *older: bytes) -> None:
        if any(len(key) < 32 for key in (master, *older)):
            raise ValueError("a master key needs at least 32 bytes")
        self._random = random
        self._masters = {_key_id(key): key for key in (*older, master)}
        self._hashing = {id: _derived(key, "secrets") for id, key in self._masters.items()}
        self._current = _key_id(master)

    @property
    def key_id(self) -> str:
        """The id of the master key that it writes with: what envelopes and hashes begin with, and no secret."""
        return self._current

    def hashing_keys(self) -> dict[str, str]:
        """Of each older master key what hashes made with it are compared with, by key id. It decrypts nothing."""
        return {id: _encode(key) for id, key in self._hashing.items() if id != self._current}

    def know(self, key_id: str, hashing_key: str) -> None:
        """Compares from now on with hashes made with an older master key: one of its `hashing_keys`."""
        self._hashing.setdefault(key_id, _decode(hashing_key))

    def older(self, envelope: str) -> bool:
        """Whether an envelope was made with another master key than the one that it writes with."""
        return envelope.startswith("v1.") and not envelope.startswith(f"v1.{self._current}.")

    def encrypt(self, text: str, purpose: str = "") -> str:
        """The envelope of a text."""
        nonce = self._random(_NONCE)
        sealed = self._cipher(self._current).encrypt(nonce, text.encode(), purpose.encode())
        return f"v1.{self._current}.{_encode(nonce + sealed)}"

    def decrypt(self, envelope: str, purpose: str = "") -> str:
        """The text of an envelope. Raises ValueError when it is damaged, of another purpose or of an unknown master
        key.
        """
        version, _, rest = envelope.partition(".")
        key_id, _, data = rest.partition(".")
        if version != "v1" or key_id not in self._masters:
            raise ValueError("this value was encrypted with another master key")
        try:
            raw = _decode(data)
            return self._cipher(key_id).decrypt(raw[:_NONCE], raw[_NONCE:], purpose.encode()).decode()
        except (InvalidTag, ValueError):
            raise ValueError("this value was damaged, or encrypted for another purpose") from None

    def seal(self, secret: str) -> str:
        """The keyed hash of a random secret, to store and compare; the secret cannot be had back from it."""
        return f"h1.{self._current}.{self._hash(self._current, secret)}"

    def matches(self, secret: str, sealed: str) -> bool:
        """Whether the secret is the one that was sealed; takes the same time wherever they differ."""
        version, _, rest = sealed.partition(".")
        key_id, _, digest = rest.partition(".")
        known = version == "h1" and key_id in self._hashing
        same = hmac.compare_digest(self._hash(key_id if known else self._current, secret), digest)
        return known and same

    def new_secret(self) -> str:
        """A new client secret of 256 random bits, base64url."""
        return _encode(self._random(SECRET_BYTES))

    def subkey(self, purpose: str) -> bytes:
        """32 bytes for one purpose (signing page cursors, ...), derived from the current master key."""
        return _derived(self._masters[self._current], purpose)

    def _cipher(self, key_id: str) -> AESGCM:
        return AESGCM(_derived(self._masters[key_id], "encryption"))

    def _hash(self, key_id: str, secret: str) -> str:
        return _encode(hmac.digest(self._hashing[key_id], secret.encode(), hashlib.sha256))


def signing_secret(secret: str) -> str:
    """A random secret in the form of Standard Webhooks: `whsec_` and base64 of 32 bytes."""
    return "whsec_" + b64encode(hashlib.sha256(secret.encode()).digest()).decode()


def hash_password(password: str, random: str) -> str:
    """The argon2id hash of a password, with a salt made of a random text and the parameters inside."""
    return _PASSWORDS.hash(password, salt=hashlib.sha256(random.encode()).digest()[:16])


def check_password(password: str, hashed: str | None) -> bool:
    """Whether the password has this hash. Without a hash it takes as long and answers False, so that users cannot be
    guessed.
    """
    if len(password) > MOST_PASSWORD:
        return False
    try:
        return _PASSWORDS.verify(hashed or _nobody(), password) and hashed is not None
    except (VerificationError, InvalidHashError):
        return False


@cache
def _nobody() -> str:
    return _PASSWORDS.hash("nobody has this password", salt=bytes(16))


def _key_id(master: bytes) -> str:
    return _derived(master, "key id")[:4].hex()


@cache
def _derived(master: bytes, purpose: str) -> bytes:
    return HKDF(SHA256(), 32, salt=b"fhirserver", info=purpose.encode()).derive(master)


def _encode(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
