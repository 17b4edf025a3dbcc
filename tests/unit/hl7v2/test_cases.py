"""Every case under tests/cases/hl7v2: the golden Bundle, FHIR's own rules, an independent reader, and all rules used.

`python -m tests.unit.hl7v2.test_cases` writes the golden files anew; read the difference before you commit it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from fhir.resources.R4B.bundle import Bundle

from fhirserver.fhir.json import decode, encode, pretty
from fhirserver.fhir.validation import validate
from fhirserver.hl7v2.mapping import Result, to_bundle
from fhirserver.hl7v2.mapping.load import compiled
from fhirserver.hl7v2.mapping.tables import Mapped
from fhirserver.hl7v2.message import Message
from tests.unit.hl7v2.maps import CASES, CONTEXT, definitions, golden, mapped, maps

PATHS = sorted(CASES.glob("*.hl7"))


@cache
def result(path: Path) -> Result:
    return mapped(path.read_bytes())


def cases(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", PATHS, ids=cases)
def test_a_message_becomes_its_golden_bundle(path: Path) -> None:
    assert golden(result(path)) == decode(path.with_suffix(".json").read_bytes())


@pytest.mark.parametrize("path", PATHS, ids=cases)
def test_a_bundle_is_valid_by_our_validator(path: Path) -> None:
    issues = validate(definitions(), decode(encode(result(path).bundle)))
    assert not [issue for issue in issues if issue.severity == "error"]


@pytest.mark.parametrize("path", PATHS, ids=cases)
def test_a_bundle_is_read_by_an_independent_model(path: Path) -> None:
    Bundle.model_validate_json(encode(result(path).bundle))


@pytest.mark.parametrize("path", PATHS, ids=cases)
def test_a_bundle_is_a_message_that_holds_together(path: Path) -> None:
    bundle = result(path).bundle
    entries = bundle["entry"]
    assert entries[0]["resource"]["resourceType"] == "MessageHeader"
    urls = [entry["fullUrl"] for entry in entries]
    assert len(set(urls)) == len(urls)
    references = list(_references(bundle))
    assert all(reference for reference in references)
    assert {reference for reference in references if reference.startswith("urn:")} <= set(urls)


@pytest.mark.parametrize("path", PATHS, ids=cases)
def test_mapping_the_same_message_again_gives_the_same_bytes(path: Path) -> None:
    assert encode(mapped(path.read_bytes()).bundle) == encode(result(path).bundle)
    for _ in range(2):  # without a trace what was read before is remembered
        again = to_bundle(maps(), Message.parse(path.read_bytes()), CONTEXT)
        assert encode(golden(again)) == encode(golden(result(path)))


def test_every_rule_is_used_by_some_case() -> None:
    used = frozenset[str]().union(*(result(path).rules for path in PATHS))
    assert sorted(maps().rule_ids - used) == []


class Asked(dict[str, Mapped]):
    """The codes of a table, and whether one of them was found."""

    found = False

    def get(self, code: str, default: Any = None) -> Any:
        self.found = self.found or code in self
        return super().get(code, default)


def test_every_table_translates_a_code_of_some_case() -> None:
    asked = {name: Asked(table.codes) for name, table in maps().tables.items()}
    tables = {name: replace(table, codes=asked[name]) for name, table in maps().tables.items()}
    watched = compiled(replace(maps().source, tables=tables), definitions())
    for path in PATHS:
        to_bundle(watched, Message.parse(path.read_bytes()), CONTEXT)
    assert sorted(name for name, codes in asked.items() if not codes.found) == []


def test_at_least_sixty_messages_of_all_listed_types_have_a_golden_bundle() -> None:
    events = [result(path).event for path in PATHS]
    assert len(events) >= 60
    assert {event.partition("_")[0] for event in events} == {"ADT", "SIU", "ORM", "OMG", "OML", "ORU"}


def test_every_event_has_a_case() -> None:
    assert sorted(set(maps().triggers) - {result(path).event for path in PATHS}) == []


def test_every_element_of_a_patient_is_traced_to_its_field() -> None:
    found = result(CASES / "adt-a01-rich.hl7")
    patient = next(e for e in found.bundle["entry"] if e["resource"]["resourceType"] == "Patient")
    traced = {
        t.element.split(".")[1].split("[")[0].split("(")[0] for t in found.trace if t.full_url == patient["fullUrl"]
    }
    linked = {"_birthDate"}
    assert set(patient["resource"]) - {"resourceType"} - linked <= traced
    assert ("Patient.birthDate", "PID[1]-7") in {(t.element, t.field) for t in found.trace}


def _references(value: Any) -> Any:
    if isinstance(value, dict):
        if isinstance(value.get("reference"), str):
            yield value["reference"]
        for member in value.values():
            yield from _references(member)
    elif isinstance(value, list):
        for member in value:
            yield from _references(member)


if __name__ == "__main__":
    for each in PATHS:
        each.with_suffix(".json").write_bytes(pretty(encode(golden(mapped(each.read_bytes())))) + b"\n")
