"""Value sets, code systems and maps of somebody who means harm: refused, in bounded time, and no fault of ours."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.api.client import Answer, Api
from tests.api.hostile import refused

SYSTEM = "urn:attack:system"


def given(name: str, resource: Any, **more: Any) -> dict[str, Any]:
    parts = [{"name": name, "resource": resource}]
    parts += [{"name": other, **value} for other, value in more.items()]
    return {"resourceType": "Parameters", "parameter": parts}


def value_set(url: str, **compose: Any) -> dict[str, Any]:
    return {"resourceType": "ValueSet", "url": url, "status": "active", "compose": compose}


def system(url: str, count: int) -> dict[str, Any]:
    concepts = [{"code": f"c{number}"} for number in range(count)]
    return {"resourceType": "CodeSystem", "url": url, "status": "active", "content": "complete", "concept": concepts}


def within(seconds: float, answer: Any) -> Answer:
    began = time.process_time()
    found: Answer = answer()
    assert time.process_time() - began < seconds
    return found


def test_value_sets_that_include_each_other_by_many_ways_are_listed_once(api: Api) -> None:
    one = {"system": "urn:x", "concept": [{"code": "a"}]}
    for level in range(30):
        include = [{"valueSet": [f"urn:attack:{level - 1}"]}] * 4 if level else [one]
        api.create(value_set(f"urn:attack:{level}", include=include))
    answer = within(5, lambda: api.get("ValueSet/$expand?url=urn:attack:29"))
    assert [each["code"] for each in answer.json["expansion"]["contains"]] == ["a"]
    assert api.get("Observation?code:in=urn:attack:29").status == 200


def test_a_value_set_that_includes_itself_is_refused(api: Api) -> None:
    api.create(value_set("urn:attack:self", include=[{"valueSet": ["urn:attack:self"]}] * 3))
    refused(within(5, lambda: api.get("ValueSet/$expand?url=urn:attack:self")))


@pytest.mark.parametrize("many", ["includes", "excludes", "filters", "systems"])
def test_the_work_of_an_expansion_is_bounded_however_it_is_asked_for(api: Api, many: str) -> None:
    api.create(system(SYSTEM, 2_000))
    whole = {"system": SYSTEM}
    rule = {"property": "concept", "op": "is-a", "value": "c1"}
    hostile = {
        "includes": value_set("urn:x", include=[whole] * 5_000),
        "excludes": value_set("urn:x", include=[whole], exclude=[whole] * 5_000),
        "filters": value_set("urn:x", include=[{**whole, "filter": [rule] * 5_000}]),
        "systems": value_set(
            "urn:x", include=[{"system": f"urn:{n}", "concept": [{"code": "a"}]} for n in range(2_000)]
        ),
    }[many]
    answer = within(15, lambda: api.post("ValueSet/$expand", given("valueSet", hostile)))
    refused(answer)
    assert answer.issue["code"] == "too-costly"


@pytest.mark.parametrize(
    "hostile",
    [
        {"resourceType": "ValueSet", "expansion": {"contains": [{"code": 5}]}},
        {"resourceType": "ValueSet", "expansion": {"contains": [{"code": ["a"]}]}},
        {"resourceType": "ValueSet", "expansion": {"contains": "text"}},
        {"resourceType": "ValueSet", "compose": []},
        {"resourceType": "ValueSet", "compose": {"include": [{"system": {}, "concept": [{"code": "a"}]}]}},
        {"resourceType": "ValueSet", "compose": {"include": [{"system": "urn:x", "concept": [{"code": 5}]}]}},
        {"resourceType": "ValueSet", "compose": {"include": [{"valueSet": [5]}]}},
        {"resourceType": "ValueSet", "compose": {"include": [{"valueSet": [[]]}]}},
        {"resourceType": "ValueSet", "compose": {"include": [[]]}},
    ],
)
@pytest.mark.parametrize("operation", ["$expand?filter=a", "$validate-code"])
def test_a_value_set_that_is_none_is_refused(api: Api, hostile: Any, operation: str) -> None:
    refused(api.post(f"ValueSet/{operation}", given("valueSet", hostile, code={"valueCode": "a"})))


@pytest.mark.parametrize(
    "concept",
    [
        [{}],
        [5],
        "text",
        [{"code": 5}],
        [{"code": "a", "property": 5}],
        [{"code": "a", "property": [{"code": []}]}],
    ],
)
def test_a_code_system_that_is_none_is_refused(api: Api, concept: Any) -> None:
    hostile = {"resourceType": "CodeSystem", "url": "urn:x", "concept": concept}
    refused(api.post("CodeSystem/$validate-code", given("codeSystem", hostile, code={"valueCode": "a"})))


@pytest.mark.parametrize("group", [5, [5], [{"element": [5]}], [{"element": [{"code": "a", "target": [5]}]}]])
def test_a_concept_map_that_is_none_is_refused(api: Api, group: Any) -> None:
    hostile = {"resourceType": "ConceptMap", "url": "urn:x", "group": group}
    refused(api.post("ConceptMap/$translate", given("conceptMap", hostile, code={"valueCode": "a"})))


def test_codings_and_words_are_bounded(api: Api) -> None:
    api.create(system(SYSTEM, 10))
    many = {"coding": [{"system": SYSTEM, "code": "x"}] * 1_000}
    asked = {"resourceType": "Parameters", "parameter": [{"name": "codeableConcept", "valueCodeableConcept": many}]}
    refused(api.post(f"CodeSystem/$validate-code?url={SYSTEM}", asked))
    asked["parameter"][0]["valueCodeableConcept"] = {"coding": 5}  # type: ignore[index]  # a list of dictionaries
    refused(api.post(f"CodeSystem/$validate-code?url={SYSTEM}", asked))
    words = " ".join(f"w{number}" for number in range(500))
    refused(api.get(f"ValueSet/$expand?url=http://hl7.org/fhir/ValueSet/languages&filter={words}"))


def test_concepts_nested_deeply_are_read_or_refused(api: Api) -> None:
    concept: dict[str, Any] = {"code": "c0"}
    for number in range(1, 150):
        concept = {"code": f"c{number}", "concept": [concept]}
    hostile = {"resourceType": "CodeSystem", "url": "urn:deep", "content": "complete", "concept": [concept]}
    answer = api.post("CodeSystem/$validate-code", given("codeSystem", hostile, code={"valueCode": "c0"}))
    assert answer.status == 200, answer.data
    text = b'{"code":"a","concept":[' * 100_000 + b"]}" * 100_000
    body = b'{"resourceType":"Parameters","parameter":[{"name":"codeSystem","resource":' + text + b"}]}"
    refused(api.post("CodeSystem/$validate-code", body))


@pytest.mark.parametrize(
    "criteria",
    [
        ["code:in=urn:attack:small"] * 21,
        ["code:in=" + ",".join(f"urn:attack:{number}" for number in range(21))],
        ["subject:Patient.general-practitioner:below=1", *["code:below=urn:x|a"] * 20],
        [f"code:below=urn:x|{number}" for number in range(21)],
    ],
)
def test_a_search_looks_up_a_number_of_value_sets(api: Api, criteria: list[str]) -> None:
    answer = api.get("Observation?" + "&".join(criteria))
    refused(answer)
    assert answer.issue["code"] == "too-costly"


def test_a_value_set_asked_of_many_types_is_one(api: Api) -> None:
    api.create(value_set("urn:attack:small", include=[{"system": "urn:x", "concept": [{"code": "a"}]}]))
    assert api.get("Observation?focus:Observation.code:in=urn:attack:small").status == 200


def test_the_translations_of_a_map_are_bounded(api: Api) -> None:
    hostile = {
        "resourceType": "ConceptMap",
        "group": [{"element": [{"code": "c", "target": [{"code": "x"}] * 20_000}]}],
    }
    many = {"coding": [{"code": "c", "display": str(number)} for number in range(50)]}
    answer = api.post(
        "ConceptMap/$translate", given("conceptMap", hostile, codeableConcept={"valueCodeableConcept": many})
    )
    refused(answer)
    assert answer.issue["code"] == "too-costly"


def test_a_url_with_a_comma_is_one(api: Api) -> None:
    api.create(value_set("urn:attack:one", include=[{"system": "urn:x", "concept": [{"code": "a"}]}]))
    api.create(value_set("urn:attack:one,two", include=[{"system": "urn:x", "concept": [{"code": "b"}]}]))
    assert api.get("ValueSet/$expand?url=urn:attack:none,urn:attack:one").status == 404
    found = api.get("ValueSet/$expand?url=urn:attack:one,two").json["expansion"]["contains"]
    assert [each["code"] for each in found] == ["b"]
