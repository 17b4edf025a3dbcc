"""IHE ATNA: an application stores its audit records (ITI-20); another searches them (ITI-81)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.api.exchange import Exchange, exchange_of
from tests.api.ihe import actor, hospital
from tests.api.records import event


@pytest.fixture(scope="module")
def exchange(mongo_url: str) -> Iterator[Exchange]:
    with exchange_of(mongo_url, "test_ihe_atna") as made:
        yield made


def test_records_are_stored_alone_and_in_a_bundle_and_found_within_a_time(exchange: Exchange) -> None:
    patient = hospital(exchange).create({"resourceType": "Patient", "identifier": [{"system": "urn:m", "value": "1"}]})
    node, consumer = actor(exchange, "atna-source"), actor(exchange, "atna-consumer")
    reference = f"Patient/{patient['id']}"
    assert node.post("AuditEvent", event(reference)).status == 201
    later = event(reference, recorded="2026-06-01T10:00:00Z")
    entry = {"resource": later, "request": {"method": "POST", "url": "AuditEvent"}}
    batch = node.post("", {"resourceType": "Bundle", "type": "batch", "entry": [entry]})
    assert batch.json["entry"][0]["response"]["status"].startswith("201")
    window = "type=110112&date=ge2026-04-01&date=le2026-05-31"
    (found,) = consumer.get(f"AuditEvent?{window}").resources
    assert found["recorded"].startswith("2026-05-01")
    assert len(consumer.found(f"AuditEvent?type=110112&date=ge2026-04-01&patient={reference}&outcome=0")) == 2
    assert consumer.get(f"AuditEvent/{found['id']}").status == 200


def test_a_source_reads_none_and_a_consumer_stores_none_and_nobody_changes_any(exchange: Exchange) -> None:
    node, consumer = actor(exchange, "atna-source"), actor(exchange, "atna-consumer")
    made = node.post("AuditEvent", event("Patient/x"))
    id = made.json["id"]
    assert node.get(f"AuditEvent/{id}").status == 403
    assert consumer.post("AuditEvent", event("Patient/x")).status == 403
    for caller in (node, consumer):
        assert caller.put(f"AuditEvent/{id}", {**made.json, "outcome": "8"}).status in (403, 405)
        assert caller.delete(f"AuditEvent/{id}").status in (403, 405)
