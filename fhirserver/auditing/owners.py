"""Which organization's a record is: that which manages the client whose doing it was, for its own people's eyes.

It stands in the private part of the record, beside the client, written by the recorder alone; `interactions.own_events`
searches by it, and `exchange.giving` changes it. See docs/decisions/0005.
"""

from __future__ import annotations

from collections.abc import Collection

from fhirserver.interactions.model import Server
from fhirserver.rules.model import REGISTRY, target
from fhirserver.store import owned
from fhirserver.store.search import index_values

CLIENT = "ClientApplication"
PARAMETER = "managing-organization"
MOST_ASKED = 500
_PREFIX = "Organization/"


def of_clients(server: Server, clients: Collection[str]) -> dict[str, str]:
    """Client -> the organization that manages it now; those that are not there are left out."""
    ids = sorted(id for id in clients if id)
    if len(ids) == 1:
        client = server.store.deciding(CLIENT, ids[0])
        owner = target(client.resource().get("managingOrganization"), "Organization") if client else ""
        return {ids[0]: owner} if owner else {}
    known = index_values(server.store, REGISTRY, CLIENT, ids, [PARAMETER]) if ids else {}
    found = {}
    for id, values in known.items():
        for text in values.get(PARAMETER, ()):
            if text.startswith(_PREFIX):
                found[id] = text.removeprefix(_PREFIX)
    return found


def begin(server: Server) -> None:
    """Once in the life of an installation: says of the records that were there before whose they are."""
    database = server.store.database
    if owned.known(database):
        return
    clients = owned.clients(database)
    for at in range(0, len(clients), MOST_ASKED):
        for id, owner in of_clients(server, clients[at : at + MOST_ASKED]).items():
            owned.give(database, id, owner)
    owned.note(database)
