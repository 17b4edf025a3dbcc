"""Every search parameter type, prefix and modifier on stored resources. FHIR R4: search#ptypes, search#modifiers."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from tests.api.client import Api
from tests.api.samples import encounter, observation, patient

LOINC, UCUM = "http://loinc.org", "http://unitsofmeasure.org"


def quantity(value: str, code: str = "mg") -> dict[str, Any]:
    return {"value": Decimal(value), "unit": code, "system": UCUM, "code": code}


RESOURCES: list[dict[str, Any]] = [
    {"resourceType": "Organization", "id": "org", "name": "Ward", "identifier": [{"system": "urn:org", "value": "1"}]},
    {"resourceType": "Practitioner", "id": "doc", "name": [{"family": "Doktor"}]},
    patient(
        id="ida",
        active=True,
        gender="female",
        birthDate="1980-05-06",
        identifier=[
            {
                "system": "urn:mrn",
                "value": "A|1",
                "type": {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "MR"}]},
            }
        ],
        name=[{"family": "Müller-Çelik", "given": ["Ida", "Anna"]}],
        managingOrganization={"reference": "Organization/org"},
        generalPractitioner=[{"reference": "Practitioner/doc"}],
        meta={"tag": [{"system": "urn:t", "code": "x"}], "security": [{"code": "R"}], "source": "urn:feed"},
    ),
    patient(id="bob", gender="male", birthDate="1990", deceasedBoolean=True, name=[{"family": "Muller", "text": "B"}]),
    patient(id="eve", name=[{"text": "Eve, the first"}]),
    observation(
        "Patient/ida",
        id="o1",
        effectiveDateTime="2020-01-15T10:00:00+01:00",
        valueQuantity=quantity("1500"),
        encounter={"reference": "Encounter/e1"},
        performer=[{"reference": "Practitioner/doc"}],
    ),
    observation("Patient/ida", id="o2", code="8480-6", effectiveDateTime="2020-02", valueQuantity=quantity("2", "g")),
    observation(
        "Patient/bob",
        id="o3",
        effectivePeriod={"start": "2020-01-01", "end": "2020-12-31"},
        valueCodeableConcept={"text": "High"},
    ),
    encounter("Patient/ida", id="e1", period={"start": "2020-01-01"}),
    {
        "resourceType": "ValueSet",
        "id": "vs",
        "status": "active",
        "url": "http://example.org/ValueSet/pulse",
        "compose": {"include": [{"system": LOINC, "concept": [{"code": "8867-4"}]}]},
    },
    {
        "resourceType": "List",
        "id": "list",
        "status": "current",
        "mode": "working",
        "entry": [{"item": {"reference": "Patient/bob"}}, {"item": {"reference": "Patient/gone"}}],
    },
    {"resourceType": "RiskAssessment", "id": "r1", "status": "final", "subject": {"reference": "Patient/ida"},
     "prediction": [{"probabilityDecimal": Decimal("0.80")}]},
]  # fmt: skip

CASES: list[tuple[str, list[str]]] = [
    # string
    ("Patient?family=mul", ["bob", "ida"]),
    ("Patient?family=MÜL", ["bob", "ida"]),
    ("Patient?family=celik", []),
    ("Patient?family:contains=celik", ["ida"]),
    ("Patient?family:exact=Muller", ["bob"]),
    ("Patient?family:exact=muller", []),
    ("Patient?name=anna", ["ida"]),
    ("Patient?name=eve\\,", ["eve"]),
    ("Patient?name=ida,b", ["bob", "ida"]),
    ("Patient?given=ida&given=anna", ["ida"]),
    ("Patient?family:missing=true", ["eve"]),
    ("Patient?family:missing=false", ["bob", "ida"]),
    # token
    ("Patient?gender=female", ["ida"]),
    ("Patient?gender:not=female", ["bob", "eve"]),
    ("Patient?gender:missing=true", ["eve"]),
    ("Patient?active=true", ["ida"]),
    ("Patient?deceased=true", ["bob"]),
    ("Patient?identifier=urn:mrn|A\\|1", ["ida"]),
    ("Patient?identifier=urn:mrn|", ["ida"]),
    ("Patient?identifier=A\\|1", ["ida"]),
    ("Patient?identifier=|A\\|1", []),
    ("Patient?identifier:of-type=http://terminology.hl7.org/CodeSystem/v2-0203|MR|A\\|1", ["ida"]),
    ("Observation?code=http://loinc.org|8867-4", ["o1", "o3"]),
    ("Observation?code=8867-4,8480-6", ["o1", "o2", "o3"]),
    ("Observation?code:in=http://example.org/ValueSet/pulse", ["o1", "o3"]),
    ("Observation?code:not-in=http://example.org/ValueSet/pulse", ["o2"]),
    ("Observation?value-concept:text=high", ["o3"]),
    # date
    ("Patient?birthdate=1980-05-06", ["ida"]),
    ("Patient?birthdate=1980", ["ida"]),
    ("Patient?birthdate=eq1990-01", []),
    ("Patient?birthdate=ne1980", ["bob"]),
    ("Patient?birthdate=lt1985", ["ida"]),
    ("Patient?birthdate=ge1990", ["bob"]),
    ("Patient?birthdate=gt1980-05-06", ["bob"]),
    ("Patient?birthdate=le1980-05-06", ["ida"]),
    ("Patient?birthdate=sa1980", ["bob"]),
    ("Patient?birthdate=eb1990", ["ida"]),
    ("Patient?birthdate=ge1980&birthdate=lt1981", ["ida"]),
    ("Observation?date=2020-01-15T09:00:00Z", ["o1"]),
    ("Observation?date=2020-01", ["o1"]),
    ("Observation?date=ge2020-02-01", ["o2", "o3"]),
    ("Observation?date=sa2020-01-31", ["o2"]),
    ("Patient?_lastUpdated=ge2020", ["bob", "eve", "ida"]),
    ("Patient?_lastUpdated=lt2020", []),
    # number, quantity
    ("RiskAssessment?probability=0.8", ["r1"]),
    ("RiskAssessment?probability=0.80", ["r1"]),
    ("RiskAssessment?probability=gt0.7", ["r1"]),
    ("RiskAssessment?probability=lt0.8", []),
    ("Observation?value-quantity=1500||mg", ["o1"]),
    ("Observation?value-quantity=1.5|http://unitsofmeasure.org|g", ["o1"]),
    ("Observation?value-quantity=gt1|http://unitsofmeasure.org|g", ["o1", "o2"]),
    ("Observation?value-quantity=le1.5|http://unitsofmeasure.org|g", ["o1"]),
    ("Observation?value-quantity=ap2.1|http://unitsofmeasure.org|g", ["o2"]),
    # reference, chains
    ("Observation?subject=Patient/ida", ["o1", "o2"]),
    ("Observation?subject=ida", ["o1", "o2"]),
    ("Observation?subject:Patient=bob", ["o3"]),
    ("Observation?patient=ida,bob", ["o1", "o2", "o3"]),
    ("Observation?subject.name=muller", ["o1", "o2", "o3"]),
    ("Observation?subject:Patient.gender=male", ["o3"]),
    ("Observation?patient.organization.name=ward", ["o1", "o2"]),
    ("Observation?patient.identifier=urn:mrn|A\\|1", ["o1", "o2"]),
    ("Observation?subject:missing=true", []),
    ("Patient?_has:Observation:subject:code=8480-6", ["ida"]),
    ("Organization?_has:Patient:organization:_has:Observation:subject:code=8867-4", ["org"]),
    ("Encounter?patient._has:Observation:patient:code=8480-6", ["e1"]),
    ("Patient?organization.identifier=urn:org|1", ["ida"]),
    # composite
    ("Observation?code-value-quantity=http://loinc.org|8867-4$gt1000", ["o1"]),
    ("Observation?code-value-quantity=8480-6$gt1000", []),
    # uri, special, meta
    ("ValueSet?url=http://example.org/ValueSet/pulse", ["vs"]),
    ("ValueSet?url:below=http://example.org/ValueSet", ["vs"]),
    ("ValueSet?url:above=http://example.org/ValueSet/pulse/deeper", ["vs"]),
    ("ValueSet?url:below=http://example.org/Value", []),
    ("Patient?_list=list", ["bob"]),
    ("Patient?_id=ida,bob", ["bob", "ida"]),
    ("Patient?_id:not=ida", ["bob", "eve"]),
    ("Patient?_tag=urn:t|x", ["ida"]),
    ("Patient?_security=R", ["ida"]),
    ("Patient?_source=urn:feed", ["ida"]),
    ("Patient?_profile=http://nowhere", []),
]


@pytest.fixture(scope="module")
def filled(new_base: Callable[..., Api]) -> Api:
    """A base with the resources, shared by all the cases."""
    api = new_base()
    for resource in RESOURCES:
        api.store(resource)
    return api


@pytest.mark.parametrize(("query", "expected"), CASES)
def test_search(filled: Api, query: str, expected: list[str]) -> None:
    assert filled.found(query) == expected


@pytest.mark.parametrize(
    "query",
    [
        "Patient?birthdate=yesterday",
        "Patient?birthdate=zz1980",
        "Patient?birthdate=1980-13",
        "Patient?birthdate:exact=1980",
        "Patient?gender:contains=x",
        "Patient?gender:missing=maybe",
        "Patient?identifier=a|b|c",
        "Patient?identifier:of-type=MR",
        "Patient?family:above=x",
        "Patient?family=a,,b",
        "Patient?_list=not/an/id",
        "Patient?_list=unknown",
        "Patient?_id:contains=x",
        "Patient?_lastUpdated=x",
        "Patient?_has:Observation:subject=1",
        "Patient?_has:Nothing:subject:code=1",
        "Patient?_has:Observation:code:code=1",
        "Patient?_has:Observation:encounter:code=1",
        "Patient?family.name=x",
        "Patient?organization.nothing=x",
        "Patient?organization:Patient.name=x",
        "Observation?subject:Organization.name=x",
        "Observation?value-quantity=abc",
        "Observation?value-quantity=1|2|3|4",
        "Observation?code-value-quantity=8867-4",
        "Observation?code:in=http://nowhere/ValueSet",
        "Observation?patient:identifier:x=1",
        "RiskAssessment?probability=many",
        "Patient?_sort=",
        "Patient?_count=-1",
        "Patient?_count=1.5",
        "Patient?_count=ten",
        "Patient?_count=1&_count=2",
        "Patient?_summary=maybe",
        "Patient?_total=exact",
        "Patient?_contained=perhaps",
        "Patient?_elements:x=1",
        "Patient?=1",
        "Patient?family=",
        "Patient?_cursor=AAAA",
    ],
)
def test_a_malformed_criterion_is_refused_and_named(filled: Api, query: str) -> None:
    answer = filled.get(query)
    assert 400 <= answer.status < 500, answer.data
    assert answer.issue["diagnostics"]
    assert answer.issue["code"] in ("invalid", "not-supported", "value", "not-found", "too-costly")


def test_hierarchies_of_every_type_that_is_part_of_its_own(api: Api) -> None:
    for id, whole in (("house", ""), ("ward", "house"), ("room", "ward"), ("shed", "")):
        part = {"partOf": {"reference": f"Location/{whole}"}} if whole else {}
        api.store({"resourceType": "Location", "id": id, **part})
        api.store({"resourceType": "Organization", "id": id, "name": id,
                   **({"partOf": {"reference": f"Organization/{whole}"}} if whole else {})})  # fmt: skip
        api.store(encounter("Patient/ida", id=id, location=[{"location": {"reference": f"Location/{id}"}}],
                            **({"partOf": {"reference": f"Encounter/{whole}"}} if whole else {})))  # fmt: skip
    api.store(patient(id="p", managingOrganization={"reference": "Organization/room"}))
    api.store(patient(id="ward", managingOrganization={"reference": "Organization/ward"},
                      generalPractitioner=[{"reference": "Organization/room"}]))  # fmt: skip
    api.store(observation("Location/room", id="o", encounter={"reference": "Encounter/room"}))
    api.store(observation("Patient/ward", id="of-ward"))
    assert api.found("Encounter?location:below=Location/ward") == ["room", "ward"]
    assert api.found("Encounter?location:above=room") == ["house", "room", "ward"]
    assert api.found("Encounter?location:below=Location/ward,Location/shed") == ["room", "shed", "ward"]
    assert api.found("Patient?organization:below=house") == ["p", "ward"]
    assert api.found("Observation?encounter:below=Encounter/house") == ["o"]
    # A bare id may be a Patient, a Group, a Device or a Location: those that have no parts stand for themselves.
    assert api.found("Observation?subject:below=ward") == ["o", "of-ward"]
    assert api.found("Patient?general-practitioner:below=house") == ["ward"]
    assert api.get("Observation?patient:below=Patient/ward").status == 400
