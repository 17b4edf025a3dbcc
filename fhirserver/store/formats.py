"""The format of what lies in the database: a number, so that no version works on data that it does not know.

A step takes the data of one format to the next; `settle` does the steps that are missing, before any other process of
the new version starts (`fhirserver prepare`). A step that was interrupted is done again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from pymongo import errors

from fhirserver.fhir.problem import Problem, problem
from fhirserver.store.database import Database, translated

log = logging.getLogger(__name__)
FORMAT = 1
"""What this version reads and writes. It grows when data of an older version must be changed before it is used."""
NAME = "format"
RESTORING = "restoring"
"""There while a backup is being restored: half of it is nothing to start on."""
FIRST = 1
"""The format of data that do not say theirs: they were written before there was a number."""

Step = Callable[[Database], None]
STEPS: Mapping[int, Step] = {}
"""By the format that it leads to. A step may be done twice."""


def require(database: Database, known: int = FORMAT) -> None:
    """Raises Problem(not-supported) unless the data are of the format that this version knows."""
    with translated():
        installation = database.collection("installation")
        found = {each["_id"]: each for each in installation.find({"_id": {"$in": [NAME, RESTORING]}})}
    if RESTORING in found:
        text = "A backup was not restored to its end: run `fhirserver restore` once more, with the same file."
        raise problem("not-supported", text)
    if NAME in found:
        _check(int(found[NAME]["number"]), str(found[NAME].get("software", "")), known)


def settle(database: Database, software: str, known: int = FORMAT, steps: Mapping[int, Step] = STEPS) -> list[int]:
    """Takes the data to the format that this version knows; answers the formats that they went through. Raises
    Problem(not-supported) for data of a newer one.
    """
    with translated():
        installation = database.collection("installation")
        found = installation.find_one({"_id": NAME})
        fresh = found is None and not database.raw.list_collection_names()
    number = int(found["number"]) if found else known if fresh else FIRST
    if number > known:
        raise _newer(number, str((found or {}).get("software", "")), known)
    gone = []
    for next in range(number + 1, known + 1):
        log.info("the data are taken to another format", extra={"facts": {"format": next}})
        steps[next](database)
        _write(database, next, software)
        gone.append(next)
    if not gone:
        _write(database, number, software)
    return gone


def _write(database: Database, number: int, software: str) -> None:
    """Says the format; never a lower one than another process has said meanwhile."""
    changes = {"$max": {"number": number}, "$set": {"software": software}}
    with translated():
        try:
            database.collection("installation").update_one({"_id": NAME}, changes, upsert=True)
        except errors.DuplicateKeyError:  # two wrote the first one
            database.collection("installation").update_one({"_id": NAME}, changes)


def _check(number: int, software: str, known: int) -> None:
    if number > known:
        raise _newer(number, software, known)
    if number < known:
        text = (
            f"The data are of format {number}, this version works on format {known}: stop all processes, take a backup,"
            " and run `fhirserver prepare` (`fhirserver up` does it by itself)."
        )
        raise problem("not-supported", text)


def _newer(number: int, software: str, known: int) -> Problem:
    text = (
        f"The data are of format {number}, written by version {software or 'unknown'}; this version knows format "
        f"{known}. Start the newer version again, or restore the backup that was taken before it."
    )
    return problem("not-supported", text)
