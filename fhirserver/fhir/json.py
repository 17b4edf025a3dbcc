"""FHIR JSON text to Python values and back, losing nothing: decimals keep their digits (`1.00`), properties their
order.

FHIR R4: json, datatypes#decimal (the precision of a decimal has meaning, so it must survive).
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec

from fhirserver.fhir.problem import problem

_decoder = msgspec.json.Decoder(float_hook=Decimal)
_encoder = msgspec.json.Encoder(decimal_format="number")


def decode(data: bytes | str) -> Any:
    """The value of a JSON text. Raises Problem(structure) for text that is not JSON, not UTF-8 or nested beyond
    reason.
    """
    try:
        return _decoder.decode(data)
    except RecursionError:
        raise problem("structure", "The JSON text is nested too deeply.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise problem("structure", f"The body is not valid JSON: {error}") from None


def encode(value: Any) -> bytes:
    """The compact JSON text of a value, as UTF-8 bytes; Decimal is written as a number with its own digits."""
    return _encoder.encode(value)


def verbatim(text: str) -> Any:
    """A JSON text as a value that `encode` puts in as it stands: no time is spent on reading and writing it again."""
    return msgspec.Raw(text)


def pretty(data: bytes) -> bytes:
    """The same JSON text indented by two spaces, for people."""
    return msgspec.json.format(data, indent=2)
