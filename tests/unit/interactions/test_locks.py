"""The locks of those who make a resource unless it is there."""

from __future__ import annotations

import pytest

from fhirserver.interactions.locks import of_criteria, of_tokens
from fhirserver.search.types import token


@pytest.mark.parametrize(
    "criteria",
    [
        (("identifier", "urn:mrn|A7"),),
        (("identifier", "a7"),),
        (("identifier", "|A7"),),
        (("identifier", "urn:mrn|A7"), ("family", "x")),
    ],
)
def test_criteria_with_an_identifier_share_the_lock_of_a_message_that_has_it(criteria: tuple[tuple[str, str]]) -> None:
    assert of_criteria("Patient", criteria) == of_tokens("Patient", [token.stored("urn:mrn", "A7")])


def test_several_identifiers_have_a_lock_each() -> None:
    assert of_criteria("Patient", (("identifier", "urn:b|2,urn:a|1"),)) == [
        ("Patient", "identifier 1"),
        ("Patient", "identifier 2"),
    ]


@pytest.mark.parametrize("value", ["urn:mrn|", ",".join(str(number) for number in range(21))])
def test_other_criteria_are_named_as_they_are_written(value: str) -> None:
    pairs = (("identifier", value), ("birthdate", "1980"))
    named = [("Patient", f"birthdate=1980&identifier={value}")]
    assert of_criteria("Patient", pairs) == of_criteria("Patient", pairs[::-1]) == named
