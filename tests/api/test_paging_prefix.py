"""A search for the start of a text is answered in the order of its index, a page at a time. FHIR R4: search#string,
http#paging.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from fhirserver.app import Installation
from tests.api.client import Api
from tests.api.samples import patient

NAMES = ["Al", "Alba", "Albin", "Ala", "Älger", "ALMA", "Bo", "Am", "Al Zed", "Alz", "A"]


def names(seed: int, count: int) -> list[list[str]]:
    """For each of so many patients some names; many have several that begin alike."""
    chance = random.Random(seed)
    return [chance.choices(NAMES, k=chance.randint(1, 4)) for _ in range(count)]


def fill(api: Api, given: list[list[str]]) -> None:
    entries = [
        {
            "request": {"method": "PUT", "url": f"Patient/p{number:02}"},
            "resource": patient(id=f"p{number:02}", name=[{"family": "Bo", "given": each}]),
        }
        for number, each in enumerate(given)
    ]
    assert api.post("", {"resourceType": "Bundle", "type": "batch", "entry": entries}).status == 200


def expected(given: list[list[str]]) -> list[str]:
    """The ids of those with a name that begins with "al", by the first such name, then by id."""
    plain = [[name.lower().replace("ä", "a") for name in each] for each in given]
    first = [min((name for name in each if name.startswith("al")), default="") for each in plain]
    return [id for _, id in sorted((name, f"p{number:02}") for number, name in enumerate(first) if name)]


@pytest.mark.parametrize("count", [1, 3, 7])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_pages_show_each_match_once_in_one_order(api: Api, seed: int, count: int) -> None:
    given = names(seed, 30)
    fill(api, given)
    pages = api.pages(f"Patient?given=al&_count={count}")
    assert [id for page in pages for id in page] == expected(given)


def test_one_can_go_back_the_way_one_came(api: Api) -> None:
    fill(api, names(3, 25))
    forwards, url = [], "Patient?given=al&_count=4"
    while url:
        answer = api.get(url)
        forwards.append(answer.ids)
        url = answer.link("next") or ""
    backwards = [answer.ids]
    while url := answer.link("previous") or "":
        answer = api.get(url)
        backwards.append(answer.ids)
    assert len(forwards) > 3
    assert backwards == forwards[::-1]


def test_pages_do_not_shift_when_names_are_written_meanwhile(api: Api) -> None:
    given = names(4, 25)
    fill(api, given)
    seen, url = [], "Patient?given=al&_count=3"
    while url:
        answer = api.get(url)
        seen += answer.ids
        url = answer.link("next") or ""
        for number, name in enumerate(("Al", "Alba", "Alz")):
            more = {"id": f"x{len(seen)}{number}", "name": [{"family": "Bo", "given": [name, "Albin"]}]}
            api.store(patient(**more))
        assert len(seen) < 200
    assert len(seen) == len(set(seen)), "a resource came twice"
    assert [id for id in seen if id.startswith("p")] == expected(given), "one that was there all along was left out"


def test_a_page_looks_at_little_more_than_it_shows(api: Api, installation: Installation) -> None:
    fill(api, [["Alba"]] * 60)
    path = "Patient?given=al&_count=5"
    second = api.get(path).link("next")
    assert second is not None
    database: Any = installation.server.store.database.raw
    database.command("profile", 2)
    try:
        shown = [*api.get(path).ids, *api.get(second).ids]
    finally:
        database.command("profile", 0)
    looked = [each["docsExamined"] for each in database["system.profile"].find({"ns": f"{database.name}.Patient"})]
    database["system.profile"].drop()
    assert shown == [f"p{number:02}" for number in range(10)]
    assert len(looked) == 2
    assert max(looked) <= 12, looked
