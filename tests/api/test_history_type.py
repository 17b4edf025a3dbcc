"""history of a type. FHIR R4: http#history."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest

from fhirserver.app import Installation
from tests.api.client import Api
from tests.api.samples import observation, patient


def test_all_versions_of_all_resources_of_the_type_newest_first(api: Api) -> None:
    first = api.create(patient())
    second = api.create(patient())
    api.create(observation())
    api.store({**first, "gender": "male"})
    api.delete(f"Patient/{second['id']}")
    entries = api.get("Patient/_history").json["entry"]
    seen = [(each["fullUrl"].rpartition("/")[2], each["response"]["etag"]) for each in entries]
    assert sorted(seen) == sorted(
        [(first["id"], 'W/"1"'), (first["id"], 'W/"2"'), (second["id"], 'W/"1"'), (second["id"], 'W/"2"')]
    )
    stamps = [each["response"]["lastModified"] for each in entries]
    assert stamps == sorted(stamps, reverse=True)


def test_pages_hold_every_version_once(api: Api) -> None:
    for number in range(5):
        api.store(patient(id=f"p{number}"))
        api.store(patient(id=f"p{number}", gender="male"))
    seen, url = [], "Patient/_history?_count=3"
    while url:
        answer = api.get(url)
        seen += [(each["fullUrl"], each["response"]["etag"]) for each in answer.json["entry"]]
        url = answer.link("next") or ""
    assert len(seen) == len(set(seen)) == 10
    assert api.get(answer.link("first") or "").link("self") == answer.link("first")


def test_other_organizations_have_histories_of_their_own(api: Api) -> None:
    assert "entry" not in api.get("Patient/_history").json


def test_at_answers_what_was_current_then_of_every_resource_over_all_pages(api: Api) -> None:
    for number in range(4):
        for gender in ("male", "female", "other"):
            last = api.store(patient(id=f"p{number}", gender=gender))
    time.sleep(0.02)
    api.store(patient(id="p0", gender="unknown"))
    seen, url = [], f"Patient/_history?_count=2&_at={last['meta']['lastUpdated']}"
    while url:
        answer = api.get(url)
        seen += [(each["resource"]["id"], each["resource"]["gender"]) for each in answer.json["entry"]]
        url = answer.link("next") or ""
    assert sorted(seen) == [(f"p{number}", "other") for number in range(4)]


@pytest.mark.parametrize("path", ["Patient/_history", "_history", "Patient/a/_history"])
@pytest.mark.parametrize("count", [1, 3, 5, 100])
def test_versions_of_one_millisecond_are_in_the_order_of_their_numbers(
    api: Api, installation: Installation, path: str, count: int
) -> None:
    last = 12
    for id in ("a", "a-b", "a.b"):
        for number in range(last):
            api.store(patient(id=id, multipleBirthInteger=number))
    database = installation.server.store.database
    for name in ("Patient", "Patient.history"):
        at = datetime(2026, 1, 1, tzinfo=UTC)
        database.collection(name).update_many({"o": api.organization}, {"$set": {"t": at}})
    seen: list[tuple[str, int]] = []
    url = f"{path}?_count={count}"
    while url:
        answer = api.get(url)
        entries = answer.json["entry"]
        seen += [(each["resource"]["id"], each["resource"]["multipleBirthInteger"] + 1) for each in entries]
        url = answer.link("next") or ""
    ids = ["a"] if "/a/" in path else ["a", "a-b", "a.b"]
    assert seen == [(id, number) for id in ids for number in range(last, 0, -1)]
