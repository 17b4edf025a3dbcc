"""Failed attempts to prove who one is, counted for all processes together: a leaky bucket each, which MongoDB forgets.

Too many of an address as somebody, of an address as anybody, or of anybody as one person are answered with 429 until
the bucket has run dry enough. The keys are hashes: nothing that somebody typed is kept.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from pymongo import IndexModel, UpdateOne, errors
from pymongo.collection import Collection

from fhirserver.fhir.problem import problem
from fhirserver.store.database import Database, Document, translated

_INDEXES = [IndexModel([("until", 1)], name="until", expireAfterSeconds=60)]
MOST_NAME = 320
"""Characters of a name that count: as many as an e-mail address may have."""


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `attempts` failures at once, and one more every `seconds`."""

    attempts: int
    seconds: float


PAIR = Limit(10, 6.0)
"""Of one address as somebody."""
ADDRESS = Limit(100, 0.6)
"""Of one address."""
PERSON = Limit(100, 36.0)
"""Of anybody as one person, from wherever: a password is short enough to be guessed by many machines together."""
REGISTRATION = Limit(60, 60.0)
"""Of one user or operator: clients registered, whether that works or not."""


class Attempts:
    """The failures of an installation. Threads may share it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def refuse(self, address: str, who: str, now: datetime, *, person: bool = False) -> None:
        """Raises Problem(throttled) with Retry-After where this address, or somebody there as `who`, or with `person`
        anybody as `who`, has failed too often.
        """
        self._refuse(dict(_limits(address, who, person)), now, "failed attempts")

    def failed(self, address: str, who: str, now: datetime, *, person: bool = False) -> None:
        """Counts a failure of an address as `who`, with `person` also against that person."""
        self._count(dict(_limits(address, who, person)), now)

    def take(self, what: str, who: str, limit: Limit, now: datetime) -> None:
        """Counts something that somebody does. Raises Problem(throttled) with Retry-After where it was too often."""
        limits = {_key(what, who): limit}
        self._refuse(limits, now, "requests")
        self._count(limits, now)

    def _refuse(self, limits: Mapping[str, Limit], now: datetime, what: str) -> None:
        with translated():
            found = list(self._collection().find({"_id": {"$in": list(limits)}}))
        wait = max((_wait(each, limits[each["_id"]], now) for each in found), default=0)
        if wait:
            text = f"Too many {what}: try again in {wait} seconds."
            raise problem("throttled", text, headers={"Retry-After": str(wait)})

    def _count(self, limits: Mapping[str, Limit], now: datetime) -> None:
        counts = [UpdateOne({"_id": key}, _counted(limit, now), upsert=True) for key, limit in limits.items()]
        with translated():
            try:
                self._collection().bulk_write(counts, ordered=False)
            except errors.BulkWriteError as error:  # two made the same bucket at once: one of the two is counted
                if any(fault["code"] != 11000 for fault in error.details["writeErrors"]):
                    raise

    def _collection(self) -> Collection[Document]:
        return self._database.indexed("attempts", _INDEXES)


def _limits(address: str, who: str, person: bool) -> Iterator[tuple[str, Limit]]:
    place, name = _place(address), who[:MOST_NAME].lower()
    yield _key("pair", f"{place} {name}"), PAIR
    yield _key("address", place), ADDRESS
    if person:
        yield _key("person", name), PERSON


def _place(address: str) -> str:
    """The address, of IPv6 the network of 64 bits that one caller has all of."""
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network(f"{known}/64", strict=False)) if known.version == 6 else str(known)


def _key(kind: str, text: str) -> str:
    return f"{kind}/{sha256(text.encode()).hexdigest()}"


def _wait(bucket: Document, limit: Limit, now: datetime) -> int:
    debt = bucket["debt"] - (now - bucket["since"]).total_seconds() / limit.seconds
    excess = debt - limit.attempts + 1
    return int(excess * limit.seconds) + 1 if excess > 0 else 0


def _counted(limit: Limit, now: datetime) -> list[dict[str, Any]]:
    """The bucket after one more failure: what has run out since the last one is taken off first."""
    passed = {"$divide": [{"$subtract": [now, {"$ifNull": ["$since", now]}]}, limit.seconds * 1000]}
    left = {"$max": [0, {"$subtract": [{"$ifNull": ["$debt", 0]}, passed]}]}
    most = now + timedelta(seconds=2 * limit.attempts * limit.seconds)
    return [{"$set": {"debt": {"$min": [{"$add": [left, 1]}, 2 * limit.attempts]}, "since": now, "until": most}}]
