"""Exports under way and their files, beside the BulkExport resources that people see.

Where an export is, and which files it has, stand in one document: `advance` writes files under new names and then
moves the document on from where its writer found it. So of two who write at once one alone moves it, and files whose
writer was killed before that belong to nothing; MongoDB takes them away with the others, some time after their end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pymongo import IndexModel

from fhirserver.store.database import Database, Document, translated
from fhirserver.store.ids import new_id
from fhirserver.store.model import Stored
from fhirserver.store.resources import Store, key, stored
from fhirserver.store.search import SHOWN, Search, narrowed

Position = tuple[int, str]
BEGIN: Position = (0, "")
EXPORTS, FILES = "exports", "exports.files"
MOST = 1_000
SCAN_MILLISECONDS = 45_000
"""What one scan may cost the database: less than the lease of whoever waits for it, or two would wait for ever."""
_INDEXES: Mapping[str, Sequence[IndexModel]] = {
    EXPORTS: (
        IndexModel([("open", 1), ("o", 1), ("client", 1)], name="open", partialFilterExpression={"open": True}),
        IndexModel([("o", 1), ("client", 1)], name="client"),
    ),
    FILES: (
        IndexModel([("export", 1)], name="export"),
        IndexModel([("until", 1)], name="until", expireAfterSeconds=60),
    ),
}


@dataclass(frozen=True, slots=True)
class Part:
    """One file: resources of one type as NDJSON, compressed with gzip. kind: output, deleted or error. referred: what
    they refer to that is to be exported too (Type/id).
    """

    kind: str
    type: str
    count: int
    data: bytes
    referred: Sequence[str] = ()


@dataclass(slots=True)
class Export:
    """An export under way. facts: what was asked and by whom. position: the step to go on with, and the id in it behind
    which. listed: of each file so far its kind, type, count and name.
    """

    organization: str
    id: str
    client: str
    facts: Mapping[str, Any]
    position: Position = BEGIN
    listed: list[dict[str, Any]] = field(default_factory=list)
    faults: int = 0
    until: datetime | None = None

    @property
    def name(self) -> str:
        """Its key, and the name of the lease of whoever works on it."""
        return key(self.organization, self.id)


class Exports:
    """The exports of an installation. Threads may share it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, export: Export) -> None:
        """Keeps a new export, which is open until it ends."""
        document: Document = {
            "_id": export.name,
            "o": export.organization,
            "i": export.id,
            "client": export.client,
            "facts": dict(export.facts),
            "position": export.position,
            "listed": [],
            "faults": 0,
            "open": True,
        }
        with translated():
            self._collection(EXPORTS).insert_one(document)

    def get(self, organization: str, id: str) -> Export | None:
        """An export, open or ended; None where there is none any more."""
        with translated():
            return _export(self._collection(EXPORTS).find_one({"_id": key(organization, id)}))

    def open(self) -> list[Export]:
        """The exports that are not done, at most a thousand, without their facts, which may be large."""
        with translated():
            found = list(self._collection(EXPORTS).find({"open": True}, {"facts": 0}).limit(MOST))
        return [export for document in found if (export := _export(document))]

    def open_of(self, organization: str, client: str) -> int:
        """How many exports of a client (or person) in an organization are not done."""
        wanted = {"open": True, "o": organization, "client": client}
        with translated():
            return int(self._collection(EXPORTS).count_documents(wanted, limit=MOST))

    def kept_of(self, organization: str, client: str) -> int:
        """How many exports of a client (or person) in an organization there are, done ones too."""
        with translated():
            return int(self._collection(EXPORTS).count_documents({"o": organization, "client": client}, limit=MOST))

    def past(self, now: datetime) -> list[Export]:
        """Exports whose files have had their time, at most a thousand, without their facts."""
        with translated():
            found = list(self._collection(EXPORTS).find({"until": {"$lt": now}}, {"facts": 0}).limit(MOST))
        return [export for document in found if (export := _export(document))]

    def advance(self, export: Export, parts: Iterable[Part], position: Position, until: datetime) -> bool:
        """Writes files and moves the export on behind them; whether it was still open, and where it was."""
        fresh: list[dict[str, Any]] = []
        files = self._collection(FILES)
        where = {"_id": export.name, "open": True, "position": list(export.position)}
        with translated():
            for part in parts:
                name = f"{export.name}/{new_id()}"
                kept = {"export": export.name, "data": part.data, "type": part.type, "referred": list(part.referred)}
                files.insert_one({"_id": name, **kept, "until": until})
                fresh.append({"kind": part.kind, "type": part.type, "count": part.count, "file": name})
            listed = [*export.listed, *fresh]
            moved = {"position": list(position), "listed": listed, "faults": 0}
            changed = self._collection(EXPORTS).update_one(where, {"$set": moved})
            if not changed.matched_count:  # it was taken away, or on, while these were made
                files.delete_many({"_id": {"$in": [each["file"] for each in fresh]}})
        export.listed, export.position = listed, position
        return bool(changed.matched_count)

    def fault(self, export: Export) -> int:
        """Counts a fault since the last part was written; how many there are."""
        with translated():
            self._collection(EXPORTS).update_one({"_id": export.name}, {"$inc": {"faults": 1}})
        return export.faults + 1

    def end(self, export: Export, until: datetime) -> bool:
        """The export is done: its files stay until then. Whether it was open."""
        with translated():
            self._collection(FILES).update_many({"export": export.name}, {"$set": {"until": until}})
            changed = self._collection(EXPORTS).update_one(
                {"_id": export.name, "open": True}, {"$set": {"until": until}, "$unset": {"open": ""}}
            )
        return bool(changed.matched_count)

    def drop(self, organization: str, id: str) -> None:
        """Takes away an export with its files."""
        name = key(organization, id)
        with translated():
            self._collection(EXPORTS).delete_one({"_id": name})
            self._collection(FILES).delete_many({"export": name})

    def file(self, export: Export, number: int) -> tuple[str, bytes] | None:
        """The type and the bytes of a file, None where it is not there any more."""
        if number >= len(export.listed):
            return None
        with translated():
            name = export.listed[number]["file"]
            found = self._collection(FILES).find_one({"_id": name}, {"data": 1, "type": 1})
        return (found["type"], bytes(found["data"])) if found else None

    def referred(self, export: Export) -> set[str]:
        """What the resources in its files refer to that is to be exported too."""
        names = [each["file"] for each in export.listed]
        with translated():
            found = self._collection(FILES).find({"_id": {"$in": names}}, {"referred": 1})
            return {text for document in found for text in document["referred"]}

    def _collection(self, name: str) -> Any:
        return self._database.indexed(name, _INDEXES[name])


def scan(store: Store, search: Search, after: str, values: Sequence[str] = ()) -> Iterator[tuple[Stored, Document]]:
    """Every match in the order of ids, those behind the id `after`, each with its search values of some parameters. The
    database hands them over in pieces of 16 MB, however many there are. Raises Problem(too-costly) where it looks for
    too long.
    """
    filter = narrowed(search.filter, [{"_id": {"$gt": after}}] if after else [])
    shown = SHOWN | {f"s.{code}": 1 for code in values}
    found = store.database.collection(search.type).find(filter, shown, max_time_ms=SCAN_MILLISECONDS)
    with translated(), found as cursor:
        for document in cursor.sort("_id", 1).allow_disk_use(True):
            yield stored(search.type, document), document.get("s") or {}


def deleted(store: Store, organization: str, type: str, since: datetime, until: datetime) -> list[str]:
    """The ids of the resources of a type that were deleted in that time."""
    filter = {"o": organization, "t": {"$gt": since, "$lte": until}, "x": True}
    with translated():
        return [document["i"] for document in store.database.collection(type).find(filter, {"i": 1})]


def as_of(store: Store, version: Stored, instant: datetime) -> Stored | None:
    """The version that was current at an instant, of a resource that has changed since; None for one made since."""
    filter = {"o": version.organization, "i": version.id, "t": {"$lte": instant}}
    with translated():
        found = store.database.history(version.type).find_one(filter, sort=[("v", -1)])
    return stored(version.type, found) if found else None


def _export(document: Document | None) -> Export | None:
    if document is None:
        return None
    return Export(
        document["o"],
        document["i"],
        document["client"],
        document.get("facts", {}),
        tuple(document["position"] or BEGIN),
        list(document["listed"]),
        document["faults"],
        document.get("until"),
    )
