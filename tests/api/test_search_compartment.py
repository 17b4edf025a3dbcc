"""search in a compartment. FHIR R4: http#vsearch, compartmentdefinition."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.api.client import Api
from tests.api.samples import encounter, observation, patient


@pytest.fixture
def filled(api: Api) -> Api:
    api.store({"resourceType": "Practitioner", "id": "doc", "name": [{"family": "Doc"}]})
    for id in ("ida", "bob"):
        api.store(patient(id=id))
        api.store(encounter(f"Patient/{id}", id=f"e-{id}"))
        api.store(observation(f"Patient/{id}", id=f"o-{id}", encounter={"reference": f"Encounter/e-{id}"}))
    api.store(observation("Patient/bob", id="by-ida", performer=[{"reference": "Patient/ida"}]))
    api.store(observation("Patient/bob", id="by-doc", performer=[{"reference": "Practitioner/doc"}]))
    return api


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("Patient/ida/Observation", ["by-ida", "o-ida"]),
        ("Patient/ida/Observation?code=8867-4", ["by-ida", "o-ida"]),
        ("Patient/ida/Observation?code=other", []),
        ("Patient/ida/Observation?subject=Patient/bob", ["by-ida"]),
        ("Patient/ida/Encounter", ["e-ida"]),
        ("Encounter/e-bob/Observation", ["o-bob"]),
        ("Practitioner/doc/Observation", ["by-doc"]),
        ("Patient/nobody/Observation", []),
        ("Patient/ida/*", ["by-ida", "e-ida", "ida", "o-ida"]),
        ("Patient/ida/*?_type=Observation", ["by-ida", "o-ida"]),
        ("Device/none/Observation", []),
        ("RelatedPerson/none/Encounter", []),
    ],
)
def test_a_compartment_holds_what_its_definition_says(filled: Api, path: str, expected: list[str]) -> None:
    assert filled.found(path) == expected


def test_a_compartment_search_by_post(filled: Api) -> None:
    form = "application/x-www-form-urlencoded"
    answer = filled.post("Patient/ida/Observation/_search", b"code=8867-4", Content_Type=form)
    assert sorted(answer.ids) == ["by-ida", "o-ida"]


def test_the_links_stay_in_the_compartment_and_its_pages_hold_everything_once(filled: Api) -> None:
    answer = filled.get("Patient/ida/*?_count=1")
    assert f"{filled.base}/Patient/ida/*?" in (answer.link("next") or "")
    seen = [id for page in filled.pages("Patient/ida/*?_count=1") for id in page]
    assert sorted(seen) == ["by-ida", "e-ida", "ida", "o-ida"]


@pytest.mark.parametrize("path", ["Organization/x/Observation", "Patient/ida/Practitioner", "Patient/ida/Nothing"])
def test_what_is_no_compartment_or_never_in_it_is_404(filled: Api, path: str) -> None:
    assert filled.get(path).status == 404


def test_a_member_type_that_the_caller_may_not_search_is_403(filled: Api, scoped: Callable[[str], Api]) -> None:
    narrow = scoped("system/Patient.rs system/Encounter.rs")
    assert narrow.get("Patient/ida/Observation").status == 403
    assert sorted(narrow.get("Patient/ida/*").ids) == ["e-ida", "ida"]
