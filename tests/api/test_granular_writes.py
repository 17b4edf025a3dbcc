"""A granular scope on a write holds for what was there as well as for what it becomes. SMART 2.2; design: the wrong
resource looks absent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.api.client import Api

SCOPE = "system/Observation.cruds?status=final"


def observation(status: str, **more: Any) -> dict[str, Any]:
    return {"resourceType": "Observation", "status": status, "code": {"text": "x"}, **more}


@pytest.fixture
def narrow(api: Api, new_base: Callable[..., Api]) -> Api:
    """Somebody on the same base who may only touch final observations."""
    return new_base(SCOPE, api.organization)


def test_what_is_outside_cannot_be_brought_inside_by_an_update(api: Api, narrow: Api) -> None:
    id = api.create(observation("preliminary"))["id"]
    refused = narrow.put(f"Observation/{id}", observation("final", id=id))
    assert refused.status == 403
    assert api.get(f"Observation/{id}").json["status"] == "preliminary"


def test_what_is_inside_cannot_be_taken_outside_by_an_update(api: Api, narrow: Api) -> None:
    id = narrow.create(observation("final"))["id"]
    assert narrow.put(f"Observation/{id}", observation("preliminary", id=id)).status == 403
    assert narrow.put(f"Observation/{id}", observation("final", id=id, issued="2026-01-01T00:00:00Z")).status == 200


def test_deleting_what_is_outside_changes_nothing_and_tells_nothing(api: Api, narrow: Api) -> None:
    id = api.create(observation("preliminary"))["id"]
    hidden, absent = narrow.delete(f"Observation/{id}"), narrow.delete("Observation/never")
    assert (hidden.status, hidden.json["issue"][0]["code"]) == (absent.status, absent.json["issue"][0]["code"])
    assert api.get(f"Observation/{id}").status == 200


def test_a_patch_of_what_is_outside_looks_like_one_of_nothing(api: Api, narrow: Api) -> None:
    id = api.create(observation("preliminary"))["id"]
    patch = [{"op": "replace", "path": "/status", "value": "final"}]
    headers = {"Content_Type": "application/json-patch+json"}
    assert narrow.patch(f"Observation/{id}", patch, **headers).status == 404


def test_a_conditional_delete_stays_inside(api: Api, narrow: Api) -> None:
    id = api.create(observation("preliminary", identifier=[{"system": "urn:x", "value": "1"}]))["id"]
    narrow.delete("Observation?identifier=urn:x|1")
    assert api.get(f"Observation/{id}").status == 200


def test_a_deleted_resource_can_be_written_again_by_a_narrowed_writer(narrow: Api) -> None:
    id = narrow.create(observation("final"))["id"]
    assert narrow.delete(f"Observation/{id}").status == 200
    again = narrow.put(f"Observation/{id}", observation("final", id=id))
    assert (again.status, again.json["meta"]["versionId"]) == (201, "3")
