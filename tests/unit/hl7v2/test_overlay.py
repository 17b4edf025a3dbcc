"""Overlays: what an organization or a sender maps otherwise, and every way to get it wrong."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from fhirserver.fhir.json import decode
from fhirserver.fhir.problem import Problem
from fhirserver.fhir.validation import validate
from fhirserver.hl7v2.mapping import Maps, Result, to_bundle
from fhirserver.hl7v2.mapping.overlay import EXTENSION, is_overlay, marked, overlay
from fhirserver.hl7v2.mapping.stack import stacked
from fhirserver.hl7v2.message import Message
from tests.unit.hl7v2.maps import CONTEXT, ROOT, definitions, maps

EXAMPLE = decode((ROOT / "examples" / "hl7v2" / "overlay.json").read_bytes())
RAW = (ROOT / "examples" / "hl7v2" / "06-z-segments-a01-2.5.hl7").read_bytes()
BASE = "https://fhirserver.example/fhir/StructureDefinition"


def rule(code: str = "", target: str = "", **said: Any) -> dict[str, Any]:
    """An element of an overlay."""
    parts = [{"url": name, "valueString": value} for name, value in said.items()]
    made: dict[str, Any] = {"extension": [{"url": f"{BASE}/hl7v2-rule", "extension": parts}]}
    if code:
        made["code"] = code
    if target:
        made["target"] = [{"code": target, "equivalence": "relatedto"}]
    return made


def group(kind: str, name: str, *elements: dict[str, Any], **settings: str) -> dict[str, Any]:
    parts = [{"url": key, "valueString": value} for key, value in {"map": name, "kind": kind, **settings}.items()]
    return {"extension": [{"url": f"{BASE}/hl7v2-map", "extension": parts}], "element": list(elements)}


def made(*groups: dict[str, Any], **said: str) -> dict[str, Any]:
    parts = [{"url": name.replace("_", "-"), "valueString": value} for name, value in said.items()]
    extension = {"url": EXTENSION, "extension": parts}
    return {
        "resourceType": "ConceptMap",
        "id": "o",
        "status": "active",
        "extension": [extension],
        "group": list(groups),
    }


def laid(*resources: dict[str, Any]) -> Maps:
    return stacked(maps().source, [overlay(each, "1") for each in resources], definitions())


def converted(found: Maps, raw: bytes = RAW) -> Result:
    return to_bundle(found, Message.parse(raw), CONTEXT, trace=True)


def resource(result: Result, type: str) -> dict[str, Any]:
    return next(e["resource"] for e in result.bundle["entry"] if e["resource"]["resourceType"] == type)


def test_the_example_is_valid_and_marked() -> None:
    assert is_overlay(EXAMPLE)
    assert [i for i in validate(definitions(), marked(EXAMPLE)) if i.severity == "error"] == []
    assert marked(marked(EXAMPLE)) == marked(EXAMPLE)


def test_z_segments_are_mapped_as_the_overlay_says() -> None:
    before, after = converted(maps()), converted(laid(EXAMPLE))
    assert (before.skipped, after.skipped) == (["ZBE", "ZPI"], [])
    extensions = {each["url"].rpartition("/")[2]: each for each in resource(after, "Patient")["extension"]}
    assert extensions["region"]["valueCoding"]["code"] == "n"
    assert extensions["newsletter"]["valueCodeableConcept"]["coding"][0]["display"] == "yes"
    assert "MOV-88123" in {each["value"] for each in resource(after, "Encounter")["identifier"]}


def test_a_rule_that_is_removed_writes_no_more_and_the_shipped_maps_stay_as_they_are() -> None:
    raw = RAW.replace(b"98006^USA^H", b"98006^USA^H||||||||123-45-6789")
    systems = [
        {each.get("system") for each in resource(converted(found, raw), "Patient")["identifier"]}
        for found in (maps(), laid(EXAMPLE), maps())
    ]
    assert ["http://hl7.org/fhir/sid/us-ssn" in each for each in systems] == [True, False, True]


def test_the_trace_names_the_layer_that_wrote() -> None:
    found = laid(EXAMPLE)
    layers = {each.rule: found.layer(each.rule) for each in converted(found).trace}
    assert layers["ZPI.Patient/region"] == "ConceptMap/lakeside-adt/_history/1"
    assert layers["PID.Patient/pid5"] == "fhirserver.v2-to-fhir#0.1.0"
    assert found.name == "fhirserver.v2-to-fhir#0.1.0 ConceptMap/lakeside-adt/_history/1"


def test_provenance_names_the_rules_with_their_versions() -> None:
    policy = resource(converted(laid(EXAMPLE)), "Provenance")["policy"]
    assert policy == [
        "https://fhirserver.example/fhir/ImplementationGuide/fhirserver.v2-to-fhir|0.1.0",
        "https://exchange.example/fhir/4/ConceptMap/lakeside-adt/_history/1",
    ]


def test_an_overlay_bundle_is_valid() -> None:
    assert [i for i in validate(definitions(), converted(laid(EXAMPLE)).bundle) if i.severity == "error"] == []


def test_a_later_overlay_has_the_last_word() -> None:
    first = made(group("segment", "PID.Patient", rule("PID-7", "deceasedDateTime", id="pid7", action="replace")))
    second = made(group("segment", "PID.Patient", rule("PID-7", "birthDate", id="pid7", action="replace")))
    assert "birthDate" not in resource(converted(laid(first)), "Patient")
    assert resource(converted(laid(first, {**second, "id": "p"})), "Patient")["birthDate"] == "1951-06-17"


def test_rules_are_added_where_the_overlay_says() -> None:
    added = group("segment", "PID.Patient", rule("PID-3.1", "language", id="x", before="pid5"))
    rules = laid(made(added)).source.maps["segment"]["PID.Patient"]["rules"]
    names = [each["id"] for each in rules]
    assert names.index("x") == names.index("pid5") - 1


def test_codes_of_a_table_are_added_replaced_and_removed() -> None:
    codes = group(
        "table",
        "administrative-sex",
        {"code": "1", "target": [{"code": "male", "equivalence": "equivalent"}]},
        {"code": "M", "target": [{"code": "other", "equivalence": "equivalent"}]},
        {"code": "F", "target": [{"equivalence": "unmatched"}]},
    )
    table = laid(made(codes)).tables["administrative-sex"]
    found = [table.translate(code) for code in ("1", "M", "F", "O")]
    assert [each and each.code for each in found] == ["male", "other", None, "other"]
    assert maps().tables["administrative-sex"].codes["M"].code == "male"


def test_an_organization_says_by_which_identifiers_patients_match() -> None:
    row = {"code": "Patient", "target": [{"code": "Patient", "equivalence": "relatedto"}]}
    row["extension"] = [
        {
            "url": f"{BASE}/hl7v2-rule",
            "extension": [{"url": "action", "valueCode": "replace"}, {"url": "never[]", "valueString": "MR"}],
        }
    ]
    found = converted(laid(made(group("matching", "matching", row))))
    url = next(e["fullUrl"] for e in found.bundle["entry"] if e["resource"]["resourceType"] == "Patient")
    assert found.match[url] is None


def test_a_required_element_that_nothing_fills_any_more_is_named() -> None:
    removed = group("segment", "PD1.LivingWill", rule(id="status", action="remove"))
    row = {"code": "Observation", **rule(action="remove")}
    with pytest.raises(Problem) as caught:
        laid(made(group("defaults", "defaults", row), removed))
    said = [i.diagnostics for i in caught.value.issues]
    assert any(
        text.startswith("PATIENT/living-will: ADT_A01 makes Observation resources, which need status") for text in said
    )


FAULTS: list[tuple[dict[str, Any], str, str]] = [
    (
        made(group("segment", "PID.Patient", rule("PID-99", "gender", id="x"))),
        "group[0].element[0]",
        "PID-99 does not exist",
    ),
    (
        made(group("segment", "PID.Patient", rule("PID-8", "gendre", id="x"))),
        "group[0].element[0]",
        "Patient has no element gendre",
    ),
    (
        made(group("segment", "PID.Patient", rule("PID-8", "gender", id="pid8"))),
        "group[0].element[0]",
        "there is a rule already named PID.Patient/pid8",
    ),
    (
        made(group("segment", "PID.Patient", rule("PID-8", "gender", id="y", action="replace"))),
        "group[0].element[0]",
        "there is no rule PID.Patient/y",
    ),
    (
        made(group("segment", "PID.Patient", rule(id="y", action="remove"))),
        "group[0].element[0]",
        "there is no rule PID.Patient/y",
    ),
    (
        made(group("segment", "PID.Patient", rule("PID-8", "gender", id="x", action="mend"))),
        "group[0].element[0]",
        "action is one of add, replace, remove",
    ),
    (made(group("segment", "PID.Patient", rule("PID-8", "gender"))), "group[0].element[0]", "a rule needs its id"),
    (
        made(group("segment", "PID.Patient", rule("PID-8", "gender", id="x", table="nowhere"))),
        "group[0].element[0]",
        "there is no table nowhere",
    ),
    (
        made(group("segment", "PID.Patient", rule("PID-8", "gender", id="x", when="PID-8 is M"))),
        "group[0].element[0]",
        "expected comparison",
    ),
    (
        made(group("segment", "PID.Patient", rule("PID-8", "gender", id="x", before="pid88"))),
        "group[0].element[0]",
        "there is no rule PID.Patient/pid88",
    ),
    (
        made(group("segment", "PID.Patient", rule("PID-8", "gender", id="x"), type="Person")),
        "group[0]",
        "its settings cannot be changed",
    ),
    (
        made(group("segment", "ZPI.Patient", rule("ZPI-2", "gender", id="x"))),
        "group[0]",
        "say the FHIR type of a new one",
    ),
    (
        made(group("segment", "ZPI.Patient", rule("ZPI-2", "gender", id="x"), type="Patient")),
        "group[0]",
        "declare it and its fields first",
    ),
    (made(group("sgment", "PID.Patient", rule("PID-8", "gender", id="x"))), "group[0]", "kind is one of"),
    (
        made(group("message", "ADT_A01", rule("ZPI", "Patient", id="x", mode="on"))),
        "group[0].element[0]",
        "there is no segment ZPI",
    ),
    (
        made(group("message", "ADT_A01", rule("PID", "Patiant", id="x", mode="on"))),
        "group[0].element[0]",
        "Patiant is no resource type",
    ),
    (
        made(group("fragment", "PATIENT", rule("PID", "Person", id="x", mode="make"))),
        "group[0].element[0]",
        "PID.Patient",
    ),
    (made(timezone="Moon/Base"), "extension", "is no time zone"),
    (made(authority="MRN"), "extension", "NAMESPACE=URI"),
    (made(colour="red"), "extension", "hl7v2-overlay has no part `colour`"),
    (made(required_table="nowhere"), "extension", "there is no table nowhere"),
]


@pytest.mark.parametrize(("resource", "place", "text"), FAULTS)
def test_a_faulty_overlay_is_refused_with_the_place_and_the_fault(
    resource: dict[str, Any], place: str, text: str
) -> None:
    if text == "PID.Patient":
        use = {"url": "use", "valueString": "PID.Patient"}
        resource["group"][0]["element"][0]["extension"][0]["extension"].append(use)
    with pytest.raises(Problem) as caught:
        laid(resource)
    assert any(text in i.diagnostics for i in caught.value.issues), caught.value.issues
    assert any(place in e for i in caught.value.issues for e in i.expression), caught.value.issues


def test_a_code_that_the_element_does_not_take_is_refused_where_it_stands() -> None:
    codes = [
        {"code": code, "target": [{"code": target, "equivalence": "equivalent"}]}
        for code, target in (("1", "male"), ("2", "woman"))
    ]
    with pytest.raises(Problem, match="`gender` does not take the code woman") as caught:
        laid(made(group("table", "administrative-sex", *codes)))
    assert [i.expression for i in caught.value.issues] == [("ConceptMap.group[0].element[1]",)]


@pytest.mark.parametrize(
    ("name", "type", "text"),
    [("ZP", "ST", "is no Z segment"), ("PID", "ST", "is no Z segment"), ("ZPI", "XYZ", "is no datatype of HL7v2")],
)
def test_a_z_segment_is_declared_with_datatypes_of_hl7v2(name: str, type: str, text: str) -> None:
    resource = copy.deepcopy(made())
    field = {"url": "field", "extension": [{"url": "number", "valueInteger": 1}, {"url": "type", "valueString": type}]}
    declared = {"url": "segment", "extension": [{"url": "name", "valueString": name}, field]}
    resource["extension"][0]["extension"] = [declared]
    with pytest.raises(Problem, match=text):
        laid(resource)


def test_an_overlay_holds_for_the_senders_it_names() -> None:
    one = replace(overlay(made()), endpoint="e", application="A")
    assert one.level == 2
    assert one.applies("e", ("A", ""), ("F",))
    assert not one.applies("e", ("B",), ())
    assert not one.applies("", ("A",), ())
    assert overlay(made()).applies("", (), ())
    assert overlay(made()).level == 1
