"""Whatever JSON comes in, validation answers with issues: it never raises, and it says where each fault is."""

from __future__ import annotations

import copy
from decimal import Decimal
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fhirserver.fhir.definitions import Definitions
from fhirserver.fhir.fhirpath import compile
from fhirserver.fhir.problem import STATUS
from fhirserver.fhir.validation import validate

DEFINITIONS = Definitions.load()
KNOWN = ("Observation", "Bundle.entry", "Extension", "Meta", "Narrative", "Reference", "Quantity")
URL = "http://hl7.org/fhir/StructureDefinition/"

OBSERVATION: dict[str, Any] = {
    "resourceType": "Observation",
    "id": "a",
    "meta": {"profile": [URL + "bp"], "lastUpdated": "2020-01-01T00:00:00Z"},
    "text": {"status": "generated", "div": '<div xmlns="http://www.w3.org/1999/xhtml">a</div>'},
    "contained": [{"resourceType": "Patient", "id": "p", "birthDate": "2000-01-01"}],
    "extension": [{"url": URL + "observation-eventTiming", "valueTiming": {"event": ["2020"]}}],
    "status": "final",
    "_status": {"id": "s"},
    "code": {"coding": [{"system": "http://loinc.org", "code": "85354-9"}]},
    "subject": {"reference": "#p"},
    "effectivePeriod": {"start": "2020-01-01", "end": "2020-01-02"},
    "component": [{"code": {"text": "a"}, "valueQuantity": {"value": Decimal("1.0"), "unit": "mmHg"}}],
}
BUNDLE: dict[str, Any] = {
    "resourceType": "Bundle",
    "type": "transaction",
    "entry": [{"fullUrl": "urn:uuid:1", "resource": OBSERVATION, "request": {"method": "POST", "url": "Observation"}}],
}

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.decimals(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.sampled_from(["Patient", "Bundle", "2020-13-45", "#p", "http://a", "<div/>", URL + "bp", "final", "\ud800"]),
)
names = st.one_of(
    st.sampled_from([n for t in KNOWN for n in DEFINITIONS.types[t].properties]),
    st.text(max_size=10),
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=5), max_leaves=20
)


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    found: list[tuple[Any, Any]] = []
    pending = [value]
    while pending:
        container = pending.pop()
        keys = list(container) if isinstance(container, dict) else range(len(container))
        for key in keys:
            found.append((container, key))
            if isinstance(container[key], dict | list):
                pending.append(container[key])
    return found


def check(resource: Any) -> None:
    for issue in validate(DEFINITIONS, resource):
        assert issue.code in STATUS
        assert issue.severity in ("error", "warning")
        assert issue.diagnostics
        for expression in issue.expression:
            compile(expression)  # raises Problem for what is no FHIRPath


@settings(max_examples=300, deadline=None)
@given(values)
def test_any_json_is_answered(value: Any) -> None:
    check(value)
    if isinstance(value, dict):
        check({**value, "resourceType": "Observation"})


@settings(max_examples=600, deadline=None)
@given(st.sampled_from([OBSERVATION, BUNDLE]), st.data())
def test_any_change_of_a_resource_is_answered(resource: dict[str, Any], data: st.DataObject) -> None:
    changed = copy.deepcopy(resource)
    for _ in range(data.draw(st.integers(1, 3))):
        container, key = data.draw(st.sampled_from(places(changed)))
        if data.draw(st.booleans()):
            container[key] = data.draw(values)
        elif isinstance(container, dict):
            container[data.draw(names)] = data.draw(values)
    check(changed)
