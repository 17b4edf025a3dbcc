"""The store's invariants against a real mongod, with threads that race."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from fhirserver.auth.access import everything
from fhirserver.fhir.problem import Problem
from fhirserver.search.index import Entry
from fhirserver.store.database import Database
from fhirserver.store.model import Change, Stored
from fhirserver.store.resources import Store

NOW = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
ORG = "o1"


@pytest.fixture
def store(mongo_url: str) -> Any:
    name = f"store-{uuid4().hex[:12]}"
    database = Database(mongo_url, name)
    yield Store(database)
    database.client.drop_database(name)
    database.close()


def change(id: str, version: int = 1, previous: Stored | None = None, **more: Any) -> Change:
    text = more.pop("text", f'{{"resourceType":"Patient","id":"{id}","v":{version}}}')
    instant = NOW + timedelta(seconds=version)
    return Change(ORG, "Patient", id, version, instant, "PUT", text, entry=Entry(), previous=previous, **more)


def event(id: str) -> dict[str, Any]:
    return {"id": id, "t": NOW, "changes": [], "names": []}


def outcomes(work: Callable[[int], Any], count: int) -> list[str]:
    """What `count` threads that start together got: "done" or the issue type of their Problem."""
    barrier = threading.Barrier(count)

    def one(number: int) -> str:
        barrier.wait()
        try:
            work(number)
        except Problem as error:
            return error.issues[0].code
        return "done"

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def test_a_version_is_superseded_once_however_many_try(store: Store) -> None:
    first = change("p")
    store.commit([first])
    seen = outcomes(lambda number: store.commit([change("p", 2, first.stored(), text=f'{{"n":{number}}}')]), 8)
    assert seen.count("done") == 1
    assert set(seen) <= {"done", "conflict"}
    assert [each.version for each in (store.vread(everything(ORG), "Patient", "p", n) for n in (1, 2)) if each] == [
        1,
        2,
    ]


def test_a_resource_is_created_once_however_many_try(store: Store) -> None:
    seen = outcomes(lambda number: store.commit([change("p")]), 8)
    assert sorted(set(seen)) == ["conflict", "done"]
    assert seen.count("done") == 1


def test_changes_of_one_commit_are_written_together_or_not_at_all(store: Store) -> None:
    store.commit([change("there")])
    with pytest.raises(Problem, match="same time"):
        store.commit([change("new"), change("there")])
    with pytest.raises(Problem, match="changed by another"):
        store.commit([change("other"), change("there", 3, change("there", 2).stored())])
    assert store.read(everything(ORG), "Patient", "new") is None
    assert store.read(everything(ORG), "Patient", "other") is None


def test_an_event_stays_pending_until_it_is_cleared_and_later_events_join_it(store: Store) -> None:
    first = change("p", event=event("e1"))
    store.commit([first])
    second = change("p", 2, first.stored(), event=event("e2"))
    store.commit([second])
    found = store.pending(10)
    assert [each.event["id"] for each in found] == ["e1", "e2"]
    store.clear_events(found[:1])
    assert [each.event["id"] for each in store.pending(10)] == ["e2"]
    store.clear_events(found[1:])
    assert store.pending(10) == []


def test_an_event_of_an_aborted_write_was_never_there(store: Store) -> None:
    store.commit([change("there")])
    with pytest.raises(Problem):
        store.commit([change("new", event=event("e1")), change("there")])
    assert store.pending(10) == []


def test_the_watch_wakes_for_a_change(store: Store) -> None:
    stop = threading.Event()
    wakes = store.watch(stop.is_set)
    assert next(wakes) is None
    threading.Timer(0.3, lambda: store.commit([change("p", event=event("e1"))])).start()
    assert any(types and "Patient" in types for types in (next(wakes) for _ in range(8)))
    stop.set()


def test_numbers_have_no_gap_when_a_transaction_is_aborted(store: Store) -> None:
    def work(session: Any, fail: bool) -> int:
        number = store.next_number("s", 2, session)
        if fail:
            raise RuntimeError
        return number

    assert store.transaction(lambda session: work(session, False)) == 1
    with pytest.raises(RuntimeError):
        store.transaction(lambda session: work(session, True))
    assert store.transaction(lambda session: work(session, False)) == 3


def test_racing_transactions_take_different_numbers(store: Store) -> None:
    taken: list[int] = []
    store.transaction(lambda session: store.next_number("s", 1, session))
    outcomes(lambda _: taken.append(store.transaction(lambda session: store.next_number("s", 1, session))), 6)
    assert sorted(taken) == [2, 3, 4, 5, 6, 7]


def test_a_lease_has_one_holder_and_a_growing_fence(store: Store) -> None:
    assert store.lease("lane", "a", 30) == 1
    assert store.lease("lane", "b", 30) is None
    assert store.renew("lane", "a", 30)
    store.release("lane", "b")
    assert store.lease("lane", "b", 30) is None
    store.release("lane", "a")
    assert store.lease("lane", "b", 30) == 2
    assert not store.renew("lane", "a", 30)


def test_a_lease_that_ran_out_is_taken_by_one_of_many(store: Store) -> None:
    assert store.lease("lane", "gone", 0.01) == 1
    threading.Event().wait(0.1)
    fences = []
    outcomes(lambda number: fences.append(store.lease("lane", f"w{number}", 30)), 6)
    assert [fence for fence in fences if fence is not None] == [2]


def test_a_message_that_is_there_already_is_not_stored_again(store: Store) -> None:
    assert store.insert_messages([change("m1"), change("m2")]) == ["stored", "stored"]
    assert store.insert_messages([change("m2"), change("m3")]) == ["duplicate", "stored"]


def test_a_tombstone_keeps_the_history_and_is_found_by_no_one_with_narrowed_access(store: Store) -> None:
    first = change("p")
    store.commit([first])
    store.commit([change("p", 2, first.stored(), text=None)])
    current = store.read(everything(ORG), "Patient", "p")
    assert current is not None
    assert current.deleted
    earlier = store.vread(everything(ORG), "Patient", "p", 1)
    assert earlier is not None
    assert earlier.text == first.text


def test_a_database_that_is_not_there_is_said_to_be_away() -> None:
    database = Database("mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=200", "none")
    database.client.close()
    with pytest.raises(Problem) as caught:
        Store(database).ping()
    assert caught.value.status == 503


def test_an_event_written_after_a_transaction_began_is_not_seen_in_it(store: Store) -> None:
    """It could not be cleared there either, and would be told twice."""

    def work(session: Any) -> tuple[list[Any], list[Any]]:
        store.next_number("relay", 1, session)
        store.commit([change("late", event=event("e1"))])
        return store.pending(10, None, session), store.pending(10)

    store.commit([change("early")])
    inside, outside = store.transaction(work)
    assert [each.event["id"] for each in inside] == []
    assert [each.event["id"] for each in outside] == ["e1"]
