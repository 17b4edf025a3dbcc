"""Resources and searches for hypothesis, both drawn from the same small pools so that searches often find something."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

SYSTEMS = ("http://loinc.org", "urn:sys", "http://a.example/codes|x")
CODES = ("8480-6", "A", "a", "a|b", "b\\", "é")
TEXTS = (
    "Müller",
    "muller",
    "MULLER  Ann",
    "Mu",
    "Strauß",
    "strasse",
    "a.b*c",
    "$where",
    "ÅNGSTRÖM",
    "山田",
    "x,y",
    "Ann",
)
UNITS = (
    {"unit": "mg", "system": "http://unitsofmeasure.org", "code": "mg"},
    {"unit": "gram", "system": "http://unitsofmeasure.org", "code": "g"},
    {"unit": "mg"},
    {"code": "mg"},
    {"unit": "IU", "system": "http://unitsofmeasure.org", "code": "[IU]"},
    {"unit": "tab", "system": "urn:sys", "code": "tab"},
    {},
)
NUMBERS = ("0", "1", "5.4", "5.40", "5.35", "5.45", "-3", "0.0054", "100", "1e2", "99.5", "100.5", "1000")
DATES = (
    "2020", "2020-02", "2020-02-29", "2020-03-01", "2019-12-31", "2020-02-29T23:59:59Z", "2020-02-29T23:59:59.999Z",
    "2020-02-29T12:00:00+14:00", "2020-03-01T00:00:00Z", "2021-01-01", "0001", "9999-12-31", "2020-02-29T12:00Z",
)  # fmt: skip
INSTANTS = ("2020-02-29T23:59:59Z", "2020-02-29T23:59:59.999Z", "2020-03-01T00:00:00Z", "2020-02-29T12:00:00+14:00")
URLS = ("http://a.example/fhir", "http://a.example/fhir/ValueSet/1", "http://a.example/fhirx", "urn:oid:1.2.3")
BASE = "http://own.example/fhir"
PATIENTS = (
    "Patient/1",
    "Patient/2",
    f"{BASE}/Patient/1",
    "http://other.example/Patient/1",
    "Group/1",
    "Patient/1/_history/2",
)
PREFIXES = ("", "eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap")

pick = st.sampled_from
Resource = dict[str, Any]


def _some(strategy: st.SearchStrategy[Any], most: int = 2) -> st.SearchStrategy[list[Any]]:
    return st.lists(strategy, min_size=1, max_size=most)


def _object(required: dict[str, Any] | None = None, **optional: st.SearchStrategy[Any]) -> st.SearchStrategy[Resource]:
    return st.fixed_dictionaries(required or {}, optional=optional)


codings = _object(system=pick(SYSTEMS), code=pick(CODES), display=pick(TEXTS))
concepts = _object(coding=_some(codings), text=pick(TEXTS))
identifiers = _object(system=pick(SYSTEMS), value=pick(CODES), type=concepts)
references = _object(reference=pick(PATIENTS), identifier=identifiers, display=pick(TEXTS))
numbers = pick(NUMBERS).map(Decimal)
quantities = st.builds(
    lambda value, unit, comparator: {"value": value, **unit, **comparator},
    numbers,
    pick(UNITS),
    pick(({}, {}, {}, {"comparator": "<"}, {"comparator": ">="})),
)
ranges = _object(low=quantities, high=quantities)
periods = _object(start=pick(DATES), end=pick(DATES))
names = _object(family=pick(TEXTS), given=_some(pick(TEXTS)), text=pick(TEXTS))
addresses = _object(line=_some(pick(TEXTS)), city=pick(TEXTS), country=pick(TEXTS))
telecoms = _object(system=pick(("phone", "email")), value=pick(CODES))
metas = _object(tag=_some(codings), profile=_some(pick(URLS)), security=_some(codings), source=pick(URLS))


def _resource(type: str, *variants: st.SearchStrategy[Resource]) -> st.SearchStrategy[Resource]:
    """A resource with at most one property of each variant, so that choice elements stay choices."""
    return st.tuples(_object(meta=metas), *variants).map(
        lambda parts: {"resourceType": type, **{name: value for part in parts for name, value in part.items()}}
    )


patients = _resource(
    "Patient",
    _object(
        identifier=_some(identifiers),
        name=_some(names),
        telecom=_some(telecoms),
        gender=pick(("male", "female")),
        birthDate=pick(DATES),
        address=_some(addresses),
        generalPractitioner=_some(references),
        managingOrganization=references,
        active=st.booleans(),
    ),
    st.one_of(_object(deceasedBoolean=st.booleans()), _object(deceasedDateTime=pick(DATES))),
)
_observed = st.one_of(
    _object(valueQuantity=quantities),
    _object(valueCodeableConcept=concepts),
    _object(valueString=pick(TEXTS)),
    _object(valueDateTime=pick(DATES)),
    _object(valuePeriod=periods),
)
observations = _resource(
    "Observation",
    _object(
        {"code": concepts},
        status=pick(("final", "amended")),
        category=_some(concepts),
        subject=references,
        component=_some(st.tuples(_object({"code": concepts}), _observed).map(lambda two: {**two[0], **two[1]})),
    ),
    _observed,
    st.one_of(
        _object(effectiveDateTime=pick(DATES)),
        _object(effectivePeriod=periods),
        _object(effectiveTiming=_object(event=_some(pick(DATES), 3))),
        _object(effectiveInstant=pick(INSTANTS)),
    ),
)
assessments = _resource(
    "RiskAssessment",
    _object(
        subject=references,
        identifier=_some(identifiers, 1),
        prediction=_some(st.one_of(_object(probabilityDecimal=numbers), _object(probabilityRange=ranges))),
    ),
)
value_sets = _resource(
    "ValueSet",
    _object(
        url=pick(URLS),
        name=pick(TEXTS),
        date=pick(DATES),
        useContext=_some(st.builds(lambda code, q: {"code": code, "valueQuantity": q}, codings, quantities)),
    ),
)


def _holding(
    resources: st.SearchStrategy[Resource], inside: st.SearchStrategy[Resource]
) -> st.SearchStrategy[Resource]:
    """The resources, with others inside them, of which the first is what a subject refers to."""
    held = _some(inside).map(lambda found: [{**each, "id": f"c{number}"} for number, each in enumerate(found)])

    def hold(resource: Resource, contained: list[Resource]) -> Resource:
        return {**resource, "contained": contained, "subject": {"reference": "#c0"}}

    return st.one_of(resources, st.builds(hold, resources, held))


resources = {"Patient": patients, "Observation": observations, "RiskAssessment": assessments, "ValueSet": value_sets}


def escaped(text: str) -> str:
    """The text as it is written in a search value."""
    for sign in ("\\", ",", "|", "$"):
        text = text.replace(sign, f"\\{sign}")
    return text


_tokens = st.one_of(
    pick(CODES).map(escaped),
    st.builds(lambda s, c: f"{escaped(s)}|{escaped(c)}", pick(SYSTEMS), pick(CODES)),
    pick(CODES).map(lambda c: f"|{escaped(c)}"),
    pick(SYSTEMS).map(lambda s: f"{escaped(s)}|"),
)
_strings = pick((*TEXTS, "M", "mul", "ann", "s", "STRASSE", ".", "*", "山")).map(escaped)
_dates = st.builds(lambda p, d: p + d, pick(PREFIXES), pick(DATES))
_numbers = st.builds(lambda p, n: p + n, pick(PREFIXES), pick(NUMBERS))
_units = pick(("", "||mg", "||gram", "|http://unitsofmeasure.org|mg", "|http://unitsofmeasure.org|g", "|urn:sys|tab",
               "|http://unitsofmeasure.org|[IU]"))  # fmt: skip
_quantities = st.builds(lambda n, u: n + u, _numbers, _units)
_references = pick((*PATIENTS, "1", "2"))
_of_type = st.builds(lambda s, c, v: f"{escaped(s)}|{escaped(c)}|{escaped(v)}", pick(SYSTEMS), pick(CODES), pick(CODES))

# Type -> [(parameter, kind of values, modifiers)].
_CRITERIA: dict[str, list[tuple[str, st.SearchStrategy[str], tuple[str, ...]]]] = {
    "Patient": [
        ("name", _strings, ("", ":exact", ":contains")),
        ("family", _strings, ("", ":exact", ":contains")),
        ("address", _strings, ("", ":exact", ":contains")),
        ("identifier", _tokens, ("", ":not")),
        ("identifier", _of_type, (":of-type",)),
        ("identifier", _strings, (":text",)),
        ("gender", pick(("male", "FEMALE", "http://hl7.org/fhir/administrative-gender|male")), ("", ":not")),
        ("deceased", pick(("true", "false")), ("",)),
        ("telecom", _tokens, ("",)),
        ("birthdate", _dates, ("",)),
        ("death-date", _dates, ("",)),
        ("organization", _references, ("",)),
        ("general-practitioner", _tokens, (":identifier",)),
        ("_tag", _tokens, ("", ":not")),
        ("_profile", pick(URLS[:3]), ("", ":below", ":above")),
        ("_source", pick(URLS[:3]), ("", ":below", ":above")),
    ],
    "Observation": [
        ("code", _tokens, ("", ":not")),
        ("code", _strings, (":text",)),
        ("category", _tokens, ("", ":not")),
        ("subject", _references, ("",)),
        ("subject", pick(("1", "Patient/1", "2")), (":Patient",)),
        ("patient", _references, ("",)),
        ("date", _dates, ("",)),
        ("value-date", _dates, ("",)),
        ("value-string", _strings, ("", ":exact", ":contains")),
        ("value-quantity", _quantities, ("",)),
        ("component-value-quantity", _quantities, ("",)),
        ("combo-value-quantity", _quantities, ("",)),
        ("code-value-quantity", st.builds(lambda t, q: f"{t}${q}", _tokens, _quantities), ("",)),
        ("combo-code-value-quantity", st.builds(lambda t, q: f"{t}${q}", _tokens, _quantities), ("",)),
        ("component-code-value-concept", st.builds(lambda t, q: f"{t}${q}", _tokens, _tokens), ("",)),
        ("code-value-date", st.builds(lambda t, q: f"{t}${q}", _tokens, _dates), ("",)),
        ("code-value-string", st.builds(lambda t, q: f"{t}${q}", _tokens, _strings), ("",)),
    ],
    "RiskAssessment": [
        ("probability", _numbers, ("",)),
        ("subject", _references, ("",)),
        ("identifier", _tokens, ("",)),
    ],
    "ValueSet": [
        ("url", pick(URLS[:3]), ("", ":below", ":above")),
        ("name", _strings, ("", ":exact", ":contains")),
        ("date", _dates, ("",)),
        ("context-quantity", _quantities, ("",)),
        ("context-type-quantity", st.builds(lambda t, q: f"{t}${q}", _tokens, _quantities), ("",)),
    ],
}
TYPES = tuple(_CRITERIA)


def criteria(type: str) -> st.SearchStrategy[tuple[str, str]]:
    """One (name, value) pair of a search on the type."""
    written = [
        st.tuples(
            pick(modifiers).map(lambda modifier, code=code: code + modifier),
            st.lists(values, min_size=1, max_size=2).map(",".join),
        )
        for code, values, modifiers in _CRITERIA[type]
    ]
    missing = st.tuples(pick(sorted({f"{code}:missing" for code, _, _ in _CRITERIA[type]})), pick(("true", "false")))
    updated = st.tuples(st.just("_lastUpdated"), _dates)
    ids = st.tuples(pick(("_id", "_id:not")), pick(("0", "1,2", "nobody")))
    return st.one_of(*written, missing, updated, ids)


populations = pick(TYPES).flatmap(
    lambda type: st.tuples(
        st.just(type),
        st.lists(resources[type], min_size=4, max_size=12),
        st.lists(st.lists(criteria(type), min_size=1, max_size=2), min_size=15, max_size=30),
    )
)
"""A type, resources of it, and searches on it."""

containers = pick(("Patient", "Observation")).flatmap(
    lambda type: st.tuples(
        st.just(type),
        st.lists(_holding(resources["Observation"], resources[type]), min_size=4, max_size=12),
        st.lists(st.lists(criteria(type), min_size=1, max_size=2), min_size=15, max_size=30),
    )
)
"""A type, Observations that have resources of it inside, and searches for those."""
