"""The audit records of one's own clients, searched on the registry, wherever they were written. FHIR R4: auditevent.

A record lies once, with the organization whose data it is about. Its private part names the client, written by the
recorder alone: a record that somebody posts cannot get into another's view by naming a client of theirs. See
docs/decisions/0005.
"""

from __future__ import annotations

from dataclasses import replace

from fhirserver.auth.access import Access, everything
from fhirserver.auth.layers import Alternatives, Layer
from fhirserver.interactions.model import Request, Server
from fhirserver.search.query import References
from fhirserver.store.model import REGISTRY
from fhirserver.store.search import compile_search, find

TYPE = "AuditEvent"
MOST_CLIENTS = 1_000


def with_own_events(server: Server, request: Request, access: Access) -> Access:
    """The access for a search of audit records: on the registry, of a client or user, one that sees their own
    clients' records of every organization and no others; else the access as it is.
    """
    principal = request.principal
    own = principal.kind in ("client", "user") and not principal.operator
    if request.organization != REGISTRY or request.type != TYPE or not own:
        return access
    clients = frozenset({principal.id}) if principal.kind == "client" else _clients(server, request)
    return replace(access, clients=clients, layers=tuple(map(_opened, access.layers)))


def _clients(server: Server, request: Request) -> frozenset[str]:
    """The clients of the organizations that a user has a role in."""
    own = frozenset(f"Organization/{id}" for id in request.principal.roles)
    clause = References("managing-organization", own)
    search = compile_search(server.store, everything(REGISTRY), "ClientApplication", [clause], request.session)
    found = find(server.store, search, (), MOST_CLIENTS, session=request.session).matches if search and own else ()
    return frozenset(version.id for version in found)


def _opened(layer: Layer) -> Layer:
    """The role's layer, which lets nothing of the type through, open for it: the clients narrow instead."""
    if layer.name != "role":
        return layer

    def permits(type_: str, letter: str) -> Alternatives:
        return () if (type_, letter) == (TYPE, "s") else layer.permits(type_, letter)

    return Layer(layer.name, permits, layer.refusal)
