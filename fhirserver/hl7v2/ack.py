"""Acknowledgments: MSA and ERR as the sender's version, delimiters and character set want them.

HL7 v2.8.2 chapter 2: 2.9.2 and 2.9.3 (original and enhanced mode), 2.14.5 (ERR), 2.14.8 (MSA); table 0357. Pure: the
time and our own control id are arguments.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime

from fhirserver.fhir.problem import Issue, Problem
from fhirserver.hl7v2.message import VERSIONS, Message, Segment

# HL7 table 0357, message error condition codes.
CONDITIONS: Mapping[str, str] = {
    "0": "Message accepted",
    "100": "Segment sequence error",
    "101": "Required field missing",
    "102": "Data type error",
    "103": "Table value not found",
    "104": "Value too long",
    "200": "Unsupported message type",
    "201": "Unsupported event code",
    "202": "Unsupported processing id",
    "203": "Unsupported version id",
    "204": "Unknown key identifier",
    "205": "Duplicate key identifier",
    "206": "Application record locked",
    "207": "Application internal error",
}

# FHIR issue type -> table 0357. What is not here is 207.
CONDITION_OF: Mapping[str, str] = {
    "structure": "100",
    "required": "101",
    "value": "102",
    "invalid": "102",
    "code-invalid": "103",
    "too-long": "104",
    "not-found": "204",
    "duplicate": "205",
    "conflict": "205",
    "lock-error": "206",
}
UNSUPPORTED: Mapping[str, str] = {"MSH-9.1": "200", "MSH-9": "200", "MSH-9.2": "201", "MSH-11": "202", "MSH-12": "203"}

# Table 0516 severity by FHIR issue severity, and the original code of each enhanced-mode accept code.
SEVERITY: Mapping[str, str] = {"fatal": "E", "error": "E", "warning": "W", "information": "I"}
ACCEPT: Mapping[str, str] = {"AA": "CA", "AE": "CE", "AR": "CR"}

MOST_ECHOED = 1_000
"""Characters of a field of the sender's that are given back: no standard has as many."""

_LOCATION = re.compile(r"([A-Z][A-Z0-9]{2})(?:\[(\d+)\])?(?:-(\d+)(?:\[(\d+)\])?(?:\.(\d+))?(?:\.(\d+))?)?$")


def condition(issue: Issue) -> str:
    """The table 0357 code that says this issue."""
    where = issue.expression[0] if issue.expression else ""
    if issue.code == "not-supported":
        return UNSUPPORTED.get(re.sub(r"\[\d+\]", "", where), "207")
    return CONDITION_OF.get(issue.code, "207")


def mode_of(message: Message, setting: str = "msh") -> str:
    """What kind of acknowledgment a message wants: `original`, `enhanced` (an accept acknowledgment, CA),
    `application` (only the application's, AA, as MSH-16 says) or `silent`.

    `setting` is the endpoint's: `msh` follows MSH-15 and MSH-16, `original` and `enhanced` say it for all messages,
    `aa` is for senders that ask for an accept acknowledgment and want to read AA.
    """
    header = message.segments[0]
    accept, application = header.value(15).upper(), header.value(16).upper()
    if setting in ("original", "aa") or (setting == "msh" and not accept and not application):
        return "original"
    if setting == "enhanced" or accept not in ("", "NE"):
        return "enhanced"
    return "application" if application not in ("", "NE") else "silent"


def is_wanted(message: Message, code: str, mode: str) -> bool:
    """Whether the sender asked for this acknowledgment. An ACK is never acknowledged; original mode wants one for
    everything else.
    """
    if message.code in ("ACK", "MCF") or mode == "silent":
        return False
    asked = message["MSH-15" if mode == "enhanced" else "MSH-16"].upper() if mode != "original" else "AL"
    good = code in ("AA", "CA")
    return (asked != "ER" or not good) and (asked != "SU" or good)


def acknowledge(
    received: Message | bytes,
    code: str,
    issues: Sequence[Issue] = (),
    *,
    now: datetime,
    control_id: str,
    mode: str = "original",
) -> bytes:
    """The acknowledgment message. `code` is AA, AE or AR, sent as CA, CE or CR in enhanced mode.

    Bytes that cannot be read as a message get the answer that standard delimiters and an empty MSA-2 allow. `now`
    carries a time zone.
    """
    message = _readable(received)
    if mode == "enhanced":
        code = ACCEPT.get(code, code)
    text = issues[0].diagnostics if issues and code not in ("AA", "CA") else ""
    lines = [_msh(message, now, control_id), _msa(message, code, text)]
    lines += [_err(message, issue) for issue in issues[:20]]
    return ("\r".join(lines) + "\r").encode(message.charset, "replace")


def refuse(
    received: Message | bytes, refusal: Problem, *, now: datetime, control_id: str, mode: str = "original"
) -> bytes:
    """The acknowledgment that a Problem deserves: AE for faults in the content, AR for everything a resend may cure
    or nothing can.
    """
    return acknowledge(received, code_of(refusal), refusal.issues, now=now, control_id=control_id, mode=mode)


def code_of(refusal: Problem) -> str:
    """AE where the content is at fault, AR for an unsupported message, an unknown sender or a fault of ours."""
    return (
        "AE"
        if all(condition(issue) in ("100", "101", "102", "103", "104", "204", "205") for issue in refusal.issues)
        else "AR"
    )


def _readable(received: Message | bytes) -> Message:
    if isinstance(received, Message):
        return received
    try:
        return Message.parse(received)
    except Problem:
        return Message.header(received) or Message.parse(b"MSH|^~\\&|")


def _msh(message: Message, now: datetime, control_id: str) -> str:
    header = message.segments[0]
    time = now.strftime("%Y%m%d%H%M%S%z" if _at_least(message, "2.3") else "%Y%m%d%H%M%S")
    event = message.component.join(_type(message)) if message.component else "ACK"
    said = {number: _echoed(header, number) for number in (3, 4, 5, 6, 11, 12, 18)}
    fields = ["MSH", header.raw(2)[:8] or "^~\\&", said[5], said[6], said[3], said[4], time, ""]
    fields += [event, control_id, said[11] or "P", said[12] or "2.5"]
    fields += ["", "", "", "", "", said[18]]
    return message.field.join(fields).rstrip(message.field)


def _echoed(header: Segment, number: int) -> str:
    """A field of the sender's header as it wrote it, without lines that are no segments."""
    return header.raw(number).partition("\n")[0][:MOST_ECHOED]


def _type(message: Message) -> list[str]:
    """MSH-9 of the answer: `ACK` before 2.2, `ACK^A01` before 2.4, `ACK^A01^ACK` from then on."""
    trigger = message.trigger if _at_least(message, "2.2") else ""
    if not trigger:
        return ["ACK"]
    return (
        ["ACK", message.escapes.encode(trigger)[:10], "ACK"]
        if _at_least(message, "2.4")
        else ["ACK", message.escapes.encode(trigger)[:10]]
    )


def _msa(message: Message, code: str, text: str) -> str:
    fields = [
        "MSA",
        code,
        _echoed(message.segments[0], 10),
        message.escapes.encode(text[:80]),
        _expected(message, code),
    ]
    return message.field.join(fields).rstrip(message.field)


def _expected(message: Message, code: str) -> str:
    """The sequence number expected next (2.10.1): messages are taken in any order, so it is the one after MSH-13, or
    that again where the message was not taken. MSH-13 of 0 begins a link; of -1 it wants nothing.
    """
    said = message["MSH-13"].strip()
    if not said.isascii() or not said.isdecimal() or len(said) > 15:
        return ""
    return str(int(said) + (code in ("AA", "CA")))


def _err(message: Message, issue: Issue) -> str:
    number = condition(issue)
    meaning = message.escapes.encode(CONDITIONS[number])
    where = issue.expression[0] if issue.expression else ""
    if _at_least(message, "2.5"):
        coded = message.component.join([number, meaning, "HL70357"])
        text = message.escapes.encode(issue.diagnostics[:250])
        location = message.component.join(_location(where, newer=True))
        return message.field.join(["ERR", "", location, coded, SEVERITY.get(issue.severity, "E"), "", "", "", text])
    coded = message.subcomponent.join([number, meaning, "HL70357"]) if message.subcomponent else number
    parts = [*_location(where, newer=False), "", "", ""][:3]
    return message.field.join(["ERR", message.component.join([*parts, coded])])


def _location(where: str, *, newer: bool) -> list[str]:
    """ERL (2.5 and later: segment, sequence, field, repetition, component, subcomponent) or the first parts of ELD."""
    match = _LOCATION.match(where)
    if not match:
        return []
    segment, sequence, number, repetition, component, subcomponent = match.groups()
    if not newer:
        return [segment, sequence or "1", number or ""]
    parts = [
        segment,
        sequence or "1",
        number or "",
        repetition or ("1" if number else ""),
        component or "",
        subcomponent or "",
    ]
    while not parts[-1]:
        parts.pop()
    return parts


def _at_least(message: Message, version: str) -> bool:
    return VERSIONS.index(message.version) >= VERSIONS.index(version)


def answer_code(acknowledgment: bytes) -> str:
    """MSA-1 of an acknowledgment: what a sender looks at first. Empty where there is no MSA."""
    msa: Segment | None = Message.parse(acknowledgment).first("MSA")
    return msa.value(1) if msa else ""
