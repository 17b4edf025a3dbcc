"""Overlays over the API: written, refused, tried, compared; codes that nobody mapped, and what goes on afterwards."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from fhirserver import app
from fhirserver.fhir.json import decode
from fhirserver.fhir.problem import Problem
from fhirserver.hl7v2 import codes, process, shipped
from fhirserver.hl7v2.effective import Overlays
from fhirserver.hl7v2.mapping.conceptmaps import concept_maps
from fhirserver.hl7v2.message import Message
from fhirserver.hl7v2.senders import endpoint_resource
from fhirserver.settings import folder
from tests.api.client import Api
from tests.api.structures import element, structure

EXAMPLE = decode((folder("examples") / "hl7v2" / "overlay.json").read_bytes())
RAW = (folder("examples") / "hl7v2" / "06-z-segments-a01-2.5.hl7").read_bytes()
BASE = "https://fhirserver.example/fhir/StructureDefinition"


@pytest.fixture
def work(installation: app.Installation, api: Api) -> Callable[[], None]:
    """Does what relay and workers do: sweeps, then drains every lane with a message."""

    def drain() -> None:
        intake = installation.intake()
        process.sweep(intake)
        for each in every(api, "InboundMessage?status=received&_count=100"):
            process.process(intake, api.organization, each["lane"])

    return drain


@pytest.fixture
def send(api: Api, work: Callable[[], None]) -> Callable[..., None]:
    """POSTs messages and processes them."""
    path = f"/1/health/organizations/{api.organization}/hl7v2"

    def post(*messages: bytes) -> None:
        for raw in messages:
            headers = {"Authorization": f"Bearer {api.token}"}
            answer = api.app.test_client().post(path, data=raw, content_type="application/hl7-v2", headers=headers)
            assert b"MSA|AA" in answer.data, answer.data
        work()

    return post


def message(
    number: int, sex: str = "M", application: str = "ADT1", patient: str = "450014", event: str = "A01"
) -> bytes:
    raw = RAW.replace(b"LS00006", b"M%05d" % number).replace(b"|M|||55", f"|{sex}|||55".encode())
    return (
        raw.replace(b"ADT1", application.encode()).replace(b"450014", patient.encode()).replace(b"A01", event.encode())
    )


def asked(**values: Any) -> dict[str, Any]:
    def part(name: str, value: Any) -> dict[str, Any]:
        if isinstance(value, dict):
            return {"name": name, "resource": value}
        return {"name": name, "valueInteger" if isinstance(value, int) else "valueString": value}

    return {"resourceType": "Parameters", "parameter": [part(*each) for each in values.items()]}


def told(answer: Any, name: str) -> list[Any]:
    assert answer.status == 200, answer.data
    found = [each for each in answer.json["parameter"] if each["name"] == name]
    return [
        each.get("part") or each.get("resource") or next(v for k, v in each.items() if k.startswith("value"))
        for each in found
    ]


def values(parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {part["name"]: next((v for k, v in part.items() if k.startswith("value")), part) for part in parts}


def required(*tables: str) -> dict[str, Any]:
    """An overlay that makes messages wait for the codes of these tables."""
    parts = [{"url": "required-table", "valueString": name} for name in tables]
    extension = {"url": f"{BASE}/hl7v2-overlay", "extension": parts}
    return {"resourceType": "ConceptMap", "status": "active", "extension": [extension]}


def every(api: Api, search: str) -> list[dict[str, Any]]:
    """The resources that a search matches; fails if it was refused or a parameter ignored."""
    answer = api.get(search, Prefer="handling=strict")
    assert answer.status == 200, answer.data
    return answer.resources


def patients(api: Api) -> list[dict[str, Any]]:
    return every(api, "Patient")


def test_the_shipped_maps_are_found_on_the_registry(registry: Api, installation: app.Installation) -> None:
    package = installation.intake().maps.source
    written = shipped.lay_out(installation.server, package)
    assert shipped.lay_out(installation.server, package) == 0
    assert written in (0, len(concept_maps(package)))
    url = "https://fhirserver.example/fhir/ConceptMap/v2-PID.Patient"
    [found] = every(registry, f"ConceptMap?url={url}")
    assert found["version"] == package.version
    assert found["group"][0]["element"][0]["code"] == "PID-3"
    assert len(every(registry, "ConceptMap?context=table&_count=100")) == len(package.tables)
    refused = registry.put(f"ConceptMap/{found['id']}", {**found, "title": "mine"})
    assert refused.status == 422
    assert "overlay" in refused.issue["diagnostics"]
    smaller = replace(package, concept_maps=package.concept_maps[1:])
    assert shipped.lay_out(installation.server, smaller) == 1
    gone = registry.get(f"ConceptMap/v2-{package.concept_maps[0]['id']}")
    assert gone.json["status"] == "retired"
    assert shipped.lay_out(installation.server, package) == 1


def test_who_may_not_write_overlays_maps_no_code(
    api: Api, scoped: Callable[[str], Api], send: Callable[..., None]
) -> None:
    send(message(1, sex="Q"))
    [task] = every(api, "Task")
    refused = scoped("system/Task.cruds").post(f"Task/{task['id']}/$map-code", asked(code="male"))
    assert refused.status == 403
    assert every(api, "ConceptMap") == []
    assert scoped("system/ConceptMap.cruds").post("ConceptMap/$compare", asked(overlay=EXAMPLE)).status == 403


def test_an_overlay_holds_for_the_next_message(api: Api, send: Callable[..., None]) -> None:
    send(message(1))
    assert "extension" not in patients(api)[0]
    assert api.put("ConceptMap/lakeside-adt", EXAMPLE).status == 201
    send(message(2))
    [patient] = [each for each in patients(api) if "extension" in each]
    assert "n" in [each.get("valueCoding", {}).get("code") for each in patient["extension"]]
    kept = every(api, "InboundMessage?control-id=M00002")[0]
    assert kept["mapping"].endswith("ConceptMap/lakeside-adt/_history/1")
    [one] = [e for e in every(api, "Provenance") if len(e["policy"]) == 2]
    assert one["policy"][1] == f"http://api.test{api.base}/ConceptMap/lakeside-adt/_history/1"
    rows = told(api.get(f"Patient/{patient['id']}/$trace"), "trace")[0]
    layers = {values(row["part"])["rule"]: values(row["part"])["layer"] for row in rows if row["name"] == "element"}
    assert layers["ZPI.Patient/region"] == "ConceptMap/lakeside-adt/_history/1"
    assert layers["PID.Patient/pid5"].startswith("fhirserver.v2-to-fhir#")


def test_an_overlay_of_another_sender_or_organization_changes_nothing(api: Api, new_base: Callable[..., Api]) -> None:
    new_base().put("ConceptMap/lakeside-adt", EXAMPLE)
    other = copy.deepcopy(EXAMPLE)
    other["extension"][0]["extension"][0]["valueString"] = "SOMEBODY"
    assert api.put("ConceptMap/other", {**other, "id": "other"}).status == 201
    answer = api.post("InboundMessage/$convert", asked(message=RAW.decode()))
    assert told(answer, "skipped") == ["ZBE", "ZPI"]
    assert told(answer, "mapping") == ["fhirserver.v2-to-fhir#0.1.0"]


def test_a_broken_overlay_is_refused_with_the_field_and_the_last_good_one_stays(api: Api) -> None:
    assert api.put("ConceptMap/lakeside-adt", EXAMPLE).status == 201
    broken = copy.deepcopy(EXAMPLE)
    broken["group"][0]["element"][0]["code"] = "ZPI-9"
    refused = api.put("ConceptMap/lakeside-adt", broken)
    assert refused.status == 400
    assert "ZPI-9 is not declared" in refused.issue["diagnostics"]
    assert refused.issue["expression"] == ["ConceptMap.group[0].element[0]"]
    answer = api.post("InboundMessage/$convert", asked(message=RAW.decode()))
    assert told(answer, "mapping")[0].endswith("ConceptMap/lakeside-adt/_history/1")


def test_an_overlay_that_another_stands_on_cannot_be_taken_away(api: Api) -> None:
    assert api.put("ConceptMap/lakeside-adt", EXAMPLE).status == 201
    rule = {
        "url": f"{BASE}/hl7v2-rule",
        "extension": [{"url": "id", "valueString": "region"}, {"url": "action", "valueCode": "remove"}],
    }
    head = {
        "url": f"{BASE}/hl7v2-map",
        "extension": [{"url": "map", "valueString": "ZPI.Patient"}, {"url": "kind", "valueCode": "segment"}],
    }
    group = {"extension": [head], "element": [{"extension": [rule]}]}
    beside = {**EXAMPLE, "id": "later", "group": [group]}
    beside["extension"] = [
        {"url": f"{BASE}/hl7v2-overlay", "extension": [{"url": "sending-application", "valueString": "ADT1"}]}
    ]
    assert api.put("ConceptMap/later", beside).status == 201
    for refused in (
        api.delete("ConceptMap/lakeside-adt"),
        api.put("ConceptMap/lakeside-adt", {**EXAMPLE, "status": "retired"}),
    ):
        assert refused.status == 400
        assert "ZPI.Patient" in refused.issue["diagnostics"]
    assert api.delete("ConceptMap/later").status in (200, 204)
    assert api.delete("ConceptMap/lakeside-adt").status in (200, 204)


def test_an_overlay_is_no_matter_of_the_registry(registry: Api) -> None:
    refused = registry.post("ConceptMap", EXAMPLE)
    assert refused.status == 422
    assert "organization" in refused.issue["diagnostics"]


def test_a_draft_is_stored_with_its_faults_and_tried_but_not_used(api: Api) -> None:
    draft = {**EXAMPLE, "status": "draft"}
    assert api.put("ConceptMap/lakeside-adt", draft).status == 201
    plain = api.post("InboundMessage/$convert", asked(message=RAW.decode()))
    assert told(plain, "skipped") == ["ZBE", "ZPI"]
    for overlay in ("ConceptMap/lakeside-adt", EXAMPLE):
        tried = api.post("InboundMessage/$convert", asked(message=RAW.decode(), overlay=overlay))
        assert told(tried, "skipped") == []
        assert "ConceptMap/lakeside-adt" in told(tried, "mapping")[0]
    faulty = copy.deepcopy(draft)
    faulty["group"][4]["element"][0]["extension"][0]["extension"][0]["valueString"] = "pid999"
    assert api.put("ConceptMap/lakeside-adt", faulty).status == 200
    refused = api.post("InboundMessage/$convert", asked(message=RAW.decode(), overlay="ConceptMap/lakeside-adt"))
    assert refused.status == 400
    assert "there is no rule PID.Patient/pid999" in refused.issue["diagnostics"]


def test_a_draft_is_compared_with_what_holds_over_the_last_messages(api: Api, send: Callable[..., None]) -> None:
    send(message(1), message(2, application="LAB"))
    assert api.put("ConceptMap/lakeside-adt", {**EXAMPLE, "status": "draft"}).status == 201
    for answer in (
        api.post("ConceptMap/lakeside-adt/$compare", asked(count=10)),
        api.post("ConceptMap/$compare", asked(overlay=EXAMPLE)),
    ):
        assert (told(answer, "compared"), told(answer, "differs"), told(answer, "same")) == ([2], [1], [1])
        [parts] = told(answer, "message")
        rows = [values(part["part"]) for part in parts if part["name"] == "difference"]
        added = next(row for row in rows if row["path"] == "Patient.extension")
        assert added["op"] == "add"
        assert "Northern region" in added["after"]
        assert any(row["path"] == "Encounter.identifier[1]" for row in rows)
    narrowed = api.post("ConceptMap/lakeside-adt/$compare", asked(filter="control-id=M00002"))
    assert told(narrowed, "compared") == [1]
    assert told(api.post("InboundMessage/$convert", asked(message=RAW.decode())), "skipped") == ["ZBE", "ZPI"]


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (asked(), "Give the overlay"),
        (asked(overlay={"resourceType": "ConceptMap", "status": "draft"}), "is no overlay"),
        (asked(overlay=EXAMPLE, count=101), "count is a number from 1 to 100"),
        (asked(overlay="ConceptMap/nowhere"), "is not known here"),
    ],
)
def test_a_comparison_that_makes_no_sense_says_why(body: dict[str, Any], text: str, api: Api) -> None:
    refused = api.post("ConceptMap/$compare", body)
    assert refused.status in (400, 404)
    assert text in refused.issue["diagnostics"]


def test_an_unmapped_code_makes_one_task_and_the_message_goes_through_with_a_warning(
    api: Api, send: Callable[..., None]
) -> None:
    send(message(1, sex="Q"), message(2, sex="Q", patient="450015"), message(3, sex="W", patient="450016"))
    kept = every(api, "InboundMessage?control-id=M00001")[0]
    assert kept["status"] == "warning"
    tasks = {each["input"][0]["valueString"]: each for each in every(api, "Task?code=map-code&status=requested")}
    assert set(tasks) == {"Q", "W"}
    counts = {
        code: next(i["valueInteger"] for i in each["input"] if "valueInteger" in i) for code, each in tasks.items()
    }
    assert counts == {"Q": 2, "W": 1}
    assert kept["unmapped"][0]["task"]["reference"] == f"Task/{tasks['Q']['id']}"
    assert tasks["Q"]["focus"]["reference"] == f"InboundMessage/{kept['id']}"
    assert {each["gender"] for each in patients(api)} == {"unknown"}


def test_messages_that_need_a_code_wait_for_it_and_go_on_in_their_order(
    api: Api, send: Callable[..., None], work: Callable[[], None]
) -> None:
    assert api.post("ConceptMap", required("administrative-sex")).status == 201
    renamed = message(2, sex="Q", event="A08").replace(b"Abernathy^Clement", b"Abernathy^Clementine")
    send(message(1, sex="Q"), renamed, message(3, sex="Q", application="LAB", patient="9"))
    assert patients(api) == []
    waiting = every(api, "InboundMessage?status=code-mapping-error")
    assert {each["controlId"] for each in waiting} == {"M00001", "M00002", "M00003"}
    assert {each["reason"] for each in waiting} == {"unmapped-code"}
    tasks = every(api, "Task?status=requested")
    assert len(tasks) == 2
    task = next(each for each in tasks if any(i.get("valueString") == "ADT1" for i in each["input"]))

    done = api.post(f"Task/{task['id']}/$map-code", asked(code="female"))
    assert done.status == 200, done.data
    assert done.json["status"] == "completed"
    work()
    [patient] = patients(api)
    assert (patient["gender"], patient["name"][0]["given"]) == ("female", ["Clementine"])
    assert {e["status"] for e in every(api, "InboundMessage?control-id=M00001,M00002")} == {"processed"}
    assert [e["controlId"] for e in every(api, "InboundMessage?status=code-mapping-error")] == ["M00003"]
    [overlay] = every(api, "ConceptMap?context=overlay&title:contains=ADT1")
    assert overlay["group"][0]["element"] == [
        {"code": "Q", "target": [{"code": "female", "equivalence": "equivalent"}]}
    ]


def test_a_message_that_waited_for_a_code_leaves_what_was_said_since(
    api: Api, send: Callable[..., None], work: Callable[[], None]
) -> None:
    assert api.post("ConceptMap", required("administrative-sex")).status == 201
    send(message(1, sex="Q"))
    assert every(api, "InboundMessage?status=code-mapping-error")
    renamed = message(2, sex="M", event="A31").replace(b"Abernathy^Clement", b"Renamed^Wren")
    send(renamed.replace(b"55 Orchard Hill^^Port Ellery^WA^98006^USA^H", b""))
    [before] = patients(api)
    assert "address" not in before
    assert before["gender"] == "male"
    [task] = every(api, "Task?code=map-code&status=requested")
    assert api.post(f"Task/{task['id']}/$map-code", asked(code="female")).status == 200
    work()
    assert every(api, "InboundMessage?control-id=M00001")[0]["status"] == "processed"
    [after] = patients(api)
    assert (after["name"], after["gender"]) == (before["name"], "male"), "said since"
    assert after["address"], "not said since"
    assert every(api, "Encounter?identifier=LS-V-70004"), "what was not there is made"


@pytest.mark.parametrize("whose", ["organization", "sender"])
def test_overlays_say_at_the_door_too_how_a_message_is_read(api: Api, send: Callable[..., None], whose: str) -> None:
    parts = [{"url": "timezone", "valueString": "Asia/Tokyo"}, {"url": "charset", "valueString": "8859/1"}]
    if whose == "sender":
        parts.append({"url": "sending-application", "valueString": "ADT1"})
    head = {"url": f"{BASE}/hl7v2-overlay", "extension": parts}
    assert api.post("ConceptMap", {"resourceType": "ConceptMap", "status": "active", "extension": [head]}).status == 201
    raw = message(1).replace(b"-0700||ADT", b"||ADT").replace(b"|LAKESIDE|EXCH", b"|S\xd8DEN|EXCH")
    send(raw.replace(b"Abernathy", b"\xc5bernathy"))
    [kept] = every(api, "InboundMessage")
    assert kept["sent"].endswith("+09:00")
    assert kept["sendingFacility"] == "S\u00d8DEN"
    assert patients(api)[0]["name"][0]["family"] == "\u00c5bernathy"


def test_assigning_authorities_of_an_overlay_put_a_patient_in_one_lane(api: Api, send: Callable[..., None]) -> None:
    authority = {"url": "authority", "valueString": "LAKESIDE=urn:oid:1.2.3"}
    head = {"url": f"{BASE}/hl7v2-overlay", "extension": [authority]}
    assert api.post("ConceptMap", {"resourceType": "ConceptMap", "status": "active", "extension": [head]}).status == 201
    send(message(1), message(2, event="A08").replace(b"^LAKESIDE^MR", b"^&1.2.3&ISO^MR"))
    assert len({each["lane"] for each in every(api, "InboundMessage")}) == 1
    assert len(patients(api)) == 1


def test_a_code_mapped_by_writing_the_overlay_lets_the_messages_go_on(
    api: Api, send: Callable[..., None], work: Callable[[], None]
) -> None:
    assert api.put("ConceptMap/local", {**required("administrative-sex"), "id": "local"}).status == 201
    send(message(1, sex="Q"))
    head = {
        "url": f"{BASE}/hl7v2-map",
        "extension": [{"url": "map", "valueString": "administrative-sex"}, {"url": "kind", "valueCode": "table"}],
    }
    codes = {
        "extension": [head],
        "element": [{"code": "Q", "target": [{"code": "other", "equivalence": "equivalent"}]}],
    }
    assert (
        api.put("ConceptMap/local", {**required("administrative-sex"), "id": "local", "group": [codes]}).status == 200
    )
    work()
    assert [each["gender"] for each in patients(api)] == ["other"]
    assert [each["status"] for each in every(api, "Task")] == ["completed"]


def test_a_code_mapped_for_the_organization_holds_for_all_its_senders(
    api: Api, send: Callable[..., None], work: Callable[[], None]
) -> None:
    assert api.post("ConceptMap", required("administrative-sex")).status == 201
    send(message(1, sex="Q"), message(2, sex="Q", application="LAB", patient="9"))
    task = every(api, "Task?status=requested")[0]
    assert api.post(f"Task/{task['id']}/$map-code", asked(code="male", scope="organization")).status == 200
    work()
    assert [each["gender"] for each in patients(api)] == ["male", "male"]
    assert {each["status"] for each in every(api, "Task")} == {"completed"}


def test_the_code_of_an_endpoint_is_mapped_for_that_endpoint(
    api: Api, registry: Api, installation: app.Installation, send: Callable[..., None], work: Callable[[], None]
) -> None:
    endpoint = registry.create(endpoint_resource(api.organization, "ADT1", "", False))
    installation.intake().senders(0.0)
    assert api.post("ConceptMap", required("administrative-sex")).status == 201
    send(message(1, sex="Q"))
    [task] = every(api, "Task?status=requested")
    said = next(each for each in task["input"] if "valueReference" in each)
    assert said["valueReference"]["reference"] == f"http://api.test/1/health/fhir/4/Endpoint/{endpoint['id']}"
    assert api.post(f"Task/{task['id']}/$map-code", asked(code="male")).json["status"] == "completed"
    work()
    assert [each["gender"] for each in patients(api)] == ["male"]
    [overlay] = every(api, "ConceptMap?context=overlay&title:contains=Codes")
    parts = {each["url"]: each for each in overlay["extension"][0]["extension"]}
    assert parts["endpoint"]["valueReference"]["reference"] == f"Endpoint/{endpoint['id']}"


def test_a_task_that_somebody_rejected_is_let_be(api: Api, send: Callable[..., None]) -> None:
    send(message(1, sex="Q"))
    [task] = every(api, "Task")
    assert api.put(f"Task/{task['id']}", {**task, "status": "rejected"}).status == 200
    send(message(2, sex="Q"))
    assert [each["meta"]["versionId"] for each in every(api, "Task")] == ["2"]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, "code is required"),
        ({"code": "male", "scope": "world"}, "scope is"),
        (
            {"code": "man"},
            "man is no code of http://hl7.org/fhir/administrative-gender. It has female, male, other, unknown",
        ),
        ({"code": "man", "system": "urn:of-our-own"}, "`gender` does not take the code man"),
        ({"code": "ma le"}, "ma le is no code"),
        ({"code": "ma  le"}, "single spaces"),
        ({"code": "male", "system": "loinc"}, "system is the URI"),
    ],
)
def test_a_code_is_mapped_by_what_is_said(
    values: dict[str, str], text: str, api: Api, send: Callable[..., None]
) -> None:
    send(message(1, sex="Q"))
    [task] = every(api, "Task")
    refused = api.post(f"Task/{task['id']}/$map-code", asked(**values))
    assert refused.status == 400
    assert text in refused.issue["diagnostics"]


def test_the_settings_of_an_overlay_are_those_its_messages_are_read_with(api: Api) -> None:
    overlay = copy.deepcopy(EXAMPLE)
    assert api.put("ConceptMap/lakeside-adt", overlay).status == 201
    answer = api.post("InboundMessage/$convert", asked(message=RAW.decode().replace("125500-0700", "125500")))
    found = {e["resource"]["resourceType"]: e["resource"] for e in told(answer, "bundle")[0]["entry"]}
    assert found["Patient"]["identifier"][0]["system"] == "urn:oid:2.16.840.1.113883.3.9999.1"
    assert found["Encounter"]["period"]["start"] == "2026-09-14T12:55:00-07:00"


def test_an_event_that_an_overlay_adds_is_taken_at_the_door(api: Api, send: Callable[..., None]) -> None:
    raw = message(1).replace(b"ADT^A01", b"ADT^Z07")
    headers = {"Authorization": f"Bearer {api.token}"}
    path = f"/1/health/organizations/{api.organization}/hl7v2"
    refused = api.app.test_client().post(path, data=raw, content_type="application/hl7-v2", headers=headers)
    assert b"MSA|AR|M00001" in refused.data
    parts = [{"url": "map", "valueString": "triggers"}, {"url": "kind", "valueCode": "triggers"}]
    row = {"code": "ADT_Z07", "target": [{"code": "ADT_A01", "equivalence": "relatedto"}]}
    group = {"extension": [{"url": f"{BASE}/hl7v2-map", "extension": parts}], "element": [row]}
    assert api.post("ConceptMap", {**required("administrative-sex"), "group": [group]}).status == 201
    send(message(2).replace(b"ADT^A01", b"ADT^Z07"))
    assert [each["status"] for each in every(api, "InboundMessage?control-id=M00002")] == ["processed"]


def test_a_code_that_comes_often_is_not_written_for_every_message(
    api: Api, send: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    send(*(message(number, sex="Q", patient=str(number)) for number in range(14)))
    [task] = every(api, "Task")
    assert (counted(task), task["meta"]["versionId"]) == (10, "10")
    monkeypatch.setattr(codes, "COUNT_SECONDS", 0.0)
    send(message(14, sex="Q", patient="14"))
    [task] = every(api, "Task")
    assert (counted(task), task["meta"]["versionId"]) == (15, "11")


def counted(task: dict[str, Any]) -> int:
    return next(int(each["valueInteger"]) for each in task["input"] if "valueInteger" in each)


def test_the_last_good_maps_stay_where_definitions_change_under_an_overlay(
    api: Api, registry: Api, installation: app.Installation
) -> None:
    defined = structure("Gadget", "specialization", "DomainResource", "Gadget", element("Gadget.color", 0, "1", "code"))
    definition = registry.create(defined)
    overlay = copy.deepcopy(EXAMPLE)
    overlay["group"][0]["extension"][0]["extension"][2]["valueString"] = "Gadget"
    overlay["group"][0]["element"][:] = [overlay["group"][0]["element"][0]]
    rule = overlay["group"][0]["element"][0]
    rule["target"][0]["code"] = "color"
    del rule["extension"][0]["extension"][1]
    made = overlay["group"][2]["element"][0]
    made["target"][0]["code"] = "Gadget"
    made["extension"][0]["extension"][1]["valueString"] = "make"
    assert api.put("ConceptMap/lakeside-adt", overlay).status == 201

    def types() -> set[str]:
        answer = api.post("InboundMessage/$convert", asked(message=RAW.decode()))
        return {each["resource"]["resourceType"] for each in told(answer, "bundle")[0]["entry"]}

    assert "Gadget" in types()
    assert registry.delete(f"StructureDefinition/{definition['id']}").status in (200, 204)
    assert "Gadget" in types()
    started = Overlays(installation.server, installation.intake().maps)
    with pytest.raises(Problem, match="Gadget is no resource type"):
        started.effective(api.organization, None, Message.parse(RAW))
    assert started.effective("another", None, Message.parse(RAW)).maps.overlays == ()


def test_an_overlay_that_is_tried_with_many_messages_is_compiled_once(installation: app.Installation, api: Api) -> None:
    overlays, message_ = Overlays(installation.server, installation.intake().maps), Message.parse(RAW)
    first, again = (overlays.effective(api.organization, None, message_, copy.deepcopy(EXAMPLE)) for _ in range(2))
    assert first.maps is again.maps
    other = overlays.effective(api.organization, None, message_, {**EXAMPLE, "title": "Another"})
    assert other.maps is not first.maps


HOSTILE: list[Any] = [None, 0, "x", [], ["x"], [None], {}, {"extension": "x"}, [{"url": 1}], [{"extension": [1]}], [[]]]


@pytest.mark.parametrize(
    "path",
    [
        "useContext",
        "group",
        "status",
        "extension.0.extension",
        "group.0.element",
        "group.0.extension",
        "group.0.element.0.target",
        "group.0.element.0.extension",
        "group.0.element.0.extension.0.extension",
        "group.0.element.0.code",
        "extension.0.extension.3.extension",
    ],
)
def test_nonsense_in_an_overlay_is_refused_or_stored_as_what_it_is(path: str, api: Api) -> None:
    for value in HOSTILE:
        overlay: Any = {**copy.deepcopy(EXAMPLE), "status": "draft"}
        *steps, last = path.split(".")
        node = overlay
        for step in steps:
            node = node[int(step) if step.isdigit() else step]
        node[last] = value
        for status in ("active", "draft"):
            body = overlay if path == "status" else {**overlay, "status": status}
            answer = api.post("ConceptMap", body)
            assert answer.status in (201, 400, 422), (value, answer.data)


def test_maps_that_lie_too_deep_or_say_too_much_are_refused(api: Api) -> None:
    def chain(number: int) -> dict[str, Any]:
        parts = {"map": f"CX.N{number}", "kind": "datatype", "type": "Identifier", "v2": "CX"}
        said = [{"url": name, "valueString": value} for name, value in parts.items()]
        rule = [{"url": "id", "valueString": "x"}, {"url": "as", "valueString": f"CX.N{number + 1}"}]
        target = [{"code": "assigner.identifier", "equivalence": "relatedto"}]
        element = {"code": "^", "target": target, "extension": [{"url": f"{BASE}/hl7v2-rule", "extension": rule}]}
        return {"extension": [{"url": f"{BASE}/hl7v2-map", "extension": said}], "element": [element]}

    deep = {**required("administrative-sex"), "group": [chain(number) for number in range(900)]}
    long = copy.deepcopy(EXAMPLE)
    when = {"url": "when", "valueString": " or ".join(["valued(ZPI-2)"] * 400)}
    long["group"][0]["element"][0]["extension"][0]["extension"].append(when)
    for body, text in ((deep, "too deep"), (long, "at most 2000 characters")):
        refused = api.post("ConceptMap", body)
        assert refused.status == 400
        assert any(text in each["diagnostics"] for each in refused.json["issue"]), refused.data[:500]


def test_what_a_message_says_takes_the_place_of_what_cannot_stand_beside_it(
    api: Api, send: Callable[..., None]
) -> None:
    head = b"MSH|^~\\&|ADT1|LAKESIDE|X|Y|20260914101500+0000||%s|%s|P|2.5\r"
    patient, visit = b"PID|1||77^^^LAKESIDE^MR||Marlowe^Iris\r", b"SCH|P7^A|F7^A||||%s|||||^^^202609150900+0000\r"
    for number, (event, reason) in enumerate(((b"S12", b""), (b"S15", b"ILL^Ill^L"), (b"S13", b""), (b"S26", b""))):
        send(head % (b"SIU^" + event, b"S%d" % number) + visit % reason + patient)
    [appointment] = every(api, "Appointment")
    assert appointment["status"] == "noshow"
    assert "cancelationReason" not in appointment
    for number, value in enumerate((b"7", b"7~8", b"9")):
        result = b"PV1|1|I\rOBX|1|NM|2345-7^Glucose^LN||%s|mg/dL|||||F\r" % value
        send(head % (b"ADT^A08", b"O%d" % number) + b"EVN|A08\r" + patient + result)
    [observation] = every(api, "Observation")
    assert observation["valueQuantity"]["value"] == 9
    assert "component" not in observation
    assert not every(api, "InboundMessage?status=mapping-error,failed")
