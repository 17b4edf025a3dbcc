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
from fhirserver.search.query import Ids, References
from fhirserver.store.model import REGISTRY, Stored
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


def own_event(server: Server, request: Request, access: Access) -> Stored | None:
    """The audit record of the id asked for, read on the registry by somebody whose own client's it is; else None."""
    if request.type != TYPE or not request.id:
        return None
    narrowed = with_own_events(server, request, access)
    clauses = narrowed.clauses(TYPE, "r")
    if not narrowed.clients or clauses is None:
        return None
    theirs = replace(everything(REGISTRY), clients=narrowed.clients)
    search = compile_search(server.store, theirs, TYPE, [Ids(frozenset({request.id})), *clauses], request.session)
    found = find(server.store, search, (), 1, session=request.session).matches if search else ()
    return found[0] if found else None


def _clients(server: Server, request: Request) -> frozenset[str]:
    """The clients of the organizations that a user has a role in."""
    own = frozenset(f"Organization/{id}" for id in request.principal.roles)
    named = _named(request)
    if named:
        client = server.store.deciding("ClientApplication", named)
        owner = client.resource().get("managingOrganization", {}).get("reference", "") if client else ""
        return frozenset({named}) if owner in own else frozenset()
    clause = References("managing-organization", own)
    search = compile_search(server.store, everything(REGISTRY), "ClientApplication", [clause], request.session)
    found = find(server.store, search, (), MOST_CLIENTS, session=request.session).matches if search and own else ()
    return frozenset(version.id for version in found)


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
