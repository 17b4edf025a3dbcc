"""SMART scopes: what is accepted, what it permits, and that sets are compared by meaning."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhirserver.auth import scopes
from fhirserver.auth.scopes import LETTERS, Scope, Scopes
from fhirserver.fhir.problem import Problem

TYPES = frozenset({"Patient", "Observation", "Subscription"})


def read(text: str) -> Scopes:
    return scopes.parse(text, TYPES)


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("system/Patient.read", "system/Patient.rs"),
        ("system/Patient.write", "system/Patient.cud"),
        ("system/*.*", "system/*.cruds"),
        ("openid system/*.*", "openid system/*.cruds"),
        ("openid profile email patient/*.read offline_access", "openid profile email offline_access patient/*.rs"),
        ("user/Patient.cruds", "user/Patient.cruds"),
        ("patient/Observation.rs?category=exam&status=final", "patient/Observation.rs?category=exam&status=final"),
        ("patient/Observation.rs?category=http://x.org/c|exam", "patient/Observation.rs?category=http://x.org/c|exam"),
        ("system/Patient.r system/Patient.s", "system/Patient.rs"),
        ("system/Patient.rs system/*.cruds", "system/*.cruds"),
        ("system/*.rs system/Patient.cruds", "system/*.rs system/Patient.cruds"),
        ("", ""),
    ],
)
def test_a_scope_is_printed_in_its_version_2_form(text: str, printed: str) -> None:
    assert str(read(text)) == printed


@pytest.mark.parametrize(
    "text",
    [
        "system/Patient.sr",
        "system/Patient.rr",
        "system/Patient.x",
        "system/Patient.",
        "system/Patient",
        "System/Patient.r",
        "system/patient.r",
        "system/Unknown.r",
        "system/Patient.read?name=x",
        "system/*.rs?name=x",
        "system/Patient.rs?",
        "system/Patient.rs?name",
        "system/Patient.rs?name=",
        "system/Patient.rs?_include=Patient:link",
        "admin",
        "launch/practitioner",
        "system/Patient.rs\x00",
        "a" * 9000,
        " ".join(f"system/Patient.r?name={n}" for n in range(301)),
    ],
)
def test_what_is_no_scope_is_refused_with_its_name(text: str) -> None:
    with pytest.raises(Problem) as refusal:
        read(text)
    assert refusal.value.status == 400


@pytest.mark.parametrize(
    ("wide", "narrow", "covered"),
    [
        ("system/*.cruds", "system/Patient.rs", True),
        ("system/Patient.r system/Patient.s", "system/Patient.rs", True),
        ("system/Patient.rs", "system/*.rs", False),
        ("system/Patient.rs", "user/Patient.rs", False),
        ("system/Patient.rs", "system/Patient.cruds", False),
        ("system/Observation.rs", "system/Observation.rs?category=exam", True),
        ("system/Observation.rs?category=exam", "system/Observation.rs", False),
        ("system/Observation.rs?category=exam", "system/Observation.rs?category=exam&status=final", True),
        ("openid", "openid", True),
        ("system/*.cruds", "openid", False),
        ("openid system/*.cruds", "", True),
    ],
)
def test_one_set_covers_another_by_what_it_permits(wide: str, narrow: str, covered: bool) -> None:
    assert read(wide).covers(read(narrow)) is covered


@pytest.mark.parametrize(
    ("requested", "allowed", "granted"),
    [
        ("system/Patient.read", "system/*.*", "system/Patient.read"),
        ("system/*.cruds", "system/Patient.rs system/Observation.c", "system/Patient.rs system/Observation.c"),
        ("system/Patient.cruds", "system/*.rs", "system/Patient.rs"),
        ("openid system/Patient.r", "system/Patient.rs", "system/Patient.r"),
        ("system/Observation.rs", "system/Observation.rs?category=exam", "system/Observation.rs?category=exam"),
        (
            "system/Observation.rs?status=final",
            "system/Observation.rs?category=exam",
            "system/Observation.rs?status=final&category=exam",
        ),
        ("user/Patient.r", "system/Patient.r", ""),
    ],
)
def test_what_is_granted_is_what_both_permit(requested: str, allowed: str, granted: str) -> None:
    assert scopes.granted(read(requested), read(allowed)) == granted


def test_scopes_are_shown_as_pairs_of_resource_and_action() -> None:
    held = read("system/Subscription.cruds system/Observation.rs?category=exam system/*.r")
    assert ("Subscription", "Create") in scopes.actions(held)
    assert ("Observation (category is exam)", "Search") in scopes.actions(held)
    assert "Read any resource" in scopes.sentence(held)


letters = st.sets(st.sampled_from(LETTERS), min_size=1).map(lambda s: "".join(x for x in LETTERS if x in s))
params = st.lists(
    st.tuples(st.sampled_from(["code", "status:not", "category"]), st.text("ab|:/&=%+ é", min_size=1, max_size=6)),
    max_size=2,
    unique=True,
)


@st.composite
def some_scopes(draw: st.DrawFn) -> Scopes:
    def one() -> Scope:
        type_ = draw(st.sampled_from(["*", *sorted(TYPES)]))
        narrow = tuple(draw(params)) if type_ != "*" else ()
        return Scope(draw(st.sampled_from(scopes.LEVELS)), type_, draw(letters), narrow)

    return Scopes(scopes.merged(one() for _ in range(draw(st.integers(0, 5)))))


@given(some_scopes())
def test_printing_and_parsing_again_loses_nothing(held: Scopes) -> None:
    assert read(str(held)) == held


@given(some_scopes(), some_scopes())
def test_an_intersection_permits_only_what_both_permit(one: Scopes, two: Scopes) -> None:
    both = scopes.intersection(one, two)
    assert one.covers(both)
    assert two.covers(both)


@given(some_scopes(), some_scopes(), st.sampled_from(sorted(TYPES)), st.sampled_from(LETTERS))
def test_an_intersection_permits_all_that_both_permit(one: Scopes, two: Scopes, type_: str, letter: str) -> None:
    both = scopes.intersection(one, two)
    for level in scopes.LEVELS:
        permitted = [held.alternatives(level, type_, letter) is not None for held in (one, two)]
        assert (both.alternatives(level, type_, letter) is not None) is all(permitted)


@given(st.text(max_size=200))
def test_any_text_is_parsed_or_refused_and_nothing_else(text: str) -> None:
    with contextlib.suppress(Problem):
        assert read(str(read(text))) == read(text)
