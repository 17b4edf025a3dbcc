"""Acknowledgments: what a sender of each version and mode reads."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from fhirserver.fhir.problem import Issue, Problem, problem
from fhirserver.hl7v2.ack import acknowledge, answer_code, condition, is_wanted, mode_of, refuse
from fhirserver.hl7v2.message import Message

NOW = datetime(2026, 9, 14, 17, 15, 0, tzinfo=UTC)


def message(version: str = "2.5.1", accept: str = "", application: str = "", code: str = "ADT^A01^ADT_A01") -> Message:
    head = f"MSH|^~\\&|APP^1.2^ISO|FAC|HUB|HOME|20260914||{code}|C-1|P|{version}|||{accept}|{application}||8859/1"
    return Message.parse(f"{head}\rPID|1".encode("latin-1"))


def answered(received: Message | bytes, code: str, *issues: Issue, **options: Any) -> Message:
    return Message.parse(acknowledge(received, code, issues, now=NOW, control_id="ACK1", **options))


def test_a_positive_answer_turns_the_addresses_round_and_names_the_message() -> None:
    raw = acknowledge(message(), "AA", now=NOW, control_id="ACK1")
    assert raw == (
        b"MSH|^~\\&|HUB|HOME|APP^1.2^ISO|FAC|20260914171500+0000||ACK^A01^ACK|ACK1|P|2.5.1||||||8859/1\rMSA|AA|C-1\r"
    )


@pytest.mark.parametrize(
    ("version", "type", "error"),
    [
        ("2.1", "ACK", "ERR|PID^1^3^101&Required field missing&HL70357"),
        ("2.3", "ACK^A01", "ERR|PID^1^3^101&Required field missing&HL70357"),
        ("2.4", "ACK^A01^ACK", "ERR|PID^1^3^101&Required field missing&HL70357"),
        ("2.5", "ACK^A01^ACK", "ERR||PID^1^3^1^4|101^Required field missing^HL70357|E||||PID-3.4 is empty"),
        ("2.8", "ACK^A01^ACK", "ERR||PID^1^3^1^4|101^Required field missing^HL70357|E||||PID-3.4 is empty"),
    ],
)
def test_errors_are_told_as_the_version_wants(version: str, type: str, error: str) -> None:
    found = answered(message(version), "AE", Issue("required", "PID-3.4 is empty", ("PID-3.4",)))
    header, _, err = found.segments
    assert (header.raw(9), err.text, found["MSA-1"], found["MSA-2"]) == (type, error, "AE", "C-1")


def test_text_in_an_error_cannot_break_the_segment() -> None:
    found = answered(message(), "AE", Issue("value", "a|b^c&d~e\\f\rPID|x", ("PID-5",)))
    assert [s.name for s in found] == ["MSH", "MSA", "ERR"]
    assert found["ERR-8"] == "a|b^c&d~e\\f\nPID|x"


def test_a_message_that_is_too_much_is_answered_by_its_name() -> None:
    raw = b"MSH|^~\\&|APP|FAC|||2026||ADT^A01|C-1|P|2.3\n" + b"NTE|1\n" * 20_001
    fault = problem("too-long", "too many lines")
    found = Message.parse(refuse(raw, fault, now=NOW, control_id="A"))
    assert (found["MSA-1"], found["MSA-2"], found["MSH-5"], found["MSH-12"]) == ("AE", "C-1", "APP", "2.3")


def test_what_is_given_back_is_bounded_and_cannot_break_the_segment() -> None:
    raw = f"MSH|^~\\&|{'A' * 5000}|F|||2026||ADT^A01|C-1\rPIDX|no segment\rEVN|A01".encode()
    answer = acknowledge(raw, "AA", now=NOW, control_id="A")
    assert len(answer) < 1200
    assert b"\n" not in answer
    assert Message.parse(answer)["MSA-2"] == "C-1"


def test_the_answer_speaks_the_delimiters_and_characters_of_the_message() -> None:
    raw = "MSH*@!\\%*APP*Ångström***20260914**ADT@A01*1*P*2.5******8859/1\rPID*1".encode("latin-1")
    answer = acknowledge(raw, "AA", now=NOW, control_id="A")
    assert answer.startswith(b"MSH*@!\\%***APP*\xc5ngstr\xf6m*")
    assert b"*ACK@A01@ACK*" in answer


@pytest.mark.parametrize(
    ("accept", "application", "setting", "mode"),
    [
        ("", "", "msh", "original"),
        ("AL", "", "msh", "enhanced"),
        ("AL", "NE", "msh", "enhanced"),
        ("NE", "AL", "msh", "application"),
        ("NE", "NE", "msh", "silent"),
        ("AL", "NE", "original", "original"),
        ("AL", "NE", "aa", "original"),
        ("", "", "enhanced", "enhanced"),
    ],
)
def test_the_mode_follows_the_header_or_the_endpoint(accept: str, application: str, setting: str, mode: str) -> None:
    assert mode_of(message(accept=accept, application=application), setting) == mode


@pytest.mark.parametrize(
    ("accept", "good", "bad"), [("AL", True, True), ("ER", False, True), ("SU", True, False), ("NE", False, False)]
)
def test_a_sender_gets_the_accept_acknowledgments_it_asks_for(accept: str, good: bool, bad: bool) -> None:
    asked = message(accept=accept)
    mode = mode_of(asked)
    assert (is_wanted(asked, "CA", mode), is_wanted(asked, "CE", mode)) == (good, bad)


def test_an_acknowledgment_is_never_acknowledged() -> None:
    assert not is_wanted(message(code="ACK^A01"), "AA", "original")


def test_enhanced_mode_answers_with_accept_codes() -> None:
    assert answered(message(), "AE", mode="enhanced")["MSA-1"] == "CE"


def test_bytes_that_are_no_message_get_an_answer_all_the_same() -> None:
    found = answered(b"\x00\xffgarbage", "AR", Issue("structure", "no MSH", ("MSH",)))
    assert (found["MSA-1"], found["MSA-2"], found["ERR-3"]) == ("AR", "", "100")


@pytest.mark.parametrize(
    ("fault", "code", "number"),
    [
        (problem("required", "x", "PID-3"), "AE", "101"),
        (problem("structure", "x", "PID"), "AE", "100"),
        (problem("code-invalid", "x", "PID-8"), "AE", "103"),
        (problem("not-supported", "x", "MSH-9.1"), "AR", "200"),
        (problem("not-supported", "x", "MSH-9.2"), "AR", "201"),
        (problem("not-supported", "x", "MSH-11"), "AR", "202"),
        (problem("not-supported", "x", "MSH-12"), "AR", "203"),
        (problem("transient", "x"), "AR", "207"),
        (problem("security", "x", "MSH-3"), "AR", "207"),
    ],
)
def test_a_problem_is_refused_with_its_code_of_table_0357(fault: Problem, code: str, number: str) -> None:
    found = Message.parse(refuse(message(), fault, now=NOW, control_id="A"))
    assert (found["MSA-1"], found["ERR-3"], condition(fault.issues[0])) == (code, number, number)
    assert answer_code(refuse(message(), fault, now=NOW, control_id="A")) == code
