"""Files and batches of messages: FHS and BHS segments, MLLP frames, or one message after the other.

HL7 v2.8.2 chapter 2: 2.10.3 (batch protocol), 2.14.2, 2.14.3, 2.14.6, 2.14.7. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from fhirserver.fhir.problem import Problem, problem
from fhirserver.hl7v2.framing import Deframer, Frame
from fhirserver.hl7v2.message import Message

MOST_MESSAGES = 10_000
ENVELOPE = (b"FHS", b"BHS", b"BTS", b"FTS")
BOM = b"\xef\xbb\xbf"


def is_batch(data: bytes) -> bool:
    """Whether it begins as a batch or a file of batches."""
    return data.removeprefix(BOM).lstrip(b"\x00\x0b\r\n\t ")[:3].upper() in ENVELOPE[:2]


def messages_in(data: bytes) -> list[bytes]:
    """The messages of a file: framed by MLLP, in a batch (FHS, BHS), or simply one after the other, each beginning
    with MSH.
    """
    framed = [event.body for event in Deframer(len(data)).feed(data) if isinstance(event, Frame)]
    if framed:
        return framed
    lines = data.replace(b"\r\n", b"\r").replace(b"\n", b"\r").split(b"\r")
    found: list[list[bytes]] = []
    for line in lines:
        head = line.removeprefix(b"\xef\xbb\xbf")[:3]
        if head == b"MSH":
            found.append([line])
        elif line.strip() and head not in (b"FHS", b"BHS", b"BTS", b"FTS") and found:
            found[-1].append(line)
    return [b"\r".join(part) + b"\r" for part in found] or ([data] if data.strip() else [])


def batched(data: bytes) -> list[bytes]:
    """The messages of a batch.

    Raises Problem: too-long for too many, required where it has none, value where BTS-1 or FTS-1 count otherwise.
    """
    found = messages_in(data)
    if len(found) > MOST_MESSAGES:
        raise problem("too-long", f"The batch has {len(found)} messages; at most {MOST_MESSAGES} are taken at once.")
    if not any(message[:3].upper() == b"MSH" for message in found):
        raise problem("required", "The batch has no message.", "MSH")
    said = _counts(data)
    batches = max(1, len(said["BHS"]))
    if len(said["BTS"]) == batches and sum(said["BTS"]) not in (len(found), 0):
        text = f"BTS-1 counts {sum(said['BTS'])} messages, but there are {len(found)}: the batch is not whole."
        raise problem("value", text, "BTS-1")
    if said["FTS"] and said["FTS"][0] not in (batches, 0):
        raise problem("value", f"FTS-1 counts {said['FTS'][0]} batches, but there are {batches}.", "FTS-1")
    return found


def _counts(data: bytes) -> dict[str, list[int]]:
    """What the envelope's segments count: 0 where they do not say."""
    said: dict[str, list[int]] = {"FHS": [], "BHS": [], "BTS": [], "FTS": []}
    separator = data.removeprefix(BOM).lstrip(b"\x00\x0b\r\n\t ")[3:4] or b"|"
    for line in data.replace(b"\n", b"\r").split(b"\r"):
        name = line[:3].decode("latin-1").upper()
        if name in said:
            count = [*line.split(separator), b""][1].strip()
            said[name].append(int(count) if name.endswith("TS") and count.isdigit() and len(count) < 10 else 0)
    return said


def answered(data: bytes, acknowledgments: Sequence[bytes], *, now: datetime, control_id: str) -> bytes:
    """The batch of acknowledgments to a batch, within an envelope like its own."""
    lines = data.removeprefix(BOM).lstrip(b"\x00\x0b\r\n\t ").replace(b"\n", b"\r").split(b"\r")
    heads = {name: next((line for line in lines if line[:3].upper() == name), b"") for name in (b"FHS", b"BHS")}
    time = now.strftime("%Y%m%d%H%M%S%z")
    parts: list[bytes] = [_head(heads[name], time, control_id) for name in (b"FHS", b"BHS") if heads[name]]
    parts += [each if each.endswith(b"\r") else each + b"\r" for each in acknowledgments]
    separator = lines[0][3:4]
    parts += [b"BTS" + separator + str(len(acknowledgments)).encode() + b"\r"] if heads[b"BHS"] else []
    parts += [b"FTS" + separator + b"1\r"] if heads[b"FHS"] else []
    return b"".join(parts)


def _head(line: bytes, time: str, control_id: str) -> bytes:
    """FHS or BHS of the answer: sender and receiver turned round, and the control id that it refers to."""
    try:
        header = Message.parse(line)
    except Problem:
        return b""
    first = header.segments[0]
    fields = [first.name, first.raw(2), first.raw(5), first.raw(6), first.raw(3), first.raw(4), time, ""]
    fields += ["", "", control_id, first.raw(11)]
    return (header.field.join(fields).rstrip(header.field) + "\r").encode(header.charset, "replace")
