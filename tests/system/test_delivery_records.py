"""Audit records of notifications: one per attempt, at the organization whose data it carried, naming the patient."""

from __future__ import annotations

from typing import Any

from fhirserver import app
from fhirserver.auditing.recording import ship
from fhirserver.auth.access import everything
from fhirserver.store.search import compile_search, find
from tests.system.delivering import Exchange


def test_each_attempt_is_recorded_with_the_patient_and_the_client(
    installation: app.Installation, exchange: Exchange
) -> None:
    subscription = exchange.subscribe("create.patient")
    patient = exchange.patient(gender="female")
    exchange.run()
    (delivered,) = exchange.deliveries(subscription)
    ship(installation.server, installation.settings.data / app.SPOOL)
    search = compile_search(installation.server.store, everything(exchange.hospital), "AuditEvent", (), None)
    assert search
    records: list[dict[str, Any]] = [
        version.resource() for version in find(installation.server.store, search, (), 200).matches
    ]
    (event,) = (each for each in records if each["type"]["code"] == "110106")
    assert (event["action"], event["outcome"]) == ("R", "0")
    named = [entity["what"]["reference"] for entity in event["entity"]]
    assert named == [f"Patient/{patient}", f"NotificationDelivery/{delivered['id']}"]
    assert event["agent"][0]["who"]["identifier"]["value"].startswith("ClientApplication/")
    assert event["agent"][0]["network"]["address"] == exchange.receiver.url()
