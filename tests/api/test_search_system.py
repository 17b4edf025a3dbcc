"""search over all types. FHIR R4: http#search."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.api.client import Api
from tests.api.samples import observation, patient


def test_all_types_are_searched(api: Api) -> None:
    api.store(patient(id="p"))
    api.store(observation("Patient/p", id="o"))
    assert api.found("") == ["o", "p"]
    assert api.found("?_id=o") == ["o"]
    assert api.found("?_lastUpdated=ge2020") == ["o", "p"]


def test_type_names_the_types(api: Api) -> None:
    api.store(patient(id="p", gender="male"))
    api.store(observation("Patient/p", id="o"))
    api.store({"resourceType": "Practitioner", "id": "d", "gender": "male"})
    assert api.found("?_type=Patient,Observation") == ["o", "p"]
    assert api.found("?_type=Patient,Practitioner&gender=male") == ["d", "p"]


def test_post_search(api: Api) -> None:
    api.store(patient(id="p"))
    form = "application/x-www-form-urlencoded"
    assert api.post("_search", b"_type=Patient&_id=p", Content_Type=form).ids == ["p"]


def test_pages_run_through_the_types_and_hold_everything_once(api: Api) -> None:
    for number in range(5):
        api.store(patient(id=f"p{number}"))
        api.store(observation(id=f"o{number}"))
    for count in (1, 2, 3, 5):
        seen = [id for page in api.pages(f"?_type=Patient,Observation&_count={count}") for id in page]
        assert seen == [f"o{number}" for number in range(5)] + [f"p{number}" for number in range(5)]


def test_total_counts_over_all_types(api: Api) -> None:
    for number in range(3):
        api.store(patient(id=f"p{number}"))
        api.store(observation(id=f"o{number}"))
    assert api.get("?_total=accurate&_count=1").json["total"] == 6
    assert api.get("?_summary=count").json["total"] == 6


def test_a_parameter_that_not_all_types_have_is_unknown(api: Api) -> None:
    api.store(patient(id="p"))
    assert "gender" in api.get("?gender=male").notes
    assert api.get("?gender=male", Prefer="handling=strict").status == 400
    assert api.get("?_type=Nothing").status == 400


def test_only_types_that_the_caller_may_search_are_shown(api: Api, scoped: Callable[[str], Api]) -> None:
    api.store(patient(id="p"))
    api.store(observation("Patient/p", id="o"))
    narrow = scoped("system/Observation.rs")
    assert narrow.get("").ids == ["o"]
    assert narrow.get("?_type=Patient").status == 403
    assert narrow.get("?_summary=count").json["total"] == 1


def test_includes_work_over_types(api: Api) -> None:
    api.store(patient(id="p"))
    api.store(observation("Patient/p", id="o"))
    answer = api.get("?_type=Observation&_include=Observation:subject")
    assert (answer.ids, answer.included) == (["o"], ["Patient/p"])


def test_the_type_that_lacks_a_parameter_is_named(api: Api) -> None:
    api.create(patient(gender="male"))
    assert "Observation has no search parameter gender" in api.get("?_type=Patient,Observation&gender=male").notes
    assert len(api.get("?_type=Patient&gender=male", Prefer="handling=strict").ids) == 1


def test_a_search_over_types_says_that_it_is_not_explained(api: Api) -> None:
    api.create(patient())
    assert "X-Explain was ignored" in api.get("?_type=Patient", X_Explain="true").notes


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("extra", ["", "&_total=accurate"])
def test_the_way_back_shows_the_same_pages(api: Api, count: int, extra: str) -> None:
    for number in range(4):
        api.store(patient(id=f"p{number}"))
        api.store({"resourceType": "Organization", "id": f"g{number}", "name": "x"})
    for number in range(3):
        api.store(observation("Patient/p0", id=f"o{number}"))
    asked = f"?_type=Observation,Organization,Patient&_count={count}{extra}"
    pages = api.pages(asked)
    assert [id for page in pages for id in page] == [
        *(f"o{number}" for number in range(3)),
        *(f"g{number}" for number in range(4)),
        *(f"p{number}" for number in range(4)),
    ]
    answer = api.get(asked)
    while url := answer.link("next"):
        answer = api.get(url)
    back = [answer.ids]
    while url := answer.link("previous"):
        answer = api.get(url)
        assert answer.link("next")
        if extra:
            assert answer.json["total"] == 11
        back.insert(0, answer.ids)
    assert [id for page in back for id in page] == [id for page in pages for id in page]
    # From a page that was reached backwards the way forwards is the same again.
    assert api.get(answer.link("next") or "").ids == (back[1] if len(back) > 1 else answer.ids)


def test_a_search_over_types_knows_its_total_when_all_is_on_one_page(api: Api) -> None:
    api.store(patient(id="p"))
    assert api.get("?_type=Patient").json["total"] == 1
    assert "total" not in api.get("?_type=Patient&_total=none").json
    assert api.get("?_type=Patient&_count=0").json["total"] == 1
