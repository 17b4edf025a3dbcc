"""Conditional delete: of all that match, as the CapabilityStatement declares. FHIR R4: http#cdelete."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fhirserver.interactions import conditional
from tests.api.client import Api
from tests.api.samples import bundle, entry, patient

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


def test_all_matches_are_deleted_and_nothing_else(api: Api) -> None:
    made = [api.create(patient(identifier=IDENTIFIER)) for _ in range(3)]
    other = api.create(patient())
    answer = api.delete(CRITERIA)
    assert (answer.status, answer.issue["diagnostics"]) == (200, "3 Patient deleted.")
    assert api.found("Patient") == [other["id"]]
    history = api.get(f"Patient/{made[0]['id']}/_history").json["entry"]
    assert [entry["request"]["method"] for entry in history] == ["DELETE", "POST"]


def test_beyond_the_bound_it_is_412_and_all_stay(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conditional, "MOST_DELETED", 2)
    for _ in range(3):
        api.create(patient(identifier=IDENTIFIER))
    answer = api.delete(CRITERIA)
    assert (answer.status, answer.issue["code"]) == (412, "multiple-matches")
    assert len(api.found(CRITERIA)) == 3


def test_a_match_that_may_not_be_deleted_keeps_all(api: Api, scoped: Callable[[str], Api]) -> None:
    for gender in ("male", "female"):
        api.create(patient(identifier=IDENTIFIER, gender=gender))
    narrow = scoped("system/Patient.rs system/Patient.d?gender=male")
    assert narrow.delete(CRITERIA).status == 403
    assert len(api.found(CRITERIA)) == 2


def test_a_transaction_deletes_several_with_the_rest_or_not_at_all(api: Api) -> None:
    for _ in range(2):
        api.create(patient(identifier=IDENTIFIER))
    wrong = entry("POST", "Patient", patient(gender="blue"))
    assert api.post("", bundle("transaction", entry("DELETE", CRITERIA), wrong)).status == 400
    assert len(api.found(CRITERIA)) == 2
    assert api.post("", bundle("transaction", entry("DELETE", CRITERIA))).status == 200
    assert api.found(CRITERIA) == []


@pytest.mark.parametrize("control", ["_count=1", "_sort=_id", "_include=*"])
def test_what_only_shapes_an_answer_is_refused(api: Api, control: str) -> None:
    api.create(patient(identifier=IDENTIFIER))
    assert api.delete(f"{CRITERIA}&{control}").status == 400
    assert len(api.found(CRITERIA)) == 1


@pytest.mark.parametrize("query", ["", "?", "?nonsense=1", "?_count=10", "?_format=json", "?identifier="])
def test_without_criteria_nothing_is_deleted(api: Api, query: str) -> None:
    api.create(patient())
    assert api.delete(f"Patient{query}").status == 400
    assert len(api.found("Patient")) == 1
