"""Conditional delete: of one match, as the CapabilityStatement declares. FHIR R4: http#cdelete."""

from __future__ import annotations

import pytest

from tests.api.client import Api
from tests.api.samples import patient

CRITERIA = "Patient?identifier=urn:mrn|1"
IDENTIFIER = [{"system": "urn:mrn", "value": "1"}]


def test_one_match_is_deleted(api: Api) -> None:
    made = api.create(patient(identifier=IDENTIFIER))
    other = api.create(patient())
    assert api.delete(CRITERIA).status == 200
    assert api.get(f"Patient/{made['id']}").status == 410
    assert api.get(f"Patient/{other['id']}").status == 200


def test_no_match_succeeds(api: Api) -> None:
    assert api.delete(CRITERIA).status == 200


def test_several_matches_are_412_and_stay(api: Api) -> None:
    api.create(patient(identifier=IDENTIFIER))
    api.create(patient(identifier=IDENTIFIER))
    assert api.delete(CRITERIA).status == 412
    assert len(api.found(CRITERIA)) == 2


@pytest.mark.parametrize("query", ["", "?", "?nonsense=1", "?_count=10", "?_format=json", "?identifier="])
def test_without_criteria_nothing_is_deleted(api: Api, query: str) -> None:
    api.create(patient())
    assert api.delete(f"Patient{query}").status == 400
    assert len(api.found("Patient")) == 1
