"""history of a base. FHIR R4: http#history."""

from __future__ import annotations

from collections.abc import Callable

from tests.api.client import Api
from tests.api.samples import observation, patient


def test_versions_of_all_types_newest_first(api: Api) -> None:
    made = api.create(patient())
    api.create(observation(f"Patient/{made['id']}"))
    api.delete(f"Patient/{made['id']}")
    entries = api.get("_history").json["entry"]
    assert sorted(each["request"]["method"] for each in entries) == ["DELETE", "POST", "POST"]
    stamps = [each["response"]["lastModified"] for each in entries]
    assert stamps == sorted(stamps, reverse=True)


def test_pages_hold_every_version_once(api: Api) -> None:
    for _ in range(4):
        api.create(patient())
        api.create(observation())
    seen, url = [], "_history?_count=3"
    while url:
        answer = api.get(url)
        seen += [each["fullUrl"] for each in answer.json["entry"]]
        url = answer.link("next") or ""
    assert len(seen) == len(set(seen)) == 8


def test_only_types_that_the_caller_may_search_are_shown(api: Api, scoped: Callable[[str], Api]) -> None:
    api.create(patient())
    api.create(observation())
    entries = scoped("system/Observation.rs").get("_history").json["entry"]
    assert [each["resource"]["resourceType"] for each in entries] == ["Observation"]
