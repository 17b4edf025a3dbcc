"""Group commit: creates that wait for the disk at the same time go to it together.

A create is one insert, acknowledged when it is journaled at a majority, and nearly all of its time is that wait. While
one command is under way the inserts that arrive are collected; whoever arrived first takes all of them along in the
next command. Nobody waits for company: an insert that comes alone goes at once. Each gets its own answer, and none
before its own document is durable.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from pymongo import errors

from fhirserver.store.database import Document

MOST_DOCUMENTS = 64
MOST_CHARACTERS = 256 * 1024
"""Text of a document that may still travel with others; a larger one goes by itself."""

Insert = Callable[[list[Document]], object]
"""Inserts all, unordered; raises BulkWriteError for those that failed, of one alone its own error."""


class _Waiting:
    """One document on its way, and the lock that its thread waits at."""

    __slots__ = ("document", "done", "error", "turn")

    def __init__(self, document: Document) -> None:
        self.document = document
        self.turn = threading.Lock()
        self.done = False
        self.error: BaseException | None = None


class GroupCommit:
    """The inserts of one collection. Threads may share it."""

    def __init__(self, insert: Insert) -> None:
        self._insert = insert
        self._lock = threading.Lock()
        self._waiting: deque[_Waiting] = deque()
        self._busy = False

    def insert(self, document: Document) -> None:
        """Returns when the document is durable. Raises what inserting it alone would raise."""
        mine = _Waiting(document)
        if len(document.get("d", "")) > MOST_CHARACTERS:
            _answer([mine], self._insert)
        elif self._leads(mine):
            self._lead(mine)
        if mine.error is not None:
            raise mine.error

    def _leads(self, mine: _Waiting) -> bool:
        """Whether this thread is to send the next command; else another has sent its document."""
        with self._lock:
            if not self._busy:
                self._busy = True
                return True
            mine.turn.acquire()
            self._waiting.append(mine)
        mine.turn.acquire()  # until whoever leads has taken this document along, or hands the lead over
        return not mine.done

    def _lead(self, mine: _Waiting) -> None:
        with self._lock:
            room = min(MOST_DOCUMENTS - 1, len(self._waiting))
            batch = [mine, *(self._waiting.popleft() for _ in range(room))]
        try:
            _answer(batch, self._insert)
        finally:
            for each in batch[1:]:
                each.done = True
                each.turn.release()
            self._hand_over()

    def _hand_over(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().turn.release()
            else:
                self._busy = False


def _answer(batch: list[_Waiting], insert: Insert) -> None:
    """Inserts the documents of a batch and notes for each what became of it."""
    unknown = errors.AutoReconnect("the insert was interrupted")
    for each in batch:
        each.error = unknown
    try:
        insert([each.document for each in batch])
    except errors.BulkWriteError as error:
        _blame(batch, error.details)
    except errors.ConnectionFailure as error:
        for each in batch:
            each.error = error
    except Exception as error:  # noqa: BLE001 - raised again in the thread whose document it is
        if len(batch) == 1:
            batch[0].error = error
        else:
            # Refused before it was sent, for one document that cannot be: each stands for itself.
            for each in batch:
                _answer([each], insert)
    else:
        for each in batch:
            each.error = None


def _blame(batch: list[_Waiting], details: Any) -> None:
    undurable = details.get("writeConcernErrors")
    late = errors.WTimeoutError("the write was not confirmed", 64, undurable[0]) if undurable else None
    for each in batch:
        each.error = late
    for failed in details["writeErrors"]:
        text, code = failed.get("errmsg", ""), failed.get("code")
        kind = errors.DuplicateKeyError if code == 11000 else errors.WriteError
        batch[failed["index"]].error = kind(text, code, failed)
