"""Page cursors: the keyset of the last entry shown, signed. FHIR R4: http#paging.

A cursor holds values, not a page number, so pages do not shift when resources are written meanwhile, and page 5,000
costs what page 1 costs. It is signed together with what it belongs to: a changed one, or one of another search, is
refused.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from hashlib import sha256
from typing import Any

from fhirserver.fhir.json import decode, encode
from fhirserver.fhir.problem import Problem, problem
from fhirserver.interactions.model import Server

MAC_BYTES = 16


def seal_cursor(server: Server, belongs_to: str, values: Sequence[Any]) -> str:
    """The cursor of a keyset (text, numbers, instants, None) for the search or history that `belongs_to` names."""
    payload = encode([["t", value.isoformat()] if isinstance(value, datetime) else value for value in values])
    return urlsafe_b64encode(_mac(server, belongs_to, payload) + payload).decode().rstrip("=")


def open_cursor(server: Server, belongs_to: str, cursor: str) -> list[Any]:
    """The keyset of a cursor. Raises Problem(invalid) for one that this server did not make for this search."""
    refusal = problem(
        "invalid", "This page link is not valid for this search. Start again from the first page.", "_cursor"
    )
    if len(cursor) > 4096:
        raise refusal
    try:
        raw = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    except (Base64Error, ValueError):
        raise refusal from None
    mac, payload = raw[:MAC_BYTES], raw[MAC_BYTES:]
    if not hmac.compare_digest(mac, _mac(server, belongs_to, payload)):
        raise refusal
    try:
        values: list[Any] = decode(payload)
    except Problem:
        raise refusal from None
    return [_scalar(value) for value in values]


def _scalar(value: Any) -> Any:
    """The value as the database compares it: our JSON reads fractions as Decimal, sort keys are floats."""
    if isinstance(value, list):
        return datetime.fromisoformat(value[1])
    return float(value) if isinstance(value, Decimal) else value


def _mac(server: Server, belongs_to: str, payload: bytes) -> bytes:
    return hmac.digest(server.cursor_key, belongs_to.encode() + b"\0" + payload, sha256)[:MAC_BYTES]
