"""patch: JSON Patch (RFC 6902) and FHIRPath Patch. FHIR R4: http#patch, fhirpatch."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.client import Api
from tests.api.samples import patient

JSON_PATCH = "application/json-patch+json"


def fhirpath(type: str, path: str, **parts: Any) -> dict[str, Any]:
    """A FHIRPath Patch of one operation; parts are value[x] dicts."""
    made = [{"name": "type", "valueCode": type}, {"name": "path", "valueString": path}]
    made += [{"name": name, **value} for name, value in parts.items()]
    return {"resourceType": "Parameters", "parameter": [{"name": "operation", "part": made}]}


def test_a_json_patch_makes_the_next_version(api: Api) -> None:
    made = api.create(patient(gender="female"))
    steps = [
        {"op": "test", "path": "/gender", "value": "female"},
        {"op": "replace", "path": "/gender", "value": "male"},
    ]
    answer = api.patch(f"Patient/{made['id']}", steps, Content_Type=JSON_PATCH)
    assert (answer.status, answer.headers["ETag"], answer.json["gender"]) == (200, 'W/"2"', "male")
    assert api.found("Patient?gender=male") == [made["id"]]


def test_a_fhirpath_patch_makes_the_next_version(api: Api) -> None:
    made = api.create(patient())
    change = fhirpath("add", "Patient", name={"valueString": "birthDate"}, value={"valueDate": "1980-01-02"})
    answer = api.patch(f"Patient/{made['id']}", change)
    assert (answer.status, answer.json["birthDate"], answer.json["meta"]["versionId"]) == (200, "1980-01-02", "2")


def test_a_patch_in_history_says_so(api: Api) -> None:
    made = api.create(patient())
    api.patch(f"Patient/{made['id']}", fhirpath("delete", "Patient.birthDate"))
    history = api.get(f"Patient/{made['id']}/_history").json["entry"]
    assert history[0]["request"] == {"method": "PATCH", "url": f"Patient/{made['id']}"}


def test_if_match_protects_a_patch(api: Api) -> None:
    made = api.create(patient())
    change = [{"op": "add", "path": "/active", "value": True}]
    wrong = api.patch(f"Patient/{made['id']}", change, Content_Type=JSON_PATCH, If_Match='W/"2"')
    right = api.patch(f"Patient/{made['id']}", change, Content_Type=JSON_PATCH, If_Match='W/"1"')
    assert (wrong.status, right.status) == (412, 200)


def test_the_result_of_a_patch_is_validated(api: Api) -> None:
    made = api.create(patient())
    answer = api.patch(
        f"Patient/{made['id']}", [{"op": "add", "path": "/gender", "value": "x"}], Content_Type=JSON_PATCH
    )
    assert (answer.status, answer.issue["code"]) == (400, "code-invalid")
    assert api.get(f"Patient/{made['id']}").json == made


@pytest.mark.parametrize("path", ["/id", "/resourceType"])
def test_identity_cannot_be_patched(api: Api, path: str) -> None:
    made = api.create(patient())
    answer = api.patch(
        f"Patient/{made['id']}", [{"op": "replace", "path": path, "value": "x"}], Content_Type=JSON_PATCH
    )
    assert answer.status == 422


@pytest.mark.parametrize(
    ("steps", "status"),
    [
        ([{"op": "test", "path": "/gender", "value": "male"}], 422),
        ([{"op": "remove", "path": "/nothing"}], 422),
        ([{"op": "replace", "path": "/name/7/family", "value": "x"}], 422),
        ([{"op": "explode", "path": "/name"}], 422),
        ([{"op": "add", "path": "name", "value": 1}], 422),
        ([{"op": "add"}], 422),
        (["text"], 400),
        ([None], 400),
        ("text", 400),
        ({"op": "add"}, 400),
        (None, 400),
    ],
)
def test_a_json_patch_that_is_malformed_or_does_not_apply_is_refused(api: Api, steps: Any, status: int) -> None:
    made = api.create(patient())
    answer = api.patch(f"Patient/{made['id']}", steps if steps is not None else b"null", Content_Type=JSON_PATCH)
    assert answer.status in (status, 400, 422)
    assert answer.json["resourceType"] == "OperationOutcome"
    assert api.get(f"Patient/{made['id']}").json == made


def test_a_patch_that_would_fill_the_memory_is_stopped(api: Api) -> None:
    made = api.create(
        patient(text={"status": "generated", "div": f'<div xmlns="http://www.w3.org/1999/xhtml">{"x" * 9000}</div>'})
    )
    steps = [{"op": "copy", "from": "", "path": f"/x{n}"} for n in range(40)]
    answer = api.patch(f"Patient/{made['id']}", steps, Content_Type=JSON_PATCH)
    assert answer.status == 413


def test_a_fhirpath_patch_that_does_not_apply_names_the_operation(api: Api) -> None:
    made = api.create(patient())
    answer = api.patch(f"Patient/{made['id']}", fhirpath("replace", "Patient.gender", value={"valueCode": "male"}))
    assert (answer.status, answer.issue["expression"]) == (422, ["Parameters.parameter[0]"])


def test_only_what_exists_is_patched(api: Api) -> None:
    made = api.create(patient())
    api.delete(f"Patient/{made['id']}")
    change = fhirpath("delete", "Patient.birthDate")
    assert api.patch(f"Patient/{made['id']}", change).status == 410
    assert api.patch("Patient/nobody", change).status == 404


def test_a_merge_patch_sets_and_removes(api: Api) -> None:
    made = api.create(patient(gender="female"))
    change = {"active": True, "gender": None}
    answer = api.patch(f"Patient/{made['id']}", change, Content_Type="application/merge-patch+json")
    assert answer.status == 200, answer.data
    assert answer.json["active"] is True
    assert "gender" not in answer.json


def test_another_media_type_is_not_taken(api: Api) -> None:
    made = api.create(patient())
    assert api.patch(f"Patient/{made['id']}", b"<patch/>", Content_Type="application/xml").status == 415


def test_many_copies_of_something_large_are_refused_before_they_are_made(api: Api) -> None:
    long = {"status": "generated", "div": f"<div xmlns='http://www.w3.org/1999/xhtml'>{'x' * 1_000_000}</div>"}
    made = api.create(patient(text=long))
    steps = [{"op": "copy", "from": "/text", "path": f"/x{n}"} for n in range(1_000)]
    answer = api.patch(f"Patient/{made['id']}", steps, Content_Type=JSON_PATCH)
    assert (answer.status, answer.issue["code"]) == (413, "too-long")
    assert api.get(f"Patient/{made['id']}").headers["ETag"] == 'W/"1"'


def test_copies_into_what_is_copied_are_refused(api: Api) -> None:
    made = api.create(patient())
    steps = [{"op": "copy", "from": "/name/0", "path": "/name/0" + "/x" * (2**n)} for n in range(12)]
    answer = api.patch(f"Patient/{made['id']}", steps, Content_Type=JSON_PATCH)
    assert 400 <= answer.status < 500, answer.data


def test_a_copy_of_nothing_is_refused_as_what_does_not_apply(api: Api) -> None:
    made = api.create(patient())
    for step in ({"op": "copy", "from": "/nothing", "path": "/x"}, {"op": "copy", "path": "/x"}):
        assert 400 <= api.patch(f"Patient/{made['id']}", [step], Content_Type=JSON_PATCH).status < 500
