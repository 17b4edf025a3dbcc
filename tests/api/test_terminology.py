"""Terminology operations over what is stored and what R4 lists. FHIR R4: valueset-operations, codesystem-operations,
conceptmap-operations.
"""

from __future__ import annotations

from typing import Any

import pytest

from fhirserver import app
from fhirserver.fhir.validation import validate
from tests.api.client import Answer, Api

SYSTEM = "urn:test:wards"
GENDER = "http://hl7.org/fhir/administrative-gender"
WARDS = {
    "resourceType": "CodeSystem",
    "id": "wards",
    "url": SYSTEM,
    "version": "3",
    "name": "Wards",
    "status": "active",
    "content": "complete",
    "concept": [
        {"code": "med", "display": "Medicine", "definition": "All of medicine", "concept": [
            {"code": "card", "display": "Cardiology", "designation": [{"language": "de", "value": "Kardiologie"}]},
            {"code": "old", "display": "Old ward", "property": [{"code": "inactive", "valueBoolean": True}]},
        ]},
        {"code": "surg", "display": "Surgery", "property": [{"code": "floor", "valueString": "2"}]},
    ],
}  # fmt: skip


def value_set(id: str, **compose: Any) -> dict[str, Any]:
    return {"resourceType": "ValueSet", "id": id, "url": f"urn:test:{id}", "status": "active", "compose": compose}


def below(code: str) -> dict[str, Any]:
    return {"system": SYSTEM, "filter": [{"property": "concept", "op": "is-a", "value": code}]}


@pytest.fixture
def wards(api: Api) -> Api:
    api.store(WARDS)
    api.store(value_set("medical", include=[below("med")]))
    api.store(value_set("listed", include=[{"system": SYSTEM, "concept": [{"code": "surg"}, {"code": "card"}]}]))
    return api


def codes(answer: Answer) -> list[str]:
    assert answer.status == 200, answer.data
    return [each["code"] for each in answer.json["expansion"].get("contains", [])]


def said(answer: Answer) -> dict[str, Any]:
    assert answer.status == 200, answer.data
    return {
        each["name"]: next(value for name, value in each.items() if name.startswith(("value", "part")))
        for each in answer.json["parameter"]
    }


def faults(installation: app.Installation, answer: Answer) -> list[str]:
    issues = validate(installation.server.definitions, answer.json)
    return [each.diagnostics for each in issues if each.severity in ("error", "fatal")]


@pytest.mark.parametrize(
    ("compose", "expected"),
    [
        ({"include": [{"system": SYSTEM}]}, ["med", "card", "old", "surg"]),
        ({"include": [below("med")]}, ["med", "card", "old"]),
        ({"include": [below("med")], "exclude": [{"system": SYSTEM, "concept": [{"code": "old"}]}]}, ["med", "card"]),
        ({"include": [{"system": SYSTEM, "valueSet": ["urn:test:medical"]}]}, ["med", "card", "old"]),
        ({"include": [{"valueSet": ["urn:test:medical", "urn:test:listed"]}]}, ["card"]),
        ({"include": [{"system": SYSTEM, "filter": [{"property": "floor", "op": "=", "value": "2"}]}]}, ["surg"]),
        ({"include": [{"system": SYSTEM, "filter": [{"property": "concept", "op": "generalizes", "value": "card"}]}]},
         ["med", "card"]),
        ({"include": [{"system": SYSTEM, "filter": [{"property": "concept", "op": "not-in", "value": "card,old"}]}]},
         ["med", "surg"]),
    ],
)  # fmt: skip
def test_expand_gives_what_the_compose_says(wards: Api, compose: dict[str, Any], expected: list[str]) -> None:
    body = {"resourceType": "Parameters", "parameter": [{"name": "valueSet", "resource": value_set("it", **compose)}]}
    assert codes(wards.post("ValueSet/$expand", body)) == expected


def test_expand_by_url_or_id_filters_and_pages(wards: Api, installation: app.Installation) -> None:
    assert codes(wards.get("ValueSet/medical/$expand")) == ["med", "card", "old"]
    assert codes(wards.get("ValueSet/$expand?url=urn:test:medical&activeOnly=true")) == ["med", "card"]
    assert codes(wards.get("ValueSet/$expand?url=urn:test:medical&filter=CARDIO")) == ["card"]
    answer = wards.get("ValueSet/$expand?url=urn:test:medical&offset=1&count=1")
    assert codes(answer) == ["card"]
    expansion = answer.json["expansion"]
    assert (expansion["total"], expansion["offset"]) == (3, 1)
    assert expansion["contains"][0] == {"system": SYSTEM, "version": "3", "code": "card", "display": "Cardiology"}
    assert faults(installation, answer) == []


def test_expand_knows_the_value_sets_of_r4(api: Api) -> None:
    url = "http://hl7.org/fhir/ValueSet/administrative-gender"
    assert codes(api.get(f"ValueSet/$expand?url={url}")) == ["female", "male", "other", "unknown"]


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("ValueSet/$expand?url=urn:none", 404, "urn:none is not known"),
        ("ValueSet/$expand", 400, "Name the value set"),
        ("ValueSet/regex/$expand", 422, "regex"),
        ("ValueSet/circle/$expand", 422, "without end"),
        ("ValueSet/elsewhere/$expand", 404, "urn:other"),
        ("CodeSystem/$lookup?system=urn:none&code=x", 404, "urn:none is not known"),
        ("CodeSystem/$lookup?system=urn:test:wards&code=x", 404, "has no code x"),
        ("CodeSystem/$lookup?system=urn:test:wards", 400, "Say which code"),
        ("ConceptMap/$translate?url=urn:none&code=x", 404, "urn:none is not known"),
        ("ConceptMap/$translate?code=x", 400, "Name the map"),
        ("ValueSet/$validate-code?url=urn:test:listed", 400, "Say which code"),
    ],
)
def test_what_is_not_known_is_said(wards: Api, path: str, status: int, text: str) -> None:
    regex = {"system": SYSTEM, "filter": [{"property": "concept", "op": "regex", "value": "(a+)+$"}]}
    wards.store(value_set("regex", include=[regex]))
    wards.store(value_set("circle", include=[{"valueSet": ["urn:test:circle"]}]))
    wards.store(value_set("elsewhere", include=[{"system": "urn:other"}]))
    answer = wards.get(path)
    assert answer.status == status, answer.data
    assert text in answer.issue["diagnostics"]


@pytest.mark.parametrize(
    ("query", "result"),
    [
        ("code=card&system=urn:test:wards", True),
        ("code=card", True),
        ("code=card&system=urn:other", False),
        ("code=surg&system=urn:test:wards", False),
        ("coding=urn:test:wards|card", True),
        ("code=card&system=urn:test:wards&display=cardiology", True),
        ("code=card&system=urn:test:wards&display=Oncology", False),
    ],
)
def test_validate_code_says_whether_a_value_set_has_it(wards: Api, query: str, result: bool) -> None:
    found = said(wards.get(f"ValueSet/$validate-code?url=urn:test:medical&{query}"))
    assert found["result"] is result
    assert result or found["message"]


def test_validate_code_takes_one_of_a_codeable_concept(wards: Api) -> None:
    concept = {"coding": [{"system": "urn:other", "code": "x"}, {"system": SYSTEM, "code": "old"}]}
    body = {"resourceType": "Parameters", "parameter": [{"name": "codeableConcept", "valueCodeableConcept": concept}]}
    assert said(wards.post("ValueSet/medical/$validate-code", body))["code"] == "old"


def test_validate_code_knows_code_systems(wards: Api) -> None:
    assert said(wards.get(f"CodeSystem/$validate-code?url={SYSTEM}&code=card"))["display"] == "Cardiology"
    assert said(wards.get("CodeSystem/wards/$validate-code?code=nothing"))["result"] is False
    assert said(wards.get(f"CodeSystem/$validate-code?url={GENDER}&code=female"))["result"] is True
    assert said(wards.get(f"CodeSystem/$validate-code?url={GENDER}&code=blue"))["result"] is False
    assert wards.get("CodeSystem/$validate-code?url=urn:none&code=a").status == 404


def test_lookup_tells_all_of_a_code(wards: Api, installation: app.Installation) -> None:
    answer = wards.get(f"CodeSystem/$lookup?system={SYSTEM}&code=card")
    found = said(answer)
    assert (found["name"], found["version"], found["display"]) == ("Wards", "3", "Cardiology")
    assert {"name": "value", "valueString": "Kardiologie"} in found["designation"]
    assert found["property"] == [{"name": "code", "valueCode": "parent"}, {"name": "value", "valueCode": "med"}]
    assert faults(installation, answer) == []
    assert said(wards.get(f"CodeSystem/$lookup?system={GENDER}&code=female"))["display"] == "female"


@pytest.mark.parametrize(
    ("a", "b", "outcome"),
    [
        ("med", "card", "subsumes"),
        ("card", "med", "subsumed-by"),
        ("card", "card", "equivalent"),
        ("card", "surg", "not-subsumed"),
    ],
)
def test_subsumes_compares_two_codes(wards: Api, a: str, b: str, outcome: str) -> None:
    assert said(wards.get(f"CodeSystem/$subsumes?system={SYSTEM}&codeA={a}&codeB={b}"))["outcome"] == outcome


def test_translate_follows_a_map_both_ways(wards: Api) -> None:
    target = [{"code": "394579002", "equivalence": "narrower", "comment": "only the ward"}]
    group = {"source": SYSTEM, "target": "http://snomed.info/sct", "element": [{"code": "card", "target": target}]}
    fixed = {**group, "target": "urn:short", "unmapped": {"mode": "fixed", "code": "oth"}}
    wards.store({"resourceType": "ConceptMap", "id": "m", "url": "urn:test:m", "status": "active", "group": [group]})
    wards.store({"resourceType": "ConceptMap", "id": "f", "url": "urn:test:f", "status": "active", "group": [fixed]})

    def matched(query: str) -> tuple[bool, list[tuple[str, str]]]:
        listed = wards.get(f"ConceptMap/{query}").json["parameter"]
        parts = [{p["name"]: p for p in each["part"]} for each in listed if each["name"] == "match"]
        found = [(part["equivalence"]["valueCode"], part["concept"]["valueCoding"]["code"]) for part in parts]
        return listed[0]["valueBoolean"], found

    assert matched(f"$translate?url=urn:test:m&system={SYSTEM}&code=card") == (True, [("narrower", "394579002")])
    assert matched("m/$translate?code=card&targetsystem=urn:else") == (False, [])
    assert matched("m/$translate?code=394579002&reverse=true") == (True, [("wider", "card")])
    assert matched("$translate?url=urn:test:f&code=zzz") == (True, [("inexact", "oth")])


def test_a_search_in_a_value_set_takes_what_all_parts_of_an_include_hold(wards: Api) -> None:
    for code in ("med", "card", "surg"):
        wards.store({"resourceType": "Basic", "id": code, "code": {"coding": [{"system": SYSTEM, "code": code}]}})
    wards.store(value_set("both", include=[{"valueSet": ["urn:test:medical", "urn:test:listed"]}]))
    assert wards.get("Basic?code:in=urn:test:both").ids == ["card"]
    assert wards.get("Basic?code:not-in=urn:test:both&_sort=_id").ids == ["med", "surg"]
    assert wards.get(f"Basic?code:below={SYSTEM}|med&_sort=_id").ids == ["card", "med"]


def test_a_search_in_a_value_set_of_r4_needs_no_stored_one(api: Api) -> None:
    api.store({"resourceType": "Patient", "id": "f", "gender": "female"})
    assert api.get("Patient?gender:in=http://hl7.org/fhir/ValueSet/administrative-gender").ids == ["f"]
