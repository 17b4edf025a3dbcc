"""The keys that sign tokens: several, each with the time from which it signs and, once it is replaced, the time until
which it is known. Sealed by the vault. RFC 7517; OpenID Connect Core 1.0, 10.1.1 (rotation).

A key is in the key set before it signs, long enough for others to have fetched the set again; it leaves the set when
the last token that it may have signed has expired. Every process looks every few seconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pymongo import errors

from fhirserver.auth.keys import SigningKey, imported, new_key
from fhirserver.fhir.problem import problem
from fhirserver.store.database import Database, Document, translated

NAME, FORMER = "signing-keys", "signing-key"
LOOK_SECONDS = 3.0
AT_ONCE = timedelta(seconds=2 * LOOK_SECONDS)
"""What every process needs to notice."""
PUBLISHED = timedelta(seconds=600)
"""What others need: twice the time for which the key set may be kept."""
LONGEST_TOKEN = timedelta(seconds=86_400)
ROOM = timedelta(minutes=1)
TEND_SECONDS = 60.0
ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Held:
    """A key and its times: from when it signs, and until when it is known (None: nothing has replaced it)."""

    key: SigningKey
    since: datetime
    until: datetime | None


class Keyring:
    """The signing keys of an installation. Threads may share it; a child process must make its own.

    `encrypt` and `decrypt` seal a text under the master key; `now` is the time.
    """

    def __init__(
        self,
        database: Database,
        encrypt: Callable[[str], str],
        decrypt: Callable[[str], str],
        now: Callable[[], datetime],
    ) -> None:
        self._database = database
        self._encrypt, self._decrypt, self._now = encrypt, decrypt, now
        self._opened: dict[str, SigningKey] = {}
        self._held: tuple[Held, ...] = ()
        self._keys: tuple[SigningKey, ...] = ()
        self._looked = float("-inf")
        self._tended = float("-inf")
        self._lock = threading.Lock()

    def keys(self) -> Sequence[SigningKey]:
        """The keys that are known now, the one that signs first. The same tuple while nothing changes."""
        with self._lock:
            if time.monotonic() - self._looked >= LOOK_SECONDS:
                self._read()
            found = tuple(each.key for each in _known(self._held, self._now()))
            if found != self._keys:
                self._keys = found
            return self._keys

    def held(self) -> Sequence[Held]:
        """The keys that are known now with their times, the one that signs first, read anew."""
        with self._lock:
            self._read()
            return _known(self._held, self._now())

    def rotate(self, *, at_once: bool = False, revoke: bool = False) -> Held:
        """A new key, which signs when the key set can have been fetched, or `at_once` (in seconds). The others are
        known until their longest token has expired; with `revoke` only until the new one signs.
        """
        made = new_key()
        since = self._now() + (AT_ONCE if at_once or revoke else PUBLISHED)
        gone = since if revoke else since + LONGEST_TOKEN + ROOM
        for _ in range(ATTEMPTS):
            document = self._document()
            old = [{**each, "until": min(each["until"] or gone, gone)} for each in self._current(document)]
            entry = {"kid": made.kid, "key": self._encrypt(made.exported()), "since": since, "until": None}
            if self._write(document, [entry, *old]):
                return Held(made, since, None)
        raise problem("transient", "Several rotate the signing key at once. Try again.")

    def tend(self, days: int) -> None:
        """Rotates when the newest key is older than that many days (0: never), and lets go of keys whose time is over.
        Looks once a minute, however often it is called.
        """
        if time.monotonic() - self._tended < TEND_SECONDS:
            return
        self._tended = time.monotonic()
        document = self._document()
        kept = self._current(document)
        if len(kept) < len(document["keys"]):
            self._write(document, kept)
        newest = max(each["since"] for each in kept)
        if days and self._now() - newest > timedelta(days=days):
            self.rotate()

    def _current(self, document: Document) -> list[dict[str, Any]]:
        return [each for each in document["keys"] if each["until"] is None or each["until"] > self._now()]

    def _read(self) -> None:
        entries = self._document()["keys"]
        for entry in entries:
            if entry["kid"] not in self._opened:
                self._opened[entry["kid"]] = imported(self._decrypt(entry["key"]))
        self._held = tuple(Held(self._opened[each["kid"]], each["since"], each["until"]) for each in entries)
        self._opened = {each.key.kid: each.key for each in self._held}
        self._looked = time.monotonic()

    def _document(self) -> Document:
        collection = self._database.collection("installation")
        with translated():
            found = collection.find_one({"_id": NAME})
            if found is None:
                with suppress(errors.DuplicateKeyError):  # another process was first
                    collection.insert_one({"_id": NAME, "n": 1, "keys": [self._first()]})
                found = collection.find_one({"_id": NAME})
        if found is None:
            raise problem("transient", "The database lost a document that was just written. Try again.")
        return found

    def _first(self) -> dict[str, Any]:
        """The first key of an installation: the one that it had when there was one alone, else a new one."""
        former = self._database.collection("installation").find_one({"_id": FORMER})
        made = imported(self._decrypt(former["key"])) if former else new_key()
        return {"kid": made.kid, "key": self._encrypt(made.exported()), "since": self._now(), "until": None}

    def _write(self, document: Document, entries: Sequence[dict[str, Any]]) -> bool:
        """Whether the entries were written: not where somebody else wrote in between."""
        update = {"$set": {"keys": list(entries)}, "$inc": {"n": 1}}
        with translated():
            done = self._database.collection("installation").update_one({"_id": NAME, "n": document["n"]}, update)
        return bool(done.matched_count)


def _known(held: Sequence[Held], now: datetime) -> tuple[Held, ...]:
    """Those that are known, the newest that signs already first; one that will sign later stands behind it."""
    known = [each for each in held if each.until is None or each.until > now]
    return tuple(sorted(known, key=lambda each: (each.since > now, -each.since.timestamp())))
