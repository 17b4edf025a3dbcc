"""Conformance resources of the registry by canonical URL. Their URLs are listed at once, the resources read when asked
for: a package of profiles and value sets has hundreds of megabytes, of which a server needs little.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from fhirserver.fhir import Resource
from fhirserver.fhir.json import decode
from fhirserver.store.database import Database, Document, translated
from fhirserver.store.model import REGISTRY, Stored
from fhirserver.store.resources import PROJECTION, key, stored
from fhirserver.store.text import plain

CURRENT: Document = {"o": REGISTRY, "x": None, "s.status": {"$ne": "retired"}}


class Canonicals(Mapping[str, Resource]):
    """The resources of a type that a filter admits, by URL; of several versions the greatest.

    They are those of the moment it was made; one that was deleted since is not in it any more.
    """

    def __init__(self, database: Database, type: str, filter: Mapping[str, Any]) -> None:
        self._collection = database.collection(type)
        self._limit = database.query_limit_ms
        found: dict[str, tuple[list[tuple[int, str]], str]] = {}
        with translated():
            for document in self._collection.find({**CURRENT, **filter}, {"s.url": 1, "s.version": 1}):
                values = document.get("s", {})
                rank = (_order(values.get("version", [""])[0]), document["_id"])
                for url in values.get("url", ()):
                    found[url] = max(found.get(url, rank), rank)
        self._ids = {url: id for url, (_, id) in found.items()}

    def __getitem__(self, url: str) -> Resource:
        with translated():
            document = self._collection.find_one({"_id": self._ids[url], "x": None}, {"d": 1}, max_time_ms=self._limit)
        if document is None:
            raise KeyError(url)
        resource: Resource = decode(plain(document["d"]))
        return resource

    def __contains__(self, url: object) -> bool:
        return url in self._ids

    def __iter__(self) -> Iterator[str]:
        return iter(self._ids)

    def __len__(self) -> int:
        return len(self._ids)


def resources(database: Database, type: str, filter: Mapping[str, Any]) -> Iterator[Resource]:
    """All of a type that a filter admits, the lesser versions of a URL first, so that a later one replaces them."""
    with translated():
        documents = list(database.collection(type).find({**CURRENT, **filter}, {"d": 1, "s.version": 1}))
    documents.sort(key=lambda document: _order(document.get("s", {}).get("version", [""])[0]))
    for document in documents:
        yield decode(plain(document["d"]))


def versions(database: Database, type: str, organization: str, filter: Mapping[str, Any]) -> dict[str, int]:
    """The ids and versions of an organization's resources that a filter admits, in one small query."""
    wanted = {"o": organization, "x": None, **filter}
    with translated():
        cursor = database.collection(type).find(wanted, {"i": 1, "v": 1}, max_time_ms=database.query_limit_ms)
        return {str(document["i"]): int(document["v"]) for document in cursor}


def laid_out(database: Database, type: str, ids: Iterable[str], family: str) -> dict[str, Stored]:
    """Of the registry's resources of a type, by id: those with these ids, tombstones too, and those whose URL begins
    with `family`.
    """
    named = {"_id": {"$in": [key(REGISTRY, id) for id in ids]}}
    related = {"o": REGISTRY, "x": None, "s.url": {"$regex": f"^{re.escape(family)}"}}
    with translated():
        cursor = database.collection(type).find({"$or": [named, related]}, PROJECTION)
        return {document["i"]: stored(type, document) for document in cursor}


def _order(version: str) -> list[tuple[int, str]]:
    """Versions compare by their numbers: 1.10.0 is after 1.9.0."""
    return [(int(part), "") if part.isdigit() and len(part) < 10 else (-1, part) for part in version.split(".")]
