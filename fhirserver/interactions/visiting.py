"""Who a principal is on the base he asks: at a sandbox, a user has the role that he has at its client's owner."""

from __future__ import annotations

from dataclasses import replace

from fhirserver.auth.access import everything
from fhirserver.auth.principal import Principal
from fhirserver.auth.sandbox import is_sandbox
from fhirserver.interactions.model import Server
from fhirserver.rules.model import REGISTRY, target


def visitor(server: Server, principal: Principal, organization: str) -> Principal:
    """The principal at a sandbox: a user has the role there that he has in the organization that owns its client."""
    if principal.kind != "user" or not is_sandbox(organization):
        return principal
    found = server.store.live(everything(REGISTRY), "Organization", organization)
    id = str(found.private.get("client", "")) if found else ""
    client = server.store.deciding("ClientApplication", id) if id else None
    owner = target(client.resource().get("managingOrganization"), "Organization") if client else ""
    role = principal.roles.get(owner)
    return replace(principal, roles={**principal.roles, organization: role}) if role else principal
