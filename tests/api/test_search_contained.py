"""Searches for resources inside others: `_contained`, `_containedType`, chains into them. FHIR R4: search#contained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

import pytest

from fhirserver.app import Installation
from fhirserver.auth.access import everything
from fhirserver.auth.principal import SYSTEM
from fhirserver.interactions import reindex
from fhirserver.interactions.model import Request
from fhirserver.interactions.search import prepare
from fhirserver.store.contained import compile_contained
from fhirserver.store.plans import plan
from tests.api.client import Answer, Api
from tests.api.samples import patient

RX = "http://rx.example"


def medication(id: str = "", code: str = "abc", **more: Any) -> dict[str, Any]:
    made = {"resourceType": "Medication", "code": {"coding": [{"system": RX, "code": code}]}, **more}
    return {**made, "id": id} if id else made


def prescription(id: str, *contained: dict[str, Any], **more: Any) -> dict[str, Any]:
    refers = {"reference": f"#{contained[0]['id']}"} if contained else {"reference": "Medication/own"}
    made = {
        "resourceType": "MedicationRequest",
        "id": id,
        "status": "active",
        "intent": "order",
        "subject": {"reference": "Patient/ida"},
        "medicationReference": refers,
        **more,
    }
    return {**made, "contained": list(contained)} if contained else made


@pytest.fixture
def filled(api: Api) -> Api:
    api.store(patient(id="ida"))
    api.store(medication("own", "abc"))
    api.store(prescription("r0"))
    api.store(prescription("r1", medication("m1", "abc")))
    api.store(
        prescription("r2", medication("m1", "xyz"), supportingInformation=[{"reference": "#ill"}])
        | {
            "contained": [
                medication("m1", "xyz"),
                {
                    "resourceType": "Condition",
                    "id": "ill",
                    "code": {"text": "Cough"},
                    "subject": {"reference": "Patient/ida"},
                },
            ]
        }
    )
    twice = [medication("m1", "abc"), medication("m2", "abc"), medication("m3", "other")]
    api.store(prescription("r3", *twice, supportingInformation=[{"reference": "#m2"}, {"reference": "#m3"}]))
    return api


def shown(answer: Answer) -> list[str]:
    assert answer.status == 200, answer.data
    own = "/fhir/4/"
    return [each["fullUrl"].partition(own)[2] for each in answer.json.get("entry", [])]


CASES = [
    ("Medication?code=abc", ["Medication/own"]),
    ("Medication?code=abc&_contained=false", ["Medication/own"]),
    ("Medication?code=abc&_contained=true", ["MedicationRequest/r1", "MedicationRequest/r3"]),
    ("Medication?code=abc&_contained=both", ["Medication/own", "MedicationRequest/r1", "MedicationRequest/r3"]),
    (
        "Medication?code=abc&_contained=true&_containedType=contained",
        ["MedicationRequest/r1#m1", "MedicationRequest/r3#m1", "MedicationRequest/r3#m2"],
    ),
    (
        "Medication?code=http://rx.example|abc&_contained=both&_containedType=contained",
        ["Medication/own", "MedicationRequest/r1#m1", "MedicationRequest/r3#m1", "MedicationRequest/r3#m2"],
    ),
    ("Medication?_contained=true&_containedType=container", ["MedicationRequest/r1", "MedicationRequest/r2",
                                                             "MedicationRequest/r3"]),
    ("Medication?code:not=abc&_contained=true&_containedType=contained", ["MedicationRequest/r2#m1",
                                                                          "MedicationRequest/r3#m3"]),
    ("Medication?_id=m2&_contained=true", ["MedicationRequest/r3"]),
    ("Condition?code:text=cough&_contained=true", ["MedicationRequest/r2"]),
    ("Condition?subject:Patient.family=adler&_contained=true", ["MedicationRequest/r2"]),
    ("Patient/ida/Condition?_contained=true", ["MedicationRequest/r2"]),
    ("Patient?_contained=true", []),
    # Chains are evaluated inside contained resources; what refers to another one does not match by it.
    ("MedicationRequest?medication:Medication.code=abc", ["MedicationRequest/r0", "MedicationRequest/r1",
                                                          "MedicationRequest/r3"]),
    ("MedicationRequest?medication.code=xyz", ["MedicationRequest/r2"]),
    ("MedicationRequest?medication.code=other", []),
]  # fmt: skip


@pytest.mark.parametrize(("path", "expected"), CASES)
def test_what_is_contained_is_found(filled: Api, path: str, expected: list[str]) -> None:
    answer = filled.get(path, Prefer="handling=strict")
    assert shown(answer) == expected
    assert answer.json["total"] == len(expected)
    assert all(each["search"]["mode"] == "match" for each in answer.json.get("entry", []))
    for name, value in (pair.split("=") for pair in path.partition("?")[2].split("&") if "_contained" in pair):
        assert f"{name}={value}" in (answer.link("self") or "")


def test_an_entry_is_the_container_or_the_contained_resource_itself(filled: Api) -> None:
    container = filled.get("Medication?code=xyz&_contained=true").json["entry"][0]
    assert container["resource"]["resourceType"] == "MedicationRequest"
    assert [each["id"] for each in container["resource"]["contained"]] == ["m1", "ill"]
    contained = filled.get("Medication?code=xyz&_contained=true&_containedType=contained").json["entry"][0]
    assert contained["resource"] == medication("m1", "xyz")
    assert contained["fullUrl"].endswith("/MedicationRequest/r2#m1")


@pytest.mark.parametrize("kind", ["contained", "container"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_pages_of_contained_resources_show_each_once(filled: Api, kind: str, count: int) -> None:
    asked = f"Medication?code=abc,xyz&_contained=both&_containedType={kind}"
    whole = shown(filled.get(asked))
    found: list[str] = []
    url: str | None = f"{asked}&_count={count}&_total=accurate"
    while url:
        answer = filled.get(url)
        page = shown(answer)
        assert 0 < len(page) <= count
        assert answer.json["total"] == len(whole)
        found += page
        url = answer.link("next")
    assert found == whole


def test_containers_are_paged_backwards_too(filled: Api) -> None:
    answer = filled.get("Medication?code=abc,xyz&_contained=both&_count=1")
    pages = [shown(answer)]
    while url := answer.link("next"):
        answer = filled.get(url)
        pages.append(shown(answer))
    back = [shown(answer)]
    while url := answer.link("previous"):
        answer = filled.get(url)
        back.insert(0, shown(answer))
    assert back == pages


def test_a_kind_of_answer_without_looking_inside_is_said_to_have_no_effect(filled: Api) -> None:
    answer = filled.get("Medication?_containedType=contained")
    assert "_containedType was ignored" in answer.notes
    assert "_containedType" not in (answer.link("self") or "")
    assert filled.get("Medication?_containedType=contained", Prefer="handling=strict").status == 400


def test_only_the_count_can_be_asked_for(filled: Api) -> None:
    asked = "Medication?code=abc&_contained=both&_containedType=contained"
    for how in ("_summary=count", "_count=0"):
        answer = filled.get(f"{asked}&{how}")
        assert (answer.json["total"], answer.json.get("entry", [])) == (4, [])


def test_a_container_that_loses_what_it_contained_is_not_found_by_it(filled: Api) -> None:
    filled.store(prescription("r1", medication("m9", "new")))
    assert filled.found("Medication?code=abc&_contained=true") == ["r3"]
    assert filled.found("Medication?code=new&_contained=true") == ["r1"]
    filled.store(prescription("r1"))
    assert filled.found("Medication?code=new&_contained=true") == []
    filled.delete("MedicationRequest/r3")
    assert filled.found("Medication?code=abc&_contained=true") == []


def test_who_may_not_read_the_container_does_not_find_what_is_inside(filled: Api, scoped: Callable[[str], Api]) -> None:
    asked = "Medication?code=abc&_contained=both"
    assert shown(scoped("system/Medication.rs").get(asked)) == ["Medication/own"]
    assert scoped("system/MedicationRequest.rs").get(asked).status == 403
    both = "system/MedicationRequest.rs system/Medication.rs?code=xyz"
    assert shown(scoped(both).get("Medication?_contained=true")) == ["MedicationRequest/r2"]
    chain = "MedicationRequest?medication:Medication.code=abc"
    assert shown(scoped("system/MedicationRequest.rs").get(chain)) == []


@pytest.mark.parametrize(
    ("path", "word"),
    [
        ("Medication?_contained=perhaps", "_contained"),
        ("Medication?_contained=true&_containedType=both", "_containedType"),
        ("Medication?_contained=true&_sort=code", "_sort"),
        ("Medication?_contained=true&_containedType=contained&_include=Medication:manufacturer", "_include"),
        ("Medication?_contained=true&_contained=both", "_contained"),
    ],
)
def test_what_does_not_go_together_is_refused(filled: Api, path: str, word: str) -> None:
    answer = filled.get(path)
    assert answer.status == 400
    assert answer.issue["expression"] == [f"http.{word}"]


def test_a_search_over_all_types_says_that_it_does_not_look_inside(filled: Api) -> None:
    answer = filled.get("?_type=Medication&_contained=true")
    assert "_contained was ignored" in answer.notes
    assert filled.get("?_type=Medication&_contained=true", Prefer="handling=strict").status == 400


@pytest.mark.parametrize("criteria", ["code=abc", "_id=m1", "code:missing=false", "expiration-date=ge2020", ""])
def test_no_search_for_contained_resources_scans_a_collection(
    filled: Api, installation: Installation, criteria: str
) -> None:
    server = installation.server
    assert filled.get(f"Medication?{criteria}&_contained=true".replace("?&", "?")).status == 200
    request = Request("search-type", filled.organization, server.base(filled.organization), SYSTEM, type="Medication")
    clauses = prepare(server, request, "Medication", tuple(parse_qsl(criteria))).clauses
    access = everything(filled.organization)
    inner = compile_contained(server.store, access, "Medication", "MedicationRequest", clauses, None)
    assert inner is not None
    found = plan(server.store, inner.search, (), 20)
    assert found.indexes
    assert "c.type" in found.indexes[0] or "ids of the organization" in found.indexes[0]


def test_explain_says_what_is_found_inside_and_how(filled: Api) -> None:
    said = filled.get("Medication?code=abc&_contained=both", X_Explain="true").notes
    assert "2 MedicationRequest have a Medication inside that matches. Answered by c.type" in said


def test_explain_says_what_a_chain_finds_inside(filled: Api) -> None:
    said = filled.get("MedicationRequest?medication:Medication.code=abc", X_Explain="true").notes
    assert "1 Medication match the inner criteria of medication:Medication.code" in said
    assert "2 MedicationRequest have a Medication inside that medication:Medication.code leads to." in said


def test_what_was_stored_before_is_indexed_in_the_background(filled: Api, installation: Installation) -> None:
    server = installation.server
    collection = server.store.database.collection("MedicationRequest")
    collection.update_many({"o": filled.organization}, {"$unset": {"c": ""}})
    assert filled.found("Medication?code=abc&_contained=true") == []
    server.store.database.collection("reindex").delete_many({"parameter": "_contained"})
    server.store.database.collection("installation").delete_one({"_id": "contained"})
    reindex.plan(server)
    reindex.run(server, "MedicationRequest")
    assert filled.found("Medication?code=abc&_contained=true") == ["r1", "r3"]


def test_what_a_transaction_writes_is_found_inside(api: Api) -> None:
    request = {"method": "PUT", "url": "MedicationRequest/r1"}
    entry = {"request": request, "resource": prescription("r1", medication("m1"))}
    asked = {"request": {"method": "GET", "url": "Medication?code=abc&_contained=true"}}
    api.store(medication("own"))
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": [entry, asked]}
    answer = api.post("", bundle)
    assert answer.status == 200, answer.data
    assert answer.json["entry"][1]["resource"]["total"] == 1
