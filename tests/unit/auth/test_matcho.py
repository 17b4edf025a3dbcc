"""Patterns of JSON in JSON: what they match, and that nothing hostile in them takes long."""

from __future__ import annotations

import time
from typing import Any

import pytest

from fhirserver.auth.matcho import TooCostly, matcher
from fhirserver.fhir.problem import Problem

WHOLE = {
    "request": {"type": "Patient", "query": {"name": ["a", "b"]}, "flag": True, "count": 1},
    "client": {"id": "c1", "name": "", "owner": "c1"},
}


@pytest.mark.parametrize(("wanted", "matches"), [
    ({"request": {"type": "Patient"}}, True),
    ({"request": {"type": "Observation"}}, False),
    ({"request": {"type": "#^Pat"}}, True),
    ({"request": {"type": "#^at"}}, False),
    ({"request": {"type": {"$enum": ["Observation", "Patient"]}}}, True),
    ({"request": {"type": {"$one-of": ["#^O", "#^Q"]}}}, False),
    ({"request": {"type": {"$not": "Patient"}}}, False),
    ({"request": {"flag": True, "count": 1}}, True),
    ({"request": {"flag": 1}}, False),
    ({"request": {"count": True}}, False),
    ({"request": {"query": {"name": ["a"]}}}, True),
    ({"request": {"query": {"name": ["b"]}}}, False),
    ({"request": {"query": {"name": {"$contains": "b"}}}}, True),
    ({"request": {"query": {"name": {"$every": "#^[ab]$"}}}}, True),
    ({"request": {"query": {"other": {"$every": "a"}}}}, False),
    ({"request": {"id": "nil?"}}, True),
    ({"request": {"id": "present?"}}, False),
    ({"client": {"name": "present?"}}, True),
    ({"client": {"name": "not-blank?"}}, False),
    ({"client": {"id": ".client.owner"}}, True),
    ({"client": {"id": ".client.name"}}, False),
    ({"user": {"id": ".client.nothing"}}, False),
    ({"user": {"role": "admin"}}, False),
    ({"user": "nil?"}, True),
    ({"request": "Patient"}, False),
    ({"request": {"type": {"deeper": "x"}}}, False),
])  # fmt: skip
def test_a_pattern_matches_what_has_what_it_names(wanted: dict[str, Any], matches: bool) -> None:
    assert matcher(wanted)(WHOLE) is matches


def test_what_is_absent_on_both_sides_is_not_equal() -> None:
    assert not matcher({"user": {"id": ".user.home"}})(WHOLE)


@pytest.mark.parametrize("wanted", [{"a": {"$no": 1}}, {"a": {"$enum": []}}, {"a": {"$not": 1, "b": 2}}, {"a": "#("}])
def test_what_is_no_pattern_is_refused(wanted: dict[str, Any]) -> None:
    with pytest.raises(Problem):
        matcher(wanted)


def test_nesting_is_bounded() -> None:
    wanted: Any = "x"
    for _ in range(100):
        wanted = {"a": wanted}
    with pytest.raises(Problem):
        matcher(wanted)


def test_a_regular_expression_cannot_take_long() -> None:
    test = matcher({"a": "#^(a+)+$"})
    start = time.perf_counter()
    assert not test({"a": "a" * 5_000 + "!"})
    assert time.perf_counter() - start < 5  # one that backtracks would need longer than the sun has


@pytest.mark.parametrize("wanted", [
    {"$contains": {"$contains": {"$contains": "x"}}},
    {"$contains": {"$one-of": [str(number) for number in range(3_000)]}},
    {"$not": {"$contains": {"$one-of": [f"#{number}$" for number in range(2_000)]}}},
    {"$every": {"$not": {"$enum": [{"a": {"b": number}} for number in range(1_000)]}}},
])  # fmt: skip
def test_a_comparison_that_would_take_long_is_given_up(wanted: dict[str, Any]) -> None:
    row: list[Any] = ["a" * 1_000] * 300
    many = [[row] * 300] * 300 if "$contains" in str(wanted.get("$contains", "")) else row * 30
    start = time.perf_counter()
    with pytest.raises(TooCostly):
        matcher({"resource": wanted})({"resource": many})
    assert time.perf_counter() - start < 5
