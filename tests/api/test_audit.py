"""What an interaction leaves behind: AuditEvents in the repository of the organization concerned. IHE BALP."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable
from typing import Any

from fhirserver import app
from fhirserver.auditing.recording import ship
from fhirserver.store import spool
from tests.api.client import Api

PATIENT = {"resourceType": "Patient", "name": [{"family": "Audited"}]}


def codes(event: dict[str, Any]) -> tuple[str, str, str]:
    return event["subtype"][0]["code"], event["action"], event["outcome"]


def entities(event: dict[str, Any]) -> list[str]:
    return [e["what"]["reference"] for e in event.get("entity", []) if "reference" in e.get("what", {})]


def test_every_interaction_leaves_one_record_that_names_the_patient(api: Api, recorded: Callable[[], None]) -> None:
    id = api.create(PATIENT)["id"]
    observation = {
        "resourceType": "Observation",
        "status": "final",
        "code": {"text": "x"},
        "subject": {"reference": f"Patient/{id}"},
    }
    seen = api.create(observation)["id"]
    api.get(f"Observation/{seen}")
    api.get("Observation?code:text=x")
    api.put(f"Patient/{id}", {**PATIENT, "id": id, "active": True})
    api.delete(f"Observation/{seen}")
    api.get("Patient/nobody")
    recorded()

    events = api.get("AuditEvent?_sort=_lastUpdated&_count=50").resources
    assert [codes(event) for event in events] == [
        ("create", "C", "0"),
        ("create", "C", "0"),
        ("read", "R", "0"),
        ("search-type", "E", "0"),
        ("update", "U", "0"),
        ("delete", "D", "0"),
        ("read", "R", "4"),
    ]
    assert entities(events[0]) == [f"Patient/{id}"]
    assert entities(events[2]) == [f"Patient/{id}", f"Observation/{seen}"]
    assert entities(events[3]) == [f"Patient/{id}"]
    assert entities(events[6]) == ["Patient/nobody"]
    assert events[2]["meta"]["profile"] == [
        "https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.BasicAudit.PatientRead"
    ]
    query = next(e["query"] for e in events[3]["entity"] if "query" in e)
    assert b64decode(query) == b"GET Observation?code:text=x"
    assert events[2]["agent"][0]["who"]["display"] == "tests"


def test_records_say_nothing_of_the_content(api: Api, recorded: Callable[[], None]) -> None:
    id = api.create(PATIENT)["id"]
    api.get(f"Patient/{id}")
    recorded()
    assert b"Audited" not in api.get("AuditEvent").data


def test_a_record_can_be_searched_by_patient_and_by_what_was_done(api: Api, recorded: Callable[[], None]) -> None:
    first, second = (api.create(PATIENT)["id"] for _ in range(2))
    api.get(f"Patient/{first}")
    api.get(f"Patient/{second}")
    recorded()
    found = api.get(f"AuditEvent?entity=Patient/{first}&subtype=read").resources
    assert [entities(event) for event in found] == [[f"Patient/{first}"]]


def test_a_record_is_never_changed(api: Api, recorded: Callable[[], None]) -> None:
    api.create(PATIENT)
    recorded()
    event = api.get("AuditEvent").resources[0]
    assert api.put(f"AuditEvent/{event['id']}", event).status == 405
    assert api.delete(f"AuditEvent/{event['id']}").status == 405


def test_a_batch_leaves_a_record_for_each_entry(api: Api, recorded: Callable[[], None]) -> None:
    entries = [{"request": {"method": "GET", "url": url}} for url in ("Patient/a", "Patient?_count=1")]
    api.post("", {"resourceType": "Bundle", "type": "batch", "entry": entries})
    recorded()
    events = api.get("AuditEvent").resources
    assert sorted(map(codes, events)) == [("read", "R", "4"), ("search-type", "E", "0")]  # both in one millisecond


def test_shipping_twice_stores_once(installation: app.Installation, api: Api) -> None:
    api.get("Patient")
    folder = installation.settings.data / app.SPOOL
    for batch in spool.batches(folder, 1000):
        spool.shipped(spool.Batch(batch.path, (), 0))  # as if the process had died before it could remember
    while ship(installation.server, folder):
        pass
    first = api.get("AuditEvent").ids
    for path in folder.glob("*.done"):
        path.unlink()
    while ship(installation.server, folder):
        pass
    assert len(first) == 1
    assert len(api.get("AuditEvent").ids) == 2  # the same one, and that of the search just above


def test_what_a_transaction_read_is_recorded_once_and_not_at_all_when_it_fails(
    api: Api, recorded: Callable[[], None]
) -> None:
    id = api.create(PATIENT)["id"]
    read = {"request": {"method": "GET", "url": f"Patient/{id}"}}
    bad = {
        "request": {"method": "PUT", "url": "Patient/x"},
        "resource": {"resourceType": "Patient", "id": "x", "no": 1},
    }
    for entries, status in (([read], 200), ([read, bad], 400)):
        answer = api.post("", {"resourceType": "Bundle", "type": "transaction", "entry": entries})
        assert answer.status == status
    recorded()
    events = api.get("AuditEvent?_sort=_lastUpdated").resources
    assert sorted(codes(event) for event in events) == [
        ("create", "C", "0"),
        ("read", "R", "0"),
        ("transaction", "E", "4"),
    ]
