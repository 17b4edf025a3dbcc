"""The audit records of one's own clients, searched on the registry, wherever they were written. FHIR R4: auditevent.

A record lies once, with the organization whose data it is about. Its private part names the client and the organization
that has it, written by the recorder alone: a record that somebody posts cannot get into another's view by naming a
client of theirs. See docs/decisions/0005.
"""

from __future__ import annotations

from dataclasses import replace

from fhirserver.auth.access import Access, Own, everything
from fhirserver.auth.layers import Alternatives, Layer
from fhirserver.interactions.model import Request, Server
from fhirserver.rules.model import target
from fhirserver.search.query import Ids
from fhirserver.store import owned
from fhirserver.store.model import REGISTRY, Stored
from fhirserver.store.search import compile_search, find, referrers

TYPE = "AuditEvent"
MOST_CLIENTS = 1_000
"""Whose records are found while those of an older installation are not yet known by their owner."""


def with_own_events(server: Server, request: Request, access: Access) -> Access:
    """The access for a search of audit records: on the registry, of a client or user, one that sees their own
    clients' records of every organization and no others; else the access as it is.
    """
    principal = request.principal
    own = principal.kind in ("client", "user") and not principal.operator
    if request.organization != REGISTRY or request.type != TYPE or not own:
        return access
    return replace(access, own=_own(server, request), layers=tuple(map(_opened, access.layers)))


def own_event(server: Server, request: Request, access: Access) -> Stored | None:
    """The audit record of the id asked for, read on the registry by somebody whose own client's it is; else None."""
    if request.type != TYPE or not request.id:
        return None
    narrowed = with_own_events(server, request, access)
    clauses = narrowed.clauses(TYPE, "r")
    if narrowed.own is None or clauses is None:
        return None
    theirs = replace(everything(REGISTRY), own=narrowed.own)
    search = compile_search(server.store, theirs, TYPE, [Ids(frozenset({request.id})), *clauses], request.session)
    found = find(server.store, search, (), 1, session=request.session).matches if search else ()
    return found[0] if found else None


def _own(server: Server, request: Request) -> Own:
    """Whose records: of the organizations that a user has a role in, of a client itself; of one client where one is
    asked for.
    """
    principal, named = request.principal, _named(request)
    clients = frozenset({named}) if named else None
    if principal.kind == "client":
        # Its owner of now, not that of when its token was issued: an id may have been registered anew by another one.
        client = server.store.deciding("ClientApplication", principal.id)
        owner = target(client.resource().get("managingOrganization"), "Organization") if client else ""
        owners, clients = frozenset({owner}), frozenset({principal.id})
    else:
        owners = frozenset(principal.roles)
    return Own(owners, clients) if _settled(server) else Own(None, _managed(server, request, owners, clients))


def _settled(server: Server) -> bool:
    """Whether every record has its owner. True for good once it is."""
    known = server.caches.get("owners") or owned.known(server.store.database)
    server.caches["owners"] = known
    return bool(known)


def _managed(
    server: Server, request: Request, owners: frozenset[str], clients: frozenset[str] | None
) -> frozenset[str]:
    """Those of the clients - of all, if None - that these organizations have now."""
    if clients is not None and request.principal.kind == "client":
        return clients
    targets = [f"Organization/{id}" for id in owners]
    known = referrers(
        server.store, everything(REGISTRY), "ClientApplication", "managing-organization", targets, MOST_CLIENTS,
        request.session,
    )  # fmt: skip
    found = frozenset(version.id for version in known)
    return found if clients is None else found & clients


def _named(request: Request) -> str:
    """The client whose records alone are asked for, by the identifier that the recorder gives it; "" for several."""
    asked = [value for name, value in request.query if name == "agent:identifier"]
    client = asked[0].removeprefix("ClientApplication/") if len(asked) == 1 else ""
    return client if asked and asked[0] != client and client.replace("-", "").isalnum() else ""


def _opened(layer: Layer) -> Layer:
    """The role's layer, which lets nothing of the type through, open for it: the clients narrow instead."""
    if layer.name != "role":
        return layer

    def permits(type_: str, letter: str) -> Alternatives:
        return () if type_ == TYPE and letter in "rs" else layer.permits(type_, letter)

    return Layer(layer.name, permits, layer.refusal)
