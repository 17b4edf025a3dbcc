"""FHIR Bulk Data Access 2.0: exports of a system, of patients and of groups, as a caller sees them."""

from __future__ import annotations

import gzip
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from fhirserver import app
from fhirserver.bulk.record import rewritten
from fhirserver.bulk.work import sweep, work
from fhirserver.store.erase import erase
from fhirserver.store.exports import Exports
from tests.api.client import Api
from tests.api.exchange import ISSUER, REGISTRY, Exchange, exchange_of
from tests.api.exporting import ASYNC, begun, fetched, group, ids, observation, ward

__all__ = ["ward"]


@pytest.fixture
def exported(installation: app.Installation) -> Callable[..., dict[str, list[Any]]]:
    """Has an export done, and answers the resources of its files by type."""

    def run(api: Api, path: str, body: Any = None) -> dict[str, list[Any]]:
        status = begun(api, path, body)
        assert api.get(status).status == 202
        work(installation.server, api.organization, status.rpartition("/")[2])
        return fetched(api, api.get(status))

    return run


def test_a_system_export_has_everything_the_caller_may_search(ward: Api, exported: Any) -> None:
    found = exported(ward, "$export")
    assert {type: ids(rows) for type, rows in found.items()} == {
        "Basic": ["aside"],
        "Group": ["cohort"],
        "Observation": ["of-ann", "of-bob"],
        "Patient": ["ann", "bob"],
        "Practitioner": ["drew", "idle"],
    }
    assert found["Patient"][0] == ward.get("Patient/ann").json


def test_a_patient_export_has_the_compartments_and_what_they_refer_to(ward: Api, exported: Any) -> None:
    found = exported(ward, "Patient/$export")
    assert ids(found["Patient"]) == ["ann", "bob"]
    assert ids(found["Practitioner"]) == ["drew"], "who did nothing for a patient is not in it"
    assert "Basic" not in found


def test_a_group_export_is_of_its_active_members(ward: Api, exported: Any) -> None:
    ward.put("Group/two", group("two", "ann", "bob", inactive="bob"))
    found = exported(ward, "Group/two/$export")
    assert ids(found["Patient"]) == ["ann"]
    assert ids(found["Observation"]) == ["of-ann"]
    assert ids(found["Practitioner"]) == ["drew"]


def test_an_observation_of_two_members_is_exported_once(
    ward: Api, exported: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fhirserver.bulk.gather.MEMBERS_TOGETHER", 1)
    both = {**observation("ann"), "id": "both", "performer": [{"reference": "Patient/bob"}]}
    ward.put("Observation/both", both)
    ward.put("Group/two", group("two", "ann", "bob"))
    found = exported(ward, "Group/two/$export?_type=Observation,Patient")
    assert sorted(ids(found["Observation"])) == ["both", "of-ann", "of-bob"]
    assert sorted(ids(found["Patient"])) == ["ann", "bob"]


def test_patients_can_be_named_by_post(ward: Api, exported: Any) -> None:
    body = {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "patient", "valueReference": {"reference": "Patient/bob"}},
            {"name": "_type", "valueString": "Patient,Observation"},
        ],
    }
    assert {type: ids(rows) for type, rows in exported(ward, "Patient/$export", body).items()} == {
        "Observation": ["of-bob"],
        "Patient": ["bob"],
    }
    assert ward.get("Patient/$export?patient=Patient/bob", **ASYNC).status == 400
    body["parameter"][0]["valueReference"] = {"reference": "Patient/nobody"}
    assert ward.post("Patient/$export", body, **ASYNC).status == 404
    assert ward.post("Group/cohort/$export", body, **ASYNC).status == 404


def test_types_filters_and_elements_narrow_it(ward: Api, exported: Any) -> None:
    found = exported(
        ward, "$export?_type=Patient,Observation&_typeFilter=Observation%3Fcode%3D1-3%26subject%3DPatient/ann"
    )
    assert {type: ids(rows) for type, rows in found.items()} == {"Observation": ["of-ann"], "Patient": ["ann", "bob"]}
    found = exported(ward, "$export?_type=Patient&_elements=Patient.id")
    assert set(found["Patient"][0]) == {"resourceType", "id", "meta"}
    assert found["Patient"][0]["meta"]["tag"][0]["code"] == "SUBSETTED"


def test_since_gives_what_has_changed_and_what_was_deleted(
    ward: Api, exported: Any, installation: app.Installation
) -> None:
    since = ward.get("Patient/bob").json["meta"]["lastUpdated"]
    ward.put("Patient/ann", {"resourceType": "Patient", "id": "ann", "gender": "other"})
    ward.delete("Basic/aside")
    status = begun(ward, f"$export?_type=Patient,Basic&_since={since}")
    work(installation.server, ward.organization, status.rpartition("/")[2])
    answer = ward.get(status)
    assert ids(fetched(ward, answer)["Patient"]) == ["ann"]
    [bundle] = fetched(ward, answer, "deleted")["Bundle"]
    assert [entry["request"] for entry in bundle["entry"]] == [{"method": "DELETE", "url": "Basic/aside"}]


def test_it_shows_the_data_as_of_when_it_was_asked_for(ward: Api, installation: app.Installation) -> None:
    status = begun(ward, "$export?_type=Patient")
    ward.put("Patient/ann", {"resourceType": "Patient", "id": "ann", "gender": "other"})
    ward.put("Patient/new", {"resourceType": "Patient", "id": "new"})
    work(installation.server, ward.organization, status.rpartition("/")[2])
    answer = ward.get(status)
    found = fetched(ward, answer)["Patient"]
    assert [(row["id"], row["gender"], row["meta"]["versionId"]) for row in found] == [
        ("ann", "female", "1"),
        ("bob", "female", "1"),
    ]
    assert answer.json["request"].endswith("/$export?_type=Patient")


def test_it_goes_on_where_a_killed_worker_stopped(
    ward: Api, installation: app.Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fhirserver.bulk.work.PART_LINES", 1)
    monkeypatch.setattr("fhirserver.bulk.work.TURN_SECONDS", 0)
    status = begun(ward, "$export?_type=Patient,Observation")
    id, turns = status.rpartition("/")[2], 0
    while ward.get(status).status == 202:
        turns += 1
        work(installation.server, ward.organization, id)
    assert turns > 4
    found = fetched(ward, ward.get(status))
    assert {type: ids(rows) for type, rows in found.items()} == {
        "Observation": ["of-ann", "of-bob"],
        "Patient": ["ann", "bob"],
    }


class Killed(BaseException):
    """What ends a worker at once."""


def dying(told: list[str], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which is the end of its worker when it is called as `name` for the first time."""

    def once(*given: Any) -> Any:
        called = given[2].get("status") if function is rewritten else "end"
        if called == name and name not in told:
            told.append(name)
            raise Killed
        return function(*given)

    return once


@pytest.mark.parametrize("step", ["completed", "end"])
def test_a_worker_killed_when_all_files_are_written_doubles_none_and_the_export_ends(
    ward: Api, installation: app.Installation, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    told: list[str] = []
    monkeypatch.setattr("fhirserver.bulk.work.rewritten", dying(told, step, rewritten))
    monkeypatch.setattr(Exports, "end", dying(told, step, Exports.end))
    status = begun(ward, "Patient/$export?_type=Patient,Practitioner,Observation")
    id = status.rpartition("/")[2]
    with pytest.raises(Killed):
        work(installation.server, ward.organization, id)
    assert told == [step]
    assert ward.get(status).status == 202
    work(installation.server, ward.organization, id)
    found = fetched(ward, ward.get(status))
    assert {type: ids(rows) for type, rows in found.items()} == {
        "Observation": ["of-ann", "of-bob"],
        "Patient": ["ann", "bob"],
        "Practitioner": ["drew"],
    }
    assert ward.get(f"BulkExport/{id}").json["status"] == "completed"


def test_the_caller_gets_only_what_its_scopes_let_it_search(ward: Api, scoped: Any, exported: Any) -> None:
    narrow = scoped("system/Patient.rs system/Observation.rs?code=1-4 system/Group.r")
    assert set(exported(narrow, "$export")) == {"Patient"}
    assert narrow.get("$export?_type=Basic", **ASYNC).status == 403
    assert set(exported(narrow, "Group/cohort/$export")) == {"Patient"}
    assert scoped("system/Patient.r").get("Patient/$export", **ASYNC).status == 403


def test_an_export_is_refused_with_what_to_do(ward: Api) -> None:
    answer = ward.get("$export")
    assert answer.status == 400
    assert "Prefer: respond-async" in answer.issue["diagnostics"]
    for wrong in ("_outputFormat=text/csv", "_type=Nothing", "_since=yesterday", "_typeFilter=Patient", "_x=1"):
        assert ward.get(f"$export?{wrong}", **ASYNC).status in (400, 404), wrong
    wrong = "_typeFilter=Patient%3Fnonsense%3D1"
    assert ward.get(f"$export?{wrong}", **ASYNC).status == 400
    assert ward.get("$export?includeAssociatedData=LatestProvenanceResources", **ASYNC).status == 400
    lenient = ward.get(
        "$export?includeAssociatedData=LatestProvenanceResources", Prefer="respond-async, handling=lenient"
    )
    assert lenient.status == 202
    assert ward.get("Group/nobody/$export", **ASYNC).status == 404
    assert ward.get("Observation/$export", **ASYNC).status == 404


def test_too_many_at_once_are_refused(ward: Api) -> None:
    begun_ones = [begun(ward, "$export?_type=Patient") for _ in range(5)]
    answer = ward.get("$export", **ASYNC)
    assert (answer.status, answer.headers["Retry-After"]) == (429, "60")
    assert ward.delete(begun_ones[0]).status == 202
    assert ward.get("$export?_type=Patient", **ASYNC).status == 202


def test_delete_ends_an_export_and_takes_its_files_away(ward: Api, installation: app.Installation) -> None:
    status = begun(ward, "$export?_type=Patient")
    id = status.rpartition("/")[2]
    work(installation.server, ward.organization, id)
    file = ward.get(status).json["output"][0]["url"]
    assert ward.delete(status).status == 202
    for gone in (status, file):
        answer = ward.get(gone)
        assert (answer.status, answer.json["resourceType"]) == (404, "OperationOutcome")
    assert ward.get(f"BulkExport/{id}").json["status"] == "expired"


def test_nobody_else_sees_an_export(ward: Api, new_base: Any, installation: app.Installation) -> None:
    status = begun(ward, "$export?_type=Patient")
    work(installation.server, ward.organization, status.rpartition("/")[2])
    file = ward.get(status).json["output"][0]["url"]
    nobody = Api(ward.app, ward.base)
    assert [nobody.get(each).status for each in (status, file)] == [401, 401]
    other = new_base()
    elsewhere = status.replace(ward.organization, other.organization)
    assert [other.get(each).status for each in (elsewhere, f"{elsewhere}/0")] == [404, 404]


def test_a_file_comes_compressed_where_it_is_accepted(ward: Api, installation: app.Installation) -> None:
    status = begun(ward, "$export?_type=Patient")
    work(installation.server, ward.organization, status.rpartition("/")[2])
    url = ward.get(status).json["output"][0]["url"]
    packed = ward.get(url, Accept_Encoding="gzip")
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.data) == ward.get(url).data
    assert ward.get(url, Accept="application/fhir+json").status == 406
    assert [ward.get(status + wrong).status for wrong in ("/9", "/-1", "/x")] == [404, 404, 404]


def test_nobody_writes_the_record_of_an_export(ward: Api) -> None:
    id = begun(ward, "$export?_type=Patient").rpartition("/")[2]
    record = ward.get(f"BulkExport/{id}").json
    assert (record["status"], record["level"], record["type"]) == ("accepted", "system", ["Patient"])
    assert ward.put(f"BulkExport/{id}", record).status == 405
    assert ward.post("BulkExport", record).status == 405
    assert ward.get("BulkExport?status=accepted").ids == [id]


def test_files_have_their_time(ward: Api, installation: app.Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    status = begun(ward, "$export?_type=Patient")
    id = status.rpartition("/")[2]
    monkeypatch.setattr("fhirserver.bulk.work.FETCHED_WITHIN", timedelta(seconds=-1))
    work(installation.server, ward.organization, id)
    sweep(installation.server)
    assert ward.get(status).status == 404
    assert ward.get(f"BulkExport/{id}").json["status"] == "expired"


def test_files_go_with_the_organization_they_are_of(ward: Api, installation: app.Installation) -> None:
    status = begun(ward, "$export?_type=Patient")
    work(installation.server, ward.organization, status.rpartition("/")[2])
    file = ward.get(status).json["output"][0]["url"]
    erase(installation.server.store.database, ward.organization)
    assert ward.get(file).status == 404
    names = ("exports", "exports.files")
    held = [installation.server.store.database.collection(name).count_documents(
        {"_id": {"$regex": f"^{ward.organization}/"}}) for name in names]  # fmt: skip
    assert held == [0, 0]


@pytest.fixture(scope="module")
def exchange(mongo_url: str) -> Iterator[Exchange]:
    with exchange_of(mongo_url, f"bulk-{uuid.uuid4().hex[:8]}") as made:
        yield made


@pytest.mark.parametrize("when", ["while it is under way", "before the file is fetched"])
def test_a_client_that_is_disabled_gets_nothing_more(exchange: Exchange, when: str) -> None:
    _, authorization, call = allowed(exchange)
    status = call("GET", f"{exchange.base}/Patient/$export", 202).headers["Content-Location"].removeprefix(ISSUER)
    if when == "before the file is fetched":
        work(exchange.installation.server, exchange.hospital, status.rpartition("/")[2])
        file = call("GET", status, 200).json["output"][0]["url"].removeprefix(ISSUER)
        assert call("GET", file, 200).data
        assert exchange.step(authorization, "disable").status_code == 200
        call("GET", file, 403)
    else:
        assert exchange.step(authorization, "disable").status_code == 200
        work(exchange.installation.server, exchange.hospital, status.rpartition("/")[2])
        record = f"{exchange.base}/BulkExport/{status.rpartition('/')[2]}"
        seen = exchange.call("GET", record, exchange.people["hospital"]).json
        assert seen["status"] == "failed"
        assert "disabled" in seen["statusReason"]
        assert "output" not in seen
    call("GET", status, 403)


def test_files_written_under_other_scopes_are_not_given_out(exchange: Exchange) -> None:
    client, _, call = allowed(exchange)
    status = call("GET", f"{exchange.base}/Patient/$export", 202).headers["Content-Location"].removeprefix(ISSUER)
    work(exchange.installation.server, exchange.hospital, status.rpartition("/")[2])
    file = call("GET", status, 200).json["output"][0]["url"].removeprefix(ISSUER)
    given = {name: value for name, value in client.items() if name != "secret"}
    narrower = {**given, "scope": "system/Patient.rs?gender=female"}
    path = f"{REGISTRY}/ClientApplication/{client['id']}"
    assert exchange.call("PUT", path, exchange.people["acme"], narrower).status_code == 200
    refusal = call("GET", file, 403).json
    assert "ask for a new one" in refusal["issue"][0]["diagnostics"]


def test_an_administrator_of_the_hospital_finds_and_ends_the_export_of_an_application(exchange: Exchange) -> None:
    client, _, call = allowed(exchange)
    status = call("GET", f"{exchange.base}/Patient/$export", 202).headers["Content-Location"].removeprefix(ISSUER)
    admin, found = exchange.people["hospital"], f"{exchange.base}/BulkExport?client:identifier={client['id']}"
    entries = exchange.call("GET", f"{found}&status=accepted,in-progress&_sort=-requested", admin).json["entry"]  # type: ignore[index]
    id = status.rpartition("/")[2]
    assert [each["resource"]["id"] for each in entries] == [id]
    assert exchange.call("DELETE", f"{exchange.base}/bulk/{id}", admin).status_code == 202
    call("GET", status, 404)
    assert exchange.call("GET", f"{exchange.base}/BulkExport/{id}", admin).json["status"] == "cancelled"  # type: ignore[index]


def allowed(exchange: Exchange) -> tuple[dict[str, Any], str, Callable[..., Any]]:
    """A client that the hospital has approved, the id of its authorization, and what calls as it."""
    client = exchange.register(scope="system/*.rs")
    authorization = exchange.authorize(client)
    token = exchange.token(client).json["access_token"]  # type: ignore[index]
    patient = {"resourceType": "Patient", "id": "ann", "gender": "female"}
    exchange.call("PUT", f"{exchange.base}/Patient/ann", exchange.people["hospital"], patient)

    def call(method: str, path: str, expected: int) -> Any:
        headers = {"Authorization": f"Bearer {token}", "Prefer": "respond-async"}
        answer = exchange.http.open(path, method=method, headers=headers)
        assert answer.status_code == expected, answer.text
        return answer

    return client, authorization, call
