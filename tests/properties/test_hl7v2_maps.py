"""Rules as parts of an extension and back; what a message says merged into what is stored: for any JSON."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fhirserver.fhir.json import decode, encode
from fhirserver.hl7v2.mapping.conceptmaps import element, parts_of, rule_of, values_of
from fhirserver.messaging.updating import merged

NAMES = st.text("abcdefgXYZ-", min_size=1, max_size=8)
SCALARS = st.one_of(st.text(min_size=1, max_size=20), st.booleans(), st.integers(-(2**31), 2**31 - 1))


def objects(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    members = st.one_of(inner, st.lists(st.one_of(SCALARS, st.dictionaries(NAMES, SCALARS, min_size=1)), min_size=1))
    return st.dictionaries(NAMES, members, min_size=1, max_size=5)


VALUES = objects(st.recursive(SCALARS, objects, max_leaves=8))


@given(VALUES)
def test_values_are_the_same_after_being_parts_and_text(values: dict[str, Any]) -> None:
    assert values_of(decode(encode({"x": parts_of(values)}))["x"]) == values


@given(st.sampled_from(["datatype", "segment"]), VALUES, st.one_of(st.none(), st.text("PID-378.^", min_size=1)))
def test_a_rule_is_the_same_after_being_an_element(kind: str, values: dict[str, Any], source: str | None) -> None:
    rule = {key: value for key, value in values.items() if key not in ("from", "to")} | {"to": "gender"}
    rule |= {"from": source} if source else {}
    assert rule_of(kind, decode(encode(element(kind, rule)))) == rule


PERIODS = st.dictionaries(st.sampled_from(["start", "end"]), st.dates().map(str), min_size=1)


@given(PERIODS, PERIODS)
def test_a_merged_period_holds_what_is_said_and_never_runs_backwards(
    held: dict[str, str], said: dict[str, str]
) -> None:
    after = merged({"period": held}, {"period": said}, [f"period.{name}" for name in said], ())["period"]
    assert said.items() <= after.items()
    if said.get("start", "") <= said.get("end", "9"):
        assert after.get("start", "") <= after.get("end", "9")
    assert after.items() <= {**held, **said}.items()
