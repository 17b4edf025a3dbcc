"""The conformance report: what the standard's tables say of a message, in places people can find."""

from __future__ import annotations

from fhirserver.fhir.problem import Issue
from fhirserver.hl7v2.conformance import report
from tests.unit.hl7v2.maps import CASES, ROOT, maps

REFERENCE = (ROOT / "examples" / "hl7v2" / "reference" / "adt-a01.hl7").read_bytes()


def of(raw: bytes) -> list[tuple[str, str, str]]:
    return [(i.severity, i.code, i.expression[0] if i.expression else "") for i in report(raw, maps())]


def test_components_that_a_version_does_not_have_are_named() -> None:
    assert ("error", "value", "PID-8") in of(REFERENCE)


def test_a_missing_segment_is_named() -> None:
    raw = b"\r".join(line for line in REFERENCE.split(b"\r") if not line.startswith(b"EVN"))
    assert ("error", "required", "EVN") in of(raw)


def test_a_code_that_is_not_in_its_table_is_a_warning() -> None:
    assert ("warning", "code-invalid", "PID-16.3") in of(REFERENCE)


def test_a_segment_of_the_senders_own_is_told() -> None:
    assert ("information", "informational", "ZPI") in of(REFERENCE + b"ZPI|1\r")


def test_bytes_that_are_no_message_are_told_and_nothing_raises() -> None:
    assert report(b"hello", maps()) == [Issue("structure", "The message does not begin with an MSH segment.", ("MSH",))]
    for path in sorted(CASES.glob("*.hl7"))[::6]:
        assert isinstance(report(path.read_bytes(), maps()), list)


def test_a_number_without_end_does_not_take_without_end() -> None:
    """In hl7apy the time grows with the square of the digits: of so many it would be minutes."""
    raw = REFERENCE.replace(b"PID|1|", b"PID|1" + b"1" * 150_000 + b"|") + b"NTE|1||" + b"7" * 50_000 + b"\r"
    assert ("error", "value", "PID-8") in of(raw)


def test_a_message_of_many_segments_is_not_compared_with_the_tables() -> None:
    assert ("warning", "too-long", "") in of(REFERENCE + b"NTE|1\r" * 1_000)
