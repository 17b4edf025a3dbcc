"""Query strings to queries: what is refused, what is passed over and said, what becomes of chains and results."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from fhirserver.fhir.definitions import Definitions
from fhirserver.fhir.problem import Problem
from fhirserver.search.parse import Limits, parse, render
from fhirserver.search.query import (
    And,
    Chain,
    Clause,
    Has,
    Ids,
    Include,
    Leaf,
    Listed,
    NeedsCodes,
    NeedsHierarchy,
    Not,
    Nothing,
    Or,
    Query,
    References,
    SortKey,
    both,
    compartment,
    either,
    rewrite,
    walk,
    with_codes,
)

DEFINITIONS = Definitions.load()


def query(type: str | None, *pairs: tuple[str, str], strict: bool = False) -> Query:
    now = datetime(2020, 3, 1, tzinfo=UTC)
    return parse(DEFINITIONS, type, pairs, base="http://own.example/fhir", strict=strict, now=now)


REFUSED = [
    # type, name, value, issue type
    ("Patient", "birthdate", "yesterday", "invalid"),
    ("Patient", "birthdate", "2020-13", "invalid"),
    ("Patient", "birthdate", "2020-02-30", "invalid"),
    ("Patient", "birthdate", "0000", "invalid"),
    ("Patient", "birthdate", "2020-01-01T25:00Z", "invalid"),
    ("Patient", "birthdate", "2020-01-01T10:00+99:00", "invalid"),
    ("Patient", "birthdate", "zz2020", "invalid"),
    ("Patient", "birthdate", "٢٠٢٠", "invalid"),
    ("Patient", "birthdate:exact", "2020", "not-supported"),
    ("Patient", "birthdate:missing", "perhaps", "invalid"),
    ("Patient", "name:regex", "x", "not-supported"),
    ("Patient", "name:EXACT", "x", "not-supported"),
    ("Patient", "name", "", "invalid"),
    ("Patient", "name", "a,,b", "invalid"),
    ("Patient", "name", "\u0301", "invalid"),
    ("Patient", "name", "a\0b", "invalid"),
    ("Patient", "name", "a\\b", "invalid"),
    ("Patient", "name", "a\\", "invalid"),
    ("Patient", "", "x", "invalid"),
    ("Patient", "identifier", "a|b|c", "invalid"),
    ("Patient", "identifier", "|", "invalid"),
    ("Patient", "identifier:of-type", "a|b", "invalid"),
    ("Patient", "identifier:below", "a|b|c", "invalid"),
    ("Patient", "gender:missing", "1", "invalid"),
    ("Patient", "general-practitioner", "not an id", "invalid"),
    ("Patient", "general-practitioner:Patient", "1", "invalid"),
    ("Patient", "general-practitioner:Practitioner", "Organization/1", "invalid"),
    ("Patient", "general-practitioner:contains", "1", "not-supported"),
    ("Patient", "general-practitioner.nonsense", "1", "not-supported"),
    ("Patient", "general-practitioner:Practitioner.nonsense", "1", "not-supported"),
    ("Patient", "general-practitioner:Nonsense.name", "1", "invalid"),
    ("Patient", "general-practitioner:Patient.name", "1", "invalid"),
    ("Patient", "general-practitioner:Practitioner.name:regex", "1", "not-supported"),
    ("Patient", "name.given", "1", "invalid"),
    ("Patient", "link." * 9 + "name", "x", "too-costly"),
    ("Patient", "_has:Observation:patient", "x", "invalid"),
    ("Patient", "_has:Observation", "x", "invalid"),
    ("Patient", "_has:Nonsense:patient:code", "x", "invalid"),
    ("Patient", "_has:Observation:code:code", "x", "invalid"),
    ("Practitioner", "_has:Encounter:patient:status", "x", "invalid"),
    ("Patient", "_has:Observation:patient:nonsense", "x", "not-supported"),
    ("Patient", "_has:Observation:patient:" * 7 + "code", "x", "invalid"),
    ("Patient", "_list", "a/b", "invalid"),
    ("Patient", "_id:contains", "x", "not-supported"),
    ("Patient", "_count", "-1", "invalid"),
    ("Patient", "_count", "ten", "invalid"),
    ("Patient", "_count", "9" * 30, "invalid"),
    ("Patient", "_count:not", "1", "not-supported"),
    ("Patient", "_summary", "maybe", "invalid"),
    ("Patient", "_total", "roughly", "invalid"),
    ("Patient", "_contained", "yes", "invalid"),
    ("Patient", "_pretty", "yes", "invalid"),
    ("Patient", "_include", "Patient", "invalid"),
    ("Patient", "_include", "Patient:name", "invalid"),
    ("Patient", "_include", "Nonsense:patient", "invalid"),
    ("Patient", "_include", "Patient:general-practitioner:Patient", "invalid"),
    ("Patient", "_include", "Patient:link:", "invalid"),
    ("Patient", "_include:loop", "Patient:link", "not-supported"),
    ("Patient", "_sort", ",".join(["family"] * 9), "too-costly"),
    ("Patient", "name", ",".join("x" * 501), "too-costly"),
    ("Observation", "value-quantity", "5.4|mg", "invalid"),
    ("Observation", "value-quantity", "5.4|http://unitsofmeasure.org|", "invalid"),
    ("Observation", "value-quantity", "lots", "invalid"),
    ("Observation", "value-quantity", "1e9999", "invalid"),
    ("Observation", "code-value-quantity", "a", "invalid"),
    ("Observation", "code-value-quantity", "a$b$c", "invalid"),
    ("Observation", "code-value-quantity", "a$", "invalid"),
    ("Observation", "code-value-quantity:exact", "a$1", "not-supported"),
    ("RiskAssessment", "probability", "NaN", "invalid"),
    ("RiskAssessment", "probability", "0x10", "invalid"),
    ("ValueSet", "url", "has space", "invalid"),
    ("ValueSet", "url:below", "urn:oid:1.2", "invalid"),
    ("ValueSet", "url:above", "http://x/" + "a/" * 200, "invalid"),
    (None, "_type", "Patient,Nonsense", "invalid"),
    ("Provenance", "target.name", "x", "too-costly"),
]


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(("type", "name", "value", "code"), REFUSED)
def test_what_is_wrong_is_refused_with_its_name_whatever_the_handling(
    type: str | None, name: str, value: str, code: str, strict: bool
) -> None:
    with pytest.raises(Problem) as refused:
        query(type, (name, value), strict=strict)
    (issue,) = refused.value.issues
    assert issue.code == code
    assert refused.value.status == 400
    assert not name or issue.expression[0].startswith("http.")
    assert len(issue.diagnostics) < 600


PASSED_OVER = [
    ("Patient", "nonsense", "1"),
    ("Patient", "_text", "x"),
    ("Patient", "_content", "x"),
    ("Patient", "_filter", "name eq x"),
    ("Patient", "_query", "x"),
    ("Patient", "$where", "1"),
    ("Patient", "s.name", "1"),
    ("Location", "near", "1|2"),
    ("Patient", "_type", "Patient"),
    ("Patient", "_sort", "nonsense"),
    ("Patient", "_elements", "nonsense"),
    ("Patient", "_include", "Observation:subject"),
    ("Patient", "_revinclude", "Encounter:location"),
    (None, "name", "x"),
]


@pytest.mark.parametrize(("type", "name", "value"), PASSED_OVER)
def test_what_is_not_supported_is_refused_when_strict_and_named_otherwise(
    type: str | None, name: str, value: str
) -> None:
    with pytest.raises(Problem):
        query(type, (name, value), strict=True)
    lenient = query(type, (name, value))
    assert [passed for passed, _ in lenient.unsupported] == [name]
    assert render(lenient) == []


def test_every_parameter_at_fault_has_its_issue() -> None:
    with pytest.raises(Problem) as refused:
        query("Patient", ("birthdate", "x"), ("_count", "y"), ("gender", "male"), ("name:z", "a"))
    assert [issue.expression for issue in refused.value.issues] == [
        ("http.birthdate",),
        ("http._count",),
        ("http.name:z",),
    ]


def test_too_many_or_too_long_parameters_are_refused() -> None:
    with pytest.raises(Problem, match="100 parameters"):
        query("Patient", *[("name", "x")] * 101)
    with pytest.raises(Problem, match="characters long"):
        query("Patient", ("name", "x" * 70_000))
    with pytest.raises(Problem):
        parse(DEFINITIONS, "Patient", [("name", "a,b,c")], limits=Limits(values=2))


def test_a_control_parameter_given_twice_is_refused() -> None:
    with pytest.raises(Problem, match="once"):
        query("Patient", ("_count", "1"), ("_count", "2"))


CLAUSES: list[tuple[str, str, str, Clause]] = [
    ("Patient", "_id", "a,b", Ids(frozenset({"a", "b"}))),
    ("Patient", "_id:not", "a", Not(Ids(frozenset({"a"})))),
    ("Patient", "_list", "l1", Listed("l1")),
    ("Patient", "gender:not", "male", Not(Leaf("gender", "token", ("male",)))),
    (
        "Observation",
        "subject:Patient.name:exact",
        "Ann",
        Chain("subject", "Patient", Leaf("name", "string", ("Ann",), "exact")),
    ),
    ("Encounter", "subject.name", "ann", Chain("subject", "Patient", Leaf("name", "string", ("ann",)))),
    (
        "DiagnosticReport",
        "encounter:Encounter.subject:Patient._id",
        "1",
        Chain("encounter", "Encounter", Chain("subject", "Patient", Ids(frozenset({"1"})))),
    ),
    (
        "Patient",
        "_has:Observation:patient:_has:AuditEvent:entity:type",
        "x",
        Has("Observation", "patient", Has("AuditEvent", "entity", Leaf("type", "token", ("x",)))),
    ),
    (
        "Encounter",
        "patient._has:Observation:patient:code",
        "x",
        Chain("patient", "Patient", Has("Observation", "patient", Leaf("code", "token", ("x",)))),
    ),
    ("Observation", "code:in", "http://v", NeedsCodes("code", "in", url="http://v")),
    ("Observation", "code:below", "s|c", NeedsCodes("code", "below", "", "s", "c")),
    (
        "Location",
        "partof:below",
        "1",
        NeedsHierarchy("partof", "below", frozenset({"Location/1"})),
    ),
]


@pytest.mark.parametrize(("type", "name", "value", "clause"), CLAUSES)
def test_a_criterion_becomes_its_clause(type: str, name: str, value: str, clause: Clause) -> None:
    assert query(type, (name, value), strict=True).clause == clause


def test_a_chain_without_a_type_tries_every_target_that_has_the_parameter() -> None:
    clause = query("Observation", ("subject.name", "x")).clause
    assert {part.type for part in walk(clause) if isinstance(part, Chain)} == {"Patient", "Location"}


def test_two_has_are_two_conditions() -> None:
    clause = query(
        "Patient", ("_has:Observation:patient:code", "a"), ("_has:Observation:patient:status", "final")
    ).clause
    assert isinstance(clause, And)
    assert len(clause.clauses) == 2


def test_result_parameters_are_read() -> None:
    read = query(
        "Observation",
        ("_count", "50000"),
        ("_sort", "-date,_id,code"),
        ("_include", "Observation:subject:Patient"),
        ("_include:iterate", "Patient:organization"),
        ("_revinclude", "Provenance:target"),
        ("_summary", "text"),
        ("_elements", "code,subject,value"),
        ("_total", "accurate"),
        ("_format", "json"),
        ("_pretty", "true"),
        strict=True,
    )
    assert read.count == 1000
    assert read.sort == (SortKey("date", "k.date.hi", True), SortKey("_id", "i"), SortKey("code", "k.code.lo"))
    assert read.includes == (
        Include("Observation", "subject", "Patient"),
        Include("Patient", "organization", iterate=True),
    )
    assert read.revincludes == (Include("Provenance", "target"),)
    assert (read.summary, read.total, read.format, read.pretty) == ("text", "accurate", "json", True)
    assert read.elements == ("code", "subject", "value")


def test_the_self_link_shows_what_was_used_in_the_order_asked() -> None:
    pairs = [("name", "x"), ("nonsense", "1"), ("_sort", "-nonsense,family"), ("_count", "9999"), ("gender", "male")]
    used = query("Patient", *pairs)
    assert render(used) == [("name", "x"), ("_sort", "family"), ("_count", "1000"), ("gender", "male")]
    assert parse(DEFINITIONS, "Patient", render(used), strict=True).clauses == used.clauses


def test_a_search_over_types_knows_what_they_share() -> None:
    both_types = query(None, ("identifier", "x"), ("_type", "Patient,Practitioner"), strict=True)
    assert both_types.types == ("Patient", "Practitioner")
    assert both_types.clause == Leaf("identifier", "token", ("x",))
    assert query(None, ("_lastUpdated", "gt2020")).unsupported == ()


def test_a_compartment_is_the_references_that_put_a_resource_into_it() -> None:
    clause = compartment(DEFINITIONS, "Patient", "1", "Observation")
    reference = frozenset({"Patient/1"})
    assert clause == Or((References("subject", reference), References("performer", reference)))
    focal = compartment(DEFINITIONS, "Patient", "1", "Patient")
    assert isinstance(focal, Or)
    assert Ids(frozenset({"1"})) in focal.clauses
    assert compartment(DEFINITIONS, "Patient", "1", "Medication") is None
    assert compartment(DEFINITIONS, "Nonsense", "1", "Patient") is None


def test_rewriting_replaces_parts_and_folds_what_can_no_longer_match() -> None:
    leaf = Leaf("code", "token", ("x",))
    clause = both(leaf, either(Chain("subject", "Patient", leaf), Listed("1")))

    def resolved(part: Clause) -> Clause | None:
        if isinstance(part, Chain):
            return References("subject", frozenset({"Patient/1"}))
        return Nothing() if isinstance(part, Listed) else None

    assert rewrite(clause, resolved) == both(leaf, References("subject", frozenset({"Patient/1"})))
    assert rewrite(both(leaf, Listed("1")), resolved) == Nothing()
    assert rewrite(Not(Listed("1")), resolved) == And(())


def test_codes_are_filled_in_inside_chains_too() -> None:
    needs = NeedsCodes("code", "in", url="u")
    clause = Has("Observation", "subject", Chain("encounter", "Encounter", needs))
    found = Leaf("code", "token", ("x",))
    assert rewrite(clause, lambda part: found if part == needs else None) == Has(
        "Observation", "subject", Chain("encounter", "Encounter", found)
    )
    assert rewrite(clause, lambda part: Nothing() if part == needs else None) == Nothing()


def test_codes_found_take_the_place_of_a_value_set() -> None:
    inside, outside = NeedsCodes("code", "in", url="u"), NeedsCodes("code", "not-in", url="u")
    assert with_codes(inside, [("s", "A"), (None, "B")]) == Leaf("code", "token", ("s|a", "b"))
    assert with_codes(inside, []) == Nothing()
    assert with_codes(outside, [("s", "A")]) == Not(Leaf("code", "token", ("s|a",)))
    assert with_codes(outside, []) == And(())
