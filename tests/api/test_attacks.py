"""Attacks found by reading: each was possible once, or is kept from ever becoming so."""

from __future__ import annotations

import gzip
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest

from fhirserver.app import SPOOL, Installation
from fhirserver.auditing.recording import ship
from fhirserver.store import spool
from tests.api.client import Api
from tests.api.hostile import refused
from tests.api.samples import bundle, entry, observation, patient

MRN = "urn:example:mrn"


def known(value: str, **more: Any) -> dict[str, Any]:
    return patient(identifier=[{"system": MRN, "value": value}], **more)


def test_two_entries_with_the_same_condition_make_one_resource_and_all_references_lead_to_it(api: Api) -> None:
    asked = f"identifier={MRN}|1"
    answer = api.post(
        "",
        bundle(
            "transaction",
            entry("POST", "Patient", known("1"), "urn:uuid:a", ifNoneExist=asked),
            entry("POST", "Patient", known("1"), "urn:uuid:b", ifNoneExist=asked),
            entry("POST", "Observation", observation("urn:uuid:a")),
            entry("POST", "Observation", observation("urn:uuid:b")),
        ),
    )
    assert answer.status == 200, answer.data
    made = api.found(f"Patient?{asked}")
    assert len(made) == 1
    subjects = {each["subject"]["reference"] for each in api.get("Observation").resources}
    assert subjects == {f"Patient/{made[0]}"}


def test_a_condition_is_asked_after_the_deletions_of_its_transaction(api: Api) -> None:
    asked = f"identifier={MRN}|2"
    before = api.create(known("2"))
    answer = api.post(
        "",
        bundle(
            "transaction",
            entry("POST", "Patient", known("2"), "urn:uuid:a", ifNoneExist=asked),
            entry("POST", "Observation", observation("urn:uuid:a")),
            entry("DELETE", f"Patient/{before['id']}"),
        ),
    )
    assert answer.status == 200, answer.data
    made = api.found(f"Patient?{asked}")
    assert len(made) == 1
    assert made[0] != before["id"]
    assert api.get("Observation").resources[0]["subject"]["reference"] == f"Patient/{made[0]}"


def test_a_reference_to_an_entry_never_leads_to_what_was_not_made(api: Api) -> None:
    answer = api.post(
        "",
        bundle(
            "transaction",
            entry("POST", "Patient", known("3"), "urn:uuid:a"),
            entry("POST", "Patient", known("3"), "urn:uuid:b", ifNoneExist=f"identifier={MRN}|3"),
            entry("POST", "Observation", observation("urn:uuid:b")),
        ),
    )
    if answer.status == 200:
        subject = api.get("Observation").resources[0]["subject"]["reference"]
        assert api.get(subject).status == 200
    else:
        refused(answer)
        assert api.found("Patient") == api.found("Observation") == []


@pytest.mark.parametrize("kind", ["batch", "transaction"])
@pytest.mark.parametrize("data", ["x", "é", "====", "W10", ["x"], ""])
def test_a_patch_in_a_bundle_that_is_no_base64_is_refused(api: Api, kind: str, data: Any) -> None:
    made = api.create(patient())
    binary = {"resourceType": "Binary", "contentType": "application/json-patch+json", "data": data}
    answer = api.post("", bundle(kind, entry("PATCH", f"Patient/{made['id']}", binary)))
    if kind == "transaction":
        refused(answer)
    else:
        assert answer.status == 200, answer.data
        assert answer.json["entry"][0]["response"]["status"][:1] == "4"


@pytest.mark.parametrize(
    "text",
    [
        "Foo?x=1",
        "Locks?_id=1",
        "Foo?identifier=1",
        "Resource?_id=1",
        "DomainResource?_id=1",
        "Bundle?identifier=1",
        "Quantity?_id=1",
    ],
)
def test_a_conditional_reference_to_what_is_no_resource_type_is_refused(api: Api, text: str) -> None:
    refused(api.post("", bundle("transaction", entry("POST", "Observation", observation(text)))))
    assert api.found("Observation") == []


@pytest.mark.parametrize(
    "date",
    [
        "Mon, 01 Jan 99999 00:00:00 GMT",
        "Mon, 01 Jan 2020 00:00:00 +99999999999999999999",
        "Mon, 01 Jan 2020 00:00:00 +9999",
        "Mon, 01 Jan 0000 00:00:00 GMT",
        "Mon, 01 Jan 0001 00:00:00 +2300",
        "Mon, 01 Jan 9999 23:59:59 -2300",
        "x",
        "1 1 1 1 1 1",
        "Mon, 99 Jan 2020 99:99:99 GMT",
        "(" * 1000,
    ],
)
def test_a_date_that_is_none_is_ignored(api: Api, date: str) -> None:
    made = api.create(patient())
    assert api.get(f"Patient/{made['id']}", If_Modified_Since=date).status in (200, 304)


def test_a_form_of_a_million_parameters_is_refused_quickly(api: Api) -> None:
    started = time.monotonic()
    refused(api.post("Patient/_search", b"a=b&" * 1_000_000, Content_Type="application/x-www-form-urlencoded"))
    assert time.monotonic() - started < 1


def test_a_compressed_body_is_one_whole_stream_within_the_limit(api: Api) -> None:
    body = gzip.compress(b'{"resourceType":"Patient"}')
    assert api.post("Patient", body, Content_Encoding="gzip").status == 201
    refused(api.post("Patient", body[:-4], Content_Encoding="gzip"))
    refused(api.post("Patient", body + b"x", Content_Encoding="gzip"))
    refused(api.post("Patient", gzip.compress(b" " * 100_000_000), Content_Encoding="gzip"))


@pytest.mark.parametrize(
    "path", ["Patient?_revinclude=*", "Patient?_revinclude:iterate=*", "?_tag=x", "?_lastUpdated=gt2020"]
)
def test_a_search_over_all_types_makes_no_collections(api: Api, installation: Installation, path: str) -> None:
    made = api.create(patient())
    api.create(observation(f"Patient/{made['id']}"))
    before = installation.server.store.database.existing_types()
    answer = api.get(path)
    assert answer.status == 200, answer.data
    assert "DeviceMetric" not in before
    assert installation.server.store.database.existing_types() == before


def test_concurrent_transactions_with_the_same_condition(api: Api) -> None:
    asked = f"identifier={MRN}|9"

    def send(number: int) -> int:
        return api.post(
            "",
            bundle(
                "transaction",
                entry("POST", "Patient", known("9"), "urn:uuid:a", ifNoneExist=asked),
                entry("POST", "Observation", observation("urn:uuid:a")),
            ),
        ).status

    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(send, range(40)))
    made = api.found(f"Patient?{asked}")
    assert len(made) == 1
    subjects = {each["subject"]["reference"] for each in api.get("Observation?_count=100").resources}
    assert subjects == {f"Patient/{made[0]}"}
    assert len(api.get("Observation?_count=100").resources) == statuses.count(200)


def test_whoever_asks_does_not_choose_how_large_the_audit_record_is(api: Api, installation: Installation) -> None:
    folder = installation.settings.data / SPOOL
    known = {id for batch in spool.batches(folder, 100_000) for id, _ in batch.records}
    long = "x" * 1_000_000
    form = "application/x-www-form-urlencoded"
    refused(api.post("Patient/_search", f"family={long}".encode(), Content_Type=form))
    api.post("", bundle("batch", entry("GET", f"Patient/{long}"), entry("GET", f"Patient/x/${long}")))
    sizes = [len(line) for batch in spool.batches(folder, 100_000) for id, line in batch.records if id not in known]
    assert len(sizes) >= 3
    assert max(sizes) < 100_000


@pytest.mark.parametrize("type", ["$x", "A.history", "registry", "_history", "X" * 300, "A/b", "Ünicode", "A\u0000"])
def test_a_resource_type_cannot_have_a_name_that_means_something_else(registry: Api, type: str) -> None:
    base = "http://hl7.org/fhir/StructureDefinition/DomainResource"
    answer = registry.post(
        "StructureDefinition",
        {
            "resourceType": "StructureDefinition",
            "url": "http://example.org/StructureDefinition/x",
            "name": "X",
            "status": "active",
            "kind": "resource",
            "abstract": False,
            "type": type,
            "baseDefinition": base,
            "derivation": "specialization",
            "differential": {"element": [{"id": type, "path": type, "min": 0, "max": "*"}]},
        },
    )
    refused(answer)


@pytest.mark.parametrize(
    "code", ["a.b", "$where", "_id", "_lastUpdated", "_format", "a:b", "a,b", "a b", "é", "x" * 65]
)
def test_a_search_parameter_cannot_have_a_code_that_means_something_else(registry: Api, code: str) -> None:
    answer = registry.post(
        "SearchParameter",
        {
            "resourceType": "SearchParameter",
            "url": "http://example.org/SearchParameter/x",
            "name": "X",
            "status": "active",
            "description": "x",
            "code": code,
            "base": ["Patient"],
            "type": "token",
            "expression": "Patient.gender",
        },
    )
    refused(answer)


def test_a_stranger_makes_no_audit_repositories_by_making_organizations_up(
    api: Api, installation: Installation
) -> None:
    for token in ("nonsense", "", api.token):
        refused(Api(api.app, "/1/health/organizations/made-up/fhir/4", token).get("Patient"))
    while ship(installation.server, installation.settings.data / SPOOL):
        pass
    assert "made-up" not in installation.server.store.database.collection("AuditEvent").distinct("o")


def test_paging_through_a_history_loses_no_version_of_one_instant(api: Api, installation: Installation) -> None:
    versions = {(id, str(number)) for id in ("a", "a-b", "a.b") for number in range(1, 12)}
    for id, number in sorted(versions):
        api.store(patient(id=id, name=[{"family": f"Adler {number}"}]))
    instant = datetime(2026, 1, 1, tzinfo=UTC)
    for name in ("Patient", "Patient.history"):
        collection = installation.server.store.database.collection(name)
        collection.update_many({"o": api.organization}, {"$set": {"t": instant}})
    for count in (1, 7):
        seen, url = [], f"Patient/_history?_count={count}"
        while url:
            answer = api.get(url)
            seen += [(each["id"], each["meta"]["versionId"]) for each in answer.resources]
            url = answer.link("next") or ""
        assert len(seen) == len(versions)
        assert set(seen) == versions
