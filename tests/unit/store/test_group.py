"""Group commit: every insert gets its own answer, none is lost, and those that wait together travel together."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pymongo import errors

from fhirserver.store.group import MOST_CHARACTERS, GroupCommit

Document = dict[str, Any]


class Disk:
    """What a collection does: takes documents, refuses ids it has, each command taking its time."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.commands: list[int] = []
        self.held: set[str] = set()
        self.seconds = seconds
        self.lock = threading.Lock()

    def insert(self, documents: list[Document]) -> None:
        time.sleep(self.seconds)
        with self.lock:
            self.commands.append(len(documents))
            failed = []
            for index, document in enumerate(documents):
                if document["_id"] in self.held:
                    failed.append({"index": index, "code": 11000, "errmsg": "duplicate"})
                else:
                    self.held.add(document["_id"])
            if failed:
                raise errors.BulkWriteError({"writeErrors": failed, "writeConcernErrors": []})


def together(group: GroupCommit, documents: list[Document]) -> list[BaseException | None]:
    """What became of each document when all are inserted at once."""

    def insert(document: Document) -> BaseException | None:
        try:
            group.insert(document)
        except (errors.PyMongoError, errors.DocumentTooLarge) as error:
            return error
        return None

    with ThreadPoolExecutor(len(documents)) as threads:
        return list(threads.map(insert, documents))


def test_one_alone_goes_at_once() -> None:
    disk = Disk()
    group = GroupCommit(disk.insert)
    group.insert({"_id": "a"})
    group.insert({"_id": "b"})
    assert disk.commands == [1, 1]


def test_those_that_wait_travel_together() -> None:
    disk = Disk(0.02)
    answers = together(GroupCommit(disk.insert), [{"_id": f"d{number}"} for number in range(24)])
    assert answers == [None] * 24
    assert len(disk.held) == 24
    assert sum(disk.commands) == 24
    assert len(disk.commands) < 12, disk.commands


def test_a_duplicate_is_told_to_its_own_writer_only() -> None:
    disk = Disk(0.01)
    names = ["a", "b", "a", "c", "b", "d"]
    answers = together(GroupCommit(disk.insert), [{"_id": name} for name in names])
    refused = [name for name, answer in zip(names, answers, strict=True) if answer is not None]
    assert sorted(refused) == ["a", "b"]
    assert all(isinstance(answer, errors.DuplicateKeyError) for answer in answers if answer is not None)
    assert disk.held == {"a", "b", "c", "d"}


def test_one_that_cannot_be_sent_does_not_keep_the_others_back() -> None:
    class Strict(Disk):
        def insert(self, documents: list[Document]) -> None:
            if any(document.get("bad") for document in documents):
                time.sleep(self.seconds)
                raise errors.DocumentTooLarge("a document that cannot be sent")
            super().insert(documents)

    disk = Strict(0.01)
    answers = together(GroupCommit(disk.insert), [{"_id": f"d{number}", "bad": number == 5} for number in range(12)])
    assert [isinstance(answer, errors.DocumentTooLarge) for answer in answers] == [at == 5 for at in range(12)]
    assert len(disk.held) == 11


def test_a_lost_connection_is_told_to_all_and_the_next_goes_again() -> None:
    class Away(Disk):
        away = True

        def insert(self, documents: list[Document]) -> None:
            time.sleep(self.seconds)
            if self.away:
                raise errors.AutoReconnect("gone")
            super().insert(documents)

    disk = Away(0.01)
    group = GroupCommit(disk.insert)
    answers = together(group, [{"_id": f"d{number}"} for number in range(8)])
    assert all(isinstance(answer, errors.AutoReconnect) for answer in answers)
    disk.away = False
    group.insert({"_id": "later"})
    assert disk.held == {"later"}


def test_a_write_that_is_not_durable_is_no_success() -> None:
    def insert(documents: list[Document]) -> None:
        raise errors.BulkWriteError({"writeErrors": [], "writeConcernErrors": [{"code": 64, "errmsg": "late"}]})

    with pytest.raises(errors.WTimeoutError):
        GroupCommit(insert).insert({"_id": "a"})


def test_a_large_document_goes_by_itself() -> None:
    disk = Disk(0.02)
    large = {"_id": "large", "d": "x" * (MOST_CHARACTERS + 1)}
    answers = together(GroupCommit(disk.insert), [large, *({"_id": f"d{number}"} for number in range(8))])
    assert answers == [None] * 9
    assert 1 in disk.commands
