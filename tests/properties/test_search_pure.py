"""Properties of the parts of search: text, ranges, and that no input makes it fail in any way but a Problem."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fhirserver.fhir.definitions import Definitions
from fhirserver.fhir.problem import Problem
from fhirserver.search import mongo
from fhirserver.search.parse import parse, render
from fhirserver.search.query import walk
from fhirserver.search.text import after_prefix, normal, split, unescape
from fhirserver.search.types import number, quantity
from fhirserver.search.types.date import EARLIEST, LATEST, covered
from fhirserver.search.types.model import Context
from fhirserver.search.types.ranges import PREFIXES, Range, bounds, contains
from tests.properties.search_strategies import BASE, DATES, TYPES, criteria, escaped

DEFINITIONS = Definitions.load()
NOW = datetime(2020, 3, 1, tzinfo=UTC)
letters = st.characters(exclude_categories=("Cs",))


@given(st.text(letters))
def test_the_normal_form_is_its_own_normal_form(text: str) -> None:
    assert normal(normal(text)) == normal(text)


@given(st.text(letters), st.text(letters))
def test_case_makes_no_difference_to_the_normal_form(before: str, after: str) -> None:
    text = before + after
    if text.casefold() == text.lower().casefold():
        assert normal(text.casefold()) == normal(text)


@given(st.text(letters, min_size=1, max_size=4), st.text(letters, max_size=4), st.text(letters, max_size=4))
def test_the_range_of_a_prefix_holds_exactly_what_starts_with_it(prefix: str, rest: str, other: str) -> None:
    end = after_prefix(prefix)
    for text in (prefix + rest, other, prefix[:-1] + other):
        inside = text >= prefix and (end is None or text < end)
        assert inside is text.startswith(prefix)


@given(st.lists(st.text(letters), min_size=1), st.sampled_from([",", "|", "$"]))
def test_escaped_values_come_apart_as_they_were(parts: list[str], separator: str) -> None:
    joined = separator.join(escaped(part) for part in parts)
    assert [unescape(part, "p") for part in split(joined, separator)] == parts


@given(st.sampled_from(PREFIXES), st.sampled_from(DATES), st.sampled_from(DATES), st.sampled_from(DATES))
def test_bounds_never_exclude_what_a_range_contains(prefix: str, asked: str, first: str, second: str) -> None:
    range = Range(prefix, *covered(asked))
    lo, hi = min(covered(first)[0], covered(second)[0]), max(covered(first)[1], covered(second)[1])
    bound = bounds(range)
    within = (bound.least is None or _holds(hi, bound.least)) and (bound.most is None or _holds(lo, bound.most))
    if contains(range, lo, hi):
        assert within
    if bound.exact:
        assert contains(range, lo, hi) is within


def _holds(value: Any, bound: tuple[str, Any]) -> bool:
    operator, limit = bound
    return bool({"$gt": value > limit, "$gte": value >= limit, "$lt": value < limit, "$lte": value <= limit}[operator])


@given(st.sampled_from(DATES), st.sampled_from(DATES))
def test_prefixes_divide_all_ranges_among_them(asked: str, target: str) -> None:
    lo, hi = covered(target)
    range = covered(asked)
    says = {prefix: contains(Range(prefix, *range), lo, hi) for prefix in PREFIXES}
    assert says["eq"] is not says["ne"]
    assert says["ge"] is (says["gt"] or says["eq"])
    assert says["le"] is (says["lt"] or says["eq"])
    assert not says["sa"] or (says["gt"] and not says["eq"] and not says["ap"])
    assert not says["eb"] or (says["lt"] and not says["eq"] and not says["ap"])


@given(st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1)))  # noqa: DTZ001 - hypothesis wants them bare
def test_a_moment_lies_in_its_minute_day_month_and_year(moment: datetime) -> None:
    inside = covered(f"{moment:%Y}".rjust(4, "0") + f"{moment:-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z")
    assert inside[0] == inside[1]
    text = f"{moment.year:04}{moment:-%m-%dT%H:%M}"
    for shorter in (f"{text}Z", text[:10], text[:7], text[:4]):
        lo, hi = covered(shorter)
        assert lo <= inside[0] <= inside[1] <= hi
        assert EARLIEST <= lo <= hi <= LATEST


@given(st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**6), max_value=10**6))
def test_a_number_is_found_by_its_own_digits(value: Any) -> None:
    point = number.number(value)
    assert point is not None
    for text in (f"{value:f}", f"{value:.1f}"):
        found = number.parse(text, Context("p"))
        assert contains(found, point, point) is (found.lo <= point <= found.hi)
    assert contains(number.parse(f"{value:f}", Context("p")), point, point)
    assert math.isfinite(point)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=2, min_value=0, max_value=10**4))
def test_a_quantity_is_found_in_another_unit(value: Any) -> None:
    found: dict[str, Any] = {}
    grams = {"value": value, "system": "http://unitsofmeasure.org", "code": "g"}
    quantity.QUANTITY.index("q", [("Quantity", grams)], found)
    asked = quantity.QUANTITY.parse(f"{value * 1000:f}|http://unitsofmeasure.org|mg", Context("q"))
    assert quantity.QUANTITY.matches(found, "q", (asked,), "")


@pytest.mark.parametrize("type", [*TYPES, None])
@settings(deadline=None, max_examples=80)
@given(data=st.data())
def test_any_text_is_parsed_or_refused(type: str | None, data: st.DataObject) -> None:
    names = [*DEFINITIONS.search_parameters(type or "Resource"), "_has", "_list", "_sort", "_include", "_revinclude",
             "_count", "_elements", "_type", "_id", "_lastUpdated"]  # fmt: skip
    suffix = st.text(st.sampled_from(":._-|abcMissing$"), max_size=8) | st.sampled_from(
        [":missing", ":not", ":in", ".name"]
    )
    name = st.builds(lambda code, rest: code + rest, st.sampled_from(names), suffix) | st.text(max_size=10)
    value = st.text(max_size=20) | st.text(st.sampled_from("ge2019-05T:Z.,|$\\+-0123abP/:*"), max_size=20)
    pairs = data.draw(st.lists(st.tuples(name, value), max_size=3))
    try:
        query = parse(DEFINITIONS, type, pairs, now=NOW)
    except Problem:
        return
    assert len(query.used) <= len(pairs)
    try:
        mongo.filter(query.clause)
    except TypeError:
        assert any(
            part.__class__.__name__ in ("Chain", "Has", "Listed", "NeedsCodes", "NeedsHierarchy")
            for part in walk(query.clause)
        )


@settings(deadline=None)
@given(st.sampled_from(TYPES).flatmap(lambda type: st.tuples(st.just(type), st.lists(criteria(type), max_size=3))))
def test_the_self_link_asks_for_the_same(asked: tuple[str, list[tuple[str, str]]]) -> None:
    type, pairs = asked
    query = parse(DEFINITIONS, type, pairs, base=BASE, now=NOW)
    assert parse(DEFINITIONS, type, render(query), base=BASE, now=NOW, strict=True) == query
