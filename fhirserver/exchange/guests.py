"""What a person of an application provider has at another's organization: the subscriptions of the clients that his own
organization manages and that asked to be let in there. Nothing of the data; see docs/subscriptions.md.
"""

from __future__ import annotations

from fhirserver.auth.access import NO_GUEST, Guest, everything
from fhirserver.auth.principal import Principal
from fhirserver.auth.sandbox import is_sandbox
from fhirserver.interactions.model import Server
from fhirserver.rules.authorization import APPROVED, TYPE
from fhirserver.rules.model import target
from fhirserver.search.query import References
from fhirserver.store.model import REGISTRY
from fhirserver.store.search import by_references, compile_search, find

MOST_CLIENTS = 1_000


def guest_of(server: Server, principal: Principal, organization: str) -> Guest:
    """The guest that this principal is in an organization, as the registry has it now: nothing for whoever is no
    user, or has a role there.
    """
    stranger = principal.kind == "user" and principal.roles and organization not in principal.roles
    if not stranger or organization == REGISTRY or is_sandbox(organization):
        return NO_GUEST
    seen, written, asking = set(), set(), set()
    for client, owner, status in _asked(server, frozenset(principal.roles), organization):
        seen.add(client)
        if principal.admin(owner):
            written.add(client)
            if status == APPROVED:
                asking.add(client)
    return Guest(frozenset(seen), frozenset(written), frozenset(asking))


def is_guest(principal: Principal, organization: str) -> bool:
    """Whether what this user may do in the organization comes of being a guest."""
    return principal.kind == "user" and organization != REGISTRY and organization not in principal.roles


def _asked(server: Server, owners: frozenset[str], organization: str) -> list[tuple[str, str, str]]:
    """The clients of these owners that the organization knows: id, owner, status of the authorization. A client that
    has been given to another owner since is that one's.
    """
    clauses = [
        References("provider", frozenset(f"Organization/{owner}" for owner in owners)),
        References("organization", frozenset({f"Organization/{organization}"})),
    ]
    search = compile_search(server.store, everything(REGISTRY), TYPE, clauses, None)
    found = find(server.store, search, (), MOST_CLIENTS).matches if search else ()
    authorizations = {target(each["client"], "ClientApplication"): each for each in (v.resource() for v in found)}
    names = [f"ClientApplication/{id}" for id in authorizations]
    clients = []
    for version in by_references(server.store, everything(REGISTRY), names):
        client, authorization = version.resource(), authorizations[version.id]
        owner = target(client.get("managingOrganization"), "Organization")
        if owner in owners and authorization.get("requested", "") >= client.get("registered", ""):
            clients.append((version.id, owner, authorization["status"] if client.get("active") is not False else ""))
    return clients
