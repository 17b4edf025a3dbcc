"""The signature of a notification: base64 HMAC-SHA256 over `id.timestamp.body` after `v1,`. Standard Webhooks 1.0.0."""

from __future__ import annotations

import binascii
import hmac
from base64 import b64decode, b64encode
from collections.abc import Sequence

PREFIX = "whsec_"


def signed(secrets: Sequence[str], id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers of one attempt.

    `id` stays the same through all attempts at one delivery: it is what a receiver recognizes a repeat by. `timestamp`
    is the attempt's, in seconds since 1970. Each of the secrets (`whsec_...`) signs, so that a receiver may change from
    one to the next at its own time; without secrets no signature is sent.
    """
    headers = {"webhook-id": id, "webhook-timestamp": str(timestamp)}
    signatures = [signature(secret, id, timestamp, body) for secret in secrets]
    if signatures:
        headers["webhook-signature"] = " ".join(signatures)
    return headers


def signature(secret: str, id: str, timestamp: int, body: bytes) -> str:
    """One signature, `v1,<base64>`. Raises ValueError for a secret that is not base64."""
    content = b"%s.%d.%s" % (id.encode(), timestamp, body)
    return f"v1,{b64encode(hmac.digest(_key(secret), content, 'sha256')).decode()}"


def _key(secret: str) -> bytes:
    try:
        return b64decode(secret.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        raise ValueError("a signing secret is whsec_ and base64") from None
