"""Exports as somebody asks for them who wants more than is his, or wants the server to be busy with nothing else."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from fhirserver import app
from fhirserver.auth.principal import Principal
from fhirserver.bulk.work import ROOM, work
from fhirserver.fhir.json import decode
from fhirserver.store.exports import Exports, Part
from tests.api.client import Api
from tests.api.exporting import ASYNC, begun, fetched, group, ids, ward
from tests.api.hostile import refused
from tests.api.samples import bundle, entry

__all__ = ["ward"]


@pytest.fixture
def done(installation: app.Installation) -> Callable[[Api, str], str]:
    """Has an export done; the address of its status."""

    def run(api: Api, path: str) -> str:
        status = begun(api, path)
        work(installation.server, api.organization, status.rpartition("/")[2])
        return status

    return run


def test_a_token_of_less_gets_no_file_of_more(ward: Api, scoped: Any, done: Any) -> None:
    status = done(ward, "$export?_type=Patient,Observation")
    files = [each["url"] for each in ward.get(status).json["output"]]
    assert [ward.get(file).status for file in files] == [200, 200]
    for scopes in (
        "system/Patient.rs?gender=male system/Observation.rs?code=1-4",
        "system/Patient.r system/Observation.r",
        "system/Basic.rs",
    ):
        assert [scoped(scopes).get(file).status for file in files] == [403, 403], scopes
    assert [scoped("system/Patient.rs system/Observation.rs").get(file).status for file in files] == [200, 200]


def test_a_token_of_less_does_not_hear_what_was_deleted(ward: Api, scoped: Any, done: Any) -> None:
    since = ward.get("Patient/bob").json["meta"]["lastUpdated"]
    ward.delete("Basic/aside")
    status = done(ward, f"$export?_type=Basic,Patient&_since={since}")
    [file] = [each["url"] for each in ward.get(status).json["deleted"]]
    assert ward.get(file).status == 200
    assert scoped("system/Patient.rs").get(file).status == 403
    assert scoped("system/Basic.rs?code=x system/Patient.rs").get(file).status == 403


def test_a_token_of_another_patient_gets_no_file_of_the_first(
    ward: Api, registry: Api, done: Any, token: Callable[[Principal], str]
) -> None:
    user = registry.create(
        {
            "resourceType": "User",
            "email": f"{ward.organization}@example.org",
            "name": "Ida",
            "role": "member",
            "organization": {"reference": f"Organization/{ward.organization}"},
        }
    )

    def about(patient: str, scopes: str = "patient/*.rs") -> Api:
        who = Principal("user", id=user["id"], scopes=scopes, patient=patient)
        return Api(ward.app, ward.base, token(who))

    status = done(about("ann"), "Patient/$export?_type=Patient,Observation")
    assert {type: ids(rows) for type, rows in fetched(about("ann"), about("ann").get(status)).items()} == {
        "Observation": ["of-ann"],
        "Patient": ["ann"],
    }
    file = about("ann").get(status).json["output"][0]["url"]
    assert about("bob").get(file).status == 403
    assert about("", "user/*.rs").get(file).status == 200


@pytest.mark.parametrize("scopes", ["system/Patient.rs", "system/*.rs", "system/BulkExport.cruds?status=completed"])
def test_a_narrowed_token_ends_no_export_of_another(ward: Api, done: Any, token: Any, scopes: str) -> None:
    status = done(ward, "$export?_type=Patient")

    def other(scopes: str) -> Api:
        who = Principal("operator", id="other", organization=ward.organization, operator=True, scopes=scopes)
        return Api(ward.app, ward.base, token(who))

    assert other(scopes).delete(status).status == 404
    assert ward.get(status).status == 200
    assert other("system/BulkExport.rs").get(status).status == 200
    assert other("system/Patient.rs").get(status).status == 404
    assert other("system/*.cruds").delete(status).status == 202


def test_members_of_a_group_whom_the_caller_may_not_see_are_not_in_its_files(ward: Api, scoped: Any, done: Any) -> None:
    ward.put("Patient/carl", {"resourceType": "Patient", "id": "carl", "gender": "male"})
    ward.put("Group/all", group("all", "ann", "bob", "carl"))
    narrow = scoped("system/Patient.rs?gender=male system/Group.rs")
    status = done(narrow, "Group/all/$export?_type=Patient")
    assert ids(fetched(narrow, narrow.get(status))["Patient"]) == ["carl"]
    blind = scoped("system/Patient.rs")
    assert [blind.get(f"Group/{name}/$export", **ASYNC).status for name in ("all", "nobody")] == [404, 404]


def test_filters_find_nothing_by_what_the_caller_may_not_see(ward: Api, scoped: Any, done: Any) -> None:
    narrow = scoped("system/Patient.rs")
    for filter in ("_has:Observation:subject:code=1-3", "general-practitioner:Practitioner.name=x"):
        status = done(narrow, f"$export?_type=Patient&_typeFilter={('Patient?' + filter).replace('?', '%3F')}")
        assert narrow.get(status).json["output"] == []


def test_who_names_patients_learns_nothing_of_those_he_may_not_see(ward: Api, scoped: Any) -> None:
    narrow = scoped("system/Patient.rs?gender=male")
    said = []
    for name in ("ann", "nobody"):
        parts = [{"name": "patient", "valueReference": {"reference": f"Patient/{name}"}}]
        answer = narrow.post("Patient/$export", {"resourceType": "Parameters", "parameter": parts}, **ASYNC)
        said.append((answer.status, answer.issue["diagnostics"].replace(name, "x")))
    assert said[0] == said[1]


def test_an_export_asks_for_no_more_criteria_than_a_search(ward: Api) -> None:
    filter = "_typeFilter=Observation%3F" + "%26".join(["code%3D1"] * 40)
    refused(ward.get("$export?" + "&".join([filter] * 40), **ASYNC))
    refused(ward.get("$export?_typeFilter=Observation%3F" + "%26".join(["code%3D1"] * 500), **ASYNC))


def test_exports_that_are_kept_are_bounded(ward: Api, done: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fhirserver.bulk.operations.MOST_KEPT", 3)
    made = [done(ward, "$export?_type=Patient") for _ in range(3)]
    answer = ward.get("$export?_type=Patient", **ASYNC)
    assert (answer.status, answer.issue["code"]) == (429, "throttled")
    assert ward.delete(made[0]).status == 202
    assert begun(ward, "$export?_type=Patient")


def test_a_scan_that_finds_nothing_for_long_ends_the_export(
    ward: Api, installation: app.Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fhirserver.store.exports.SCAN_MILLISECONDS", 1)
    for number in range(60):
        ward.put(f"Basic/b{number}", {"resourceType": "Basic", "id": f"b{number}", "code": {"text": "x" * 20_000}})
    status = begun(ward, "$export?_type=Basic&_typeFilter=Basic%3Fcode:text%3Dnothing")
    for _ in range(20):
        work(installation.server, ward.organization, status.rpartition("/")[2])
        if ward.get(status).status != 202:
            break
    record = ward.get(f"BulkExport/{status.rpartition('/')[2]}").json
    assert record["status"] in ("failed", "completed")


def test_a_worker_has_room_for_other_jobs(ward: Api, installation: app.Installation) -> None:
    status = begun(ward, "$export?_type=Patient")
    taken = 0
    while ROOM.acquire(blocking=False):
        taken += 1
    assert 0 < taken < 8
    try:
        work(installation.server, ward.organization, status.rpartition("/")[2])
        assert ward.get(status).status == 202
    finally:
        for _ in range(taken):
            ROOM.release()
    work(installation.server, ward.organization, status.rpartition("/")[2])
    assert ward.get(status).status == 200


def test_what_sweeps_exports_does_not_read_what_they_are_of(ward: Api, installation: app.Installation) -> None:
    begun(ward, "Patient/$export")
    assert all(each.facts == {} for each in Exports(installation.server.store.database).open())


def test_files_do_not_come_by_other_ways(ward: Api, done: Any) -> None:
    status = done(ward, "$export?_type=Patient")
    id = status.rpartition("/")[2]
    answer = ward.get(f"BulkExport/{id}/$output?part=0")
    assert answer.status in (200, 404)
    assert b"female" not in answer.data
    for kind in ("batch", "transaction"):
        entries = [entry("GET", f"BulkExport/{id}/$output?part=0"), entry("GET", "$export?_type=Patient")]
        answer = ward.post("", bundle(kind, *entries), **ASYNC)
        assert answer.status < 500
        assert b"female" not in answer.data
    assert decode(ward.get(f"BulkExport/{id}").data)["status"] == "completed"


def test_an_export_that_never_ends_is_ended(
    ward: Api, installation: app.Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fhirserver.bulk.work.AT_MOST", timedelta(seconds=-1))
    status = begun(ward, "$export?_type=Patient")
    work(installation.server, ward.organization, status.rpartition("/")[2])
    assert ward.get(f"BulkExport/{status.rpartition('/')[2]}").json["status"] == "failed"
    assert Exports(installation.server.store.database).open_of(ward.organization, "operator") == 0


def test_what_a_worker_still_writes_of_an_export_that_was_taken_away_goes_too(
    ward: Api, installation: app.Installation
) -> None:
    exports = Exports(installation.server.store.database)
    status = begun(ward, "$export?_type=Patient")
    export = exports.get(ward.organization, status.rpartition("/")[2])
    assert export is not None
    assert ward.delete(status).status == 202
    until = installation.server.now() + timedelta(days=1)
    assert not exports.advance(export, [Part("output", "Patient", 1, b"somebody")], (1, ""), until)
    assert exports.file(export, 0) is None
