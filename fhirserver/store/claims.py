"""What a resource claims for itself alone (`CLAIMS`), given to resources that were written before there were claims."""

from __future__ import annotations

from collections.abc import Callable

from pymongo import ASCENDING, errors

from fhirserver.fhir import Resource
from fhirserver.fhir.json import decode
from fhirserver.store.database import CLAIMS, Database, Document, translated
from fhirserver.store.model import REGISTRY
from fhirserver.store.text import plain


def claim(database: Database, type: str, claims: Callable[[Resource], list[str]]) -> list[str]:
    """Gives every resource of a type on the registry what it claims, the one that was made first before the others;
    it makes no versions. Answers the ids of those that get nothing, since another has it.
    """
    collection, refused = database.current(type), list[str]()
    with translated():
        found = collection.find({"o": REGISTRY, "x": None}, {"i": 1, "v": 1, "d": 1, f"p.{CLAIMS}": 1})
        for document in found.sort("_id", ASCENDING):
            wanted, held = claims(decode(plain(document["d"]))), document.get("p", {}).get(CLAIMS, [])
            if wanted == held:
                continue
            change: Document = {"$set": {f"p.{CLAIMS}": wanted}} if wanted else {"$unset": {f"p.{CLAIMS}": ""}}
            try:
                collection.update_one({"_id": document["_id"], "v": document["v"]}, change)
            except errors.DuplicateKeyError:
                refused.append(document["i"])
    return refused
