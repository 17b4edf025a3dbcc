"""Conditional patch. FHIR R4: http#patch."""

from __future__ import annotations

from tests.api.client import Api
from tests.api.samples import patient

STEPS = [{"op": "add", "path": "/active", "value": True}]
JSON_PATCH = "application/json-patch+json"
CRITERIA = "Patient?identifier=urn:mrn|1"
IDENTIFIER = [{"system": "urn:mrn", "value": "1"}]


def test_one_match_is_patched(api: Api) -> None:
    made = api.create(patient(identifier=IDENTIFIER))
    answer = api.patch(CRITERIA, STEPS, Content_Type=JSON_PATCH)
    assert (answer.status, answer.json["id"], answer.json["active"]) == (200, made["id"], True)


def test_no_match_is_404(api: Api) -> None:
    assert api.patch(CRITERIA, STEPS, Content_Type=JSON_PATCH).status == 404


def test_several_matches_are_412(api: Api) -> None:
    api.create(patient(identifier=IDENTIFIER))
    api.create(patient(identifier=IDENTIFIER))
    assert api.patch(CRITERIA, STEPS, Content_Type=JSON_PATCH).status == 412


def test_without_criteria_it_is_refused(api: Api) -> None:
    api.create(patient())
    assert api.patch("Patient", STEPS, Content_Type=JSON_PATCH).status == 400
