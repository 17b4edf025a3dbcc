"""Where envelopes lie in the database, and how all of them are made anew when the master key is changed.

Each document is changed only if it is still as it was read, so this runs beside others who write and may be stopped and
begun again at any point: what was made anew is passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fhirserver.fhir.problem import problem
from fhirserver.store.database import Database, translated
from fhirserver.store.keyring import FORMER
from fhirserver.store.keyring import NAME as SIGNING_KEYS

SIGNING, HASHING = "signing key", "hashing key"
"""The purposes that those of the installation are encrypted for."""
FORMER_KEYS = "former-master-keys"
"""The document with what hashes made with former master keys are compared with, each encrypted under the present one.
A hash cannot be made anew: what it is of is known to its owner alone.
"""
INSTALLATION = "installation"
PASSES = 10
MOST_LOST = 100


@dataclass(frozen=True, slots=True)
class Place:
    """A field of the documents of a collection that holds envelopes, at whatever depth, all for one purpose."""

    collection: str
    field: str
    purpose: str = ""


PLACES = (
    Place(INSTALLATION, "hashing", HASHING),
    Place(INSTALLATION, "keys", SIGNING),
    Place(INSTALLATION, "key", SIGNING),
    Place("Subscription", "p"),
    Place("Subscription.history", "p"),
    Place("kept", "value"),
)


@dataclass(slots=True)
class Renewed:
    """How many envelopes were made anew, and where those are (at most MOST_LOST) that no key opens."""

    count: int = 0
    lost: list[str] = field(default_factory=list)


def hashing_keys(database: Database) -> Mapping[str, str]:
    """The envelopes of what hashes made with former master keys are compared with, by key id."""
    with translated():
        found = database.collection(INSTALLATION).find_one({"_id": FORMER_KEYS})
    return dict(found["hashing"]) if found else {}


def signing_keys(database: Database) -> list[str]:
    """The envelopes of the signing keys."""
    with translated():
        found = list(database.collection(INSTALLATION).find({"_id": {"$in": [SIGNING_KEYS, FORMER]}}))
    return [entry["key"] for each in found for entry in each.get("keys", [each])]


def keep_hashing_keys(database: Database, keys: Mapping[str, str]) -> None:
    """Keeps the envelopes of hashing keys that are not kept yet. Comes before anything is made anew."""
    installation = database.collection(INSTALLATION)
    with translated():
        for id, envelope in keys.items():
            installation.update_one({"_id": FORMER_KEYS}, {"$setOnInsert": {"hashing": {}}}, upsert=True)
            installation.update_one(
                {"_id": FORMER_KEYS, f"hashing.{id}": {"$exists": False}}, {"$set": {f"hashing.{id}": envelope}}
            )


def renew(database: Database, older: Callable[[str], bool], anew: Callable[[str, str], str]) -> Renewed:
    """Makes every envelope anew that is `older`; `anew` takes one and its purpose and raises ValueError for one that no
    key opens. Looks until nothing is left. Raises Problem(transient) where others change the same all the time.
    """
    total = 0
    for _ in range(PASSES):
        done = Renewed()
        missed = sum(_renewed(database, place, older, anew, done) for place in PLACES)
        total += done.count
        if not done.count and not missed:
            return Renewed(total, done.lost)
    raise problem("transient", "Others change the same documents all the time. Run it again.")


def _renewed(
    database: Database, place: Place, older: Callable[[str], bool], anew: Callable[[str, str], str], done: Renewed
) -> int:
    """Makes those of one place anew; how many documents were changed by another meanwhile."""
    collection, missed = database.collection(place.collection), 0
    with translated():
        for document in collection.find({place.field: {"$exists": True}}, {place.field: 1}):
            before, made, lost = document[place.field], Renewed(), Renewed()

            def one(text: str, made: Renewed = made, lost: Renewed = lost) -> str:
                if not older(text):
                    return text
                try:
                    fresh = anew(text, place.purpose)
                except ValueError:
                    lost.count += 1
                    return text
                made.count += 1
                return fresh

            after = _walked(before, one)
            if lost.count and len(done.lost) < MOST_LOST:
                done.lost.append(f"{place.collection}/{document['_id']}")
            if made.count:
                changes: dict[str, Any] = {"$set": {place.field: after}}
                if document["_id"] == SIGNING_KEYS:  # whoever rotates them looks whether this number has moved
                    changes["$inc"] = {"n": 1}
                written = collection.update_one({"_id": document["_id"], place.field: before}, changes)
                done.count += made.count if written.matched_count else 0
                missed += not written.matched_count
    return missed


def _walked(value: Any, one: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return one(value)
    if isinstance(value, Mapping):
        return {name: _walked(each, one) for name, each in value.items()}
    return [_walked(each, one) for each in value] if isinstance(value, list) else value
