"""When a client's secret or key was last used: kept in the private part of the client, beside its versions.

It is no version, no event and no audit record, and it is written at most once a minute for each secret, however many
processes there are.
"""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime, timedelta

from fhirserver.store.database import Database, Document, translated
from fhirserver.store.model import REGISTRY

EVERY = timedelta(minutes=1)
MOST_KNOWN = 10_000


class Uses:
    """The marks of one process; it knows what it has written itself, so that it asks the database once a minute."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: OrderedDict[tuple[str, str], datetime] = OrderedDict()

    def mark(self, client: str, hash: str, now: datetime) -> None:
        """Notes that a client has authenticated by the secret of this hash, or by a key where that is ""."""
        last = self._known.get((client, hash))
        if last is not None and now - last < EVERY:
            return
        self._known[(client, hash)] = now
        while len(self._known) > MOST_KNOWN:
            self._known.popitem(last=False)
        before = now - EVERY
        one: Document = {"_id": f"{REGISTRY}/{client}", "x": None}
        if hash:
            one["p.secrets"] = {"$elemMatch": {"hash": hash, "used": {"$not": {"$gt": before}}}}
            change: Document = {"$set": {"p.secrets.$.used": now}}
        else:
            one["p.used"] = {"$not": {"$gt": before}}
            change = {"$set": {"p.used": now}}
        with translated():
            self._database.collection("ClientApplication").update_one(one, change)
