"""The format of the data: no version works on data that it does not know."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from fhirserver.fhir.problem import Problem
from fhirserver.store import formats
from fhirserver.store.database import Database


@pytest.fixture
def database(mongo_url: str) -> Iterator[Database]:
    made = Database(mongo_url, f"formats-{uuid.uuid4().hex[:8]}")
    yield made
    made.client.drop_database(made.raw.name)
    made.close()


def said(database: Database) -> int:
    return int((database.collection("installation").find_one({"_id": "format"}) or {})["number"])


def test_a_new_database_is_of_the_format_that_made_it(database: Database) -> None:
    formats.require(database, 3)
    assert formats.settle(database, "1.0", known=3, steps={}) == []
    assert said(database) == 3
    formats.require(database, 3)


def test_data_from_before_there_was_a_number_go_through_every_step(database: Database) -> None:
    database.collection("Patient").insert_one({"_id": "x/1"})
    gone: list[int] = []
    steps = {number: lambda _, number=number: gone.append(number) for number in (2, 3)}
    assert formats.settle(database, "3.0", known=3, steps=steps) == gone == [2, 3]
    assert said(database) == 3


def test_an_older_version_does_not_start_on_newer_data(database: Database) -> None:
    formats.settle(database, "9.1", known=9, steps={})
    with pytest.raises(Problem, match=r"format 9, written by version 9\.1; this version knows format 8"):
        formats.require(database, 8)
    with pytest.raises(Problem, match="Start the newer version again"):
        formats.settle(database, "8.0", known=8, steps={})
    assert said(database) == 9


def test_a_newer_version_says_what_to_do_with_older_data(database: Database) -> None:
    formats.settle(database, "8.0", known=8, steps={})
    with pytest.raises(Problem, match="run `fhirserver prepare`"):
        formats.require(database, 9)


def test_a_step_that_was_interrupted_is_done_again_and_those_before_it_are_not(database: Database) -> None:
    formats.settle(database, "1.0", known=1, steps={})
    done: list[int] = []

    def broken(_: Database) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        formats.settle(database, "3.0", known=3, steps={2: lambda _: done.append(2), 3: broken})
    assert (said(database), done) == (2, [2])
    formats.settle(database, "3.0", known=3, steps={2: lambda _: done.append(2), 3: lambda _: done.append(3)})
    assert done == [2, 3]


def test_half_a_restored_backup_is_nothing_to_start_on(database: Database) -> None:
    database.collection("installation").insert_one({"_id": formats.RESTORING})
    with pytest.raises(Problem, match="`fhirserver restore` once more"):
        formats.require(database)


def test_there_is_a_step_to_every_format() -> None:
    assert sorted(formats.STEPS) == list(range(formats.FIRST + 1, formats.FORMAT + 1))
