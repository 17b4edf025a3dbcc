"""A client that was given to another organization takes the records of what it did along: who answers for it sees them.

Whoever has it no more sees none of them, as nothing else of it; see docs/decisions/0005.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fhirserver.auth.access import everything
from fhirserver.interactions.model import Server
from fhirserver.rules.model import REGISTRY, target
from fhirserver.store import owned
from fhirserver.store.errands import Errand
from fhirserver.store.model import Pending, Stored

ERRAND = "give-records"
CLIENT = "ClientApplication"


def errands_of(pending: Pending) -> Iterator[Errand]:
    """An errand for each change of a client on the registry."""
    for change in pending.event.get("changes", ()):
        if pending.organization == REGISTRY and change["type"] == CLIENT and change["action"] == "update":
            facts = {"id": change["id"], "version": change["version"]}
            yield Errand(f"{ERRAND}/{change['id']}/{change['version']}", ERRAND, facts)


def work(server: Server, facts: Mapping[str, Any]) -> None:
    """Gives the records of a client that was given away to whose it is now."""
    id, whole = facts["id"], everything(REGISTRY)
    before, after = (_owner(server.store.vread(whole, CLIENT, id, facts["version"] - step)) for step in (1, 0))
    now = _owner(server.store.read(whole, CLIENT, id))
    if now and before != after:
        owned.give(server.store.database, id, now)


def _owner(client: Stored | None) -> str:
    return (
        ""
        if client is None or client.deleted
        else target(client.resource().get("managingOrganization"), "Organization")
    )
