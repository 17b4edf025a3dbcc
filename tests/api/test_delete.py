"""delete. FHIR R4: http#delete."""

from __future__ import annotations

from tests.api.client import Api
from tests.api.samples import patient


def test_a_deleted_resource_is_gone_from_reads_and_searches(api: Api) -> None:
    made = api.create(patient())
    answer = api.delete(f"Patient/{made['id']}")
    assert (answer.status, answer.issue["severity"]) == (200, "information")
    assert answer.headers["ETag"] == 'W/"2"'
    assert api.get(f"Patient/{made['id']}").status == 410
    assert api.found("Patient") == []


def test_return_minimal_is_204_without_a_body(api: Api) -> None:
    made = api.create(patient())
    answer = api.delete(f"Patient/{made['id']}", Prefer="return=minimal")
    assert (answer.status, answer.data) == (204, b"")


def test_deleting_again_or_what_never_was_succeeds_and_makes_no_version(api: Api) -> None:
    made = api.create(patient())
    api.delete(f"Patient/{made['id']}")
    assert api.delete(f"Patient/{made['id']}").status == 200
    assert len(api.get(f"Patient/{made['id']}/_history").json["entry"]) == 2
    assert api.delete("Patient/nobody").status == 200
    assert api.get("Patient/nobody").status == 404


def test_if_match_protects_a_delete(api: Api) -> None:
    made = api.create(patient())
    assert api.delete(f"Patient/{made['id']}", If_Match='W/"2"').status == 412
    assert api.delete(f"Patient/{made['id']}", If_Match='W/"1"').status == 200
