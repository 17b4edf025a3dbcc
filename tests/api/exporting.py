"""Exports as callers ask for them, and a ward to export."""

from __future__ import annotations

from typing import Any

import pytest

from fhirserver.fhir.json import decode
from tests.api.client import Answer, Api

ASYNC = {"Prefer": "respond-async"}


def begun(api: Api, path: str, body: Any = None) -> str:
    answer = api.post(path, body, **ASYNC) if body else api.get(path, **ASYNC)
    assert answer.status == 202, answer.data
    assert answer.data == b""
    location: str = answer.headers["Content-Location"]
    return location


def fetched(api: Api, answer: Answer, kind: str = "output") -> dict[str, list[Any]]:
    assert answer.status == 200, answer.data
    assert answer.headers["Content-Type"] == "application/json"
    manifest = answer.json
    assert manifest["requiresAccessToken"] is True
    found: dict[str, list[Any]] = {}
    for entry in manifest[kind]:
        file = api.get(entry["url"], Accept="application/fhir+ndjson")
        assert file.status == 200, file.data
        assert file.headers["Content-Type"] == "application/fhir+ndjson"
        rows = [decode(line) for line in file.data.splitlines()]
        assert len(rows) == entry["count"]
        assert {row["resourceType"] for row in rows} == {entry["type"]}
        found.setdefault(entry["type"], []).extend(rows)
    return found


def ids(rows: list[Any]) -> list[str]:
    return [row["id"] for row in rows]


@pytest.fixture
def ward(api: Api) -> Api:
    """Two patients with an observation each, one encounter, the practitioner who performed, and one who did nothing."""
    for name in ("ann", "bob"):
        api.put(f"Patient/{name}", {"resourceType": "Patient", "id": name, "gender": "female"})
        api.put(f"Observation/of-{name}", observation(name))
    for name in ("drew", "idle"):
        api.put(f"Practitioner/{name}", {"resourceType": "Practitioner", "id": name})
    api.put("Group/cohort", group("cohort", "ann"))
    api.put("Basic/aside", {"resourceType": "Basic", "id": "aside", "code": {"text": "no patient's"}})
    return api


def observation(patient: str) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": f"of-{patient}",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": f"1-{len(patient)}"}], "text": patient},
        "subject": {"reference": f"Patient/{patient}"},
        "performer": [{"reference": "Practitioner/drew"}],
    }


def group(id: str, *patients: str, inactive: str = "") -> dict[str, Any]:
    members = [{"entity": {"reference": f"Patient/{name}"}, "inactive": name == inactive} for name in patients]
    return {"resourceType": "Group", "id": id, "type": "person", "actual": True, "member": members}
