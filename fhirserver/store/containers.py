"""Which resource types hold contained resources of which: noted before the first such resource is written, so that a
search for contained resources looks only where there can be any, and other searches know that there are none.
"""

from __future__ import annotations

from collections.abc import Iterable

from fhirserver.store.database import Database, translated
from fhirserver.store.model import Change
from fhirserver.store.recent import Recent

COLLECTION = "containers"
Pair = tuple[str, str]


class Containers:
    """The (container type, contained type) pairs of the installation. A pair is never taken back."""

    def __init__(self, database: Database, recent: Recent) -> None:
        self._database = database
        self._recent = recent
        self._noted: set[Pair] = set()

    def note(self, changes: Iterable[Change]) -> None:
        """Makes known what these changes hold, before they are written; the writer must `settle` after its commit."""
        for change in changes:
            if change.entry is not None and change.entry.contained:
                self.note_pairs((change.type, inside.type) for inside in change.entry.contained)

    def note_pairs(self, pairs: Iterable[Pair]) -> None:
        """The same for pairs that are known already."""
        for container, contained in {*pairs} - self._noted:
            with translated():
                self._database.collection(COLLECTION).update_one(
                    {"_id": f"{container}/{contained}"},
                    {"$set": {"container": container, "contained": contained}},
                    upsert=True,
                )
            self._recent.changed()
            self._noted.add((container, contained))

    def holds(self, container: str, contained: str) -> bool:
        """Whether a resource of the one type may have one of the other inside it."""
        return (container, contained) in self._pairs()

    def of(self, contained: str) -> list[str]:
        """The types of what may have a resource of that type inside it, in alphabetical order."""
        return sorted(container for container, inside in self._pairs() if inside == contained)

    def _pairs(self) -> frozenset[Pair]:
        def ask() -> frozenset[Pair]:
            with translated():
                found = self._database.collection(COLLECTION).find()
                return frozenset((each["container"], each["contained"]) for each in found)

        return self._recent.read(COLLECTION, ask)
