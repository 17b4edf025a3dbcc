"""Short-lived facts that every process must agree on: codes, refresh tokens, spent assertions, revoked tokens.

Each has a key, a value and an end; MongoDB deletes them some time after it, and nobody is shown one that is past it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from pymongo import IndexModel, ReturnDocument, errors
from pymongo.collection import Collection

from fhirserver.store.database import Database, Document, Session, translated
from fhirserver.store.recent import Recent

_INDEXES = [IndexModel([("until", 1)], name="until", expireAfterSeconds=60), IndexModel([("group", 1)], name="group")]


def of_client(id: str) -> str:
    """The group of what was handed out for a client: all of it ends when the client is deleted."""
    return f"client/{id}"


def of_user(id: str) -> str:
    """The group of what a user let applications have: codes, refresh tokens, families of access tokens."""
    return f"consents/{id}"


def grants_of(user: str) -> str:
    """The group of what a user allowed and need not be asked again."""
    return f"grants/{user}"


def sessions_of(user: str) -> str:
    """The group of a user's sign-in sessions."""
    return f"sessions/{user}"


def session_key(digested: str) -> str:
    """Where a sign-in session is kept, by the digest of its cookie."""
    return f"session/{digested}"


def links_of(user: str) -> str:
    """The group of the links with which a user may set a password."""
    return f"passwords/{user}"


def link_key(digested: str) -> str:
    """Where such a link is kept, by its digest."""
    return f"password/{digested}"


MAIL = "mail"
"""The group of what waits to be sent by e-mail: `notices.mail`."""


def mail_key(id: str) -> str:
    """Where it is kept that something waits to be sent by e-mail."""
    return f"mail/{id}"


FAMILY_LIFETIME = timedelta(days=400)
"""How long the end of a family of tokens is remembered: as long as the longest of them could live."""


class Kept:
    """The facts of an installation. Keys are chosen so that they cannot be guessed: hashes of what was handed out."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._recent = Recent()

    def put(self, key: str, value: Mapping[str, Any], until: datetime, *groups: str) -> bool:
        """Keeps a fact; False where the key is taken already. Facts of one group can be ended together."""
        document = {"_id": key, **_fields(value, until, groups)}
        with translated():
            try:
                self._collection().insert_one(document)
            except errors.DuplicateKeyError:
                return False
        return True

    def replace(
        self, key: str, value: Mapping[str, Any], until: datetime, *groups: str, session: Session | None = None
    ) -> None:
        """Keeps a fact, instead of the one under this key if there is any."""
        collection = self._collection()
        with translated(session):
            collection.replace_one({"_id": key}, _fields(value, until, groups), upsert=True, session=session)

    def get(self, key: str, now: datetime) -> dict[str, Any] | None:
        """The value of a key, None where there is none any more, or it has been spent."""
        with translated():
            return _value(self._collection().find_one({"_id": key, "until": {"$gt": now}, "spent": None}))

    def end(self, key: str, until: datetime) -> None:
        """Says that what this key stands for has ended; once this returns, `ended` says so in every process."""
        self.put(f"ended/{key}", {}, until)
        self._recent.changed()
        self._recent.settle()

    def end_families(self, families: Iterable[str], now: datetime) -> None:
        """Ends all tokens that came of some consents (codes, refresh and access tokens), in every process at once."""
        found = sorted(set(families))
        for family in found:
            self.put(f"ended/{family}", {}, now + FAMILY_LIFETIME)
            self.drop_group(f"family/{family}")
        if found:
            self._recent.changed()
            self._recent.settle()

    def ended(self, *keys: str) -> bool:
        """Whether one of these has been ended. Asked with every request, so the answer is read once in a blink."""

        def ask() -> bool:
            with translated():
                found = self._collection().find_one({"_id": {"$in": [f"ended/{key}" for key in keys]}}, {"_id": 1})
            return found is not None

        return self._recent.read(keys, ask)

    def spend(self, key: str, now: datetime) -> tuple[dict[str, Any], bool] | None:
        """The value of a key and whether this is the first time it is spent; None where there is none any more.

        Of several who try at once, one alone is the first.
        """
        with translated():
            before = self._collection().find_one_and_update(
                {"_id": key, "until": {"$gt": now}}, {"$set": {"spent": True}}, return_document=ReturnDocument.BEFORE
            )
        return None if before is None else (dict(before["value"]), not before.get("spent"))

    def drop(self, key: str) -> bool:
        """Ends a fact; whether there was one."""
        with translated():
            return self._collection().delete_one({"_id": key}).deleted_count > 0

    def drop_group(self, group: str, but: str = "") -> int:
        """Ends all facts of a group except the one under the key `but`; how many there were."""
        with translated():
            return self._collection().delete_many({"group": group, "_id": {"$ne": but}}).deleted_count

    def of_group(self, group: str, now: datetime) -> list[dict[str, Any]]:
        """The values of a group, at most a thousand."""
        with translated():
            found = list(self._collection().find({"group": group, "until": {"$gt": now}}).limit(1000))
        return [dict(document["value"]) for document in found]

    def _collection(self) -> Collection[Document]:
        return self._database.indexed("kept", _INDEXES)


def _fields(value: Mapping[str, Any], until: datetime, groups: Sequence[str]) -> Document:
    return {"value": dict(value), "until": until, **({"group": list(groups)} if groups else {})}


def _value(document: Document | None) -> dict[str, Any] | None:
    return None if document is None else dict(document["value"])
