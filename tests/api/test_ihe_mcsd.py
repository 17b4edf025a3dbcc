"""IHE mCSD: an application looks up who gives care, where, and what for (ITI-90)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.api.client import Api
from tests.api.exchange import Exchange, exchange_of
from tests.api.ihe import actor, hospital

KIND = {"coding": [{"system": "urn:kind", "code": "k1"}]}


@pytest.fixture(scope="module")
def exchange(mongo_url: str) -> Iterator[Exchange]:
    with exchange_of(mongo_url, "test_ihe_mcsd") as made:
        yield made


@pytest.fixture(scope="module")
def consumer(exchange: Exchange) -> Api:
    ward = hospital(exchange)
    for resource in (
        {"resourceType": "Organization", "id": "west", "active": True, "name": "West", "type": [KIND]},
        {
            "resourceType": "Organization",
            "id": "heart",
            "active": True,
            "name": "Heart Clinic",
            "identifier": [{"system": "urn:orgs", "value": "o1"}],
            "partOf": {"reference": "Organization/west"},
        },
        {
            "resourceType": "Location",
            "id": "ward",
            "status": "active",
            "name": "Ward 3",
            "type": [KIND],
            "managingOrganization": {"reference": "Organization/heart"},
            "partOf": {"reference": "Location/house"},
        },
        {"resourceType": "Location", "id": "house", "status": "active", "name": "House"},
        {
            "resourceType": "Practitioner",
            "id": "kildare",
            "active": True,
            "name": [{"family": "Kildare", "given": ["Ann"]}],
            "identifier": [{"system": "urn:staff", "value": "s1"}],
        },
        {
            "resourceType": "HealthcareService",
            "id": "cardio",
            "active": True,
            "name": "Cardiology",
            "type": [KIND],
            "providedBy": {"reference": "Organization/heart"},
            "location": [{"reference": "Location/ward"}],
        },
        {
            "resourceType": "PractitionerRole",
            "id": "role",
            "active": True,
            "practitioner": {"reference": "Practitioner/kildare"},
            "organization": {"reference": "Organization/heart"},
            "location": [{"reference": "Location/ward"}],
            "healthcareService": [{"reference": "HealthcareService/cardio"}],
            "specialty": [KIND],
            "code": [KIND],
        },
        {
            "resourceType": "OrganizationAffiliation",
            "id": "network",
            "active": True,
            "organization": {"reference": "Organization/west"},
            "participatingOrganization": {"reference": "Organization/heart"},
            "code": [KIND],
        },
        {
            "resourceType": "Endpoint",
            "id": "hook",
            "status": "active",
            "connectionType": {
                "system": "http://terminology.hl7.org/CodeSystem/endpoint-connection-type",
                "code": "hl7-fhir-rest",
            },
            "payloadType": [KIND],
            "address": "https://heart.example/fhir",
            "managingOrganization": {"reference": "Organization/heart"},
        },
    ):
        ward.store(resource)
    return actor(exchange, "mcsd-consumer")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("Organization?active=true&name=heart", ["heart"]),
        ("Organization?name:exact=West", ["west"]),
        ("Organization?name:contains=Clin", ["heart"]),
        ("Organization?identifier=urn:orgs|o1", ["heart"]),
        ("Organization?partof=Organization/west", ["heart"]),
        ("Organization?type=urn:kind|k1", ["west"]),
        ("Location?name=ward&status=active", ["ward"]),
        ("Location?organization=Organization/heart", ["ward"]),
        ("Location?partof=Location/house", ["ward"]),
        ("Location?type=urn:kind|k1", ["ward"]),
        ("Practitioner?active=true&family=Kildare&given=Ann", ["kildare"]),
        ("Practitioner?identifier=urn:staff|s1", ["kildare"]),
        ("PractitionerRole?practitioner=Practitioner/kildare", ["role"]),
        ("PractitionerRole?organization=Organization/heart&specialty=urn:kind|k1", ["role"]),
        ("PractitionerRole?service=HealthcareService/cardio&location=Location/ward&role=urn:kind|k1", ["role"]),
        ("HealthcareService?active=true&name=card&organization=Organization/heart", ["cardio"]),
        ("HealthcareService?location=Location/ward&service-type=urn:kind|k1", ["cardio"]),
        ("OrganizationAffiliation?primary-organization=Organization/west", ["network"]),
        ("OrganizationAffiliation?participating-organization=Organization/heart&role=urn:kind|k1", ["network"]),
        ("Endpoint?organization=Organization/heart&status=active", ["hook"]),
        ("Organization?_id=heart", ["heart"]),
        ("Organization?_lastUpdated=gt2020-01-01", ["heart", "west"]),
        ("PractitionerRole?practitioner.family=Kildare&organization.name=Heart", ["role"]),
    ],
)
def test_the_directory_answers(consumer: Api, query: str, expected: list[str]) -> None:
    assert consumer.found(query) == expected


def test_what_belongs_together_comes_together(consumer: Api) -> None:
    answer = consumer.get(
        "PractitionerRole?_include=PractitionerRole:practitioner&_include=PractitionerRole:organization"
    )
    assert answer.included == ["Organization/heart", "Practitioner/kildare"]
    answer = consumer.get("Organization?_id=heart&_revinclude=Location:organization&_include=Organization:partof")
    assert answer.included == ["Location/ward", "Organization/west"]


def test_the_directory_is_read_and_not_written(consumer: Api) -> None:
    assert consumer.get("HealthcareService/cardio").json["name"] == "Cardiology"
    assert (
        consumer.put("Organization/heart", {"resourceType": "Organization", "id": "heart", "name": "x"}).status == 403
    )
    assert consumer.get("Patient").status == 403
