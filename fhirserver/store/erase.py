"""Takes an organization's data out of the database, versions and all: for sandboxes, whose data are nobody's.

The audit records stay: they are sealed into a chain, and say what was done there.
"""

from __future__ import annotations

import re

from fhirserver.store.database import SEALED, Database, translated


def erase(database: Database, organization: str) -> int:
    """Deletes every version of every resource of an organization but its AuditEvents, and the files of its exports; how
    many there were. Doing it again, or after half of it, does the rest.
    """
    # A range of `_id`, which begins with the organization: no other index is needed.
    theirs = {"_id": {"$regex": f"^{re.escape(organization)}/"}}
    total = 0
    with translated():
        names = database.raw.list_collection_names(
            filter={"name": {"$regex": "^([A-Z][A-Za-z]*(\\.history)?|exports(\\.files)?)$"}}
        )
        for name in sorted(names):
            if name.partition(".")[0] != SEALED:
                total += database.collection(name).delete_many(theirs).deleted_count
    return total
