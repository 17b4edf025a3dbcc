"""Index entries, the filters and indexes that go with them, and the units that quantities are compared in."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from fhirserver.fhir.definitions import Definitions
from fhirserver.search import mongo, units
from fhirserver.search.index import MOST_CONTAINED, Entry, indexer
from fhirserver.search.match import matches
from fhirserver.search.parse import parse
from fhirserver.search.query import And, Chain, Clause, Has, Ids, Listed, NeedsCodes, NeedsHierarchy, Not, Nothing, Or
from fhirserver.search.types import TYPES

DEFINITIONS = Definitions.load()


def entry(resource: dict[str, Any], base: str = "") -> Entry:
    return indexer(DEFINITIONS, resource["resourceType"], base)(resource)


def clause(type: str, *pairs: tuple[str, str]) -> Clause:
    return parse(DEFINITIONS, type, pairs, strict=True).clause


def test_an_entry_has_a_field_for_each_parameter_and_scalar_sort_keys() -> None:
    found = entry({"resourceType": "Patient", "name": [{"family": "Zoë"}, {"family": "Ann"}], "birthDate": "1980-05"})
    assert found.search["family"] == ["zoe", "ann"]
    assert found.search["family:exact"] == ["Zoë", "Ann"]
    assert found.sort["family"] == ("ann", "zoe")
    assert found.document()["k"]["birthdate"] == {
        "lo": datetime(1980, 5, 1, tzinfo=UTC),
        "hi": datetime(1980, 5, 31, 23, 59, 59, 999000, tzinfo=UTC),
    }
    assert "address" not in found.search


def test_absolute_references_to_this_server_are_indexed_as_relative_ones_too() -> None:
    resource = {"resourceType": "Patient", "managingOrganization": {"reference": "http://own/fhir/Organization/1"}}
    assert entry(resource, "http://own/fhir").search["organization"] == [
        "http://own/fhir/Organization/1",
        "Organization/1",
    ]
    assert entry(resource, "http://own").search["organization"] == ["http://own/fhir/Organization/1"] * 1 + [
        "fhir/Organization/1"
    ]


def test_a_parameter_that_cannot_be_compiled_is_left_out_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    broken = {
        "resourceType": "SearchParameter",
        "url": "urn:broken",
        "code": "broken",
        "base": ["Patient"],
        "type": "string",
        "expression": "Patient.name.trace('x')",
        "status": "active",
    }
    extended = DEFINITIONS.extended([broken], generation=1)
    with caplog.at_level(logging.WARNING):
        assert (
            "broken" not in indexer(extended, "Patient")({"resourceType": "Patient", "name": [{"family": "x"}]}).search
        )
    assert "broken" in caplog.text
    assert parse(extended, "Patient", [("broken", "x")]).unsupported[0][0] == "broken"


def test_a_parameter_added_at_run_time_is_indexed_and_searched() -> None:
    added = {
        "resourceType": "SearchParameter",
        "url": "urn:added",
        "code": "marital",
        "base": ["Patient"],
        "type": "token",
        "expression": "Patient.maritalStatus",
        "status": "active",
    }
    extended = DEFINITIONS.extended([added], generation=1)
    found = indexer(extended, "Patient")({"resourceType": "Patient", "maritalStatus": {"coding": [{"code": "M"}]}})
    assert matches(parse(extended, "Patient", [("marital", "m")]).clause, found)


def test_garbage_that_passed_nobody_still_makes_an_entry() -> None:
    for value in (1, "x", None, [], [None], [[1]], {"a": 1}, True, Decimal("NaN"), [{"coding": []}]):
        for type in ("Patient", "Observation", "Encounter", "RiskAssessment"):
            properties = DEFINITIONS.types[type].properties
            indexer(DEFINITIONS, type)({**dict.fromkeys(properties, value), "resourceType": type})


@pytest.mark.parametrize(
    ("pairs", "indexes"),
    [
        ([("code", "x")], (("s.code",),)),
        ([("code:text", "x")], (("s.code:text",),)),
        ([("date", "2020")], (("s.date:w", "k.date.lo", "k.date.hi"),)),
        ([("value-quantity", "5")], (("s.value-quantity.u", "s.value-quantity.hi", "s.value-quantity.lo"),)),
        ([("code-value-quantity", "x$5")], (("s.code-value-quantity.a",),)),
        ([("subject", "Patient/1"), ("code:not", "x")], (("s.subject",),)),
        ([("_lastUpdated", "gt2020")], (("t",),)),
        ([("code:missing", "false")], (("s.code",),)),
        ([("code:missing", "true")], ()),
    ],
)
def test_a_clause_names_the_indexes_that_help_it(pairs: list[tuple[str, str]], indexes: tuple[Any, ...]) -> None:
    assert mongo.index_fields(clause("Observation", *pairs)) == indexes


def test_a_value_list_is_one_in_and_a_start_is_a_range() -> None:
    assert mongo.filter(clause("Patient", ("gender", "male,female"))) == {"s.gender": {"$in": ["male", "female"]}}
    assert mongo.filter(clause("Patient", ("family", "Smi"))) == {
        "s.family": {"$elemMatch": {"$gte": "smi", "$lt": "smj"}}
    }
    assert mongo.filter(clause("Patient", ("family:contains", "a.*"))) == {"s.family": {"$regex": r"a\.\*"}}


def test_two_dates_bound_one_index_range_together() -> None:
    filter = mongo.filter(clause("Patient", ("birthdate", "gt2019-12-31"), ("birthdate", "lt2021")))
    for branch in filter["$or"]:
        assert branch["k.birthdate.lo"]["$lt"] == datetime(2021, 1, 1, tzinfo=UTC)
    assert filter["$or"][0]["k.birthdate.lo"]["$gte"] == datetime(2019, 12, 30, 23, 59, 59, 999000, tzinfo=UTC)


def test_what_only_the_store_can_answer_is_not_filtered_nor_matched() -> None:
    for part in (Chain("a", "B", Nothing()), Has("A", "b", Nothing()), Listed("1"), NeedsCodes("a", "in"),
                 NeedsHierarchy("a", "below", frozenset())):  # fmt: skip
        with pytest.raises(TypeError):
            mongo.filter(part)
        with pytest.raises(TypeError):
            matches(part, Entry())


def test_empty_clauses_match_everything_or_nothing() -> None:
    assert mongo.filter(And(())) == {}
    assert mongo.filter(Nothing()) == mongo.filter(Or(())) == {"_id": {"$in": []}}
    assert matches(And(()), Entry())
    assert not matches(Or(()), Entry())
    assert not matches(Nothing(), Entry())
    assert matches(Not(Ids(frozenset({"1"}))), Entry(), "2")


def test_the_instant_of_the_version_is_a_point() -> None:
    at = datetime(2020, 3, 1, 12, 0, 0, 123000, tzinfo=UTC)
    assert matches(clause("Patient", ("_lastUpdated", "2020-03-01")), Entry(), "1", at)
    assert not matches(clause("Patient", ("_lastUpdated", "gt2020-03-01")), Entry(), "1", at)
    assert not matches(clause("Patient", ("_lastUpdated", "2020")), Entry(), "1", None)
    assert mongo.filter(clause("Patient", ("_lastUpdated", "ge2020-03-01"))) == {
        "t": {"$gte": datetime(2020, 3, 1, tzinfo=UTC)}
    }


def test_every_type_says_its_prefixes_and_modifiers() -> None:
    assert set(TYPES) == {"string", "token", "reference", "date", "number", "quantity", "uri", "composite"}
    assert TYPES["date"].prefixes == ("eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap")
    assert TYPES["token"].modifiers == ("not", "text", "in", "not-in", "above", "below", "of-type")


def test_the_table_of_common_units_says_what_the_library_says() -> None:
    for code, (factor, offset, unit) in units.COMMON.items():
        assert units._ask(code) == (pytest.approx(factor, rel=1e-12), pytest.approx(offset, rel=1e-12), unit), code


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((1.0, "g"), (1000.0, "mg")),
        ((0.0, "Cel"), (273.15, "K")),
        ((1.0, "mmol/L"), (1.0, "mol/m3")),
        ((1.0, "[degF]"), (1.0, "[degF]")),
        ((60.0, "/min"), (1.0, "Hz")),
        ((60.0, "mL/min"), (3.6, "L/h")),
        ((1.0, "10*9/L"), (1.0, "10*3/uL")),
    ],
)
def test_equal_quantities_have_one_canonical_form(one: tuple[float, str], other: tuple[float, str]) -> None:
    assert units.canonical(*one) == units.canonical(*other) is not None


@pytest.mark.parametrize(
    "code", ["[IU]", "[IU]/L", "[arb'U]", "[pH]", "nonsense", "", "m" * 500, "((((", "10*99999999", "B[V]", "mg/"]
)
def test_what_cannot_be_converted_is_left_as_it_is(code: str) -> None:
    assert units.canonical(1.0, code) is None


def test_contained_resources_are_indexed_with_what_refers_to_them_and_not_without_bound() -> None:
    inside = [{"resourceType": "Patient", "id": str(n), "gender": "male"} for n in range(MOST_CONTAINED + 5)]
    found = entry(
        {
            "resourceType": "Observation",
            "contained": [7, {"resourceType": "Patient"}, {"resourceType": "Nothing", "id": "x"}, *inside],
            "subject": {"reference": "#0"},
            "performer": [{"reference": "#1"}, {"reference": "Practitioner/1"}],
        }
    )
    assert len(found.contained) == MOST_CONTAINED - 3
    assert [(each.type, each.id, sorted(each.by)) for each in found.contained[:3]] == [
        ("Patient", "0", ["patient", "subject"]),
        ("Patient", "1", ["performer"]),
        ("Patient", "2", []),
    ]
    assert "gender" in found.contained[0].entry.search
    assert found.document()["c"][1]["i"] == "1"
    assert "c" not in entry({"resourceType": "Observation"}).document()
