"""SearchParameter expressions compiled: all of R4's, and what each construct selects."""

from __future__ import annotations

from typing import Any

import pytest

from fhirserver.fhir.definitions import Definitions
from fhirserver.fhir.problem import Problem
from fhirserver.search.expression import compile, reference_targets
from fhirserver.search.grammar import parse

DEFINITIONS = Definitions.load()

PATIENT: dict[str, Any] = {
    "resourceType": "Patient",
    "id": "1",
    "name": [{"family": "A", "given": ["B", "C"]}, {"given": [None, "D"]}],
    "telecom": [{"system": "phone", "value": "1"}, {"system": "email", "value": "2"}],
    "extension": [{"url": "u1", "valueString": "x"}, {"url": "u2", "valueQuantity": {"value": 1}}],
    "deceasedDateTime": "2020",
    "gender": "male",
    "generalPractitioner": [{"reference": "Practitioner/1"}, {"reference": "http://x/fhir/Organization/2"}],
    "managingOrganization": {"type": "Organization", "identifier": {"value": "x"}},
    "contained": [{"resourceType": "Organization", "id": "o"}],
}


def test_every_search_parameter_of_r4_compiles() -> None:
    compiled = 0
    for type in sorted(DEFINITIONS.resource_types):
        for parameter in DEFINITIONS.search_parameters(type).values():
            if parameter.expression:
                compile(DEFINITIONS, type, parameter.expression)
                compiled += 1
    assert compiled > 2_000


@pytest.mark.parametrize(
    ("expression", "values"),
    [
        ("Patient.name.given", [("string", "B"), ("string", "C"), ("string", "D")]),
        ("Patient.name.family | Practitioner.name.family", [("string", "A")]),
        ("name[0].given[1]", [("string", "C")]),
        ("Patient.name.given.first()", [("string", "B")]),
        ("Patient.telecom.where(system='email')", [("ContactPoint", {"system": "email", "value": "2"})]),
        ("Patient.telecom.where(system = 'fax').value", []),
        ("Patient.telecom.where(system != 'fax').value", [("string", "1"), ("string", "2")]),
        ("Patient.telecom.where(system='email' or value='1').value", [("string", "1"), ("string", "2")]),
        ("Patient.extension('u1')", [("string", "x")]),
        ("Patient.extension('u2').value", [("Quantity", {"value": 1})]),
        ("(Patient.extension.where(url='u2').value as Quantity).value", [("decimal", 1)]),
        ("Patient.deceased", [("dateTime", "2020")]),
        ("Patient.deceased as boolean", []),
        ("Patient.deceased.ofType(dateTime)", [("dateTime", "2020")]),
        ("Patient.deceased.as(DateTime)", [("dateTime", "2020")]),
        ("Patient.deceased.exists() and Patient.deceased != false", [("boolean", True)]),
        ("Patient.active.exists()", [("boolean", False)]),
        ("Patient.active.exists().not()", [("boolean", True)]),
        ("Patient.active.empty()", [("boolean", True)]),
        ("Patient.name.exists(family='A')", [("boolean", True)]),
        ("Patient.where(hasExtension('u1')).id", [("id", "1")]),
        ("Patient.where(hasExtension('u9')).id", []),
        ("Patient.gender", [("Coding", {"system": "http://hl7.org/fhir/administrative-gender", "code": "male"})]),
        (
            "Patient.generalPractitioner.where(resolve() is Organization)",
            [("Reference", {"reference": "http://x/fhir/Organization/2"})],
        ),
        ("Patient.managingOrganization.where(resolve() is Organization).type", [("uri", "Organization")]),
        ("Patient.contained.ofType(Organization).id", [("id", "o")]),
        ("Patient.contained", [("Organization", {"resourceType": "Organization", "id": "o"})]),
        ("Practitioner.name", []),
        ("%resource.id", [("id", "1")]),
        ("Resource.id", [("id", "1")]),
    ],
)
def test_a_construct_selects_what_fhirpath_says(expression: str, values: list[tuple[str, Any]]) -> None:
    found = compile(DEFINITIONS, "Patient", expression)(PATIENT)
    assert [(type.rpartition(".")[2], value) for type, value in found] == values


@pytest.mark.parametrize(
    "expression",
    [
        "Patient.nonsense",
        "Patient.name.all(given)",
        "Patient..name",
        "Patient.name[",
        "Patient.name[x]",
        "Patient.name + 1",
        "Patient.name.where(",
        "'literal'",
        "(" * 200 + "name" + ")" * 200,
        "name." * 3_000 + "given",
        "Patient.name.where(family = given)",
        "",
    ],
)
def test_other_fhirpath_is_refused_and_never_breaks(expression: str) -> None:
    with pytest.raises(Problem):
        compile(DEFINITIONS, "Patient", expression)


@pytest.mark.parametrize("resource", [{}, {"name": None}, {"name": "x"}, {"name": [["x"]]}, {"name": [1, None, {}]}])
def test_a_malformed_resource_yields_nothing(resource: dict[str, Any]) -> None:
    assert compile(DEFINITIONS, "Patient", "Patient.name.family")(resource) == []


def test_operators_bind_as_fhirpath_says() -> None:
    assert parse("a as X | b as Y") == parse("(a as X) | (b as Y)")
    assert parse("a | b = c") == parse("(a | b) = c")
    assert parse("a = 'x' and b or c") == parse("((a = 'x') and b) or c")


@pytest.mark.parametrize(
    ("type", "code", "targets"),
    [
        ("Encounter", "patient", ("Patient",)),
        ("Observation", "subject", ("Patient", "Group", "Device", "Location")),
        ("Bundle", "composition", ("Composition",)),
        ("AuditEvent", "entity", ()),
    ],
)
def test_reference_targets_are_those_of_the_elements(type: str, code: str, targets: tuple[str, ...]) -> None:
    assert reference_targets(DEFINITIONS, type, DEFINITIONS.search_parameters(type)[code]) == targets
