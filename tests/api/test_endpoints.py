"""Endpoints on the registry: no two claim the same sender, whoever writes them and however many at once."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from fhirserver import app
from fhirserver.hl7v2.claiming import claim_senders
from fhirserver.hl7v2.senders import CERTIFICATE, EXTENSION, SUBJECT, endpoint_resource
from tests.api.client import Api


@pytest.fixture
def facility() -> str:
    return f"F-{uuid.uuid4().hex[:12]}"


def with_certificate(endpoint: dict[str, Any], system: str, value: str) -> dict[str, Any]:
    return {**endpoint, "identifier": [*endpoint.get("identifier", []), {"system": system, "value": value}]}


def test_a_second_endpoint_for_the_same_sender_is_refused(registry: Api, api: Api, facility: str) -> None:
    wanted = endpoint_resource(api.organization, "ADT1", facility, False)
    registry.create(wanted)
    answer = registry.post("Endpoint", wanted)
    assert (answer.status, answer.issue["code"]) == (409, "duplicate")
    assert "claims the same sender" in answer.issue["diagnostics"]
    assert api.organization not in answer.issue["diagnostics"]


def test_what_tells_senders_apart_is_no_conflict(registry: Api, api: Api, facility: str) -> None:
    wanted = endpoint_resource(api.organization, "ADT1", facility, False)
    others = [
        wanted,
        endpoint_resource(api.organization, "", facility, False),
        with_certificate(wanted, CERTIFICATE, "AB:CD" + facility),
        with_certificate(wanted, SUBJECT, f"CN={facility}"),
        {**wanted, "status": "off"},
        {**wanted, "connectionType": {"system": "urn:x", "code": "hl7-fhir-rest"}},
    ]
    assert [registry.post("Endpoint", each).status for each in others] == [201] * len(others)
    again = with_certificate(wanted, CERTIFICATE, "abcd" + facility.lower())
    assert registry.post("Endpoint", again).status == 409, "the same fingerprint, written otherwise"


def test_one_that_steps_back_makes_room(registry: Api, api: Api, facility: str) -> None:
    wanted = endpoint_resource(api.organization, "ADT1", facility, False)
    first = registry.create(wanted)
    second = registry.create({**wanted, "status": "suspended"})
    path = f"Endpoint/{second['id']}"
    assert registry.put(path, {**second, "status": "active"}).status == 409
    assert registry.put(f"Endpoint/{first['id']}", {**first, "name": "said again"}).status == 200, "its own claim"
    assert registry.put(f"Endpoint/{first['id']}", {**first, "status": "off"}).status == 200
    assert registry.put(path, {**second, "status": "active"}).status == 200
    assert registry.delete(path).status == 200
    assert registry.post("Endpoint", wanted).status == 201


def test_of_many_at_once_one_is_written(registry: Api, new_base: Callable[..., Api], facility: str) -> None:
    bases = [new_base() for _ in range(4)]
    wanted = [endpoint_resource(bases[number % 4].organization, "", facility, False) for number in range(12)]
    with ThreadPoolExecutor(12) as threads:
        statuses = sorted(threads.map(lambda each: registry.post("Endpoint", each).status, wanted))
    assert statuses == [201] + [409] * 11


def test_endpoints_of_an_older_version_claim_their_senders_at_the_start(
    registry: Api, api: Api, facility: str, installation: app.Installation
) -> None:
    """Of two that were written for one sender the first claims it; the other is told and stays as it is."""
    wanted = endpoint_resource(api.organization, "ADT1", facility, False)
    first = registry.create(wanted)
    documents = installation.server.store.database.collection("Endpoint")
    documents.update_one({"i": first["id"]}, {"$unset": {"p": ""}})
    second = registry.create(wanted)
    documents.update_one({"i": second["id"]}, {"$unset": {"p": ""}})
    assert second["id"] in claim_senders(installation.server)
    assert registry.post("Endpoint", wanted).status == 409
    again = registry.get(f"Endpoint/{first['id']}").json
    assert (again["meta"], registry.put(f"Endpoint/{first['id']}", again).status) == (first["meta"], 200)
    assert registry.get(f"Endpoint/{second['id']}").json["meta"] == second["meta"]
    assert registry.delete(f"Endpoint/{second['id']}").status == 200
    assert first["id"] not in claim_senders(installation.server)


def test_the_parts_of_a_subject_claim_in_any_order(registry: Api, api: Api, facility: str) -> None:
    named = endpoint_resource(api.organization, "", "", False)
    registry.create(with_certificate(named, SUBJECT, f"CN=adt,O={facility}"))
    assert registry.post("Endpoint", with_certificate(named, SUBJECT, f"O={facility}, CN=adt")).status == 409


@pytest.mark.parametrize("zone", ["Europe/Nowhere", "../etc/passwd", "/etc/passwd", "CEST+2:00", "a" * 300])
def test_a_time_zone_that_is_none_is_refused(registry: Api, api: Api, facility: str, zone: str) -> None:
    answer = registry.post("Endpoint", endpoint_resource(api.organization, "", facility, False, zone))
    assert (answer.status, "no time zone" in answer.issue["diagnostics"]) == (400, True)
    assert (
        registry.post("Endpoint", endpoint_resource(api.organization, "", facility, False, "Europe/Vienna")).status
        == 201
    )


@pytest.mark.parametrize("part", ["acknowledgment", "acknowledgment-point", "merge"])
def test_a_code_that_is_none_is_refused(registry: Api, api: Api, facility: str, part: str) -> None:
    said = [{"url": EXTENSION, "extension": [{"url": part, "valueCode": "sometimes"}]}]
    answer = registry.post("Endpoint", {**endpoint_resource(api.organization, "", facility, False), "extension": said})
    assert answer.status == 400
    assert part in answer.issue["diagnostics"]
