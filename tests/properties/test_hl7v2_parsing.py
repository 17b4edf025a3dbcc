"""Whatever bytes a peer sends: framing and parsing end, in bounds, with an answer."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from fhirserver.fhir.problem import Problem
from fhirserver.fhir.validation import validate
from fhirserver.hl7v2.ack import acknowledge, refuse
from fhirserver.hl7v2.framing import Deframer, Event, Frame, frame
from fhirserver.hl7v2.inbound import Peer, prepare
from fhirserver.hl7v2.mapping import to_bundle
from fhirserver.hl7v2.message import Message
from fhirserver.hl7v2.senders import Senders, endpoint_resource
from tests.unit.hl7v2.maps import CASES, CONTEXT, definitions, maps

NOW = datetime(2026, 9, 14, tzinfo=UTC)
SOUP = st.text(alphabet="|^~\\&\r\n\x0b\x1cMSHPIDOBXZ19A\"' é山.-XFSTRE", max_size=400).map(lambda text: text.encode())
SEEDS = [path.read_bytes() for path in sorted(CASES.glob("*.hl7"))]
SENDERS = Senders([{**endpoint_resource("o", "", "", True), "id": "e"}])


def parsed(raw: bytes) -> tuple[Message | None, Problem | None]:
    try:
        return Message.parse(raw), None
    except Problem as refusal:
        return None, refusal


def cut(data: bytes, places: list[int]) -> list[bytes]:
    marks = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in pairwise(marks)]


@given(st.lists(SOUP, max_size=5), st.lists(st.integers(0, 10_000), max_size=10))
def test_where_the_network_cuts_a_stream_changes_nothing(bodies: list[bytes], places: list[int]) -> None:
    stream = b"".join(frame(body) for body in bodies)
    whole, pieces = Deframer(10_000), Deframer(10_000)
    events: list[Event] = [event for piece in cut(stream, places) for event in pieces.feed(piece)]
    assert events == whole.feed(stream)
    assert pieces.end() == whole.end()


@given(st.lists(st.binary(max_size=300).filter(lambda b: not {0x0B, 0x1C} & set(b)), min_size=1, max_size=5))
def test_what_is_framed_comes_out(bodies: list[bytes]) -> None:
    assert Deframer(1000).feed(b"".join(frame(body) for body in bodies)) == [Frame(body) for body in bodies]


@given(st.binary(max_size=2000), st.integers(1, 300))
def test_a_deframer_never_holds_more_than_its_limit(data: bytes, limit: int) -> None:
    deframer = Deframer(limit)
    for event in deframer.feed(data):
        assert not isinstance(event, Frame) or len(event.body) <= limit
    assert deframer.pending <= limit


@settings(deadline=None)
@given(SOUP | st.binary(max_size=500))
def test_any_bytes_are_parsed_or_refused_and_answered(raw: bytes) -> None:
    message, refusal = parsed(raw)
    if refusal is not None:
        assert Message.parse(refuse(raw, refusal, now=NOW, control_id="A"))["MSA-1"] in ("AE", "AR")
    if message is None:
        return
    for segment in message:
        for number in range(len(segment.fields)):
            segment.value(number)
    assert Message.parse(acknowledge(message, "AA", now=NOW, control_id="A"))["MSA-1"] == "AA"


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(SEEDS), st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 20), SOUP), max_size=6))
def test_a_damaged_message_is_mapped_or_refused(raw: bytes, wounds: list[tuple[int, int, bytes]]) -> None:
    for place, length, instead in wounds:
        raw = raw[:place] + instead[:30] + raw[place + length :]
    inbound = prepare(raw, Peer("127.0.0.1"), SENDERS, maps(), received=NOW, sequence=1)
    assert inbound.resource["status"] in ("received", "parse-error", "failed")
    try:
        result = to_bundle(maps(), Message.parse(raw), CONTEXT)
    except Problem:
        return
    assert result.bundle["entry"][0]["resource"]["resourceType"] == "MessageHeader"
    faults = [i for i in validate(definitions(), result.bundle) if i.severity == "error"]
    assert not faults
