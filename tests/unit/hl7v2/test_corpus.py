"""Real messages of public projects, where they are at hand: each is taken, answered properly, and mapped to valid
FHIR or kept.

The corpus is no part of the project: `FHIRSERVER_TEST_CORPUS` names its folder, or it lies in `../shared/corpus`
beside the checkout.
"""

from __future__ import annotations

import os
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fhirserver.fhir.problem import Problem
from fhirserver.fhir.validation import validate
from fhirserver.hl7v2.ack import answer_code
from fhirserver.hl7v2.inbound import Peer, prepare
from fhirserver.hl7v2.mapping import to_bundle
from fhirserver.hl7v2.message import Message
from fhirserver.hl7v2.senders import Senders, endpoint_resource
from tests.unit.hl7v2.maps import CONTEXT, ROOT, definitions, maps

NOW = datetime(2026, 9, 14, tzinfo=UTC)
LISTED = ("ADT", "SIU", "ORM", "OMG", "OML", "ORU")


def corpus() -> list[Path]:
    named = os.environ.get("FHIRSERVER_TEST_CORPUS")
    folder = Path(named) if named else ROOT.parent / "shared" / "corpus"
    return sorted(folder.rglob("*.hl7"))


PATHS = corpus()
pytestmark = pytest.mark.skipif(
    not PATHS, reason="no corpus: FHIRSERVER_TEST_CORPUS names none, ../shared/corpus is not there"
)


def test_every_message_of_the_corpus_is_answered_and_mapped_or_kept(capsys: pytest.CaptureFixture[str]) -> None:
    senders = Senders([{**endpoint_resource("o", "", "", True), "id": "e"}])
    answers: Counter[tuple[str, str]] = Counter()
    outcomes: Counter[str] = Counter()
    faults: list[str] = []
    for path in PATHS:
        raw = path.read_bytes()
        inbound = prepare(raw, Peer("127.0.0.1"), senders, maps(), received=NOW, sequence=1)
        code = answer_code(inbound.acknowledgment) if inbound.acknowledgment else "none"
        answers[inbound.resource["status"], code] += 1
        if not inbound.waits:
            continue
        message = Message.parse(raw)
        assert message.code in LISTED
        try:
            result = to_bundle(maps(), message, CONTEXT)
        except Problem as fault:
            outcomes[f"{message.code} not mapped: {fault}"] += 1
            continue
        outcomes[f"{message.code} mapped"] += 1
        wrong = [i for i in validate(definitions(), result.bundle) if i.severity == "error"]
        urls = [entry["fullUrl"] for entry in result.bundle["entry"]]
        if (
            wrong
            or len(set(urls)) != len(urls)
            or result.bundle["entry"][0]["resource"]["resourceType"] != "MessageHeader"
        ):
            faults.append(f"{path.name}: {wrong[:1]}")
    with capsys.disabled():
        print(f"\n{len(PATHS)} messages: {dict(answers)}; {dict(outcomes)}")
    assert faults == []
    assert not {status for status, code in answers if status == "received" and code not in ("AA", "CA", "none")}
