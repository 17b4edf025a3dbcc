"""A SearchParameter added at run time: what was there is indexed in the background, and until then a search says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fhirserver import app
from fhirserver.interactions import reindex
from tests.api.client import Api

PARAMETER = {
    "resourceType": "SearchParameter",
    "url": "https://example.org/fhir/SearchParameter/patient-nickname",
    "name": "nickname",
    "status": "active",
    "description": "The name a person is called by",
    "code": "nickname",
    "base": ["Patient"],
    "type": "string",
    "expression": "Patient.name.where(use = 'nickname').given",
}


def patient(name: str) -> dict[str, Any]:
    return {"resourceType": "Patient", "name": [{"use": "nickname", "given": [name]}]}


def notes(bundle: dict[str, Any]) -> list[str]:
    outcomes = [e["resource"] for e in bundle.get("entry", []) if e["search"]["mode"] == "outcome"]
    return [issue["diagnostics"] for each in outcomes for issue in each["issue"]]


def test_it_is_said_to_be_not_ready_until_all_is_indexed(
    installation: app.Installation, registry: Api, new_base: Callable[..., Api]
) -> None:
    api = new_base()
    old = api.create(patient("Bibi"))["id"]
    added = registry.create(PARAMETER)
    new = api.create(patient("Bibi"))["id"]

    early = api.get("Patient?nickname=bibi").json
    assert [e["resource"]["id"] for e in early["entry"] if e["search"]["mode"] == "match"] == [new]
    assert any("nickname of Patient is being indexed" in note for note in notes(early))
    refused = api.get("Patient?nickname=bibi", Prefer="handling=strict")
    assert refused.status == 503
    assert refused.headers["Retry-After"]

    assert reindex.plan(installation.server) == 1
    reindex.run(installation.server, "Patient")

    late = api.get("Patient?nickname=bibi").json
    assert {e["resource"]["id"] for e in late["entry"]} == {old, new}
    assert notes(late) == []
    told = registry.get(f"SearchParameter/{added['id']}/$reindex-status").json
    part = {each["name"]: each for each in told["parameter"][0]["part"]}
    assert part["ready"]["valueBoolean"] is True
    registry.delete(f"SearchParameter/{added['id']}")
