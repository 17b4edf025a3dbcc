"""Types and profiles that are added to the registry while the server runs. FHIR R4: structuredefinition, profiling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fhirserver.app import Installation
from fhirserver.interactions import reindex
from tests.api.client import Api
from tests.api.samples import patient
from tests.api.structures import BASE, element, structure


@pytest.fixture
def widget(registry: Api, api: Api, installation: Installation) -> Api:
    """A base on which the resource type Widget is known, with a search parameter whose index is built."""
    if not registry.found("StructureDefinition?name=Widget"):
        registry.create(
            structure(
                "Widget",
                "specialization",
                "DomainResource",
                "Widget",
                element("Widget.color", 1, "1", "code"),
                element("Widget.owner", 0, "*", "Reference"),
                element("Widget.size", 0, "1", "Quantity"),
            )
        )
        registry.create(
            {
                "resourceType": "SearchParameter",
                "url": f"{BASE}/SearchParameter/Widget-color",
                "name": "color",
                "status": "active",
                "description": "The color",
                "code": "color",
                "base": ["Widget"],
                "type": "token",
                "expression": "Widget.color",
            }
        )
    reindex.plan(installation.server)
    reindex.run(installation.server, "Widget")
    return api


def test_a_resource_type_of_ones_own_is_stored_validated_and_searched(widget: Api) -> None:
    made = widget.create({"resourceType": "Widget", "color": "red", "owner": [{"reference": "Patient/p"}]})
    assert widget.get(f"Widget/{made['id']}").json == made
    assert widget.found("Widget?color=red") == [made["id"]]
    assert widget.found("Widget?color=blue") == []
    assert widget.post("Widget", {"resourceType": "Widget"}).issue["expression"] == ["Widget.color"]
    assert widget.post("Widget", {"resourceType": "Widget", "color": "red", "weight": 1}).status == 400
    assert widget.put(f"Widget/{made['id']}", {**made, "color": "blue"}).status == 200
    assert [each["color"] for each in widget.get(f"Widget/{made['id']}/_history").resources] == ["blue", "red"]


def test_the_capability_statement_lists_it(widget: Api) -> None:
    listed = {each["type"]: each for each in widget.get("metadata").json["rest"][0]["resource"]}
    assert "color" in {each["name"] for each in listed["Widget"]["searchParam"]}


def test_a_type_that_nobody_defined_stays_unknown(api: Api) -> None:
    assert api.post("Gadget", {"resourceType": "Gadget"}).status == 404


def test_a_profile_that_the_server_knows_is_checked(registry: Api, api: Api, scoped: Callable[[str], Api]) -> None:
    url = f"{BASE}/StructureDefinition/born-patient"
    profile = structure("Patient", "constraint", "Patient", "born-patient", element("Patient.birthDate", 1, "1"))
    registry.create(profile)
    without = api.post("Patient", patient(meta={"profile": [url]}))
    assert without.status in (400, 422), without.data
    assert any("birthDate" in str(issue) for issue in without.json["issue"])
    assert api.post("Patient", patient(meta={"profile": [url]}, birthDate="1980")).status == 201
    assert api.post("Patient", patient()).status == 201
    asked = api.post(f"Patient/$validate?profile={url}", patient())
    assert any("birthDate" in str(issue) for issue in asked.json["issue"] if issue["severity"] == "error")


@pytest.mark.parametrize(
    "change",
    [
        {"differential": None},
        {"baseDefinition": "http://hl7.org/fhir/StructureDefinition/Nothing"},
        {"type": "Patient"},
        {"type": "Patient", "url": "http://hl7.org/fhir/StructureDefinition/Patient"},
        {"type": "User"},
        {"type": "string", "kind": "primitive-type"},
        {"differential": {"element": [{"id": "x", "path": "x"}]}},
        {"differential": {"element": [{"id": "Broken.x", "path": "Broken.x", "type": [{"code": "Nothing"}]}]}},
        {"differential": {"element": [{"id": "Broken.x", "path": "Broken.x", "contentReference": "#Broken.y"}]}},
        {"status": "retired", "baseDefinition": "http://hl7.org/fhir/StructureDefinition/Nothing"},
    ],
)
def test_a_definition_that_would_break_the_server_is_refused_or_harmless(
    registry: Api, api: Api, change: dict[str, Any]
) -> None:
    whole = structure("Broken", "specialization", "DomainResource", "Broken", element("Broken.x", 0, "1", "code"))
    sent = {name: value for name, value in (whole | change).items() if value is not None}
    answer = registry.post("StructureDefinition", sent)
    assert answer.status in (201, 400, 409, 422), answer.data
    made = api.post("Patient", patient(birthDate="1980"))
    assert made.status == 201, made.data
    assert api.get("Patient?family=adler").ids == [made.json["id"]]
    assert api.get("metadata").status == 200
    if answer.status == 201:
        assert registry.delete(f"StructureDefinition/{answer.json['id']}").status == 200


def test_a_type_that_is_defined_already_is_not_redefined(registry: Api) -> None:
    for name in ("Patient", "User"):
        again = structure(name, "specialization", "DomainResource", f"My{name}", element(f"{name}.x", 0, "1", "code"))
        answer = registry.post("StructureDefinition", again)
        assert (answer.status, answer.issue["code"]) == (422, "business-rule")


@pytest.mark.parametrize(
    "expression", ["Patient.((", "Patient.nothing", "%x", "Patient.name.repeat(given)", "a" * 9_000]
)
def test_a_search_parameter_that_cannot_be_indexed_breaks_nothing(registry: Api, api: Api, expression: str) -> None:
    parameter = {
        "resourceType": "SearchParameter",
        "url": f"{BASE}/SearchParameter/broken",
        "name": "broken",
        "status": "active",
        "description": "broken",
        "code": "broken",
        "base": ["Patient"],
        "type": "string",
        "expression": expression,
    }
    answer = registry.post("SearchParameter", parameter, Prefer="return=OperationOutcome")
    assert answer.status in (201, 400, 422), answer.data
    assert api.post("Patient", patient()).status == 201
    assert api.get("Patient?family=adler").status == 200
    if answer.status == 201:
        assert "SearchParameter.expression" in str(answer.json), "nobody was told"
        id = answer.headers["Location"].split("/_history")[0].rpartition("/")[2]
        assert registry.delete(f"SearchParameter/{id}").status == 200


def test_taking_a_base_away_does_not_break_what_was_derived_from_it(registry: Api, api: Api) -> None:
    base = structure("Ground", "specialization", "DomainResource", "Ground", element("Ground.x", 0, "1", "code"))
    made = registry.create(base)
    derived = structure("House", "specialization", "Ground", "House", element("House.y", 0, "1", "code"))
    derived["baseDefinition"] = base["url"]
    registry.create(derived)
    assert api.post("House", {"resourceType": "House", "x": "a", "y": "b"}).status == 201
    registry.delete(f"StructureDefinition/{made['id']}")
    assert api.post("Patient", patient()).status == 201
    assert api.get("metadata").status == 200
