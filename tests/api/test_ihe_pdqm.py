"""IHE PDQm: an application looks people up by what it knows of them (ITI-78), by GET and by POST."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.api.client import Api
from tests.api.exchange import Exchange, exchange_of
from tests.api.ihe import actor, hospital

FORM = "application/x-www-form-urlencoded"
SIGNAL = "_profile=https://profiles.ihe.net/ITI/PDQm"
RED, GREEN = "urn:oid:1.3.6.1.4.1.21367.13.20.1000", "urn:oid:1.3.6.1.4.1.21367.13.20.2000"
MAIDEN = "http://hl7.org/fhir/StructureDefinition/patient-mothersMaidenName"


@pytest.fixture(scope="module")
def exchange(mongo_url: str) -> Iterator[Exchange]:
    with exchange_of(mongo_url, "test_ihe_pdqm") as made:
        yield made


@pytest.fixture(scope="module")
def people(exchange: Exchange) -> dict[str, str]:
    """Two people with the same family name, and one who has become another."""
    ward = hospital(exchange)
    ann = ward.create(
        {
            "resourceType": "Patient",
            "active": True,
            "extension": [{"url": MAIDEN, "valueString": "Lovelace"}],
            "identifier": [{"system": RED, "value": "r1"}, {"system": GREEN, "value": "g1"}],
            "name": [{"family": "Byron", "given": ["Ann", "Isabella"]}],
            "telecom": [{"system": "phone", "value": "+31 20 555 0101"}],
            "gender": "female",
            "birthDate": "1985-12-10",
            "address": [{"line": ["Dam 1"], "city": "Leiden", "state": "ZH", "postalCode": "2311", "country": "NL"}],
        }
    )["id"]
    bob = ward.create(
        {
            "resourceType": "Patient",
            "active": True,
            "identifier": [{"system": RED, "value": "r2"}],
            "name": [{"family": "Byron", "given": ["Bob"]}],
            "gender": "male",
            "birthDate": "1990-01-01",
        }
    )["id"]
    old = ward.create(
        {
            "resourceType": "Patient",
            "active": False,
            "identifier": [{"system": RED, "value": "r0"}],
            "name": [{"family": "Byronson"}],
            "link": [{"other": {"reference": f"Patient/{ann}"}, "type": "replaced-by"}],
        }
    )["id"]
    return {"ann": ann, "bob": bob, "old": old}


@pytest.fixture(scope="module")
def consumer(exchange: Exchange) -> Api:
    return actor(exchange, "pdqm-consumer")


@pytest.mark.parametrize(
    ("criteria", "who"),
    [
        ("_id={ann}", "ann"),
        ("active=true", "ann bob"),
        ("family=Byron", "ann bob old"),
        ("family:exact=Byron", "ann bob"),
        ("family:exact=byron", ""),
        ("given=Isabella", "ann"),
        ("family=Byron&given=Ann&given=Isabella", "ann"),
        ("given=Ann,Bob", "ann bob"),
        (f"identifier={RED}|r2", "bob"),
        (f"identifier={RED}|r1,{RED}|r2", "ann bob"),
        (f"identifier={GREEN}|", "ann"),
        ("telecom=%2B31%2020%20555%200101", "ann"),
        ("birthdate=1985-12-10", "ann"),
        ("birthdate=ge1985-01-01&birthdate=le1985-12-31", "ann"),
        ("birthdate=1990-01-01&family=Byron", "bob"),
        ("address=Dam", "ann"),
        ("address-city=Leiden", "ann"),
        ("address-country=NL", "ann"),
        ("address-postalcode=2311", "ann"),
        ("address-state=ZH", "ann"),
        ("gender=male", "bob"),
        ("family=Byron&gender=female", "ann"),
        ("mothersMaidenName=Lovelace", "ann"),
        ("mothersMaidenName:exact=Love", ""),
        ("family=Nobody", ""),
    ],
)
def test_people_are_found_by_every_parameter_by_get_and_by_post(
    consumer: Api, people: dict[str, str], criteria: str, who: str
) -> None:
    query, expected = criteria.format(**people), sorted(people[name] for name in who.split())
    answer = consumer.get(f"Patient?{query}", Prefer="handling=strict")
    assert answer.status == 200, answer.data
    assert sorted(answer.ids) == expected
    assert answer.json["total"] == len(expected)
    posted = consumer.post("Patient/_search", query.encode(), Content_Type=FORM)
    assert sorted(posted.ids) == expected


def test_one_who_was_found_is_shown(consumer: Api, people: dict[str, str]) -> None:
    assert consumer.get(f"Patient/{people['ann']}").json["birthDate"] == "1985-12-10"
    unknown = consumer.get("Patient/nobody")
    assert (unknown.status, unknown.issue["code"]) == (404, "not-found")


def test_a_deprecated_patient_says_who_it_has_become(consumer: Api, people: dict[str, str]) -> None:
    answer = consumer.get(f"Patient?identifier={RED}|r0&_include=Patient:link")
    (old,) = answer.resources
    assert (old["active"], old["link"][0]["type"]) == (False, "replaced-by")
    assert answer.included == [f"Patient/{people['ann']}"]


def test_what_is_not_supported_is_said_as_the_profile_wants_it(consumer: Api) -> None:
    refused = consumer.get("Patient?family=Byron&_format=xml")
    assert (refused.status, refused.issue["code"]) == (406, "not-supported")
    ignored = consumer.get("Patient?family=Byron&favourite=tea")
    assert ignored.status == 200
    assert "favourite" not in (ignored.link("self") or "")


def test_domains_are_those_whose_identifiers_are_answered(consumer: Api, people: dict[str, str]) -> None:
    answer = consumer.get(f"Patient?family:exact=Byron&identifier={RED}|&{SIGNAL}")
    shown = {each["id"]: [(i["system"], i["value"]) for i in each["identifier"]] for each in answer.resources}
    assert shown == {people["ann"]: [(RED, "r1")], people["bob"]: [(RED, "r2")]}
    tags = {each["id"]: each["meta"].get("tag", []) for each in answer.resources}
    assert [tag["code"] for tag in tags[people["ann"]]] == ["SUBSETTED"]
    assert tags[people["bob"]] == []
    both = consumer.get(f"Patient?given=Ann&identifier={RED}|,{GREEN}|&{SIGNAL}")
    assert len(both.resources[0]["identifier"]) == 2
    unknown = consumer.get(f"Patient?family=Byron&identifier=urn:oid:9.9|&{SIGNAL}")
    assert (unknown.status, unknown.issue["code"], unknown.issue["diagnostics"]) == (
        404,
        "not-found",
        "targetSystem not found",
    )


def test_every_page_is_answered_alike(consumer: Api, people: dict[str, str]) -> None:
    first = consumer.get(f"Patient?family:exact=Byron&identifier={RED}|&_count=1&_sort=birthdate&{SIGNAL}")
    assert [i["system"] for i in first.resources[0]["identifier"]] == [RED]
    second = consumer.get(first.link("next") or "")
    assert second.ids == [people["bob"]]
    back = consumer.get(second.link("previous") or "")
    assert [i["system"] for i in back.resources[0]["identifier"]] == [RED]


def test_a_profile_as_a_whole_narrows_nothing_and_one_of_resources_does(consumer: Api, people: dict[str, str]) -> None:
    assert len(consumer.get(f"Patient?family:exact=Byron&{SIGNAL}").ids) == 2
    whole = consumer.get(f"Patient?given=Ann&identifier={RED}|")
    assert len(whole.resources[0]["identifier"]) == 2
    claimed = f"{SIGNAL}/StructureDefinition/IHE.PDQm.Patient"
    assert consumer.get(f"Patient?family=Byron&{claimed}").ids == []
