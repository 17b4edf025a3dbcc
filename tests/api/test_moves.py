"""Moving by message: a number (A43), an account (A44), a visit (A45) of one patient goes to another. HL7, chapter 3."""

from __future__ import annotations

from typing import Any

import pytest

from fhirserver import app
from tests.api.client import Api
from tests.api.ward import Ward, pid


@pytest.fixture
def ward(api: Api, installation: app.Installation) -> Ward:
    return Ward(api, installation)


def person(number: str, enterprise: str) -> str:
    """A PID with the number of the person in PID-2, above the medical record number."""
    return pid(number).replace("PID|1||", f"PID|1|{enterprise}^^^MPI^PI|", 1)


def numbers(patient: dict[str, Any]) -> set[str]:
    return {each["value"] for each in patient.get("identifier", ())}


def one(ward: Ward, search: str) -> dict[str, Any]:
    [found] = ward.all(search)
    return found


def admit(ward: Ward, number: str, visit: str, account: str = "") -> dict[str, Any]:
    """A patient with a visit, and what was found in that visit."""
    segment = pid(number) + (f"||||||||||{account}^^^LAKESIDE^AN" if account else "")
    diagnosis = f"DG1|1||D{visit}^Something^L"
    ward.send("A01", segment, f"PV1|1|I|W7||||||||||||||||{visit}^^^LAKESIDE^VN", f"AL1|1||A{number}^Nuts^L", diagnosis)
    return ward.patient(number)


def subjects(ward: Ward, patient: dict[str, Any]) -> dict[str, int]:
    kinds = ("Encounter", "Condition", "AllergyIntolerance", "Account")
    found = {type: len(ward.all(f"{type}?patient=Patient/{patient['id']}")) for type in kinds}
    return {type: count for type, count in found.items() if count}


@pytest.mark.parametrize("number", ["V1", "V9"], ids=["same number", "new number"])
def test_a_visit_moves_with_all_that_was_found_in_it(ward: Ward, number: str) -> None:
    source, target = admit(ward, "10", "V1"), admit(ward, "20", "V2")
    visit = one(ward, "Encounter?identifier=V1")
    pv1 = f"PV1|1|I|W9||||||||||||||||{number}^^^LAKESIDE^VN"
    ward.send("A45", pid("20"), "MRG|10^^^LAKESIDE^MR||||V1^^^LAKESIDE^VN", pv1)
    moved = one(ward, f"Encounter?identifier={number}")
    assert moved["id"] == visit["id"], "it stays the visit that it was"
    assert [each["value"] for each in moved["identifier"]].count(number) == 1
    assert moved["status"] == visit["status"]
    assert subjects(ward, source) == {"AllergyIntolerance": 1}, "what was not found in the visit stays"
    assert subjects(ward, target) == {"Encounter": 2, "Condition": 2, "AllergyIntolerance": 1}
    [record] = ward.all(f"Provenance?entity=Patient/{source['id']}")
    assert any(each["reference"].startswith("Condition/") for each in record["target"])


def test_two_visits_of_one_message_move_and_a_move_back_brings_them_back(ward: Ward) -> None:
    source = admit(ward, "10", "V1")
    ward.send("A01", pid("10"), "PV1|1|I|W7||||||||||||||||V2^^^LAKESIDE^VN", "DG1|1||D9^Other^L")
    target = admit(ward, "20", "V3")
    visits = (
        *("MRG|{}^^^LAKESIDE^MR||||V1^^^LAKESIDE^VN", "PV1|1|I|W7||||||||||||||||V1^^^LAKESIDE^VN"),
        *("MRG|{}^^^LAKESIDE^MR||||V2^^^LAKESIDE^VN", "PV1|1|I|W8||||||||||||||||V2^^^LAKESIDE^VN"),
    )
    ward.send("A45", pid("20"), *(each.format("10") for each in visits))
    assert subjects(ward, target) == {"Encounter": 3, "Condition": 3, "AllergyIntolerance": 1}
    assert one(ward, "Encounter?identifier=V2")["location"][0]["location"]["display"] == "W8"
    ward.send("A45", pid("10"), *(each.format("20") for each in visits))
    assert subjects(ward, source) == {"Encounter": 2, "Condition": 2, "AllergyIntolerance": 1}
    assert subjects(ward, target) == {"Encounter": 1, "Condition": 1, "AllergyIntolerance": 1}


def test_an_account_moves_with_its_visits(ward: Ward) -> None:
    source, target = admit(ward, "10", "V1", "ACC1"), admit(ward, "20", "V2", "ACC2")
    ward.send("A01", pid("10"), "PV1|1|I|W7||||||||||||||||V7^^^LAKESIDE^VN")
    ward.send("A44", pid("20") + "||||||||||ACC1^^^LAKESIDE^AN", "MRG|10^^^LAKESIDE^MR||ACC1^^^LAKESIDE^AN")
    assert [each["value"] for each in one(ward, "Account?identifier=ACC1")["identifier"]] == ["ACC1"]
    assert subjects(ward, source) == {"Encounter": 1, "AllergyIntolerance": 1}
    assert subjects(ward, target) == {"Encounter": 2, "Condition": 2, "AllergyIntolerance": 1, "Account": 2}


def test_a_number_moves_to_another_person_with_what_came_under_it(ward: Ward) -> None:
    ward.send("A01", person("10", "P1"), "PV1|1|I|W7||||||||||||||||V1", "AL1|1||A1^Nuts^L")
    ward.send("A31", person("20", "P2"))
    source, target = ward.patient("10"), ward.patient("20")
    ward.send("A43", person("10", "P2"), "MRG|10^^^LAKESIDE^MR|||P1^^^MPI^PI")
    source, target = (ward.api.get(f"Patient/{each['id']}").json for each in (source, target))
    assert (numbers(source), numbers(target)) == ({"P1"}, {"P2", "20", "10"})
    assert subjects(ward, source) == {}
    assert subjects(ward, target) == {"Encounter": 1, "AllergyIntolerance": 1}
    assert "active" not in source, "no number is retired"
    ward.send("A31", pid("10", "Later"))
    assert ward.api.get(f"Patient/{target['id']}").json["name"][0]["family"] == "Later"
    ward.send("A43", person("10", "P2"), "MRG|10^^^LAKESIDE^MR|||P1^^^MPI^PI")
    assert [each["status"] for each in ward.all("InboundMessage?event=ADT_A43")] == ["processed"] * 2


def test_a_number_moves_to_a_person_that_nobody_knew(ward: Ward) -> None:
    ward.send("A01", person("10", "P1"), "PV1|1|I|W7||||||||||||||||V1")
    source = ward.patient("10")
    ward.send("A43", person("10", "P2"), "MRG|10^^^LAKESIDE^MR|||P1^^^MPI^PI")
    target = ward.patient("10")
    assert target["id"] != source["id"]
    assert numbers(ward.api.get(f"Patient/{source['id']}").json) == {"P1"}
    assert subjects(ward, target) == {"Encounter": 1}


def test_of_a_patient_with_another_number_only_the_number_moves(ward: Ward) -> None:
    two = person("10", "P1").replace("LAKESIDE^MR|", "LAKESIDE^MR~11^^^LAKESIDE^MR|", 1)
    ward.send("A01", two, "PV1|1|I|W7||||||||||||||||V1")
    source = ward.patient("10")
    ward.send("A43", person("10", "P2"), "MRG|10^^^LAKESIDE^MR|||P1^^^MPI^PI")
    assert numbers(ward.patient("11")) == {"P1", "11"}
    assert ward.patient("10")["id"] != source["id"]
    assert subjects(ward, source) == {"Encounter": 1}, "nobody can say that it came under the number that moved"


def test_a_move_that_does_not_say_whose_the_number_becomes_waits_for_a_person(ward: Ward) -> None:
    ward.admit("10")
    before = ward.patient("10")
    ward.send("A43", pid("10"), "MRG|10^^^LAKESIDE^MR")
    [kept] = ward.all("InboundMessage?status=mapping-error")
    assert "PID-2" in kept["issue"][0]["diagnostics"]
    assert ward.patient("10") == before


@pytest.mark.parametrize("named", ["20^^^LAKESIDE^MR", "10^^^LAKESIDE^MR~20^^^LAKESIDE^MR"])
def test_without_the_number_above_it_a_number_moves_from_whoever_has_it(ward: Ward, named: str) -> None:
    """MRG-4 was withdrawn in version 2.7: what is sent since then names the two by the number and by PID-3."""
    ward.send("A01", pid("10"), "PV1|1|I|W7||||||||||||||||V1", "AL1|1||A1^Nuts^L")
    ward.send("A31", pid("20"))
    source, target = ward.patient("10"), ward.patient("20")
    ward.send("A43", pid("20").replace("20^^^LAKESIDE^MR", named), "MRG|10^^^LAKESIDE^MR")
    source, target = (ward.api.get(f"Patient/{each['id']}").json for each in (source, target))
    assert (numbers(source), numbers(target)) == (set(), {"20", "10"})
    assert (subjects(ward, source), subjects(ward, target)) == ({}, {"Encounter": 1, "AllergyIntolerance": 1})
