"""The shipped maps as ConceptMaps: valid, told apart, and back again without loss."""

from __future__ import annotations

from typing import Any

import pytest

from fhirserver.fhir import Resource
from fhirserver.fhir.json import decode, encode
from fhirserver.fhir.problem import Problem
from fhirserver.fhir.validation import validate
from fhirserver.hl7v2.mapping.conceptmaps import MAP, concept_maps, extension_of, parts_of, row_of, rule_of, values_of
from fhirserver.hl7v2.mapping.package import MAPS, ROWS
from fhirserver.hl7v2.mapping.tables import table
from tests.unit.hl7v2.maps import definitions, maps

PACKAGE = maps().source
RESOURCES = {each["id"]: decode(encode(each)) for each in concept_maps(PACKAGE)}


def kind(resource: Resource) -> str:
    return str(resource["useContext"][0]["valueCodeableConcept"]["coding"][0]["code"])


def plain(value: Any) -> Any:
    return decode(encode(value))


def test_every_map_and_table_has_a_concept_map_with_an_id_and_a_url_of_its_own() -> None:
    wanted = sum(len(PACKAGE.maps[each]) for each in MAPS) + len(ROWS) + len(PACKAGE.tables)
    assert len(RESOURCES) == wanted
    assert len({each["url"] for each in RESOURCES.values()}) == wanted
    assert all(each["url"].endswith(f"/{id}") for id, each in RESOURCES.items())
    assert {each["version"] for each in RESOURCES.values()} == {PACKAGE.version}


@pytest.mark.parametrize("id", sorted(RESOURCES))
def test_a_concept_map_is_valid(id: str) -> None:
    assert [i for i in validate(definitions(), RESOURCES[id]) if i.severity == "error"] == []


def map_of(resource: Any) -> tuple[str, str, dict[str, Any]]:
    """Kind, name and map of a ConceptMap that `concept_maps` made (no table)."""
    group = next(iter(resource.get("group") or ()), None)
    settings = extension_of(group or resource, MAP)
    kind, name = str(settings.pop("kind", "")), str(settings.pop("map", ""))
    if kind in ROWS:
        return kind, name, {each["code"]: row_of(kind, each) for each in (group or {}).get("element", ())}
    rules = [rule_of(kind, each) for each in (group or {}).get("element", ())]
    return kind, name, {"map": name, **settings, **({"rules": rules} if rules or kind != "message" else {})}


@pytest.mark.parametrize("id", sorted(id for id, each in RESOURCES.items() if kind(each) != "table"))
def test_a_concept_map_read_as_rules_is_the_map_it_was_made_from(id: str) -> None:
    kind, name, spec = map_of(RESOURCES[id])
    assert plain(spec) == plain(PACKAGE.rows[kind] if kind in ROWS else PACKAGE.maps[kind][name])


def test_tables_read_back_are_the_tables_in_use() -> None:
    for id, each in RESOURCES.items():
        if kind(each) == "table":
            name = id.removeprefix("v2-")
            again = table({**each, "id": name})
            assert again == PACKAGE.tables[name]


@pytest.mark.parametrize(
    "values",
    [
        {"a": "x", "b": True, "c": 3, "d": ["x", "y"], "e": {"f": [{"g": "x"}, {"g": "y"}]}},
        {"one": ["x"]},
        {},
    ],
)
def test_values_are_the_same_after_being_parts(values: dict[str, Any]) -> None:
    assert values_of(parts_of(values)) == values


def test_parts_that_cannot_be_read_are_refused() -> None:
    deep: dict[str, Any] = {"url": "a", "valueString": "x"}
    for _ in range(20):
        deep = {"url": "a", "extension": [deep]}
    for parts, text in (
        ([{"url": "a", "valueString": "x"}, {"url": "a", "valueString": "y"}], "said twice"),
        ([{"url": "a"}], "has no value"),
        ([deep], "more than 12 deep"),
    ):
        with pytest.raises(Problem, match=text):
            values_of(parts)
