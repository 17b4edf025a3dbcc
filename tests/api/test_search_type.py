"""search on a type: the Bundle, links, handling, control of the answer. FHIR R4: search, http#search."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qsl, urlsplit

import pytest

from fhirserver.app import Installation
from tests.api.client import Api
from tests.api.samples import encounter, observation, patient


def pairs(url: str | None) -> list[tuple[str, str]]:
    """The parameters of a URL."""
    return parse_qsl(urlsplit(url or "").query)


def test_a_search_answers_a_searchset_with_full_urls_and_modes(api: Api) -> None:
    made = api.create(patient())
    answer = api.get("Patient?family=adler")
    assert answer.status == 200
    bundle = answer.json
    assert (bundle["resourceType"], bundle["type"], bundle["total"]) == ("Bundle", "searchset", 1)
    assert bundle["entry"] == [
        {"fullUrl": f"http://api.test{api.base}/Patient/{made['id']}", "resource": made, "search": {"mode": "match"}}
    ]


def test_nothing_found_is_an_empty_bundle(api: Api) -> None:
    bundle = api.get("Patient?family=nobody").json
    assert bundle["total"] == 0
    assert "entry" not in bundle


def test_post_search_takes_its_parameters_from_the_form_and_the_url(api: Api) -> None:
    made = api.create(patient(gender="female"))
    api.create(patient(gender="male"))
    form = "application/x-www-form-urlencoded"
    answer = api.post("Patient/_search?family=adler", b"gender=female", Content_Type=form)
    assert answer.ids == [made["id"]]
    assert ("gender", "female") in pairs(answer.link("self"))
    assert ("family", "adler") in pairs(answer.link("self"))
    assert "_search" not in (answer.link("self") or "")


def test_post_search_without_a_form_searches_by_the_url(api: Api) -> None:
    made = api.create(patient())
    assert api.post("Patient/_search?family=adler").ids == [made["id"]]


def test_head_on_a_search_has_no_body(api: Api) -> None:
    answer = api.call("HEAD", "Patient")
    assert (answer.status, answer.data) == (200, b"")


# What is not known


def test_an_unknown_parameter_is_named_and_left_out_of_the_self_link(api: Api) -> None:
    api.create(patient())
    answer = api.get("Patient?family=adler&shoesize=44")
    assert answer.status == 200
    assert "shoesize" in answer.notes
    assert pairs(answer.link("self")) == [("family", "adler")]
    assert answer.json["entry"][-1]["search"]["mode"] == "outcome"


def test_an_unknown_parameter_is_refused_when_handling_is_strict(api: Api) -> None:
    answer = api.get("Patient?family=adler&shoesize=44", Prefer="handling=strict")
    assert (answer.status, answer.issue["code"]) == (400, "not-supported")
    assert "shoesize" in answer.issue["diagnostics"]
    assert answer.issue["expression"] == ["http.shoesize"]


def test_an_unknown_modifier_is_always_refused(api: Api) -> None:
    answer = api.get("Patient?family:loudly=adler", Prefer="handling=lenient")
    assert answer.status == 400
    assert "family" in answer.issue["expression"][0]


@pytest.mark.parametrize("query", ["_filter=name+eq+x", "_text=x", "_content=x", "_query=x"])
def test_what_is_not_supported_says_so(api: Api, query: str) -> None:
    assert "not supported" in api.get(f"Patient?{query}").notes
    assert api.get(f"Patient?{query}", Prefer="handling=strict").status == 400


def test_a_parameter_of_another_type_is_unknown(api: Api) -> None:
    assert api.get("Patient?code=1", Prefer="handling=strict").status == 400


def test_a_search_can_be_asked_why_it_finds_nothing(api: Api) -> None:
    api.create(patient(gender="female"))
    api.create(patient(gender="male"))
    answer = api.get("Patient?gender=female&birthdate=1980&_sort=birthdate", X_Explain="true")
    assert answer.ids == []
    assert "2 Patient that you may search here" in answer.notes
    assert "1 match gender=female alone" in answer.notes
    assert "0 match birthdate=1980 alone" in answer.notes
    assert "_sort" not in answer.notes
    assert "alone" not in api.get("Patient?gender=female").notes


def test_an_explanation_counts_only_what_the_caller_may_search(api: Api, scoped: Callable[[str], Api]) -> None:
    api.create(patient(gender="female"))
    api.create(patient(gender="male"))
    narrow = scoped("system/Patient.rs?gender=male")
    assert "0 match gender=female alone" in narrow.get("Patient?gender=female", X_Explain="true").notes


# Control of the answer


def test_count_limits_the_page_and_shows_in_the_links(api: Api) -> None:
    for _ in range(3):
        api.create(patient())
    answer = api.get("Patient?_count=2")
    assert len(answer.ids) == 2
    assert ("_count", "2") in pairs(answer.link("self"))
    assert ("_count", "2") in pairs(answer.link("next"))


def test_count_zero_and_summary_count_answer_the_total_alone(api: Api) -> None:
    for _ in range(3):
        api.create(patient())
    for query in ("_count=0", "_summary=count"):
        bundle = api.get(f"Patient?{query}").json
        assert bundle["total"] == 3
        assert "entry" not in bundle
        assert [link["relation"] for link in bundle["link"]] == ["self"]


def test_count_beyond_the_limit_is_the_limit(api: Api) -> None:
    answer = api.get("Patient?_count=100000")
    assert answer.status == 200
    assert ("_count", "200") in pairs(answer.link("self"))


def test_total_is_told_when_asked_or_known_anyway(api: Api) -> None:
    for _ in range(3):
        api.create(patient())
    assert api.get("Patient").json["total"] == 3
    assert "total" not in api.get("Patient?_count=2").json
    assert api.get("Patient?_count=2&_total=accurate").json["total"] == 3
    assert api.get("Patient?_count=2&_total=estimate").json["total"] == 3
    assert "total" not in api.get("Patient?_count=2&_total=none").json


def test_a_total_that_is_too_large_to_count_is_left_out_and_said(api: Api, installation: object) -> None:
    from fhirserver.app import Installation

    assert isinstance(installation, Installation)
    for _ in range(4):
        api.create(patient())
    bound = installation.server.total_bound
    installation.server.total_bound = 2
    try:
        rough = api.get("Patient?_total=estimate&_count=1")
        assert rough.json["total"] == 2
        assert "The total is an estimate: counting stopped at 2, and more match." in rough.notes
        over_types = api.get("?_type=Patient&_total=estimate&_count=1")
        assert (over_types.json["total"], "estimate" in over_types.notes) == (2, True)
        answer = api.get("Patient?_total=accurate&_count=1")
    finally:
        installation.server.total_bound = bound
    assert "total" not in answer.json
    assert "More than 2" in answer.notes


@pytest.mark.parametrize(
    ("query", "present", "absent"),
    [
        ("_summary=true", {"name", "gender"}, {"maritalStatus"}),
        ("_summary=text", {"id", "meta"}, {"name", "gender"}),
        ("_summary=data", {"name", "maritalStatus"}, {"text"}),
        ("_summary=false", {"name", "maritalStatus", "text"}, set()),
        ("_elements=gender", {"gender", "id", "meta"}, {"name", "maritalStatus"}),
        ("_elements=gender,maritalStatus", {"gender", "maritalStatus"}, {"name"}),
    ],
)
def test_a_part_of_each_resource(api: Api, query: str, present: set[str], absent: set[str]) -> None:
    text = {"status": "generated", "div": '<div xmlns="http://www.w3.org/1999/xhtml">Ida</div>'}
    api.create(patient(gender="female", maritalStatus={"text": "m"}, text=text))
    shown = api.get(f"Patient?{query}").resources[0]
    assert present <= set(shown)
    assert not absent & set(shown)
    subsetted = [tag["code"] for tag in shown["meta"].get("tag", [])]
    assert subsetted == ([] if query == "_summary=false" else ["SUBSETTED"])


def test_elements_keeps_what_is_mandatory(api: Api) -> None:
    api.create(observation(valueString="x"))
    shown = api.get("Observation?_elements=value").resources[0]
    assert {"status", "code", "valueString"} <= set(shown)


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        ("birthdate", ["1950", "1960", "1970", None]),
        ("-birthdate", ["1970", "1960", "1950", None]),
    ],
)
def test_sort_puts_missing_values_last_in_both_directions(api: Api, sort: str, order: list[str | None]) -> None:
    for date in ("1960", None, "1970", "1950"):
        api.create(patient(**({"birthDate": date} if date else {})))
    assert [each.get("birthDate") for each in api.get(f"Patient?_sort={sort}").resources] == order
    assert [len(page) for page in api.pages(f"Patient?_sort={sort}&_count=3")] == [3, 1]


def test_sort_by_several_keys(api: Api) -> None:
    for gender, date in (("male", "1960"), ("female", "1950"), ("male", "1950"), ("female", "1970")):
        api.create(patient(gender=gender, birthDate=date))
    answer = api.get("Patient?_sort=gender,-birthdate")
    assert [(each["gender"], each["birthDate"]) for each in answer.resources] == [
        ("female", "1970"),
        ("female", "1950"),
        ("male", "1960"),
        ("male", "1950"),
    ]


@pytest.mark.parametrize(
    "sort", ["_id", "-_id", "_lastUpdated", "-_lastUpdated", "family", "-name", "identifier", "gender"]
)
def test_every_kind_of_key_sorts(api: Api, sort: str) -> None:
    for number in range(5):
        api.create(patient(identifier=[{"value": str(number)}], gender="male"))
    pages = api.pages(f"Patient?_sort={sort}&_count=2")
    seen = [id for page in pages for id in page]
    assert len(seen) == len(set(seen)) == 5


def test_sort_by_id_is_the_order_of_ids(api: Api) -> None:
    for id in ("b", "a", "c"):
        api.store(patient(id=id))
    assert api.get("Patient?_sort=_id").ids == ["a", "b", "c"]
    assert api.get("Patient?_sort=-_id").ids == ["c", "b", "a"]


def test_a_sort_key_that_does_not_exist_is_named(api: Api) -> None:
    api.create(patient())
    assert "shoesize" in api.get("Patient?_sort=shoesize").notes
    assert api.get("Patient?_sort=shoesize", Prefer="handling=strict").status == 400


# Includes


@pytest.fixture
def ward(api: Api) -> dict[str, str]:
    """A small hospital: ids of an organization, practitioner, patient, encounter and two observations."""
    api.store({"resourceType": "Organization", "id": "org", "name": "Ward"})
    api.store({"resourceType": "Organization", "id": "sub", "name": "Sub", "partOf": {"reference": "Organization/org"}})
    api.store({"resourceType": "Practitioner", "id": "doc", "name": [{"family": "Doc"}]})
    api.store(
        patient(
            id="pat",
            managingOrganization={"reference": "Organization/sub"},
            generalPractitioner=[{"reference": "Practitioner/doc"}],
        )
    )
    api.store(encounter("Patient/pat", id="enc"))
    for number in (1, 2):
        api.store(
            observation(
                "Patient/pat",
                id=f"obs{number}",
                encounter={"reference": "Encounter/enc"},
                performer=[{"reference": "Practitioner/doc"}],
            )
        )
    return {}


@pytest.mark.parametrize(
    ("query", "included"),
    [
        ("Observation?_include=Observation:subject", ["Patient/pat"]),
        ("Observation?_include=Observation:subject:Patient", ["Patient/pat"]),
        ("Observation?_include=Observation:subject:Group", []),
        ("Observation?_include=Observation:patient&_include=Observation:encounter", ["Encounter/enc", "Patient/pat"]),
        ("Observation?_include=*", ["Encounter/enc", "Patient/pat", "Practitioner/doc"]),
        ("Observation?_include=Observation:*", ["Encounter/enc", "Patient/pat", "Practitioner/doc"]),
        ("Observation?_include=Observation:subject&_include=Patient:organization", ["Patient/pat"]),
        (
            "Observation?_include=Observation:subject&_include:iterate=Patient:organization",
            ["Organization/sub", "Patient/pat"],
        ),
        (
            "Observation?_include=Observation:subject&_include:iterate=Patient:organization"
            "&_include:iterate=Organization:partof",
            ["Organization/org", "Organization/sub", "Patient/pat"],
        ),
        ("Patient?_revinclude=Observation:subject", ["Observation/obs1", "Observation/obs2"]),
        (
            "Patient?_revinclude=Observation:patient&_revinclude=Encounter:subject",
            ["Encounter/enc", "Observation/obs1", "Observation/obs2"],
        ),
        ("Patient?_id=pat&_include=Patient:general-practitioner", ["Practitioner/doc"]),
        ("Organization?_id=org&_revinclude:iterate=Organization:partof", ["Organization/sub"]),
        (
            "Encounter?_include=Encounter:subject&_revinclude=Observation:encounter",
            ["Observation/obs1", "Observation/obs2", "Patient/pat"],
        ),
    ],
)
def test_includes(api: Api, ward: dict[str, str], query: str, included: list[str]) -> None:
    answer = api.get(query)
    assert answer.status == 200, answer.data
    assert answer.included == included


def test_a_resource_that_is_a_match_is_not_included_again(api: Api, ward: dict[str, str]) -> None:
    answer = api.get("Organization?_include=Organization:partof")
    assert sorted(answer.ids) == ["org", "sub"]
    assert answer.included == []


def test_included_resources_do_not_count(api: Api, ward: dict[str, str]) -> None:
    answer = api.get("Observation?_include=Observation:subject&_count=1&_total=accurate")
    assert (len(answer.ids), answer.included, answer.json["total"]) == (1, ["Patient/pat"], 2)


def test_a_circle_of_references_is_included_once(api: Api) -> None:
    api.store({"resourceType": "Organization", "id": "a", "name": "A"})
    api.store({"resourceType": "Organization", "id": "b", "name": "B", "partOf": {"reference": "Organization/a"}})
    api.store({"resourceType": "Organization", "id": "a", "name": "A", "partOf": {"reference": "Organization/b"}})
    answer = api.get("Organization?_id=a&_include:iterate=Organization:partof&_revinclude:iterate=Organization:partof")
    assert (answer.ids, answer.included) == (["a"], ["Organization/b"])


def test_deleted_and_missing_targets_are_not_included(api: Api) -> None:
    api.store(patient(id="gone"))
    api.store(observation("Patient/gone", id="o1"))
    api.store(observation("Patient/never", id="o2"))
    api.delete("Patient/gone")
    assert api.get("Observation?_include=Observation:subject").included == []


@pytest.mark.parametrize(
    "value",
    [
        "Observation",
        "Observation:nothing",
        "Nothing:subject",
        "Observation:code",
        "Observation:subject:Organization",
        "::",
        "",
    ],
)
def test_an_include_that_means_nothing_is_refused(api: Api, value: str) -> None:
    answer = api.get(f"Observation?_include={value}")
    assert answer.status == 400
    assert "_include" in answer.issue["diagnostics"]


def test_an_include_costs_the_page_and_one_query_for_each_type_it_leads_to(
    api: Api, installation: Installation
) -> None:
    for number in range(3):
        api.store(patient(id=f"p{number}"))
        api.store({"resourceType": "Practitioner", "id": f"d{number}", "name": [{"family": "Doktor"}]})
        seen_by = [{"reference": f"Practitioner/d{number}"}]
        api.store(observation(f"Patient/p{number}", id=f"o{number}", performer=seen_by))
    path = "Observation?_include=Observation:subject&_include=Observation:performer&_count=10"
    assert len(api.get(path).included) == 6
    database = installation.server.store.database.raw
    database.command("profile", 2)
    try:
        api.get(path)
    finally:
        database.command("profile", 0)
    asked = [
        each["ns"].partition(".")[2] for each in database["system.profile"].find({"op": {"$in": ["query", "command"]}})
    ]
    database.drop_collection("system.profile")
    assert sorted(name for name in asked if name[:1].isupper()) == ["Observation", "Patient", "Practitioner"]


def test_a_search_by_post_with_a_body_that_is_no_form_is_refused_not_ignored(api: Api) -> None:
    for path in ("Patient/_search", "_search?_type=Patient"):
        answer = api.post(path, {"family": "adler"})
        assert (answer.status, answer.issue["expression"]) == (415, ["Content-Type"])
