"""Scopes narrow every way of reading and writing; nothing leaks around them. SMART App Launch 2: scopes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.api.client import Api
from tests.api.samples import bundle, encounter, entry, observation, patient

VITAL = "http://terminology.hl7.org/CodeSystem/observation-category|vital-signs"
CATEGORY = [{"coding": [{"system": VITAL.partition("|")[0], "code": "vital-signs"}]}]


@pytest.fixture
def filled(api: Api) -> Api:
    api.store(patient(id="p"))
    api.store(encounter("Patient/p", id="e"))
    api.store(observation("Patient/p", id="vital", category=CATEGORY))
    api.store(observation("Patient/p", id="secret", code="1-1"))
    return api


@pytest.fixture
def narrow(filled: Api, scoped: Callable[[str], Api]) -> Api:
    """May read vital signs and patients only."""
    return scoped(f"system/Observation.rs?category={VITAL} system/Patient.rs")


@pytest.mark.parametrize(
    "path",
    [
        "Observation/secret",
        "Observation/secret/_history",
        "Observation/secret/_history/1",
        "Observation/secret/$meta",
        "Observation/secret/$validate",
        "Encounter/e",
    ],
)
def test_what_is_outside_the_scopes_is_not_read(narrow: Api, path: str) -> None:
    assert narrow.get(path).status in (403, 404)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("Observation", ["vital"]),
        ("Observation?_id=secret", []),
        ("Observation?code=1-1", []),
        ("Observation?code:not=8867-4", []),
        ("Patient/p/Observation", ["vital"]),
        ("Patient/p/*", ["p", "vital"]),
        ("", ["p", "vital"]),
        ("Patient?_has:Observation:subject:code=1-1", []),
        ("Patient?_has:Observation:subject:code=8867-4", ["p"]),
        ("Patient?_has:Encounter:subject:status=finished", []),
        ("Observation?encounter.status=finished", []),
        ("Observation/_history", ["vital"]),
        ("_history", ["p", "vital"]),
    ],
)
def test_searches_find_only_what_may_be_read(narrow: Api, path: str, expected: list[str]) -> None:
    answer = narrow.get(path)
    assert answer.status == 200, answer.data
    assert sorted(answer.ids) == expected


def test_totals_count_only_what_may_be_read(narrow: Api) -> None:
    assert narrow.get("Observation?_summary=count").json["total"] == 1
    assert narrow.get("Observation?_total=accurate&_count=1").json["total"] == 1


def test_includes_reach_no_further_than_a_search(narrow: Api) -> None:
    answer = narrow.get("Patient?_revinclude=Observation:subject&_revinclude=Encounter:subject")
    assert answer.included == ["Observation/vital"]


def test_everything_shows_only_what_may_be_read(narrow: Api) -> None:
    answer = narrow.get("Patient/p/$everything")
    assert sorted(answer.ids) == ["p", "vital"]
    assert answer.included == []


def test_the_entries_of_a_batch_are_checked_one_by_one(narrow: Api) -> None:
    answer = narrow.post(
        "",
        bundle(
            "batch",
            entry("GET", "Observation/vital"),
            entry("GET", "Observation/secret"),
            entry("GET", "Encounter/e"),
            entry("POST", "Patient", patient()),
            entry("DELETE", "Patient/p"),
            entry("GET", "Observation?_id=secret"),
        ),
    )
    statuses = [each["response"]["status"][:3] for each in answer.json["entry"]]
    assert statuses == ["200", "404", "403", "403", "403", "200"]
    assert answer.json["entry"][5]["resource"].get("total") == 0


def test_a_transaction_with_one_forbidden_entry_is_refused_whole(filled: Api, scoped: Callable[[str], Api]) -> None:
    writer = scoped("system/Patient.cruds")
    answer = writer.post("", bundle("transaction", entry("POST", "Patient", patient()), entry("DELETE", "Encounter/e")))
    assert answer.status == 403
    assert len(filled.found("Patient")) == 1


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "Patient"),
        ("PUT", "Patient/p"),
        ("PATCH", "Patient/p"),
        ("DELETE", "Patient/p"),
        ("PUT", "Patient?_id=p"),
        ("DELETE", "Patient?_id=p"),
        ("POST", "Patient/p/$meta-add"),
    ],
)
def test_reading_scopes_do_not_write(narrow: Api, filled: Api, method: str, path: str) -> None:
    body = None if method == "DELETE" else patient(id="p", gender="male")
    assert narrow.call(method, path, body).status == 403
    assert filled.get("Patient/p").headers["ETag"] == 'W/"1"'


def test_create_alone_permits_no_reading_and_no_update(filled: Api, scoped: Callable[[str], Api]) -> None:
    creator = scoped("system/Patient.c")
    made = creator.post("Patient", patient())
    assert made.status == 201
    assert creator.get(f"Patient/{made.json['id']}").status == 403
    assert creator.get("Patient").status == 403
    assert creator.put("Patient/p", patient(id="p", gender="male")).status == 403
    assert creator.post("Patient", patient(), If_None_Exist="_id=p").status == 403


def test_update_alone_does_not_create_under_an_id(filled: Api, scoped: Callable[[str], Api]) -> None:
    writer = scoped("system/Patient.ru")
    assert writer.put("Patient/new", patient(id="new")).status == 403
    assert writer.put("Patient/p", patient(id="p", gender="male")).status == 200


def test_a_granular_scope_bounds_what_may_be_written(filled: Api, scoped: Callable[[str], Api]) -> None:
    writer = scoped(f"system/Observation.cruds?category={VITAL}")
    assert writer.post("Observation", observation("Patient/p")).status == 403
    assert writer.post("Observation", observation("Patient/p", category=CATEGORY)).status == 201
    assert writer.put("Observation/secret", observation("Patient/p", id="secret", category=CATEGORY)).status in (
        403,
        404,
        409,
    )
    assert writer.delete("Observation/secret").status in (200, 403, 404)
    assert filled.get("Observation/secret").status == 200


def test_a_conditional_reference_does_not_tell_what_may_not_be_searched(
    filled: Api, scoped: Callable[[str], Api]
) -> None:
    writer = scoped("system/Observation.cruds")
    answer = writer.post("", bundle("transaction", entry("POST", "Observation", observation("Patient?family=adler"))))
    assert answer.status == 403


def test_without_any_scope_nothing_is_permitted(filled: Api, scoped: Callable[[str], Api]) -> None:
    nobody = scoped("")
    for path in ("Patient", "Patient/p", "", "_history", "Patient/p/$everything"):
        assert nobody.get(path).status == 403
    assert nobody.get("metadata").status == 200


def test_a_token_for_one_organization_is_no_token_for_another(api: Api, new_base: Callable[..., Api]) -> None:
    other = new_base()
    stranger = Api(api.app, other.base, api.token)
    assert stranger.get("Patient").status == 403
    assert stranger.post("Patient", patient()).status == 403


@pytest.mark.parametrize("text", ["x", "a.b.c", "x" * 20_000, "Ä"])
def test_a_token_that_is_none_is_401(api: Api, text: str) -> None:
    answer = Api(api.app, api.base, text).get("Patient")
    assert answer.status == 401
    assert "WWW-Authenticate" in answer.headers


def test_nobody_learns_which_organizations_there_are(api: Api) -> None:
    there = Api(api.app, api.base).get("Patient")
    nowhere = Api(api.app, "/1/health/organizations/nowhere/fhir/4").get("Patient")
    assert (there.status, there.data) == (nowhere.status, nowhere.data)
    assert there.status == 401
