"""vread: one version of a resource. FHIR R4: http#vread."""

from __future__ import annotations

import pytest

from tests.api.client import Api
from tests.api.samples import patient


def test_every_version_can_be_read(api: Api) -> None:
    made = api.create(patient(gender="female"))
    api.store({**made, "gender": "male"})
    first, second = (api.get(f"Patient/{made['id']}/_history/{number}") for number in (1, 2))
    assert (first.json["gender"], first.headers["ETag"]) == ("female", 'W/"1"')
    assert (second.json["gender"], second.headers["ETag"]) == ("male", 'W/"2"')


def test_versions_can_be_read_after_the_deletion_which_itself_is_410(api: Api) -> None:
    made = api.create(patient())
    api.delete(f"Patient/{made['id']}")
    assert api.get(f"Patient/{made['id']}/_history/1").json == made
    answer = api.get(f"Patient/{made['id']}/_history/2")
    assert (answer.status, answer.issue["code"]) == (410, "deleted")


@pytest.mark.parametrize("version", ["2", "0", "-1", "01x", "99999999999999999999", "abc"])
def test_a_version_that_does_not_exist_is_404(api: Api, version: str) -> None:
    made = api.create(patient())
    assert api.get(f"Patient/{made['id']}/_history/{version}").status == 404


def test_a_version_is_not_written_to(api: Api) -> None:
    made = api.create(patient())
    answer = api.put(f"Patient/{made['id']}/_history/1", made)
    assert answer.status == 405
    assert "GET" in answer.headers["Allow"]
