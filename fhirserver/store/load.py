"""The bulk loader: many resources of one organization, written beside the API by several processes.

What it writes reads and searches like anything that came through the API - validated, indexed, version 1 - but it wakes
no subscription and asks nobody's permission, so it is for whoever holds the database's credentials. A resource that is
there already is left alone: an interrupted load is simply run again.
"""

from __future__ import annotations

import gzip
import multiprocessing
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from fhirserver.fhir import Resource
from fhirserver.fhir.definitions import Definitions
from fhirserver.fhir.json import decode, encode
from fhirserver.fhir.problem import Problem, problem
from fhirserver.fhir.validation import validate
from fhirserver.search.index import Indexer, indexer
from fhirserver.store.database import Database
from fhirserver.store.model import Change
from fhirserver.store.resources import Store

LINES = 500
"""Lines in one piece of work: one round trip to the database for each type among them."""
MOST_LINE = 64 * 1024 * 1024
MOST_REFUSALS = 20
CONTAINERS = ("batch", "collection", "history", "searchset", "transaction")
"""Types of Bundle whose resources are stored, not the Bundle: a document or a message is a resource of its own."""
LOCAL = ("urn:uuid:", "urn:oid:")


@dataclass(frozen=True, slots=True)
class Loading:
    """What a load needs to know: where to, as what, and how each resource is made ready.

    types: those that may be loaded. now and new_id: as the server's. ruled: whether a resource has rules beside its
    type's: it is set aside, for the caller to write through the API.
    """

    open: Callable[[], Database]
    definitions: Definitions
    organization: str
    base: str
    types: Collection[str]
    now: Callable[[], datetime]
    new_id: Callable[[], str]
    validated: bool = True
    ruled: Callable[[Resource], bool] | None = None


@dataclass(slots=True)
class Loaded:
    """How many were stored, how many were there already, how many were refused, and why (the first few). `aside`: what
    was set aside.
    """

    stored: int = 0
    there: int = 0
    refused: int = 0
    reasons: list[str] = field(default_factory=list)
    aside: list[Resource] = field(default_factory=list)

    def add(self, other: Loaded) -> None:
        """Counts what another piece of work did."""
        self.stored += other.stored
        self.there += other.there
        self.refused += other.refused
        self.reasons = [*self.reasons, *other.reasons][:MOST_REFUSALS]
        self.aside += other.aside

    def refuse(self, reason: str, count: int = 1) -> None:
        """Counts resources that were not stored."""
        self.refused += count
        if len(self.reasons) < MOST_REFUSALS:
            self.reasons.append(reason)


def load(
    loading: Loading, files: Iterable[Path], processes: int, progress: Callable[[Loaded], None] | None = None
) -> Loaded:
    """Loads NDJSON files and JSON files (a resource or a Bundle), `.gz` or not, with several processes.

    `progress` is told the counts after each piece of work.
    """
    done = Loaded()
    room = threading.Semaphore(4 * processes)  # the pool would read the files ahead as far as they go

    def admitted() -> Iterator[Piece]:
        for piece in pieces(files):
            room.acquire()
            yield piece

    fork = multiprocessing.get_context("fork")  # the definitions are compiled already, so they are not compiled again
    with fork.Pool(processes, _begin, (loading,)) as pool:
        for part in pool.imap_unordered(_piece, admitted()):
            room.release()
            done.add(part)
            if progress:
                progress(done)
    return done


Piece = tuple[str, int, list[bytes]]
"""The name of a file, the number of the first line, the lines."""


def pieces(files: Iterable[Path]) -> Iterator[Piece]:
    """The lines of NDJSON files by the LINES; every other file is one piece of one line."""
    for path in files:
        name = path.name.removesuffix(".gz")
        with _opened(path) as file:
            if not name.endswith((".ndjson", ".jsonl")):
                yield path.name, 1, [_bounded(path, 1, file.read(MOST_LINE + 1))]
                continue
            yield from _numbered(path, file)


def _numbered(path: Path, file: IO[bytes]) -> Iterator[Piece]:
    first, lines = 1, []
    number = 0
    while line := file.readline(MOST_LINE + 1):
        number += 1
        lines.append(_bounded(path, number, line))
        if len(lines) == LINES:
            yield path.name, first, lines
            first, lines = number + 1, []
    if lines:
        yield path.name, first, lines


def _opened(path: Path) -> IO[bytes]:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]  # it reads alike


def _bounded(path: Path, number: int, text: bytes) -> bytes:
    if len(text) > MOST_LINE:
        raise problem("too-long", f"{path.name}, line {number}: more than {MOST_LINE} bytes; split it.")
    return text


class _Worker:
    """One process's part: its own connection, and the indexers it has compiled."""

    def __init__(self, loading: Loading) -> None:
        self.loading = loading
        self.store = Store(loading.open())
        self._indexers: dict[str, Indexer] = {}

    def run(self, piece: Piece) -> Loaded:
        """Stores the resources of a piece."""
        name, first, lines = piece
        done = Loaded()
        by_type: dict[str, list[Change]] = {}
        for number, line in enumerate(lines, first):
            if not line.strip():
                continue
            for resource in self._resources(line, f"{name}, line {number}", done):
                change = self._change(resource, f"{name}, line {number}", done)
                if change is not None:
                    by_type.setdefault(change.type, []).append(change)
        for type, changes in by_type.items():
            self._store(type, changes, done)
        return done

    def _resources(self, line: bytes, where: str, done: Loaded) -> list[Resource]:
        try:
            value = decode(line)
        except Problem as error:
            done.refuse(f"{where}: {error}")
            return []
        if isinstance(value, dict) and value.get("resourceType") == "Bundle" and value.get("type") in CONTAINERS:
            return unpacked(value, self.loading.new_id)
        return [value]

    def _change(self, resource: Any, where: str, done: Loaded) -> Change | None:
        loading = self.loading
        type = resource.get("resourceType") if isinstance(resource, dict) else None
        if not isinstance(type, str) or type not in loading.types:
            done.refuse(f"{where}: {str(type)[:64]} cannot be loaded into an organization's base")
            return None
        if loading.ruled is not None and loading.ruled(resource):
            done.aside.append(resource)
            return None
        id = resource.get("id") or loading.new_id()
        instant = loading.now()
        instant = instant.replace(microsecond=instant.microsecond // 1000 * 1000)
        resource = _stamped(resource, id, instant)
        issues = validate(loading.definitions, resource) if loading.validated else []
        faults = [issue.diagnostics for issue in issues if issue.severity in ("error", "fatal")]
        if faults or not isinstance(id, str):
            done.refuse(f"{where}: {'; '.join(faults[:3]) or 'its id is not a text'}")
            return None
        entry = self._indexer(type)(resource)
        return Change(loading.organization, type, id, 1, instant, "PUT", encode(resource).decode(), entry)

    def _store(self, type: str, changes: list[Change], done: Loaded) -> None:
        try:
            answers = self.store.insert_messages(changes)
        except Problem as error:
            done.refuse(f"{len(changes)} {type}: {error}", len(changes))
            return
        stored = answers.count("stored")
        done.stored += stored
        done.there += len(answers) - stored

    def _indexer(self, type: str) -> Indexer:
        found = self._indexers.get(type)
        if found is None:
            found = self._indexers[type] = indexer(self.loading.definitions, type, self.loading.base)
        return found


def unpacked(bundle: Resource, new_id: Callable[[], str]) -> list[Resource]:
    """The resources of a Bundle; each gets an id, and references by urn:uuid: to another entry name it by Type/id."""
    names: dict[str, str] = {}
    found: list[Resource] = []
    for entry in bundle.get("entry") or ():
        resource = entry.get("resource") if isinstance(entry, dict) else None
        if not isinstance(resource, dict):
            continue
        named = {"resourceType": resource.get("resourceType"), "id": resource.get("id") or new_id(), **resource}
        full_url = entry.get("fullUrl")
        if isinstance(full_url, str) and full_url.startswith(LOCAL):
            names[full_url] = f"{named['resourceType']}/{named['id']}"
        found.append(named)
    return [_resolved(resource, names) for resource in found] if names else found


def _resolved(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _resolved(each, names) for key, each in value.items()}
    if isinstance(value, list):
        return [_resolved(each, names) for each in value]
    return names.get(value, value) if isinstance(value, str) else value


def _stamped(resource: Resource, id: Any, instant: datetime) -> Resource:
    meta = resource.get("meta")
    text = instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{instant.microsecond // 1000:03d}Z"
    head = {
        "resourceType": resource["resourceType"],
        "id": id,
        "meta": {**(meta if isinstance(meta, dict) else {}), "versionId": "1", "lastUpdated": text},
    }
    return {**head, **{name: value for name, value in resource.items() if name not in head}}


_worker: _Worker | None = None


def _begin(loading: Loading) -> None:
    global _worker
    _worker = _Worker(loading)


def _piece(piece: Piece) -> Loaded:
    assert _worker is not None  # _begin ran first
    return _worker.run(piece)


__all__ = ["Loaded", "Loading", "load", "pieces", "unpacked"]
