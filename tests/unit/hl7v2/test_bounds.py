"""Messages made to hurt: they end in a Bundle or a Problem, and what they make is bounded."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from fhirserver.fhir.json import encode
from fhirserver.fhir.problem import Problem
from fhirserver.hl7v2.inbound import Peer, prepare
from fhirserver.hl7v2.mapping.run import MOST_ENTRIES
from fhirserver.hl7v2.senders import Senders, endpoint_resource
from tests.unit.hl7v2.maps import mapped, maps

NOW = datetime(2026, 9, 14, tzinfo=UTC)
SENDERS = Senders([{**endpoint_resource("o", "", "", True), "id": "e"}])
HEAD = b"MSH|^~\\&|A|LAKESIDE|X|Y|20260101120000||ADT^A01|C1|P|2.5\r"
PID = b"PID|1||1^^^L^MR||Fault^v\r"
PV1 = b"PV1|1|I\r"
ATTACKS = {
    "components": HEAD + b"PID|1||1" + b"^" * 500_000 + b"\r" + PV1,
    "subcomponents": HEAD + b"PID|1||1" + b"&" * 500_000 + b"\r" + PV1,
    "fields": HEAD + PID.strip() + b"|" * 500_000 + b"\r" + PV1,
    "header fields": HEAD.strip() + b"|" * 500_000 + b"\r" + PID + PV1,
    "names": HEAD + b"PID|1||1^^^L^MR||" + b"A^B~" * 9_000 + b"\r" + PV1,
    "escapes": HEAD + b"PID|1||1^^^L^MR||" + b"\\X41\\" * 50_000 + b"\r" + PV1,
    "escape without end": HEAD + b"PID|1||1^^^L^MR||\\X" + b"41" * 200_000 + b"\r" + PV1,
    "escape characters": HEAD + b"PID|1||1^^^L^MR||" + b"\\" * 100_000 + b"\r" + PV1,
    "spaces": HEAD + PID + PV1 + b"NTE|1||" + b"\\.sp100\\" * 20_000,
    "nulls": HEAD + PID + PV1 + b"NTE|1||" + b"\0" * 500_000,
    "line ends": HEAD + PID + b"\n\r\r\n" * 4_000 + PV1,
    "bare segments": HEAD + b"PID\rPV1\rEVN\rNK1\rOBX\rAL1\rDG1\rIN1\rPR1\rGT1\r",
    "digits": HEAD + b"PID|" + b"1" * 100_000 + b"||1^^^L^MR||A||" + b"1" * 100_000 + b"\r" + PV1,
    "digits of another script": HEAD
    + "PID|1||1^^^L^MR||A||\u0662\u0660\u0662\u0666\u0660\u0661\u0660\u0661\r".encode()
    + PV1,
    "a set without end": HEAD.strip() + b"||||||" + b"UNICODE~" * 5_000 + b"\r" + PID + PV1,
    "a codec that is no set": HEAD.strip() + b"||||||zlib~hex~idna~UTF-7\r" + PID + PV1 + b"NTE|1||\xff\xfe",
    "shifts": HEAD.strip() + b"||||||ISO IR87\r" + PID + PV1 + b"NTE|1||" + b"\x1b$B\x1b(B\x1b$\xff" * 20_000,
}


@pytest.mark.parametrize("raw", ATTACKS.values(), ids=ATTACKS)
def test_what_is_made_to_hurt_ends_and_makes_no_more_than_was_sent(raw: bytes) -> None:
    kept = prepare(raw, Peer("127.0.0.1"), SENDERS, maps(), received=NOW, sequence=1)
    assert len(kept.acknowledgment or b"") < 10_000
    assert len(encode(kept.resource)) < 2 * len(raw) + 5_000
    try:
        result = mapped(raw)
    except Problem:
        return
    assert len(encode(result.bundle)) < 40 * len(raw) + 20_000
    assert len(result.warnings) <= 200


def test_a_message_of_more_resources_than_are_stored_at_once_is_refused() -> None:
    allergies = b"".join(b"AL1|%d|DA|%d^x^L\r" % (number, number) for number in range(MOST_ENTRIES + 1))
    with pytest.raises(Problem, match="divide it"):
        mapped(HEAD + PID + PV1 + allergies)
