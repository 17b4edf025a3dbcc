"""update, update as create, version-aware update (If-Match). FHIR R4: http#update, http#upsert, http#concurrency."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.api.client import Api
from tests.api.samples import patient


def test_update_stores_the_next_version(api: Api) -> None:
    made = api.create(patient())
    answer = api.put(f"Patient/{made['id']}", {**made, "active": True})
    assert (answer.status, answer.headers["ETag"]) == (200, 'W/"2"')
    assert "Location" not in answer.headers
    assert answer.json["meta"]["versionId"] == "2"
    assert api.get(f"Patient/{made['id']}").json == answer.json


def test_update_creates_under_the_id_of_the_url(api: Api) -> None:
    answer = api.put("Patient/my-own.id", patient(id="my-own.id"))
    assert answer.status == 201
    assert answer.headers["Location"].endswith("/Patient/my-own.id/_history/1")


def test_update_of_a_deleted_resource_brings_it_back_with_the_next_version(api: Api) -> None:
    api.store(patient(id="phoenix"))
    api.delete("Patient/phoenix")
    answer = api.put("Patient/phoenix", patient(id="phoenix"))
    assert (answer.status, answer.headers["ETag"]) == (201, 'W/"3"')
    assert api.get("Patient").ids == ["phoenix"]


@pytest.mark.parametrize("id", ["x" * 65, "a_b", "ä", "a%20b", "a$b"])
def test_an_id_that_is_none_is_refused(api: Api, id: str) -> None:
    answer = api.put(f"Patient/{id}", patient())
    assert answer.status in (400, 404)
    assert answer.json["resourceType"] == "OperationOutcome"


def test_an_id_in_the_body_that_differs_from_the_url_is_refused(api: Api) -> None:
    answer = api.put("Patient/a", patient(id="b"))
    assert (answer.status, answer.issue["expression"]) == (400, ["Patient.id"])


def test_a_body_without_id_is_refused(api: Api) -> None:
    answer = api.put("Patient/a", patient())
    assert (answer.status, answer.issue["code"], answer.issue["expression"]) == (400, "required", ["Patient.id"])
    assert api.get("Patient/a").status == 404
    entry = {"resource": patient(), "request": {"method": "PUT", "url": "Patient/a"}}
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": [entry]}
    assert api.post("", bundle).status == 400


def test_if_match_with_the_current_version_updates(api: Api) -> None:
    made = api.create(patient())
    assert api.put(f"Patient/{made['id']}", made, If_Match='W/"1"').status == 200


@pytest.mark.parametrize("tag", ['W/"2"', 'W/"0"', 'W/"x"'])
def test_if_match_with_another_version_is_412_and_changes_nothing(api: Api, tag: str) -> None:
    made = api.create(patient())
    answer = api.put(f"Patient/{made['id']}", made, If_Match=tag)
    assert (answer.status, answer.issue["code"]) == (412, "conflict")
    assert api.get(f"Patient/{made['id']}").headers["ETag"] == 'W/"1"'


def test_if_match_on_what_does_not_exist_is_412(api: Api) -> None:
    assert api.put("Patient/new", patient(id="new"), If_Match='W/"1"').status == 412


def test_if_none_match_star_never_updates(api: Api) -> None:
    api.store(patient(id="there"))
    assert api.put("Patient/there", patient(id="there"), If_None_Match="*").status == 412
    assert api.put("Patient/not-there", patient(id="not-there"), If_None_Match="*").status == 201


def test_an_invalid_update_changes_nothing(api: Api) -> None:
    made = api.create(patient())
    assert api.put(f"Patient/{made['id']}", {**made, "gender": "x"}).status == 400
    assert api.get(f"Patient/{made['id']}").json == made


def test_search_finds_the_new_values_and_no_more_the_old_ones(api: Api) -> None:
    made = api.create(patient(gender="female"))
    api.store({**made, "gender": "male"})
    assert api.found("Patient?gender=male") == [made["id"]]
    assert api.found("Patient?gender=female") == []


def test_concurrent_updates_lose_nothing(api: Api) -> None:
    api.store(patient(id="busy"))
    with ThreadPoolExecutor(8) as pool:
        answers = list(
            pool.map(lambda n: api.put("Patient/busy", patient(id="busy", birthDate=f"19{n}")), range(10, 34))
        )
    done = [answer for answer in answers if answer.status == 200]
    assert {answer.status for answer in answers} <= {200, 409, 503}
    versions = sorted(int(answer.json["meta"]["versionId"]) for answer in done)
    assert versions == list(range(2, len(done) + 2))
    history = api.get("Patient/busy/_history?_count=100").resources
    assert len(history) == len(done) + 1
    assert len({each["meta"]["versionId"] for each in history}) == len(history)


def test_of_concurrent_updates_with_the_same_if_match_one_wins(api: Api) -> None:
    api.store(patient(id="busy"))

    def update(number: int) -> int:
        return api.put("Patient/busy", patient(id="busy", birthDate=f"19{number}"), If_Match='W/"1"').status

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(update, range(10, 26)))
    assert statuses.count(200) == 1
    assert set(statuses) <= {200, 409, 412}


def test_concurrent_updates_as_create_make_one_resource(api: Api) -> None:
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda _: api.put("Patient/fresh", patient(id="fresh")).status, range(16)))
    assert statuses.count(201) == 1
    assert set(statuses) <= {200, 201, 409}
