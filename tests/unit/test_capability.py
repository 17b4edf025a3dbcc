"""What lies under capability/: the two statements that say which types a base serves, IHE's profiles, the topics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fhirserver.app import catalogue, resources_in
from fhirserver.fhir.definitions import Definitions
from fhirserver.fhir.json import decode
from fhirserver.fhir.validation import validate

FOLDER = Path(__file__).resolve().parents[2] / "capability"
DEFINING = {
    "StructureDefinition",
    "SearchParameter",
    "CompartmentDefinition",
    "CapabilityStatement",
    "OperationDefinition",
}


def errors(definitions: Definitions, resource: dict[str, Any]) -> list[str]:
    return [issue.diagnostics for issue in validate(definitions, resource) if issue.severity == "error"]


def types(kind: str) -> list[str]:
    statement: dict[str, Any] = decode((FOLDER / f"CapabilityStatement-{kind}.json").read_bytes())
    assert statement["id"] == kind
    return [entry["type"] for entry in statement["rest"][0]["resource"]]


@pytest.mark.parametrize("kind", ["registry", "organization"])
def test_a_statement_lists_each_type_once_in_order(kind: str) -> None:
    listed = types(kind)
    assert listed == sorted(set(listed))


def test_an_organization_serves_every_type_of_r4_but_the_defining_ones() -> None:
    official = Definitions.load().resource_types
    assert official - set(types("organization")) == DEFINING


def test_what_an_organization_does_not_serve_the_registry_does() -> None:
    assert set(types("registry")) >= DEFINING


def test_health_data_is_not_served_by_the_registry() -> None:
    assert not {"Patient", "Encounter", "Observation", "DocumentReference"} & set(types("registry"))


def test_the_registry_serves_the_messages_of_unknown_senders() -> None:
    assert "InboundMessage" in types("registry")


def test_the_profiles_that_a_client_may_choose_are_valid_resources() -> None:
    definitions = Definitions.load()
    statements = [decode(path.read_bytes()) for path in sorted((FOLDER / "ihe").glob("*.json"))]

    assert len(statements) > 10
    assert {each["id"]: found for each in statements if (found := errors(definitions, each))} == {}


def test_the_shipped_topics_are_valid_resources() -> None:
    definitions = Definitions.load().extended(resources_in("profiles"), generation=-1)
    topics = list(catalogue().drafts())

    assert len(topics) > 100
    assert {each["id"]: found for each in topics if (found := errors(definitions, each))} == {}
