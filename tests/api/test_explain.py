"""X-Explain: what each criterion of a search matches alone, what it was joined from, how it is answered."""

from __future__ import annotations

from collections.abc import Callable

from tests.api.client import Api
from tests.api.samples import observation, patient


def fill(api: Api) -> None:
    for number in range(4):
        made = api.create(patient(gender=("male", "female")[number % 2], birthDate=f"198{number}-01-01"))
        api.create(observation(f"Patient/{made['id']}"))


def explained(api: Api, path: str) -> list[str]:
    answer = api.get(path, X_Explain="true")
    assert answer.status == 200, answer.data
    outcomes = [each["resource"] for each in answer.json["entry"] if each["search"]["mode"] == "outcome"]
    return [issue["diagnostics"] for each in outcomes for issue in each["issue"]]


def test_each_criterion_is_counted_alone_and_all_together(api: Api) -> None:
    fill(api)
    said = explained(api, "Patient?gender=male&birthdate=1981")
    assert said[:4] == [
        "4 Patient that you may search here.",
        "2 match gender=male alone.",
        "1 match birthdate=1981 alone.",
        "0 match all of it.",
    ]


def test_the_index_is_named(api: Api) -> None:
    fill(api)
    assert explained(api, "Patient?family=adl")[-1] == "Answered by s.family."
    assert explained(api, "Patient")[-1].startswith("Answered by ")
    assert "sorted" in explained(api, "Patient?birthdate=1981&_sort=gender,-birthdate")[-1]


def test_chains_tell_what_they_lead_through(api: Api) -> None:
    fill(api)
    said = explained(api, "Observation?subject:Patient.gender=female")
    assert "2 match subject:Patient.gender=female alone." in said
    assert "2 Patient match the inner criteria of subject:Patient.gender; the search goes on by them." in said
    said = explained(api, "Patient?_has:Observation:subject:code=8867-4")
    assert any(each.startswith("4 Observation match the inner criteria of _has") for each in said)


def test_value_sets_tell_how_many_codes_they_have(api: Api) -> None:
    fill(api)
    include = {"system": "http://loinc.org", "concept": [{"code": "8867-4"}, {"code": "8480-6"}]}
    value_set = {"resourceType": "ValueSet", "url": "urn:pulses", "status": "active", "compose": {"include": [include]}}
    api.create(value_set)
    assert "2 codes are what code:in stands for." in explained(api, "Observation?code:in=urn:pulses")


def test_what_was_ignored_is_named_too(api: Api) -> None:
    fill(api)
    assert any("nonsense" in each and "ignored" in each for each in explained(api, "Patient?nonsense=1"))


def test_it_counts_only_what_the_caller_may_see(api: Api, scoped: Callable[[str], Api]) -> None:
    fill(api)
    assert explained(scoped("system/Patient.s?gender=male"), "Patient")[0] == "2 Patient that you may search here."


def test_without_the_header_nothing_is_explained(api: Api) -> None:
    fill(api)
    assert api.get("Patient?gender=male").notes == ""
