"""One message at the door: what it says of itself, whose it is, the InboundMessage to keep, and what to answer.

Pure: time and sequence are arguments. Nothing is mapped here; the acknowledgment is ready before the message is
stored, stored with it, and sent only then.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from fhirserver.fhir import Resource
from fhirserver.fhir.instants import instant_text
from fhirserver.fhir.problem import Issue, Problem, problem
from fhirserver.hl7v2 import ack
from fhirserver.hl7v2.charset import DEFAULT
from fhirserver.hl7v2.mapping import Maps
from fhirserver.hl7v2.mapping.times import date_time
from fhirserver.hl7v2.mapping.values import authority_of
from fhirserver.hl7v2.message import Message, Segment
from fhirserver.hl7v2.senders import Sender, Senders

QUARANTINE = "registry"
"""The organization key that keeps the messages of unknown senders."""
PROCESSING = ("P", "T", "D", "")
INSTEAD, AFTER = "instead", "after"
MOST_PATIENTS = 50
"""Patients of one message whose lanes it takes."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end: its address, the SHA-256 fingerprint and the subject of its client certificate."""

    address: str
    certificate: str = ""
    subject: str = ""


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes back: at once, and later (the application acknowledgment of enhanced mode)."""

    acknowledgment: bytes | None
    later: Awaitable[bytes | None] | None = None


@dataclass(frozen=True, slots=True)
class Inbound:
    """A message ready to be stored: the InboundMessage (its id is the idempotency key) and what to answer when it is.

    acknowledgment is None where the sender wants none. waits: whether it goes on to be processed. control: what only
    one content may have, the sender's control id; "" where there is none.
    """

    organization: str
    resource: Resource
    acknowledgment: bytes | None
    lane: str
    waits: bool
    control: str = ""
    settles: str = ""
    mode: str = "original"
    charset: str = DEFAULT


Check = Callable[[bytes, Sender], Problem | None]
Read = Callable[[Sender, Message], Sender]


def prepare(
    raw: bytes,
    peer: Peer,
    senders: Senders,
    maps: Maps,
    *,
    received: datetime,
    sequence: int,
    registry: str = "",
    check: Check | None = None,
    read: Read | None = None,
) -> Inbound:
    """What to store and answer for these bytes. `registry` is the registry's base URL, for the reference to the
    Endpoint; `check` maps the message where the Endpoint wants that before the acknowledgment; `read` answers the
    sender with what overlays say of how its messages are read.

    Never raises for anything a sender may send.
    """
    try:
        message: Message | None = Message.parse(raw)
        fault: Problem | None = None
    except Problem as unreadable:
        message, fault = Message.header(raw), unreadable
    found = _sender(message, senders, peer, read)
    if fault is None and found is not None and found.charset:
        message = Message.parse(raw, found.charset)
    if message is not None and (fault is None or found is None):
        fault = _refusal(message, found, maps)
    status, reason = _status(message, fault, found)
    if fault is None and found is not None and found.point == "transformed" and check is not None:
        fault = check(raw, found)
        status, reason = (status, reason) if fault is None else mapping_failure(fault)
    resource = _resource(raw, message, peer, found, received, sequence)
    if found and found.endpoint:
        resource["endpoint"] = {"reference": f"{registry}/Endpoint/{found.endpoint}".lstrip("/")}
    resource |= {"status": status} | ({"reason": reason} if reason else {})
    mode = ack.mode_of(message, found.acknowledgment if found else "msh") if message else "original"
    answer, code = _answer(raw, message, mode, fault, received, resource["id"])
    return Inbound(
        organization=found.organization if found else QUARANTINE,
        resource=_completed(resource, fault, answer, code),
        acknowledgment=answer,
        lane=resource["lane"],
        waits=status == "received",
        control=_control(resource, found.organization if found else QUARANTINE),
        settles=_settles(message, found, mode) if fault is None and message and found else "",
        mode=mode,
        charset=(found.charset if found else "") or DEFAULT,
    )


def mapping_failure(fault: Problem) -> tuple[str, str]:
    """Status and reason of a message that could not be mapped or stored."""
    code = fault.issues[0].code
    reason = {"exception": "internal", "not-supported": "unmapped", "required": "unmapped"}.get(code, "rejected")
    return ("failed" if code == "exception" else "mapping-error"), reason


def _settles(message: Message, found: Sender, mode: str) -> str:
    """Whether the sender is to hear what becomes of a message. An ACK is never acknowledged."""
    if message.code in ("ACK", "MCF"):
        return ""
    if mode == "enhanced":
        return AFTER if message["MSH-16"].upper() not in ("", "NE") else ""
    return INSTEAD if found.point == "persisted" and mode != "silent" else ""


def _control(resource: Resource, organization: str) -> str:
    names = ("sendingApplication", "sendingFacility", "controlId")
    parts = [
        organization,
        resource.get("endpoint", {}).get("reference", ""),
        *(resource.get(name, "") for name in names),
    ]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:40] if parts[-1] else ""


def unavailable(raw: bytes, *, now: datetime, control_id: str) -> bytes:
    """The answer when a message cannot be kept: AR, so that the sender keeps it and tries again."""
    text = "The message could not be stored. Keep it and send it again unchanged."
    return _refused(raw, problem("transient", text), now, control_id)


def too_long(head: bytes, limit: int, *, now: datetime, control_id: str) -> bytes:
    """The answer to a frame beyond the size limit."""
    fault = problem("too-long", f"The message is longer than {limit} bytes, which is the most that is taken.")
    return _refused(head, fault, now, control_id, "AR")


def refused(raw: bytes, fault: Problem, *, now: datetime, control_id: str) -> bytes:
    """The answer to what is not taken for this reason: AE for its content, AR for everything else."""
    return _refused(raw, fault, now, control_id, ack.code_of(fault))


def _refused(raw: bytes, fault: Problem, now: datetime, control_id: str, code: str = "AR") -> bytes:
    try:
        mode = ack.mode_of(Message.parse(raw))
    except Problem:
        mode = "original"
    return ack.acknowledge(raw, code, fault.issues, now=now, control_id=control_id, mode=mode)


def _sender(message: Message | None, senders: Senders, peer: Peer, read: Read | None) -> Sender | None:
    if message is None:
        return senders.find((), (), peer.certificate, peer.subject)
    applications = (message["MSH-3.1"], message["MSH-3.2"])
    facilities = (message["MSH-4.1"], message["MSH-4.2"])
    found = senders.find(applications, facilities, peer.certificate, peer.subject)
    return read(found, message) if found is not None and read is not None else found


def _refusal(message: Message, found: Sender | None, maps: Maps) -> Problem | None:
    """The reason not to take a message on, seen from its envelope."""
    if found is None:
        return problem("security", "This sender is not known here.", "MSH-3")
    for check in (_missing, _overlong, _unsupported, _incomplete):
        issues = check(message, maps)
        if issues:
            return Problem(tuple(issues))
    return None


def _missing(message: Message, maps: Maps) -> list[Issue]:
    wanted = {"MSH-9.1": "the message type", "MSH-9.2": "the trigger event", "MSH-10": "the message control id"}
    absent = [path for path in wanted if not (message.trigger if path == "MSH-9.2" else message[path])]
    if message.code == "ACK":
        return []
    return [Issue("required", f"{path} is empty: it must give {wanted[path]}.", (path,)) for path in absent]


def _overlong(message: Message, maps: Maps) -> list[Issue]:
    if len(message.control_id) <= ack.MOST_ECHOED:
        return []
    text = f"MSH-10 has more than {ack.MOST_ECHOED} characters: no acknowledgment can give it back."
    return [Issue("too-long", text, ("MSH-10",))]


def _unsupported(message: Message, maps: Maps) -> list[Issue]:
    if message["MSH-11.1"].upper() not in PROCESSING:
        return [Issue("not-supported", "MSH-11 must be P, T or D.", ("MSH-11",))]
    if message["MSH-12.1"] and not message["MSH-12.1"].strip("vV ").startswith("2"):
        return [Issue("not-supported", "MSH-12 must name a version of HL7 2.", ("MSH-12",))]
    trigger = maps.trigger(message)
    if trigger is None or trigger.structure not in maps.messages:
        known = any(event.startswith(f"{message.code}_") for event in maps.triggers)
        text = f"Messages of type {message.event[:20]} are not taken here."
        return [Issue("not-supported", text, ("MSH-9.2" if known else "MSH-9.1",))]
    return []


def _incomplete(message: Message, maps: Maps) -> list[Issue]:
    trigger = maps.trigger(message)
    needed = maps.messages[trigger.structure].requires if trigger else ()
    absent = [name for name in needed if message.first(name) is None]
    return [Issue("structure", f"The {name} segment is missing.", (name,)) for name in absent]


def _status(message: Message | None, fault: Problem | None, found: Sender | None) -> tuple[str, str]:
    if fault is None:
        return "received", ""
    if message is not None and found is None:
        return "failed", "unknown-sender"
    if any(issue.code == "not-supported" for issue in fault.issues):
        return "failed", "unsupported"
    return "parse-error", "malformed"


def _answer(
    raw: bytes, message: Message | None, mode: str, fault: Problem | None, now: datetime, id: str
) -> tuple[bytes | None, str]:
    """The acknowledgment and its MSA-1; None and "" where the sender wants none."""
    code = "AA" if fault is None else ack.code_of(fault)
    if message is not None and not ack.is_wanted(message, code, mode):
        return None, ""
    issues = fault.issues if fault else ()
    answer = ack.acknowledge(message or raw, code, issues, now=now, control_id=id[:20].upper(), mode=mode)
    return answer, ack.ACCEPT[code] if mode == "enhanced" else code


def _completed(resource: Resource, fault: Problem | None, answer: bytes | None, code: str) -> Resource:
    if answer is not None:
        resource["acknowledgmentCode"] = code
        resource["acknowledgment"] = base64.b64encode(answer).decode()
    if fault is not None:
        resource["issue"] = [issue_element(issue) for issue in fault.issues]
    return resource


def issue_element(issue: Issue) -> dict[str, Any]:
    """One InboundMessage.issue."""
    element: dict[str, Any] = {"severity": issue.severity, "code": issue.code, "diagnostics": issue.diagnostics[:1000]}
    return {**element, "expression": list(issue.expression)} if issue.expression else element


def _resource(
    raw: bytes, message: Message | None, peer: Peer, found: Sender | None, received: datetime, sequence: int
) -> Resource:
    digest = hashlib.sha256(raw).hexdigest()
    said = _envelope(message) if message else {}
    said_of: dict[tuple[Segment, int], tuple[str, str] | None] = {}
    held = lanes(message, found, said_of) if message else [_hashed("unreadable", "")]
    first = message.first("PID") if message else None
    patient = said_of.get((first, 3)) if first else None
    key = (found.endpoint if found else "", *(said.get(n, "") for n in ("sendingApplication", "sendingFacility")))
    key = (*key, said.get("controlId", ""), digest)
    resource: Resource = {
        "resourceType": "InboundMessage",
        "id": hashlib.sha256("\0".join(key).encode()).hexdigest()[:40],
        **said,
        "lane": held[0],
        **({"otherLane": held[1:]} if held[1:] else {}),
        "sequence": f"{sequence:020d}",
        "received": instant_text(received),
        "peer": peer.address or "unknown",
        "content": {
            "contentType": "x-application/hl7-v2+er7",
            "data": base64.b64encode(raw).decode(),
            "size": len(raw),
            "hash": base64.b64encode(hashlib.sha1(raw, usedforsecurity=False).digest()).decode(),
        },
    }
    sent = date_time(message["MSH-7"], found.timezone if found else "")[0] if message else None
    optional = {
        "sent": sent,
        "certificate": peer.certificate,
        "patient": _patient(patient) if patient else None,
    }
    return resource | {name: value for name, value in optional.items() if value}


def _envelope(message: Message) -> dict[str, str]:
    said = {
        "sendingApplication": message["MSH-3.1"] or message["MSH-3.2"],
        "sendingFacility": message["MSH-4.1"] or message["MSH-4.2"],
        "event": "".join(message.event.split()),
        "version": message["MSH-12.1"],
        "controlId": message["MSH-10"],
        "processingId": message["MSH-11.1"],
    }
    trimmed = {name: value.strip()[:200] for name, value in said.items()}
    return {name: value for name, value in trimmed.items() if value}


def patient_key(repetitions: Sequence[tuple[str, str, str]]) -> tuple[str, str] | None:
    """System and value of the identifier that orders a patient's messages: a medical record number, else the first."""
    ranked = sorted((r for r in repetitions if r[1]), key=lambda r: r[2] not in ("MR", "PI", "PT"))
    return (ranked[0][0], ranked[0][1]) if ranked else None


def identifiers_of(segment: Segment, number: int, found: Sender | None) -> list[tuple[str, str, str]]:
    """System, value and type of every CX of a field of one segment."""
    message, known = segment.message, found.authorities if found else {}
    result: list[tuple[str, str, str]] = []
    for repetition in segment.repetitions(number)[:50]:
        namespace, universal, kind = (message.part(repetition, 4, n) for n in (1, 2, 3))
        name = known.get(namespace) or authority_of(namespace, universal, kind) or namespace
        result.append((name, message.part(repetition, 1).strip('"'), message.part(repetition, 5)))
    return result


def lanes(
    message: Message, found: Sender | None, said: dict[tuple[Segment, int], tuple[str, str] | None] | None = None
) -> list[str]:
    """The lanes a message must have to itself: those of all its patients, for a merge the prior ones' too. `said` gets
    the identifiers that were read: the one that counts of a segment's field.
    """
    known = said if said is not None else {}

    def key(segment: Segment, number: int) -> tuple[str, str] | None:
        found_key = known[segment, number] = patient_key(identifiers_of(segment, number, found))
        return found_key

    patients = [segment for name in ("PID", "MRG") for segment in message.all(name)[:MOST_PATIENTS]]
    numbers = {"PID": (3, 2), "MRG": (1, 4)}
    named = [one for each in patients if (one := key(each, numbers[each.name][0]) or key(each, numbers[each.name][1]))]
    if not named:
        order = message["ORC-2.1"] or message["SCH-1.1"] or message["SCH-2.1"]
        named = [(message["MSH-3.1"], order or message["MSH-4.1"])]
    return [_hashed(*one) for one in dict.fromkeys(named)]


def _hashed(*parts: str) -> str:
    """Lanes stand in lock names and logs, where no patient's number may."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:24]


def _patient(key: tuple[str, str]) -> Resource:
    identifier = {"system": key[0] if ":" in key[0] else "", "value": key[1][:200]}
    return {"type": "Patient", "identifier": {name: value for name, value in identifier.items() if value}}


def again(inbound: Inbound, acknowledgment: bytes | None) -> Inbound:
    """The same message once more: it gets the answer it got before, and goes no further (but is settled as before)."""
    return replace(inbound, acknowledgment=acknowledgment, waits=False)
