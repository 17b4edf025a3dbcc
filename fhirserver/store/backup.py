"""The whole database into a stream and back: every document as of one instant, and the indexes. No tool is needed.

A stream is zstd with a checksum, of frames: a letter and a BSON document. `H` says what it is, `C` begins a collection
with its indexes, `D` is a document as it lies there, `E` ends it with how many there were: a stream that was cut off or
damaged is found to be so. The reads are of one snapshot, for as long as the database keeps its past.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

import bson
import zstandard
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import IndexModel, errors
from pymongo.collection import Collection

from fhirserver.fhir.problem import problem
from fhirserver.store.database import Database, Document, translated
from fhirserver.store.formats import FORMAT, NAME, RESTORING

log = logging.getLogger(__name__)
HEAD, COLLECTION, DOCUMENT, END = b"H", b"C", b"D", b"E"
KIND = "fhirserver backup"
INSTALLATION = "installation"
BATCH, BATCH_BYTES = 1_000, 8 * 1024 * 1024
MOST_DOCUMENT = 64 * 1024 * 1024
RAW: CodecOptions[Any] = CodecOptions(document_class=RawBSONDocument)
ATTEMPTS = 5
_TOO_OLD = {239, 246}
DAMAGED = "This is no whole backup: it was cut off, or damaged. Take another."


@dataclass(frozen=True, slots=True)
class Carried:
    """How many collections and documents were written or read."""

    collections: int
    documents: int


def dump(database: Database, stream: IO[bytes], software: str, key: str) -> Carried:
    """Writes everything into a stream. `key` is the id of the master key, which is not in it. Raises
    Problem(transient) where the database does not remember the instant for as long as this takes.
    """
    try:
        with translated(), database.client.start_session(snapshot=True) as session:
            names = _names(database, session)
            found = database.collection(INSTALLATION).find_one({"_id": NAME}, session=session) or {}
            number, total = int(found.get("number", 1)), 0
            with zstandard.ZstdCompressor(level=6, write_checksum=True).stream_writer(stream, closefd=False) as out:
                _put(out, HEAD, {"kind": KIND, "format": number, "software": software, "key": key})
                for name in names:
                    collection: Collection[Any] = database.raw.get_collection(name, codec_options=RAW)
                    _put(out, COLLECTION, {"name": name, "indexes": _indexes(database, name)})
                    for document in collection.find({}, session=session, batch_size=BATCH):
                        out.write(DOCUMENT + document.raw)
                        total += 1
                _put(out, END, {"collections": len(names), "documents": total})
    except errors.OperationFailure as error:
        if error.code not in _TOO_OLD:
            raise
        text = (
            "The database does not remember the instant of the backup any more: it is too large for this. Take a "
            "snapshot of its volume or `mongodump --oplog`, or raise minSnapshotHistoryWindowInSeconds while this runs."
        )
        raise problem("transient", text) from error
    return Carried(len(names), total)


def restore(database: Database, stream: IO[bytes], keys: frozenset[str]) -> Carried:
    """Puts everything from a stream into an empty database; `keys` are the ids of the master keys at hand. One that
    was interrupted is begun again from the start, and nothing starts on it before.

    Raises Problem: conflict for a database with data, invalid for a stream that is none or not whole, not-supported for
    one of a newer format, security for one of another master key.
    """
    frames = _frames(stream)
    kind, head = next(frames, (END, {}))
    if kind != HEAD or head.get("kind") != KIND:
        raise problem("invalid", DAMAGED)
    _fits(head, keys)
    _emptied(database)
    seen, end = _filled(database, frames)
    if end != {"collections": seen.collections, "documents": seen.documents}:
        raise problem("invalid", DAMAGED)
    with translated():
        database.collection(INSTALLATION).delete_one({"_id": RESTORING})
    return seen


def _fits(head: Document, keys: frozenset[str]) -> None:
    if int(head["format"]) > FORMAT:
        text = f"The backup is of format {head['format']}, this version knows {FORMAT}: restore it with version "
        raise problem("not-supported", text + str(head.get("software", "")))
    if head["key"] not in keys:
        text = (
            "The backup was taken with another master key: put that one into FHIRSERVER_MASTER_KEY or master.key first."
        )
        raise problem("security", text)


def _emptied(database: Database) -> None:
    """Makes sure that nothing is there but what a restore that was interrupted left, and takes that away."""
    installation = database.collection(INSTALLATION)
    with translated():
        names = set(database.raw.list_collection_names())
        if names and not installation.find_one({"_id": RESTORING}):
            text = f"The database {database.raw.name} has data: a backup is restored into an empty one."
            raise problem("conflict", text)
        installation.update_one({"_id": RESTORING}, {"$set": {}}, upsert=True)
        for name in names - {INSTALLATION}:
            database.raw.drop_collection(name)
        installation.delete_many({"_id": {"$ne": RESTORING}})


def _filled(database: Database, frames: Iterator[tuple[bytes, Document]]) -> tuple[Carried, Document]:
    """Stores what the frames hold; what there was, and what the last frame says that there was."""
    collections, documents = 0, 0
    into: Collection[Any] | None = None
    indexes: list[IndexModel] = []
    waiting: list[Any] = []
    size = 0
    for kind, document in frames:
        if kind == DOCUMENT and into is not None:
            waiting.append(document)
            size += len(document.raw)  # type: ignore[attr-defined]  # a document frame is raw
            documents += 1
            if len(waiting) < BATCH and size < BATCH_BYTES:
                continue
        if waiting and into is not None:
            with translated():
                into.insert_many(waiting, ordered=False)
            waiting, size = [], 0
        if kind in (COLLECTION, END) and into is not None and indexes:
            with translated():
                into.create_indexes(indexes)  # after the documents: that is twice as fast
        if kind == COLLECTION:
            collections += 1
            into = database.raw.get_collection(str(document["name"]), codec_options=RAW)
            indexes = [_model(each) for each in document["indexes"]]
        if kind == END:
            return Carried(collections, documents), document
    raise problem("invalid", DAMAGED)


def _names(database: Database, session: Any) -> list[str]:
    """The collections as of the session's instant: none came or went while it was fixed."""
    for _ in range(ATTEMPTS):
        before = database.raw.list_collection_names()
        database.collection(INSTALLATION).find_one({}, {"_id": 1}, session=session)
        if sorted(before) == sorted(database.raw.list_collection_names()):
            break
    return sorted(name for name in before if not name.startswith("system."))


def _indexes(database: Database, name: str) -> list[Document]:
    made = database.raw.get_collection(name).index_information()
    return [
        {
            "name": title,
            **{key: value for key, value in each.items() if key not in ("v", "ns")},
            "key": list(each["key"]),
        }
        for title, each in made.items()
        if title != "_id_"
    ]


def _model(index: Document) -> IndexModel:
    options = {name: value for name, value in index.items() if name != "key"}
    return IndexModel([(str(field), int(direction)) for field, direction in index["key"]], **options)


def _put(out: Any, kind: bytes, document: Document) -> None:
    out.write(kind + bson.encode(document))


def _frames(stream: IO[bytes]) -> Iterator[tuple[bytes, Document]]:
    """Kind and document of each frame; those of documents are raw. Raises Problem(invalid) for what is none."""
    try:
        with zstandard.ZstdDecompressor().stream_reader(stream, closefd=False) as plain:
            while kind := plain.read(1):
                length = _exactly(plain, 4)
                size = int.from_bytes(length, "little")
                if kind not in (HEAD, COLLECTION, DOCUMENT, END) or not 5 <= size <= MOST_DOCUMENT:
                    raise problem("invalid", DAMAGED)
                whole = length + _exactly(plain, size - 4)
                yield kind, RawBSONDocument(whole) if kind == DOCUMENT else bson.decode(whole)  # type: ignore[misc]  # as a mapping
    except (zstandard.ZstdError, bson.errors.InvalidBSON):
        raise problem("invalid", DAMAGED) from None


def _exactly(plain: Any, size: int) -> bytes:
    parts, missing = [], size
    while missing:
        part = plain.read(missing)
        if not part:
            raise problem("invalid", DAMAGED)
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)
