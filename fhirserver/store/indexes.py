"""Search indexes, built when a parameter is first used: (organization, value, _id), partial on the field's presence.
(Audit records have some of another kind too, which begin with the owner of the client whose doing they were.)

An index that nobody searches by costs every write, so none is built ahead. MongoDB allows 64 indexes
per collection; a type over its budget answers further parameters without one, within the query time limit.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable

from pymongo import errors

from fhirserver.fhir.problem import Problem, problem
from fhirserver.store.database import Database

BUDGET = 58  # of MongoDB's 64: two base indexes and some room are kept.
PATIENCE_SECONDS = 8.0
ALWAYS = {("t",), ("i",)}  # answered by the base indexes and by `_id`
FIRST = "o"
_Index = tuple[str, str, tuple[str, ...]]
"""Type, what the index begins with, the fields behind that."""
log = logging.getLogger(__name__)


class Indexes:
    """Makes the index of a field exist before a search relies on it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._ready: set[_Index] = set()
        self._made: set[_Index] = set()
        self._building: dict[_Index, threading.Thread] = {}
        self._lock = threading.Lock()

    def ensure(self, type: str, wanted: Iterable[tuple[str, ...]], whose: str = FIRST) -> None:
        """Builds what is missing; each index is named by its fields, to stand behind the organization: `o`, or what
        `whose` says.

        Raises Problem(transient, Retry-After) while a large collection's index is being built.
        """
        for fields in wanted:
            if (type, whose, fields) not in self._ready and fields not in ALWAYS:
                self._build(type, whose, fields)

    def made(self, type: str, fields: tuple[str, ...]) -> bool:
        """Whether that index is there, so that a query may name it."""
        return (type, FIRST, fields) in self._made

    def _build(self, type: str, whose: str, fields: tuple[str, ...]) -> None:
        key = (type, whose, fields)
        with self._lock:
            thread = self._building.get(key)
            if thread is None:
                thread = threading.Thread(target=self._create, args=key, daemon=True, name=f"index {type}")
                self._building[key] = thread
                thread.start()
        thread.join(PATIENCE_SECONDS)
        if thread.is_alive():
            raise problem(
                "transient",
                f"The index for {type} by {fields[0].partition('.')[2]} is being built for its first use."
                " Try again in a while.",
                headers={"Retry-After": "10"},
            )

    def _create(self, type: str, whose: str, fields: tuple[str, ...]) -> None:
        try:
            collection = self._database.current(type)
            if len(collection.index_information()) < BUDGET:
                collection.create_index(
                    [(whose, 1), *((field, 1) for field in fields), ("_id", 1)],
                    name=" ".join(fields if whose == FIRST else (whose, *fields)),
                    partialFilterExpression={_presence(fields[0]): {"$exists": True}},
                )
                self._made.add((type, whose, fields))
            self._ready.add((type, whose, fields))
        except (errors.PyMongoError, Problem) as error:
            # The search that needed it goes on without, under its time limit; the next one tries again.
            log.warning("no index for %s by %s: %s", type, fields, error)
        finally:
            self._building.pop((type, whose, fields), None)


def _presence(field: str) -> str:
    """The path whose presence the partial index is built on; the planner wants the query to name the same path.

    Search values are asked for as a whole or by `$elemMatch` (`s.date`), sort keys by themselves (`k.date.lo`),
    contained resources always by `$elemMatch` (`c`).
    """
    depth = {"s": 2, "c": 1}.get(field.partition(".")[0])
    return ".".join(field.split(".")[:depth])
