"""read, HEAD, and conditional read. FHIR R4: http#read, http#cread."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.api.client import Api
from tests.api.samples import patient


def test_read_answers_the_current_version_with_its_headers(api: Api) -> None:
    made = api.create(patient())
    api.store({**made, "active": True})
    answer = api.get(f"Patient/{made['id']}")
    assert answer.status == 200
    assert answer.headers["ETag"] == 'W/"2"'
    assert answer.headers["Last-Modified"].endswith(" GMT")
    assert answer.headers["Content-Type"].startswith("application/fhir+json")
    assert answer.json["active"] is True


def test_head_answers_the_headers_of_read_without_a_body(api: Api) -> None:
    made = api.create(patient())
    head, get = api.call("HEAD", f"Patient/{made['id']}"), api.get(f"Patient/{made['id']}")
    assert (head.status, head.data) == (200, b"")
    for name in ("ETag", "Last-Modified", "Content-Type", "Content-Length"):
        assert head.headers[name] == get.headers[name]


def test_what_never_was_is_404(api: Api) -> None:
    answer = api.get("Patient/nobody")
    assert (answer.status, answer.issue["code"]) == (404, "not-found")


def test_what_was_deleted_is_410_with_the_version_of_the_deletion(api: Api) -> None:
    made = api.create(patient())
    api.delete(f"Patient/{made['id']}")
    answer = api.get(f"Patient/{made['id']}")
    assert (answer.status, answer.issue["code"]) == (410, "deleted")
    assert answer.headers["ETag"] == 'W/"2"'


@pytest.mark.parametrize("tag", ['W/"1"', '"1"', "*", 'W/"7", W/"1"'])
def test_if_none_match_with_the_current_version_is_304_without_a_body(api: Api, tag: str) -> None:
    made = api.create(patient())
    answer = api.get(f"Patient/{made['id']}", If_None_Match=tag)
    assert (answer.status, answer.data) == (304, b"")
    assert answer.headers["ETag"] == 'W/"1"'


def test_if_none_match_with_another_version_answers_the_resource(api: Api) -> None:
    made = api.create(patient())
    assert api.get(f"Patient/{made['id']}", If_None_Match='W/"0"').json == made


def test_if_modified_since_answers_304_only_when_nothing_changed(api: Api) -> None:
    made = api.create(patient())
    modified = api.get(f"Patient/{made['id']}").headers["Last-Modified"]
    assert api.get(f"Patient/{made['id']}", If_Modified_Since=modified).status == 304
    assert api.get(f"Patient/{made['id']}", If_Modified_Since="Sat, 01 Jan 2000 00:00:00 GMT").status == 200


def test_a_date_that_cannot_be_read_is_ignored_as_http_wants_it(api: Api) -> None:
    made = api.create(patient())
    assert api.get(f"Patient/{made['id']}", If_Modified_Since="yesterday").status == 200


def test_if_none_match_counts_before_if_modified_since(api: Api) -> None:
    made = api.create(patient())
    modified = api.get(f"Patient/{made['id']}").headers["Last-Modified"]
    answer = api.get(f"Patient/{made['id']}", If_None_Match='W/"0"', If_Modified_Since=modified)
    assert answer.status == 200


def test_a_malformed_version_tag_is_refused(api: Api) -> None:
    made = api.create(patient())
    answer = api.get(f"Patient/{made['id']}", If_None_Match='W/"1')
    assert (answer.status, answer.issue["expression"]) == (400, ["If-None-Match"])


@pytest.mark.parametrize(
    ("query", "present", "absent"),
    [
        ("_summary=true", {"name", "birthDate", "meta"}, {"maritalStatus", "text"}),
        ("_summary=text", {"text", "id", "meta"}, {"name", "birthDate"}),
        ("_summary=data", {"name", "maritalStatus"}, {"text"}),
        ("_elements=birthDate", {"birthDate", "id", "meta"}, {"name", "text"}),
    ],
)
def test_read_answers_a_part_when_asked(api: Api, query: str, present: set[str], absent: set[str]) -> None:
    text = {"status": "generated", "div": '<div xmlns="http://www.w3.org/1999/xhtml">Ida</div>'}
    made = api.create(patient(birthDate="1980", text=text, maritalStatus={"text": "married"}))
    shown = api.get(f"Patient/{made['id']}?{query}").json
    assert present <= set(shown)
    assert not absent & set(shown)
    assert shown["meta"]["tag"][-1]["code"] == "SUBSETTED"


def test_another_organizations_resource_is_not_found(api: Api, new_base: Callable[..., Api]) -> None:
    made = api.create(patient())
    assert new_base().get(f"Patient/{made['id']}").status == 404


def test_nobody_is_answered_401_with_a_challenge(api: Api) -> None:
    made = api.create(patient())
    answer = Api(api.app, api.base).get(f"Patient/{made['id']}")
    assert (answer.status, answer.issue["code"]) == (401, "login")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_an_organization_that_does_not_exist_is_404(api: Api) -> None:
    answer = Api(api.app, "/1/health/organizations/nowhere/fhir/4", api.token).get("Patient/1")
    assert answer.status in (403, 404)
