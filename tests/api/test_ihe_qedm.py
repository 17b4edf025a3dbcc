"""IHE QEDm: an application queries what is known of a patient, option by option (PCC-44)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.exchange import Exchange, exchange_of
from tests.api.ihe import actor, hospital

CODE = {"coding": [{"system": "urn:c", "code": "c1"}]}
OPTIONS = (
    *("observation", "allergy", "condition", "diagnostic-report", "medication", "immunization", "procedure"),
    *("encounter", "provenance"),
)


@pytest.fixture(scope="module")
def exchange(mongo_url: str) -> Iterator[Exchange]:
    with exchange_of(mongo_url, "test_ihe_qedm") as made:
        yield made


@pytest.fixture(scope="module")
def patient(exchange: Exchange) -> str:
    """A patient with one of everything, and another of whom nothing is to be seen."""
    ward = hospital(exchange)
    ids = [ward.create({"resourceType": "Patient"})["id"] for _ in range(2)]
    medication = ward.create({"resourceType": "Medication", "code": CODE})["id"]
    for id in ids:
        subject = {"reference": f"Patient/{id}"}
        made: list[dict[str, Any]] = [
            {
                "resourceType": "Observation",
                "status": "final",
                "category": [CODE],
                "code": CODE,
                "subject": subject,
                "effectiveDateTime": "2026-03-01",
            },
            {
                "resourceType": "AllergyIntolerance",
                "patient": subject,
                "clinicalStatus": _clinical("allergyintolerance-"),
            },
            {
                "resourceType": "Condition",
                "subject": subject,
                "category": [CODE],
                "clinicalStatus": _clinical("condition-"),
            },
            {
                "resourceType": "DiagnosticReport",
                "status": "final",
                "category": [CODE],
                "code": CODE,
                "subject": subject,
                "effectiveDateTime": "2026-03-01",
            },
            {
                "resourceType": "MedicationStatement",
                "status": "active",
                "subject": subject,
                "medicationReference": {"reference": f"Medication/{medication}"},
            },
            {
                "resourceType": "MedicationRequest",
                "status": "active",
                "intent": "order",
                "subject": subject,
                "medicationReference": {"reference": f"Medication/{medication}"},
            },
            {
                "resourceType": "Immunization",
                "status": "completed",
                "patient": subject,
                "vaccineCode": CODE,
                "occurrenceDateTime": "2026-03-01",
            },
            {"resourceType": "Procedure", "status": "completed", "subject": subject, "performedDateTime": "2026-03-01"},
            {
                "resourceType": "Encounter",
                "status": "finished",
                "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"},
                "subject": subject,
                "period": {"start": "2026-03-01", "end": "2026-03-02"},
            },
        ]
        observation, *_ = [ward.create(resource)["id"] for resource in made]
        ward.create(
            {
                "resourceType": "Provenance",
                "target": [{"reference": f"Observation/{observation}"}],
                "recorded": "2026-03-01T10:00:00Z",
                "agent": [{"who": {"display": "Ward 3"}}],
            }
        )
    return f"Patient/{ids[0]}"


def _clinical(prefix: str) -> dict[str, Any]:
    return {"coding": [{"system": f"http://terminology.hl7.org/CodeSystem/{prefix}clinical", "code": "active"}]}


@pytest.mark.parametrize(
    ("option", "query"),
    [
        ("observation", "Observation?patient={p}&category=urn:c|c1"),
        ("observation", "Observation?patient={p}&category=urn:c|c1&code=urn:c|c1"),
        ("observation", "Observation?patient={p}&category=urn:c|c1&date=ge2026-03-01&date=le2026-03-31"),
        ("observation", "Observation?patient={p}&category=urn:c|c1&code=urn:c|c1&date=gt2026-02-01&date=lt2026-04-01"),
        ("allergy", "AllergyIntolerance?patient={p}"),
        ("condition", "Condition?patient={p}"),
        ("condition", "Condition?patient={p}&category=urn:c|c1"),
        ("condition", "Condition?patient={p}&clinical-status=active"),
        ("diagnostic-report", "DiagnosticReport?patient={p}&category=urn:c|c1"),
        ("diagnostic-report", "DiagnosticReport?patient={p}&category=urn:c|c1&code=urn:c|c1"),
        ("diagnostic-report", "DiagnosticReport?patient={p}&category=urn:c|c1&date=ge2026-03-01"),
        ("immunization", "Immunization?patient={p}"),
        ("procedure", "Procedure?patient={p}"),
        ("procedure", "Procedure?patient={p}&date=ge2026-03-01"),
        ("encounter", "Encounter?patient={p}"),
        ("encounter", "Encounter?patient={p}&date=ge2026-03-01&date=le2026-03-31"),
        ("medication", "MedicationStatement?patient={p}"),
        ("medication", "MedicationRequest?patient={p}"),
    ],
)
def test_each_option_answers_its_combinations(exchange: Exchange, patient: str, option: str, query: str) -> None:
    consumer = actor(exchange, f"qedm-{option}")
    path = query.format(p=patient)
    (id,) = consumer.found(path)
    assert consumer.get(f"{path.partition('?')[0]}/{id}").status == 200
    nobody = consumer.get(query.format(p="Patient/nobody"))
    assert (nobody.status, nobody.json["total"]) == (200, 0)


@pytest.mark.parametrize("type", ["MedicationStatement", "MedicationRequest"])
def test_medications_come_with_what_refers_to_them(exchange: Exchange, patient: str, type: str) -> None:
    consumer = actor(exchange, "qedm-medication")
    answer = consumer.get(f"{type}?patient={patient}&_include={type}:medication")
    assert len(answer.ids) == 1
    assert [each.partition("/")[0] for each in answer.included] == ["Medication"]


def test_provenance_comes_with_the_data_where_the_option_was_chosen(exchange: Exchange, patient: str) -> None:
    query = f"Observation?patient={patient}&category=urn:c|c1&_revinclude=Provenance:target"
    chosen = actor(exchange, "qedm-observation", "qedm-provenance").get(query)
    assert [each.partition("/")[0] for each in chosen.included] == ["Provenance"]
    assert actor(exchange, "qedm-observation").get(query).included == []


def test_an_option_opens_its_own_types_only(exchange: Exchange, patient: str) -> None:
    consumer = actor(exchange, "qedm-allergy")
    refused = consumer.get(f"Observation?patient={patient}&category=urn:c|c1")
    assert refused.status == 403


def test_a_modifier_that_a_parameter_does_not_have_is_refused(exchange: Exchange, patient: str) -> None:
    consumer = actor(exchange, "qedm-condition")
    assert consumer.get(f"Condition?patient={patient}&category:exact=c1").status == 400


def test_all_options_together_are_one_application(exchange: Exchange, patient: str) -> None:
    consumer = actor(exchange, *(f"qedm-{option}" for option in OPTIONS))
    assert len(consumer.found(f"Procedure?patient={patient}")) == 1
    assert consumer.post("Procedure", {"resourceType": "Procedure"}).status == 403
