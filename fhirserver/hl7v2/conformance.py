"""What a message does not keep of the standard: hl7apy's conformance report, in our words and our places.

HL7 v2.8.2 chapter 2B. Slow (tens of milliseconds) and never on the way of a message: for people who ask.
"""

from __future__ import annotations

import contextlib
import re
import tempfile
import warnings
from pathlib import Path

from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.exceptions import HL7apyException
from hl7apy.parser import parse_message
from hl7apy.validation import Validator

from fhirserver.fhir.problem import Issue, Problem
from fhirserver.hl7v2.mapping import Maps
from fhirserver.hl7v2.message import Message

MOST_BYTES = 256 * 1024
MOST_SEGMENTS = 1_000
MOST_ISSUES = 200
# hl7apy seeks the offset of a time in time that grows with the square of a run of digits; no type has so long a one.
_DIGITS = re.compile(r"(\d{100})\d+")
_PLACE = re.compile(r"\b([A-Z][A-Z0-9]{2})_(\d+)(?:\.[A-Z]{2,3}_(\d+))?\b")


def report(raw: bytes, maps: Maps) -> list[Issue]:
    """Every departure from the standard that hl7apy or the maps see, at most two hundred; [] for none."""
    try:
        message = Message.parse(raw)
    except Problem as unreadable:
        return list(unreadable.issues)
    issues = [Issue("informational", text, (), "warning") for text in message.warnings]
    issues += _by_maps(message, maps)
    if len(raw) > MOST_BYTES or len(message.segments) > MOST_SEGMENTS:
        bound = f"{MOST_BYTES} bytes or {MOST_SEGMENTS} segments"
        text = f"The message has more than {bound}; it was not compared with the standard's tables."
        return [*issues, Issue("too-long", text, (), "warning")]
    return [*issues, *_by_standard(message, maps)][:MOST_ISSUES]


def _by_maps(message: Message, maps: Maps) -> list[Issue]:
    trigger = maps.trigger(message)
    if trigger is None:
        return [Issue("not-supported", f"Messages of type {message.event[:20]} are not mapped.", ("MSH-9",), "warning")]
    known = set(maps.structures.segments)
    strange = dict.fromkeys(s.name for s in message if s.name not in known)
    return [
        Issue("informational", f"{name} is a segment of the sender's own.", (name,), "information") for name in strange
    ]


def _by_standard(message: Message, maps: Maps) -> list[Issue]:
    trigger = maps.trigger(message)
    structure = trigger.structure if trigger else message["MSH-9.3"]
    try:
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
            warnings.simplefilter("ignore")
            parsed = parse_message(_normal(message, structure), VALIDATION_LEVEL.TOLERANT, find_groups=True)
            path = Path(folder) / "report"
            with contextlib.suppress(HL7apyException):  # it raises the first fault; the report has them all
                Validator.validate(parsed, report_file=str(path))
            lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    except (HL7apyException, ValueError, IndexError, KeyError, AttributeError, TypeError) as refusal:
        return [Issue("structure", f"The message cannot be compared with the standard: {refusal}"[:300], (), "warning")]
    return [_issue(line) for line in lines]


def _normal(message: Message, structure: str) -> str:
    """The message as hl7apy can read it: plain line ends, four delimiters, a structure, a version it knows."""
    lines = [_DIGITS.sub(r"\1", segment.text.replace("\n", " ")) for segment in message]
    fields = lines[0].split(message.field)
    fields += [""] * (12 - len(fields))
    fields[1] = fields[1][:4]
    fields[8] = message.component.join([message.code, message.trigger, structure])
    version = (
        message.version
        if message.version not in ("2.7.1", "2.9")
        else {"2.7.1": "2.7", "2.9": "2.8.2"}[message.version]
    )
    fields[11] = version
    return "\r".join([message.field.join(fields), *lines[1:]])


def _issue(line: str) -> Issue:
    severity = "error" if line.startswith("Error") else "warning"
    text = line.partition(": ")[2].strip()
    found = _PLACE.search(text)
    place = ""
    if found:
        place = f"{found.group(1)}-{found.group(2)}" + (f".{found.group(3)}" if found.group(3) else "")
    if text.startswith("Datatype None is not correct"):
        return Issue("value", f"{place} has more components than its datatype in this version.", (place,), severity)
    if text.startswith("Missing required"):
        name = text.rpartition(" ")[2].rpartition(".")[2].replace("_", "-")
        return Issue("required", f"{name} is required by the standard and missing.", (name,), severity)
    code = "code-invalid" if "not in table" in text else "value"
    return Issue(code, text[:500], (place,) if place else (), severity)
