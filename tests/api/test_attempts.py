"""Failed attempts are counted for all processes together, and forgotten by themselves."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from fhirserver.fhir.problem import Problem
from fhirserver.store.attempts import ADDRESS, PAIR, PERSON, Attempts
from fhirserver.store.database import Database

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@pytest.fixture
def database(mongo_url: str) -> Iterator[Database]:
    made = Database(mongo_url, f"attempts-{uuid.uuid4().hex[:8]}")
    yield made
    made.client.drop_database(made.raw.name)
    made.close()


def waits(attempts: Attempts, address: str, who: str, now: datetime = NOW, *, person: bool = False) -> int:
    """Seconds that the caller is told to wait, 0 where it may try."""
    try:
        attempts.refuse(address, who, now, person=person)
    except Problem as refusal:
        return int(refusal.headers["Retry-After"]) if refusal.status == 429 else -1
    return 0


def test_failures_in_one_process_count_in_every_other(database: Database) -> None:
    one, other = Attempts(database), Attempts(database)
    for number in range(PAIR.attempts):
        assert waits(other, "203.0.113.1", "ida@example.org") == 0
        (one if number % 2 else other).failed("203.0.113.1", "Ida@example.org", NOW)
    assert 0 < waits(one, "203.0.113.1", "ida@example.org") == waits(other, "203.0.113.1", "IDA@example.org")
    assert waits(other, "203.0.113.2", "ida@example.org") == 0
    assert waits(other, "203.0.113.1", "jan@example.org") == 0


def test_what_has_been_waited_for_is_forgotten(database: Database) -> None:
    attempts = Attempts(database)
    for _ in range(PAIR.attempts):
        attempts.failed("203.0.113.1", "ida@example.org", NOW)
    wait = waits(attempts, "203.0.113.1", "ida@example.org")
    assert waits(attempts, "203.0.113.1", "ida@example.org", NOW + timedelta(seconds=wait + 1)) == 0
    attempts.failed("203.0.113.1", "ida@example.org", NOW + timedelta(seconds=wait + 1))
    assert waits(attempts, "203.0.113.1", "ida@example.org", NOW + timedelta(seconds=wait + 1)) > 0


def test_an_address_may_not_try_many_names_nor_many_addresses_one_person(database: Database) -> None:
    attempts = Attempts(database)
    for number in range(ADDRESS.attempts):
        attempts.failed("2001:db8::1", f"{number}", NOW)
    assert waits(attempts, "2001:db8::ffff", "somebody new") > 0, "one caller has a whole network of IPv6"
    assert waits(attempts, "2001:db8:1::1", "somebody new") == 0
    for number in range(PERSON.attempts):
        attempts.failed(f"198.51.100.{number}", "ida@example.org", NOW, person=True)
    assert waits(attempts, "203.0.113.9", "ida@example.org", person=True) > 0
    assert waits(attempts, "203.0.113.9", "ida@example.org") == 0


def test_a_flood_makes_no_endless_wait_and_nothing_typed_is_kept(database: Database) -> None:
    attempts = Attempts(database)
    for _ in range(5 * PAIR.attempts):
        attempts.failed("203.0.113.1", "secret typed as a name", NOW)
    assert waits(attempts, "203.0.113.1", "secret typed as a name") <= 2 * PAIR.attempts * PAIR.seconds
    kept = str(list(database.collection("attempts").find()))
    assert "secret" not in kept
    assert "203.0.113.1" not in kept
