"""Conditional update. FHIR R4: http#cond-update."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.api.client import Api
from tests.api.samples import patient

IDENTIFIER = [{"system": "urn:mrn", "value": "1"}]
CRITERIA = "Patient?identifier=urn:mrn|1"


def test_one_match_is_updated(api: Api) -> None:
    made = api.create(patient(identifier=IDENTIFIER))
    answer = api.put(CRITERIA, patient(identifier=IDENTIFIER, gender="male"))
    assert (answer.status, answer.json["id"], answer.headers["ETag"]) == (200, made["id"], 'W/"2"')


def test_no_match_creates(api: Api) -> None:
    answer = api.put(CRITERIA, patient(identifier=IDENTIFIER))
    assert answer.status == 201
    assert answer.headers["Location"].endswith(f"/Patient/{answer.json['id']}/_history/1")


def test_no_match_creates_under_the_id_in_the_body(api: Api) -> None:
    answer = api.put(CRITERIA, patient(id="mine", identifier=IDENTIFIER))
    assert (answer.status, answer.json["id"]) == (201, "mine")


def test_an_id_in_the_body_that_is_not_the_matchs_is_refused(api: Api) -> None:
    api.create(patient(identifier=IDENTIFIER))
    answer = api.put(CRITERIA, patient(id="mine", identifier=IDENTIFIER))
    assert answer.status == 400


def test_several_matches_are_412(api: Api) -> None:
    api.create(patient(identifier=IDENTIFIER))
    api.create(patient(identifier=IDENTIFIER))
    answer = api.put(CRITERIA, patient(identifier=IDENTIFIER))
    assert (answer.status, answer.issue["code"]) == (412, "multiple-matches")


@pytest.mark.parametrize("query", ["", "?", "?_format=json", "?nonsense=1", "?identifier:nonsense=1"])
def test_criteria_that_cannot_be_asked_are_refused_instead_of_matching_everything(api: Api, query: str) -> None:
    made = api.create(patient())
    answer = api.put(f"Patient{query}", patient(gender="male"))
    assert answer.status == 400
    assert api.get(f"Patient/{made['id']}").json == made


@pytest.mark.parametrize("query", ["?_count=1", "?_sort=birthdate", "?_include=*"])
def test_parameters_that_select_nothing_are_no_criteria(api: Api, query: str) -> None:
    made = api.create(patient())
    assert api.put(f"Patient{query}", patient(gender="male")).status == 400
    assert api.get(f"Patient/{made['id']}").json == made


def test_concurrent_conditional_updates_make_one_resource(api: Api) -> None:
    def update(number: int) -> int:
        return api.put(CRITERIA, patient(identifier=IDENTIFIER, birthDate=f"19{number + 10}")).status

    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(update, range(60)))
    assert statuses.count(201) == 1
    assert set(statuses) <= {200, 201, 409, 503}
    assert len(api.found(CRITERIA)) == 1
