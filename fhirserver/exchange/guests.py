"""What a person of an application provider has at another's organization: the subscriptions of the clients that his own
organization manages and that asked to be let in there. Nothing of the data; see docs/subscriptions.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fhirserver.auth.access import NO_GUEST, OWNED, Guest, everything
from fhirserver.auth.principal import Principal
from fhirserver.auth.sandbox import is_sandbox
from fhirserver.fhir import Resource
from fhirserver.interactions.model import Request, Server
from fhirserver.rules.authorization import APPROVED, TYPE, authorization_id
from fhirserver.rules.model import target
from fhirserver.rules.subscription import owner as client_of
from fhirserver.search.query import References
from fhirserver.store.model import REGISTRY, Stored
from fhirserver.store.search import by_references, compile_search, find

MOST_CLIENTS = 1_000
"""Whose resources a list shows; what is about one client is found among any number."""
_Asked = tuple[str, str, str]
"""A client's id, its owner, the status of its authorization ("" where it is switched off)."""


def guest_of(server: Server, principal: Principal, organization: str, request: Request | None = None) -> Guest:
    """The guest that this principal is in an organization, as the registry has it now: nothing for whoever is no
    user, or has a role there. Where the request is about one client of his, the guest with that one alone.
    """
    stranger = principal.kind == "user" and principal.roles and organization not in principal.roles
    if not stranger or organization == REGISTRY or is_sandbox(organization):
        return NO_GUEST
    owners = frozenset(principal.roles)
    named = _named(server, organization, request) if request else ""
    # Who names a client that is none of his hears what he would hear of any other, so his own are looked for then too.
    found = _one(server, owners, organization, named) or _asked(server, owners, organization)
    seen, written, asking = set(), set(), set()
    for client, owner, status in found:
        seen.add(client)
        if principal.admin(owner):
            written.add(client)
            if status == APPROVED:
                asking.add(client)
    return Guest(frozenset(seen), frozenset(written), frozenset(asking))


def is_guest(principal: Principal, organization: str) -> bool:
    """Whether what this user may do in the organization comes of being a guest."""
    return principal.kind == "user" and organization != REGISTRY and organization not in principal.roles


def _named(server: Server, organization: str, request: Request) -> str:
    """The client that a request is about: that whose resource it names, sends or searches for; "" for several."""
    if request.type not in OWNED:
        return ""
    if request.id and request.interaction != "create":
        return _client_of(server, organization, request.type, request.id)
    if isinstance(request.body, dict) and request.body.get("resourceType") in OWNED:
        return client_of(request.body)
    asked = dict(request.query)
    client, subscription = (asked.get(name, "") for name in ("client:identifier", "subscription"))
    if len(asked) < len(request.query) or "," in client + subscription:
        return ""  # more than one may be meant
    if subscription:
        return _client_of(server, organization, "Subscription", subscription.rpartition("/")[2])
    return client.rpartition("|")[2]


def _client_of(server: Server, organization: str, type: str, id: str) -> str:
    """The client whose resource that is."""
    found = server.store.live(everything(organization), type, id)
    held = found.resource() if found else {}
    return str(held.get("client", {}).get("identifier", {}).get("value", "")) or client_of(held)


def _one(server: Server, owners: frozenset[str], organization: str, id: str) -> list[_Asked]:
    """The client of this id, if it is of these owners and the organization knows it."""
    authorization = server.store.deciding(TYPE, authorization_id(id, organization)) if id else None
    client = server.store.deciding("ClientApplication", id) if authorization else None
    return list(_known(owners, [(client, authorization.resource())])) if client and authorization else []


def _asked(server: Server, owners: frozenset[str], organization: str) -> list[_Asked]:
    """The clients of these owners that the organization knows."""
    clauses = [
        References("provider", frozenset(f"Organization/{owner}" for owner in owners)),
        References("organization", frozenset({f"Organization/{organization}"})),
    ]
    search = compile_search(server.store, everything(REGISTRY), TYPE, clauses, None)
    found = find(server.store, search, (), MOST_CLIENTS).matches if search else ()
    authorizations = {target(each["client"], "ClientApplication"): each for each in (v.resource() for v in found)}
    names = [f"ClientApplication/{id}" for id in authorizations]
    clients = by_references(server.store, everything(REGISTRY), names)
    return list(_known(owners, [(client, authorizations[client.id]) for client in clients]))


def _known(owners: frozenset[str], found: Iterable[tuple[Stored, Resource]]) -> Iterator[_Asked]:
    """Those of the clients, each with its authorization, that are these owners': one that has been given to another
    owner since is that one's.
    """
    for version, authorization in found:
        client = version.resource()
        owner = target(client.get("managingOrganization"), "Organization")
        if owner in owners and authorization.get("requested", "") >= client.get("registered", ""):
            yield version.id, owner, authorization["status"] if client.get("active") is not False else ""
