"""Paging by signed cursors: stable under writes, both ways, bound to its search. FHIR R4: http#paging."""

from __future__ import annotations

import base64

import pytest

from tests.api.client import Api
from tests.api.samples import observation, patient

SORTS = [
    *("", "_sort=birthdate", "_sort=-birthdate", "_sort=-_lastUpdated", "_sort=_id", "_sort=-_id"),
    *("_sort=gender,-birthdate", "_sort=birthdate,-gender", "_sort=-_lastUpdated,gender"),
]


def fill(api: Api, count: int = 11) -> set[str]:
    """Patients of which some have no birth date, some the same one."""
    ids = set()
    for number in range(count):
        born = {} if number % 4 == 0 else {"birthDate": f"19{50 + number // 3}"}
        ids.add(api.store(patient(id=f"p{number:02}", gender=("male", "female")[number % 2], **born))["id"])
    return ids


@pytest.mark.parametrize("sort", SORTS)
def test_the_pages_together_are_the_whole_in_one_order(api: Api, sort: str) -> None:
    ids = fill(api)
    whole = api.get(f"Patient?_count=100&{sort}").ids
    pages = api.pages(f"Patient?_count=3&{sort}")
    assert [len(page) for page in pages] == [3, 3, 3, 2]
    assert [id for page in pages for id in page] == whole
    assert set(whole) == ids


@pytest.mark.parametrize("sort", SORTS)
def test_pages_are_stable_while_resources_are_written(api: Api, sort: str) -> None:
    ids = fill(api)
    seen, url, number = [], f"Patient?_count=3&{sort}", 0
    while url:
        answer = api.get(url)
        seen += answer.ids
        url = answer.link("next") or ""
        number += 1
        for id, date in ((f"a{number}", "1900"), (f"z{number}", "2020"), (f"p{number:02}x", "1953")):
            api.store(patient(id=id, birthDate=date, gender="male"))
        assert number < 30
    old = [id for id in seen if id in ids]
    assert len(seen) == len(set(seen)), "a resource came twice"
    assert set(old) == ids, "a resource that was there all along was left out"


@pytest.mark.parametrize("sort", SORTS)
def test_previous_leads_back_over_the_same_pages(api: Api, sort: str) -> None:
    fill(api)
    forth, url = [], f"Patient?_count=3&{sort}"
    while True:
        answer = api.get(url)
        forth.append(answer.ids)
        if not answer.link("next"):
            break
        url = answer.link("next") or ""
    back = []
    while answer.link("previous"):
        answer = api.get(answer.link("previous") or "")
        back.append(answer.ids)
    assert back == forth[-2::-1]


@pytest.mark.parametrize("sort", ["value-quantity", "-value-quantity", "value-quantity,date"])
def test_numbers_are_paged_in_order(api: Api, sort: str) -> None:
    for value in (0.1, 2.5, 1e22, 10, 3):
        api.create(observation(valueQuantity={"value": value}, effectiveDateTime="2026-01-01"))
    whole = api.get(f"Observation?_sort={sort}").ids
    assert [id for page in api.pages(f"Observation?_count=2&_sort={sort}") for id in page] == whole


def test_the_first_page_has_no_previous_and_the_last_no_next(api: Api) -> None:
    fill(api, 4)
    first = api.get("Patient?_count=2")
    last = api.get(first.link("next") or "")
    assert (first.link("previous"), first.link("first")) == (None, None)
    assert last.link("next") is None
    assert api.get(last.link("first") or "").ids == first.ids


def test_a_deleted_resource_drops_out_of_later_pages_only(api: Api) -> None:
    fill(api, 6)
    first = api.get("Patient?_count=3")
    api.delete("Patient/p01")
    api.delete("Patient/p04")
    assert api.get(first.link("next") or "").ids == ["p03", "p05"]


def test_the_cursor_counts_as_part_of_its_search_alone(api: Api) -> None:
    fill(api, 4)
    api.create(observation())
    cursor = (api.get("Patient?_count=2&gender:missing=false").link("next") or "").partition("_cursor=")[2]
    for other in ("Patient?gender=male", "Patient?_sort=birthdate", "Observation?_count=2", "?_type=Patient"):
        joint = "&" if "?" in other else "?"
        assert api.get(f"{other}{joint}_cursor={cursor}").status == 400


def test_a_forged_cursor_is_refused(api: Api) -> None:
    fill(api, 4)
    cursor = (api.get("Patient?_count=2").link("next") or "").partition("_cursor=")[2]
    raw = bytearray(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    raw[-3] ^= 1
    forged = base64.urlsafe_b64encode(bytes(raw)).decode().rstrip("=")
    for value in (forged, cursor[:-4], "x", "%00", "ä", "A" * 5000):
        answer = api.get(f"Patient?_count=2&_cursor={value}")
        assert (answer.status, answer.issue["code"]) in ((400, "invalid"),)


def test_the_page_size_may_change_on_the_way(api: Api) -> None:
    fill(api, 6)
    following = (api.get("Patient?_count=2").link("next") or "").replace("_count=2", "_count=4")
    assert api.get(following).ids == ["p02", "p03", "p04", "p05"]


def test_cursors_do_not_work_for_another_organization(api: Api, new_base: object) -> None:
    assert callable(new_base)
    fill(api, 4)
    other: Api = new_base()
    fill(other, 4)
    following = api.get("Patient?_count=2").link("next") or ""
    answer = other.get(following.replace(api.organization, other.organization))
    assert answer.status == 400
    assert api.get(following).ids == ["p02", "p03"]


def test_a_page_that_does_not_go_into_one_answer_of_the_database_is_whole(api: Api) -> None:
    large = {"resourceType": "Basic", "code": {"text": "x"}, "text": {"status": "generated"}}
    ids = []
    for number in range(20):
        div = f'<div xmlns="http://www.w3.org/1999/xhtml">{number}{"x" * 900_000}</div>'
        ids.append(api.store({**large, "id": f"b{number:02}", "text": {"status": "generated", "div": div}})["id"])
    assert api.get("Basic?_count=50&_sort=_id").ids == ids
