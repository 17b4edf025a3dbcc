"""create, and conditional create (If-None-Exist). FHIR R4: http#create, http#ccreate."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pytest

from tests.api.client import Api
from tests.api.samples import observation, patient


def test_create_answers_201_with_location_version_and_the_resource(api: Api) -> None:
    answer = api.post("Patient", patient())
    made = answer.json
    assert answer.status == 201
    assert answer.headers["Location"] == f"http://api.test{api.base}/Patient/{made['id']}/_history/1"
    assert answer.headers["ETag"] == 'W/"1"'
    assert "Last-Modified" in answer.headers
    assert made["meta"]["versionId"] == "1"
    assert api.get(f"Patient/{made['id']}").json == made


def test_create_ignores_the_id_and_version_in_the_body(api: Api) -> None:
    made = api.create(patient(id="mine", meta={"versionId": "7", "lastUpdated": "2000-01-01T00:00:00Z"}))
    assert made["id"] != "mine"
    assert made["meta"]["versionId"] == "1"
    assert made["meta"]["lastUpdated"] > "2020"


def test_create_keeps_tags_extensions_decimals_and_the_order_of_properties(api: Api) -> None:
    sent = observation(
        valueQuantity={"value": Decimal("1.00"), "unit": "mg"},
        extension=[{"url": "http://example.org/unknown", "valueString": "kept"}],
        meta={"tag": [{"system": "urn:t", "code": "a"}]},
    )
    made = api.create(sent)
    text = api.get(f"Observation/{made['id']}").data
    assert b'"value":1.00,' in text
    assert made["extension"] == sent["extension"]
    assert made["meta"]["tag"] == sent["meta"]["tag"]
    assert [name for name in made if name in sent] == [
        "resourceType",
        "meta",
        "status",
        "code",
        "valueQuantity",
        "extension",
    ]


@pytest.mark.parametrize(
    ("prefer", "kind"),
    [("return=minimal", ""), ("return=representation", "Patient"), ("return=OperationOutcome", "OperationOutcome")],
)
def test_prefer_decides_what_a_create_answers(api: Api, prefer: str, kind: str) -> None:
    answer = api.post("Patient", patient(), Prefer=prefer)
    assert answer.status == 201
    assert answer.headers["Location"]
    assert (answer.json["resourceType"] if answer.data else "") == kind


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "structure"),
        (b"{", 400, "structure"),
        (b"[]", 400, "structure"),
        (b'"Patient"', 400, "structure"),
        (b"{}", 400, "value"),
        (b'{"resourceType":"Observation"}', 400, "value"),
        (b'{"resourceType":"Patient","gender":"unknowable"}', 400, "code-invalid"),
        (b'{"resourceType":"Patient","birthDate":"1980-02-30"}', 400, "value"),
        (b'{"resourceType":"Patient","nmae":[]}', 400, "structure"),
        (b'{"resourceType":"Patient","name":{}}', 400, "structure"),
        (b'{"resourceType":"Patient","active":"true"}', 400, "value"),
        (b'{"resourceType":"Patient","name":[{"family":"\xff"}]}', 400, "structure"),
    ],
)
def test_what_is_not_a_valid_resource_is_refused(api: Api, body: bytes, status: int, code: str) -> None:
    answer = api.post("Patient", body)
    assert (answer.status, answer.issue["code"]) == (status, code)
    assert answer.issue["diagnostics"]


def test_all_faults_are_told_with_their_places(api: Api) -> None:
    answer = api.post("Patient", patient(gender="x", birthDate="y"))
    assert {issue["expression"][0] for issue in answer.json["issue"]} == {"Patient.gender", "Patient.birthDate"}


def test_a_missing_required_element_is_named(api: Api) -> None:
    answer = api.post("Observation", {"resourceType": "Observation", "status": "final"})
    assert answer.status == 400
    assert answer.issue["expression"] == ["Observation.code"]


def test_a_broken_invariant_is_422(api: Api) -> None:
    answer = api.post("Patient", patient(contact=[{"gender": "male"}]))
    assert answer.status == 422
    assert answer.issue["code"] == "invariant"
    assert "pat-1" in answer.issue["diagnostics"]


def test_a_type_that_does_not_exist_is_404(api: Api) -> None:
    answer = api.post("Nothing", {"resourceType": "Nothing"})
    assert answer.status == 404
    assert "Nothing" in answer.issue["diagnostics"]


def test_a_type_of_the_registry_is_not_kept_by_an_organization(api: Api) -> None:
    answer = api.post("StructureDefinition", {"resourceType": "StructureDefinition"})
    assert answer.status == 404
    assert "registry" in answer.issue["diagnostics"]


# Conditional create


IDENTIFIER = [{"system": "urn:mrn", "value": "77"}]


def test_if_none_exist_creates_when_nothing_matches_and_finds_it_then(api: Api) -> None:
    first = api.post("Patient", patient(identifier=IDENTIFIER), If_None_Exist="identifier=urn:mrn|77")
    second = api.post("Patient", patient(identifier=IDENTIFIER), If_None_Exist="identifier=urn:mrn|77")
    assert (first.status, second.status) == (201, 200)
    assert second.json["id"] == first.json["id"]
    assert second.headers["Location"] == first.headers["Location"]
    assert second.headers["ETag"] == 'W/"1"'


def test_if_none_exist_may_carry_the_type_and_a_question_mark(api: Api) -> None:
    api.create(patient(identifier=IDENTIFIER))
    for criteria in ("?identifier=urn:mrn|77", "Patient?identifier=urn:mrn|77", "identifier=urn%3Amrn%7C77"):
        assert api.post("Patient", patient(), If_None_Exist=criteria).status == 200


def test_if_none_exist_with_several_matches_is_412(api: Api) -> None:
    api.create(patient(identifier=IDENTIFIER))
    api.create(patient(identifier=IDENTIFIER))
    answer = api.post("Patient", patient(), If_None_Exist="identifier=urn:mrn|77")
    assert (answer.status, answer.issue["code"]) == (412, "multiple-matches")


@pytest.mark.parametrize("criteria", ["nonsense=1", "identifier", "", "identifier=", "birthdate=yesterday"])
def test_if_none_exist_with_criteria_that_cannot_be_asked_is_refused(api: Api, criteria: str) -> None:
    answer = api.post("Patient", patient(), If_None_Exist=criteria)
    assert answer.status == 400
    assert api.get("Patient").ids == []


def test_a_deleted_resource_does_not_match_if_none_exist(api: Api) -> None:
    made = api.create(patient(identifier=IDENTIFIER))
    api.delete(f"Patient/{made['id']}")
    assert api.post("Patient", patient(), If_None_Exist="identifier=urn:mrn|77").status == 201


def test_two_hundred_concurrent_conditional_creates_make_exactly_one_resource(api: Api) -> None:
    def create(number: int) -> tuple[int, str]:
        body = patient(identifier=[{"system": "urn:race", "value": "1"}], birthDate=f"19{number % 90 + 10}")
        answer = api.post("Patient", body, If_None_Exist="identifier=urn:race|1")
        return answer.status, answer.json.get("id", "")

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(create, range(200)))
    assert sorted({status for status, _ in answers}) == [200, 201]
    assert [status for status, _ in answers].count(201) == 1
    assert len({id for _, id in answers}) == 1
    assert len(api.get("Patient?identifier=urn:race|1").ids) == 1


@pytest.mark.parametrize("control", ["_contained=true", "_count=1", "_sort=birthdate", "_include=*", "_format=json"])
def test_criteria_that_say_how_to_answer_are_refused_not_ignored(api: Api, control: str) -> None:
    body = patient(identifier=[{"system": "urn:mrn", "value": "7"}])
    answer = api.post("Patient", body, If_None_Exist=f"identifier=urn:mrn|7&{control}")
    assert (answer.status, answer.issue["expression"]) == (400, [f"http.{control.partition('=')[0]}"])
    assert api.found("Patient") == []
