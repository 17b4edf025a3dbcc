"""Operations: $validate, $meta, $meta-add, $meta-delete, $everything. FHIR R4: operations, resource-operations."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.client import Answer, Api
from tests.api.samples import encounter, observation, parameters, patient


def faults(answer: Answer) -> list[str]:
    """The expressions of the errors (a code where there is none), sorted; warnings are left out."""
    assert answer.status == 200, answer.data
    errors = [issue for issue in answer.json["issue"] if issue["severity"] == "error"]
    return sorted(issue.get("expression", [issue["code"]])[0] for issue in errors)


# $validate


def test_a_valid_resource_has_no_faults_and_is_not_stored(api: Api) -> None:
    for body in (patient(), parameters(resource=patient())):
        assert faults(api.post("Patient/$validate", body)) == []
    assert api.found("Patient") == []


def test_every_fault_is_told_with_its_place(api: Api) -> None:
    answer = api.post("Patient/$validate", patient(gender="x", birthDate="y"))
    assert faults(answer) == ["Patient.birthDate", "Patient.gender"]


def test_the_type_of_the_resource_must_be_that_of_the_url(api: Api) -> None:
    assert faults(api.post("Patient/$validate", observation())) == ["resourceType"]


def test_what_is_stored_can_be_validated(api: Api) -> None:
    api.store(patient(id="p"))
    assert faults(api.get("Patient/p/$validate")) == []
    deletion = api.post("Patient/p/$validate", parameters(mode={"valueCode": "delete"}))
    assert deletion.issue["severity"] == "information"
    assert api.get("Patient/p").status == 200
    assert api.get("Patient/nobody/$validate").status == 404


@pytest.mark.parametrize(
    ("path", "mode", "body", "expected"),
    [
        ("Patient/$validate", "create", patient(), []),
        ("Patient/p/$validate", "update", patient(id="p"), []),
        ("Patient/p/$validate", "update", patient(id="q"), ["Patient.id"]),
        ("Patient/p/$validate", "profile", patient(id="p"), []),
    ],
)
def test_modes(api: Api, path: str, mode: str, body: dict[str, Any], expected: list[str]) -> None:
    api.store(patient(id="p"))
    assert faults(api.post(path, parameters(resource=body, mode={"valueCode": mode}))) == expected
    assert faults(api.post(f"{path}?mode={mode}", body)) == expected


def test_a_profile_that_is_not_known_is_said(api: Api) -> None:
    answer = api.post("Patient/$validate?profile=http://nowhere/profile", patient())
    assert answer.issue["code"] == "not-found"


def test_a_claimed_profile_that_is_not_known_is_a_warning(api: Api) -> None:
    claims = patient(meta={"profile": ["http://nowhere.example/profile"]})
    said = "The profile http://nowhere.example/profile is not known here: nothing was held against it."
    answers = [
        api.post("Patient/$validate", claims),
        api.post("Patient", claims, Prefer="return=OperationOutcome"),
    ]
    for answer in answers:
        issues = [issue for issue in answer.json["issue"] if issue["diagnostics"] == said]
        assert [(issue["severity"], issue["code"]) for issue in issues] == [("warning", "not-found")]
    assert [answer.status for answer in answers] == [200, 201]


def test_a_profile_is_held_against_the_resource(api: Api) -> None:
    vital = {"profile": {"valueUri": "http://hl7.org/fhir/StructureDefinition/bodyweight"}}
    answer = api.post("Observation/$validate", parameters(resource=observation("Patient/1"), **vital))
    assert faults(answer)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("Patient/$validate", None),
        ("Patient/$validate", parameters()),
        ("Patient/$validate", parameters(surprise="x")),
        ("Patient/$validate", parameters(resource=patient(), mode="destroy")),
        ("Patient/$validate", parameters(resource=patient(), mode="update")),
        ("Patient/p/$validate", parameters(resource=patient(), mode="create")),
        ("Patient/$validate", parameters(resource="text")),
        ("Patient/$validate", []),
    ],
)
def test_a_call_that_is_itself_wrong_is_refused(api: Api, path: str, body: Any) -> None:
    api.store(patient(id="p"))
    answer = api.post(path, body)
    assert answer.status == 400, answer.data


# $meta


TAG = {"system": "urn:t", "code": "a"}


def returned(answer: Answer) -> dict[str, Any]:
    """The Meta that an operation returned."""
    assert answer.status == 200, answer.data
    found: dict[str, Any] = answer.json.get("parameter", [{"valueMeta": {}}])[0]["valueMeta"]
    return found


def given(**meta: Any) -> dict[str, Any]:
    return parameters(meta={"valueMeta": meta})


def test_meta_of_a_resource(api: Api) -> None:
    made = api.store(patient(id="p", meta={"tag": [TAG]}))
    assert returned(api.get("Patient/p/$meta")) == made["meta"]


def test_meta_of_a_type_and_of_the_base_is_what_is_in_use(api: Api) -> None:
    api.store(patient(id="p", meta={"tag": [TAG], "security": [{"code": "R"}]}))
    api.store(observation(id="o", meta={"tag": [TAG, {"code": "b"}], "source": "urn:s"}))
    assert returned(api.get("Patient/$meta")) == {"tag": [TAG], "security": [{"code": "R"}]}
    everywhere = returned(api.get("$meta"))
    assert sorted(each["code"] for each in everywhere["tag"]) == ["a", "b"]
    assert returned(api.get("Encounter/$meta")) == {}


def test_meta_add_and_delete_make_versions_that_searches_see(api: Api) -> None:
    api.store(patient(id="p"))
    added = api.post("Patient/p/$meta-add", given(tag=[TAG], profile=["http://example.org/p"]))
    assert (returned(added)["tag"], added.headers["ETag"]) == ([TAG], 'W/"2"')
    assert api.found("Patient?_tag=urn:t|a") == ["p"]
    removed = api.post("Patient/p/$meta-delete", given(tag=[{**TAG, "display": "whatever"}]))
    assert returned(removed)["versionId"] == "3"
    assert "tag" not in returned(removed)
    assert returned(removed)["profile"] == ["http://example.org/p"]
    assert api.found("Patient?_tag=urn:t|a") == []


def test_adding_what_is_there_or_deleting_what_is_not_makes_no_version(api: Api) -> None:
    api.store(patient(id="p", meta={"tag": [TAG]}))
    assert returned(api.post("Patient/p/$meta-add", given(tag=[TAG])))["versionId"] == "1"
    assert returned(api.post("Patient/p/$meta-delete", given(tag=[{"code": "none"}])))["versionId"] == "1"


@pytest.mark.parametrize(
    "body", [None, parameters(), given(), given(source="urn:x"), given(tag="x"), given(tag=["x"]), parameters(meta="x")]
)
def test_a_meta_that_is_none_is_refused(api: Api, body: Any) -> None:
    api.store(patient(id="p"))
    answer = api.post("Patient/p/$meta-add", body)
    assert answer.status == 400
    assert api.get("Patient/p").headers["ETag"] == 'W/"1"'


def test_an_operation_that_writes_is_not_called_by_get(api: Api) -> None:
    api.store(patient(id="p"))
    answer = api.get("Patient/p/$meta-add")
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")


@pytest.mark.parametrize(
    "path",
    [
        "$nothing",
        "Patient/$nothing",
        "Patient/p/$nothing",
        "Patient/$meta-add",
        "$validate",
        "Observation/o/$everything",
        "$everything",
    ],
)
def test_an_operation_that_is_not_there_is_404(api: Api, path: str) -> None:
    assert api.post(path).status == 404


# $everything


@pytest.fixture
def ward(api: Api) -> Api:
    api.store({"resourceType": "Organization", "id": "org", "name": "Ward"})
    api.store({"resourceType": "Practitioner", "id": "doc", "name": [{"family": "Doc"}]})
    api.store(
        {
            "resourceType": "PractitionerRole",
            "id": "role",
            "practitioner": {"reference": "Practitioner/doc"},
            "organization": {"reference": "Organization/org"},
        }
    )
    api.store(patient(id="ida", generalPractitioner=[{"reference": "PractitionerRole/role"}]))
    api.store(patient(id="bob"))
    for id in ("ida", "bob"):
        api.store(encounter(f"Patient/{id}", id=f"e-{id}", period={"start": "2020-05-01", "end": "2020-05-02"}))
        for year in (2019, 2020, 2021):
            more = {"effectiveDateTime": f"{year}-01-01", "encounter": {"reference": f"Encounter/e-{id}"}}
            api.store(observation(f"Patient/{id}", id=f"o-{id}-{year}", **more))
    api.store(observation("Patient/ida", id="undated"))
    return api


def test_everything_of_a_patient_is_the_compartment_with_what_it_refers_to(ward: Api) -> None:
    answer = ward.get("Patient/ida/$everything")
    assert answer.json["type"] == "searchset"
    assert sorted(answer.ids) == ["e-ida", "ida", "o-ida-2019", "o-ida-2020", "o-ida-2021", "undated"]
    assert answer.included == ["Organization/org", "Practitioner/doc", "PractitionerRole/role"]


def test_everything_of_an_encounter_has_its_patient(ward: Api) -> None:
    answer = ward.get("Encounter/e-ida/$everything")
    assert sorted(answer.ids) == ["e-ida", "o-ida-2019", "o-ida-2020", "o-ida-2021"]
    assert answer.included == ["Patient/ida", "PractitionerRole/role"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("start=2020", ["e-ida", "ida", "o-ida-2020", "o-ida-2021", "undated"]),
        ("end=2020", ["e-ida", "ida", "o-ida-2019", "o-ida-2020", "undated"]),
        ("start=2020&end=2020", ["e-ida", "ida", "o-ida-2020", "undated"]),
        ("_type=Encounter", ["e-ida"]),
        ("_type=Encounter,Patient", ["e-ida", "ida"]),
        ("_since=2020", ["e-ida", "ida", "o-ida-2019", "o-ida-2020", "o-ida-2021", "undated"]),
        ("_since=2100", []),
        ("_type=Practitioner", []),
    ],
)
def test_everything_can_be_narrowed(ward: Api, query: str, expected: list[str]) -> None:
    assert sorted(ward.get(f"Patient/ida/$everything?{query}").ids) == expected


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_everything_comes_in_pages(ward: Api, count: int) -> None:
    pages = ward.pages(f"Patient/ida/$everything?_count={count}")
    assert all(len(page) <= count for page in pages)
    assert sorted(id for page in pages for id in page) == [
        "e-ida",
        "ida",
        "o-ida-2019",
        "o-ida-2020",
        "o-ida-2021",
        "undated",
    ]


def test_everything_by_post(ward: Api) -> None:
    answer = ward.post("Patient/ida/$everything", parameters(start={"valueDate": "2021"}, _count={"valueInteger": 100}))
    assert sorted(answer.ids) == ["ida", "o-ida-2021", "undated"]


@pytest.mark.parametrize(
    "query",
    ["start=x", "_count=0", "_count=x", "_type=Nothing", "_since=x", "_cursor=x", "surprise=1", "start=1&start=2"],
)
def test_everything_refuses_what_it_cannot_read(ward: Api, query: str) -> None:
    assert ward.get(f"Patient/ida/$everything?{query}").status == 400


def test_everything_of_nobody_is_404_and_of_a_deleted_patient_410(ward: Api) -> None:
    assert ward.get("Patient/nobody/$everything").status == 404
    ward.delete("Patient/bob")
    assert ward.get("Patient/bob/$everything").status == 410
