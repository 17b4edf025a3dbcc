"""The primitive types: what each takes and what it refuses."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from fhirserver.fhir.primitives import PRIMITIVES

GOOD: dict[str, list[Any]] = {
    "base64Binary": ["QQ==", "QUJD", "QU JD\nQUJD"],
    "boolean": [True, False],
    "canonical": ["http://example.org/a|1.0#b"],
    "code": ["a", "a b", "é"],
    "date": ["2000", "2000-02", "2000-02-29", "0001-01-01", "9999-12-31"],
    "dateTime": ["2000", "2000-02", "2000-02-28", "2000-02-28T23:59:60.123456789Z", "2000-01-01T00:00:00+14:00"],
    "decimal": [1, Decimal("1.00"), Decimal("-1E-5"), 0, Decimal("0E-7"), 1.5],
    "id": ["a", "A-.9", "x" * 64],
    "instant": ["2000-01-01T00:00:00Z", "2000-01-01T00:00:00.1-05:30"],
    "integer": [0, -(2**31), 2**31 - 1],
    "markdown": ["# a\n\n* b\t"],
    "oid": ["urn:oid:1.2.840.0"],
    "positiveInt": [1, 2**31 - 1],
    "string": ["a", " ", "a\r\n\tb", "𝒳", "a\u00a0"],
    "time": ["00:00:00", "23:59:60.5"],
    "unsignedInt": [0],
    "uri": ["urn:x", "a", "#a"],
    "url": ["https://example.org"],
    "uuid": ["urn:uuid:c757873d-ec9a-4326-a141-556f43239520"],
}

BAD: dict[str, list[Any]] = {
    "base64Binary": ["", "Q", "QQ=", "Q!==", 1],
    "boolean": ["true", 1, 0, None],
    "canonical": ["", "a b", 1],
    "code": ["", " a", "a ", "a  b", "a\x00b", 1],
    "date": [
        "",
        "0000",
        "2000-13",
        "2000-00",
        "2000-02-30",
        "1900-02-29",
        "2000-1-1",
        "2000-04-31",
        "２０００",
        "2000\n",
        2000,
    ],
    "dateTime": ["2000-01-01T00:00:00", "2000-01-01T00:00Z", "2000-01-01T24:00:00Z", "2001-02-29T00:00:00Z"],
    "decimal": ["1.0", True, None, Decimal("1." + "1" * 2000), Decimal("1E+999999999"), Decimal("1E-999999"), 10**500],
    "id": ["", "x" * 65, "a_b", "a/b", "a\n", "é"],
    "instant": ["2000-01-01", "2000-01-01T00:00:00", "2000-02-30T00:00:00Z", "2000-01-01T00:00:00+15:00"],
    "integer": [2**31, -(2**31) - 1, True, "1", Decimal("1.0"), 1.0],
    "markdown": ["", "\x00", 1],
    "oid": ["1.2.3", "urn:oid:3.1", "urn:oid:1.02"],
    "positiveInt": [0, -1],
    "string": ["", "\x00", "a\x1f", "a" * 1_048_577, 1, None, ["a"]],
    "time": ["24:00:00", "10:00", "10:00:00Z"],
    "unsignedInt": [-1, 2**31],
    "uri": ["", "a b", "a\tb"],
    "url": ["a b"],
    "uuid": ["c757873d-ec9a-4326-a141-556f43239520", "urn:uuid:C757873D-EC9A-4326-A141-556F43239520"],
}


def test_every_primitive_type_has_examples() -> None:
    assert set(GOOD) == set(BAD) == set(PRIMITIVES)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in GOOD.items() for value in values])
def test_a_value_of_the_type_is_taken(name: str, value: Any) -> None:
    assert PRIMITIVES[name](value) is None


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_what_is_no_value_of_the_type_is_refused_in_words(name: str, value: Any) -> None:
    text = PRIMITIVES[name](value)
    assert text is not None
    assert not isinstance(value, str) or len(value) < 8 or value not in text
