"""The two statements under capability/ that say which types a base serves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fhirserver.fhir.definitions import Definitions
from fhirserver.fhir.json import decode

FOLDER = Path(__file__).resolve().parents[2] / "capability"
DEFINING = {
    "StructureDefinition",
    "SearchParameter",
    "CompartmentDefinition",
    "CapabilityStatement",
    "OperationDefinition",
}


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
