"""A message beside its resources: which field of the raw text wrote which line of the Bundle."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from fhirserver.web.console.hospital.pair import MOST_FIELD, MOST_LINES, MOST_SEGMENTS, keys_of, pair, text_of

RAW = "MSH|^~\\&|ADT1|LAKESIDE\rPID|1||7^^^L^MR||Smith^Ann\rOBX|1|NM\rOBX|2|ST\r"
PATIENT = {
    "resourceType": "Patient",
    "extension": [{"url": "http://hl7.org/fhir/StructureDefinition/patient-religion", "valueCode": "x"}],
    "identifier": [{"value": "7"}, {"value": "8"}],
    "name": [{"family": "Smith", "_family": {"id": "f"}}],
    "contact": [{"period": {"start": "2020"}}],
}


def trace(element: str, field: str, rule: str = "PID.Patient/x", entry: str = "urn:1") -> dict[str, Any]:
    texts = {"entry": entry, "element": element, "field": field, "rule": rule, "layer": "package#1"}
    return {"name": "trace", "part": [{"name": name, "valueString": text} for name, text in texts.items()]}


def converted(*parts: dict[str, Any]) -> dict[str, Any]:
    bundle = {"entry": [{"fullUrl": "urn:1", "resource": PATIENT}]}
    return {"parameter": [{"name": "bundle", "resource": bundle}, *parts]}


def keys(text: str, *parts: dict[str, Any]) -> tuple[str, ...]:
    """The keys of the first line that has this text."""
    (block,) = pair(RAW, converted(*parts)).blocks
    return next(line.keys for line in block.lines if text in line.text)


@pytest.mark.parametrize(
    ("field", "found"),
    [
        ("PID[1]-5", ["PID[1]-5"]),
        ("PID[2]-8.1", ["PID[2]-8"]),
        ("PID-3", ["PID[1]-3"]),
        ("PV1[1]", ["PV1[1]"]),
        ("$trigger", ["MSH[1]-9"]),
        ("$status", []),
        ("{MSH-9.1}[^{MSH-9.2}]", ["MSH[1]-9", "MSH[1]-9"]),
        ("^", []),
        ("ZPI[1]-2", ["ZPI[1]-2"]),
    ],
)
def test_a_source_of_the_trace_names_fields(field: str, found: list[str]) -> None:
    assert keys_of(field) == found


@pytest.mark.parametrize(
    ("line", "element", "lit"),
    [
        ('"family": "Smith"', "Patient.name[0]", True),
        ('"family": "Smith"', "Patient.name[0].family", True),
        ('"_family"', "Patient.name[0].family", True),
        ('"value": "7"', "Patient.identifier[0]", True),
        ('"value": "8"', "Patient.identifier[0]", False),
        ('"value": "8"', "Patient.identifier", True),
        ('"valueCode": "x"', "Patient.extension(patient-religion).valueCode", True),
        ('"valueCode": "x"', "Patient.extension(patient-birthPlace).valueCode", False),
        ('"start": "2020"', "Patient", True),
        ('"start": "2020"', "Patient.contact.period", False),
    ],
)
def test_a_line_belongs_to_the_field_that_wrote_its_element(line: str, element: str, lit: bool) -> None:
    assert keys(line, trace(element, "PID[1]-5")) == (("PID[1]-5",) if lit else ())


def test_the_narrowest_element_decides() -> None:
    told = (trace("Patient.name[0]", "PID[1]-5"), trace("Patient.name[0].family", "PID[1]-9"))

    assert keys('"family": "Smith"', *told) == ("PID[1]-9",)
    assert keys('"name": [', *told) == ("PID[1]-5",)


def test_what_reads_the_value_at_hand_read_what_the_rule_around_it_did() -> None:
    told = (
        trace("Patient.contact[0].period", "^", "NK1/contact/period"),
        trace("Patient.contact[0]", "NK1[1]-4", "NK1/contact"),
    )

    assert keys('"start": "2020"', *told) == ("NK1[1]-4",)


def test_a_trace_of_another_entry_lights_nothing() -> None:
    assert keys('"family": "Smith"', trace("Patient.name[0]", "PID[1]-5", entry="urn:2")) == ()


def test_fields_are_numbered_as_the_standard_does() -> None:
    made = pair(RAW, converted(trace("Patient.name[0]", "PID[1]-5")))
    cells = {cell.key: cell for segment in made.segments for cell in segment.cells}

    assert cells["MSH[1]-2"].text == "^~\\&"
    assert cells["MSH[1]-3"].text == "ADT1"
    assert (cells["PID[1]-5"].text, cells["PID[1]-5"].label, cells["PID[1]-5"].traced) == ("Smith^Ann", "PID-5", True)
    assert not cells["PID[1]-3"].traced
    assert cells["OBX[2]-1"].text == "2"


@pytest.mark.parametrize("raw", ["", "\r", "M", "MSH", "no message at all", "\x00\x01", "PID|1"])
def test_what_is_no_message_is_shown_as_far_as_it_goes(raw: str) -> None:
    made = pair(raw, None)

    assert made.blocks == []
    assert "".join(cell.text for segment in made.segments for cell in segment.cells[:1]) in (raw, raw.strip(), raw[:3])


def test_a_long_message_is_cut() -> None:
    long = pair("MSH|^~\\&|" + "x" * 5_000 + "\rPID|1" * 1_000, None)
    many = {"entry": [{"resource": {"resourceType": "Basic", "n": list(range(10_000))}}]}
    wide = pair("", {"parameter": [{"name": "bundle", "resource": many}]})

    assert (len(long.segments), long.cut) == (MOST_SEGMENTS, True)
    assert max(len(cell.text) for cell in long.segments[0].cells) == MOST_FIELD
    assert (len(wide.blocks[0].lines), wide.cut) == (MOST_LINES, True)


def test_bytes_of_any_character_set_are_shown() -> None:
    assert text_of({"data": base64.b64encode("Müller".encode()).decode()}) == "Müller"
    assert text_of({"data": base64.b64encode("Müller".encode("latin-1")).decode()}) == "Müller"
    assert text_of({"data": "not base64"}) == ""
    assert text_of({}) == ""
