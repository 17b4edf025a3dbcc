"""Retention: what is done and old enough loses its content and nothing else; what waits or failed loses nothing."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from fhirserver import app
from fhirserver.auth.access import everything
from fhirserver.exchange import retention
from fhirserver.fhir.json import decode
from fhirserver.fhir.problem import Problem
from fhirserver.hl7v2 import process
from fhirserver.store.model import Stored
from tests.api.exchange import Exchange, exchange_of
from tests.api.relaying import record_events


def message(control: str, family: str = "Bramwell", event: str = "ADT^A01") -> bytes:
    return (
        f"MSH|^~\\&|X|Y|A|B|20260101120000||{event}|{control}|P|2.5\rEVN|A01\r"
        f"PID|1||{control}^^^Z^MR||{family}\rPV1|1|I\r"
    ).encode()


@pytest.fixture(scope="module")
def exchange(mongo_url: str) -> Iterator[Exchange]:
    name = f"retention-{uuid.uuid4().hex[:8]}"
    with exchange_of(mongo_url, name) as made:
        yield made
        made.installation.server.store.database.client.drop_database(name)


def messages(exchange: Exchange) -> dict[str, Stored]:
    """The hospital's messages by their control id."""
    database = exchange.installation.server.store.database
    ids = [each["i"] for each in database.current("InboundMessage").find({"o": exchange.hospital})]
    found = [exchange.installation.server.store.read(everything(exchange.hospital), "InboundMessage", id) for id in ids]
    return {each.resource()["controlId"]: each for each in found if each}


def processed(exchange: Exchange, raw: bytes) -> Stored:
    """A message taken in, and worked on as a worker does."""
    intake = exchange.installation.intake()
    (taken,) = intake.take_all([raw], "127.0.0.1", exchange.hospital)
    process.process(intake, exchange.hospital, taken.lane)
    found = exchange.installation.server.store.read(
        everything(exchange.hospital), "InboundMessage", taken.resource["id"]
    )
    assert found
    return found


@pytest.fixture
def later(exchange: Exchange) -> Iterator[timedelta]:
    """It is forty days later."""
    server, clock = exchange.installation.server, exchange.installation.server.now
    server.now = lambda: clock() + timedelta(days=40)
    yield timedelta(days=40)
    server.now = clock


def purge(exchange: Exchange, type: str = "InboundMessage", days: int = 30) -> int:
    return retention.purge(exchange.installation.server, type, days)


def test_young_messages_keep_all(exchange: Exchange) -> None:
    before = processed(exchange, message("young"))
    assert purge(exchange) == 0
    assert messages(exchange)["young"].text == before.text


def test_an_old_message_that_was_processed_keeps_what_it_was(exchange: Exchange, later: timedelta) -> None:
    server = exchange.installation.server
    server.now, now = (lambda: now() - later), server.now
    before = processed(exchange, message("settled")).resource()
    server.now = now
    intake = exchange.installation.intake()
    assert before["status"] in ("processed", "warning")

    assert purge(exchange) >= 1

    stored = messages(exchange)["settled"]
    after = stored.resource()
    assert "Bramwell" not in str(stored.text)
    assert "data" not in after["content"]
    assert "purged" in after
    for name in ("status", "controlId", "event", "sendingApplication", "received", "result", "acknowledgment", "lane"):
        assert after[name] == before[name], name
    assert {**after["content"], "data": before["content"]["data"]} == before["content"]  # its size and hash
    # The same message again is known: the same acknowledgment, no second effect.
    (again,) = intake.take_all([message("settled")], "127.0.0.1", exchange.hospital)
    assert again.acknowledgment is not None
    assert not again.waits
    assert messages(exchange)["settled"].version == stored.version
    # Other content under the control id is flagged, as it was.
    (other,) = intake.take_all([message("settled", "Another")], "127.0.0.1", exchange.hospital)
    assert other.resource.get("repeatedControlId") is True


def test_what_needs_the_content_says_that_it_was_purged(exchange: Exchange) -> None:
    id = next(each.id for each in messages(exchange).values() if "purged" in each.resource())
    who = exchange.people["hospital"]
    for name in ("$reprocess", "$convert", "$validate-v2"):
        answer = exchange.call(
            "POST", f"{exchange.base}/InboundMessage/{id}/{name}", who, {"resourceType": "Parameters"}
        )
        assert answer.status_code == 410, (name, answer.text)
        assert "was purged at" in answer.text
    many = exchange.call(
        "POST", f"{exchange.base}/InboundMessage/$reprocess", who, filtered("status=processed,warning")
    )
    assert many.status_code == 200, many.text
    assert messages(exchange)["settled"].resource()["status"] != "received"


def test_an_overlay_is_compared_over_what_can_still_be_read(exchange: Exchange) -> None:
    processed(exchange, message("fresh"))
    overlay = decode((Path(__file__).parents[2] / "examples" / "hl7v2" / "overlay.json").read_bytes())
    asked = {"resourceType": "Parameters", "parameter": [{"name": "overlay", "resource": overlay}]}
    answer = exchange.call("POST", f"{exchange.base}/ConceptMap/$compare", exchange.people["hospital"], asked)
    assert answer.status_code == 200, answer.text
    counts = {each["name"]: each.get("valueInteger") for each in answer.json["parameter"]}  # type: ignore[index]
    kept = exchange.call("GET", f"{exchange.base}/InboundMessage?_count=100", exchange.people["hospital"]).json["entry"]  # type: ignore[index]
    there = [each for each in kept if "purged" not in each["resource"]]
    assert len(kept) > len(there) > 0
    assert counts["compared"] == len(there)


def filtered(text: str) -> dict[str, Any]:
    return {"resourceType": "Parameters", "parameter": [{"name": "filter", "valueString": text}]}


def test_what_waits_or_failed_keeps_all_however_old_it_is(exchange: Exchange, later: timedelta) -> None:
    intake = exchange.installation.intake()
    kept = [
        message("waits"),
        message("unsupported", event="ZZZ^Z99"),
        b"MSH|^~\\&|X|Y|A|B|20260101||ADT^A01|broken|P|2.5\r",
    ]
    intake.take_all(kept, "127.0.0.1", exchange.hospital)
    before = {name: messages(exchange)[name].text for name in ("waits", "unsupported", "broken")}
    server = exchange.installation.server
    now = server.now
    server.now = lambda: now() + timedelta(days=400)
    purge(exchange)
    server.now = now
    assert {name: messages(exchange)[name].text for name in before} == before


def test_an_audit_record_says_what_was_purged(exchange: Exchange) -> None:
    record_events(exchange.installation.server, exchange.installation.settings.data / app.SPOOL)
    found = exchange.call("GET", f"{exchange.base}/AuditEvent?type=destroy", exchange.people["hospital"]).json
    assert found
    assert found["entry"]
    record = found["entry"][0]["resource"]
    assert record["action"] == "D"
    assert any(each["what"]["reference"].startswith("InboundMessage/") for each in record["entity"])


def test_it_goes_on_where_it_was_killed_and_meets_everything_once(
    exchange: Exchange, later: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH", 3)
    server = exchange.installation.server
    # The tests before went forward in time, this one goes back: forget how far they came.
    server.store.database.collection("installation").delete_many({"_id": {"$regex": "^aged/"}})
    server.now, now = (lambda: now() - later), server.now
    for number in range(8):
        processed(exchange, message(f"many{number}"))
    server.now = now
    asked = iter(range(100))
    first = retention.purge(server, "InboundMessage", 30, lambda: next(asked) >= 3)
    second = purge(exchange)
    done = [
        name for name, each in messages(exchange).items() if name.startswith("many") and "purged" in each.resource()
    ]
    assert len(done) == 8
    assert first + second >= 8
    assert first >= 1
    assert purge(exchange) == 0


def test_notifications_that_are_done_lose_what_they_told_of(exchange: Exchange, later: timedelta) -> None:
    def stored(id: str, status: str, **more: Any) -> dict[str, Any]:
        return {
            "resourceType": "NotificationDelivery",
            "id": id,
            "status": status,
            "subscription": {"reference": "Subscription/s"},
            "number": 1,
            "event": "e",
            "occurred": "2026-01-01T00:00:00Z",
            "code": "create.patient",
            "change": [{"reference": {"reference": "Patient/1"}, "version": 1, "action": "create", "focus": True}],
            "lane": "patient/1",
            "queued": "2026-01-01T00:00:00Z",
            "attempts": 1,
            "attempt": [
                {"time": "2026-01-01T00:00:00Z", "endpoint": "https://x.example", "latency": 5, "answer": "Bramwell"}
            ],
            **more,
        }

    server = exchange.installation.server
    for id, status in (("one", "delivered"), ("two", "dead-letter"), ("three", "queued")):
        instant = server.now() - later
        made = retention.version_of(server, exchange.hospital, stored(id, status), None, instant, keep_previous=False)
        server.store.commit([made])
    assert purge(exchange, "NotificationDelivery") == 1
    found = {
        id: (server.store.read(everything(exchange.hospital), "NotificationDelivery", id) or pytest.fail(id)).resource()
        for id in ("one", "two", "three")
    }
    assert ("change" in found["one"], "attempt" in found["one"], found["one"]["attempts"]) == (False, False, 1)
    assert all("change" in found[id] and "attempt" in found[id] for id in ("two", "three"))


def test_nothing_but_a_message_that_is_kept_can_be_read_again(exchange: Exchange) -> None:
    from fhirserver.hl7v2.kept import again

    with pytest.raises(Problem, match="was purged"):
        again(messages(exchange)["settled"].resource())
