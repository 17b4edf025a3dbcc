"""What somebody may do on a base, decided with the client, its authorization and the policies as the database has them
now: whoever is disabled, or loses an authorization, is refused on the next call whatever the token says.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import replace
from functools import lru_cache
from typing import Any

from fhirserver.auth import policies
from fhirserver.auth.access import Access, decide, everything
from fhirserver.auth.policies import Policy
from fhirserver.auth.principal import Principal
from fhirserver.auth.sandbox import sandbox_of
from fhirserver.exchange import sandbox
from fhirserver.exchange.guests import guest_of
from fhirserver.fhir import Resource
from fhirserver.fhir.problem import problem
from fhirserver.interactions.model import Request, Server
from fhirserver.interactions.visiting import visitor
from fhirserver.rules.authorization import TYPE, authorization_id
from fhirserver.store import shelf
from fhirserver.store.model import REGISTRY, Stored

MOST_ACCESSES = 2_000
MOST_ANSWERS = 500


class Accesses:
    """Decides with the client and authorization as the database has them now; what is compiled from them is kept by
    version.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Any, ...], Access] = OrderedDict()
        self._lock = threading.Lock()

    def access(self, server: Server, principal: Principal, organization: str, request: Request | None = None) -> Access:
        """The Access of a principal on a base, for one request alone if that is given. Raises Problem: login,
        forbidden, not-found for a base that is not there.
        """
        server.refresh()
        principal = visitor(server, principal, organization)
        client, authorization = _granted(server, principal, organization)
        # Whoever is nobody is told so, not which organizations there are.
        if organization != REGISTRY and authorization is None and principal.kind != "anonymous":
            require_organization(server, organization)
        guest = guest_of(server, principal, organization, request)
        key = (
            principal.token or f"{principal.kind} {principal.id}",
            organization,
            server.definitions.generation,
            client.version if client else 0,
            authorization.version if authorization else 0,
            guest,
        )
        with self._lock:
            kept = self._kept.get(key)
        if kept is not None and kept.principal == principal:
            return kept
        access = decide(
            principal,
            organization,
            definitions=server.definitions,
            client=client.resource() if client else None,
            authorization=authorization.resource() if authorization else None,
            policies=_policies(server),
            guest=guest,
        )
        # The layers are pure: what each says of a type and a letter is worked out once.
        layers = (replace(layer, permits=lru_cache(MOST_ANSWERS)(layer.permits)) for layer in access.layers)
        access = replace(access, layers=tuple(layers))
        with self._lock:
            self._kept[key] = access
            while len(self._kept) > MOST_ACCESSES:
                self._kept.popitem(last=False)
        return access


def _granted(server: Server, principal: Principal, organization: str) -> tuple[Stored | None, Stored | None]:
    """The client that asks, or that a user asks through, and what the organization has granted it, as they are now."""
    id = principal.id if principal.kind == "client" else principal.client
    if not id:
        return None, None
    client = server.store.deciding("ClientApplication", id)
    if organization == REGISTRY:
        return client, None
    asked = authorization_id(id, organization)
    authorization = server.store.deciding(TYPE, asked)
    if authorization is None and client and organization == sandbox_of(id) and _tries(client.resource()):
        sandbox.ensure(server, client.resource())
        authorization = server.store.deciding(TYPE, asked)
    return client, authorization


def _policies(server: Server) -> tuple[Policy, ...]:
    """The AccessPolicies in force, kept with the generation they were read in: none read late replaces a newer one."""
    generation = server.definitions.generation
    kept: tuple[int, tuple[Policy, ...]] | None = server.caches.get(policies.TYPE)
    if kept is None or kept[0] != generation:
        written = shelf.resources(server.store.database, policies.TYPE, {})
        found = policies.in_force(written, server.definitions)
        kept = server.caches[policies.TYPE] = (generation, found)
    return kept[1]


def _tries(client: Resource) -> bool:
    """Whether a client has a sandbox, and may use it."""
    return client.get("kind") == "test" and client.get("active") is not False


def require_organization(server: Server, organization: str) -> None:
    """Raises Problem(not-found) unless there is such a provider organization."""
    known: set[str] = server.caches.setdefault("organizations", set())
    if organization in known:
        return
    found = server.store.live(everything(REGISTRY), "Organization", organization)
    if found is None:
        raise problem("not-found", f"There is no organization {organization[:64]} here.")
    known.add(organization)
