"""The decision: who may do what with which type in one organization, as search clauses for the database filter.

Nothing is permitted but by an approved ClientAuthorization (a client) or a role (a user); scopes cap it; policies
narrow it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from fhirserver.auth.layers import (
    Alternatives,
    Layer,
    Row,
    closed_layer,
    insufficient,
    scope_layer,
    table_layer,
)
from fhirserver.auth.policies import Policy, facts_of
from fhirserver.auth.principal import SYSTEM, Principal
from fhirserver.auth.registry import registry_rows
from fhirserver.auth.sandbox import is_sandbox, require_same_world
from fhirserver.auth.tokens import refused
from fhirserver.fhir import Resource
from fhirserver.fhir.definitions import Definitions
from fhirserver.fhir.problem import problem
from fhirserver.search.query import Clause, Leaf, both, either
from fhirserver.search.types import token

REGISTRY = "registry"

CLIENT_SYSTEM = "https://fhirserver.example/fhir/NamingSystem/client-id"
"""The identifier system of client ids: what a Reference to a ClientApplication from another base carries beside its
URL.
"""

OWNED = ("Subscription", "NotificationDelivery", "BulkExport")
"""The types on an organization's base of which a client sees only its own, by the identifier in `client`, and
the people of its own organization only those of their clients."""

ABOUT_CLIENT = ("ClientApplication", "ClientAuthorization", "Communication")
"""The types of the registry whose resources about a client that client may read without a scope for it."""

INTERNAL = ("InboundMessage", "User")
"""The types that no client sees, however wide its scopes: they belong to the organization's own people. (A message may
be sent in by a client: that is a create.)"""


@dataclass(frozen=True, slots=True)
class Guest:
    """The clients of a user's own organization that asked another one to be let in: of which he may see the
    subscriptions there, write them (an administrator), and ask for new ones (an administrator; those approved now).
    """

    seen: frozenset[str] = frozenset()
    written: frozenset[str] = frozenset()
    asking: frozenset[str] = frozenset()

    def rows(self) -> Iterable[Row]:
        """The table of rights."""
        yield Row(OWNED, "rs", _owned_by(self.seen))
        if self.written:
            yield Row(("Subscription",), "ud", _owned_by(self.written))
        if self.asking:
            yield Row(("Subscription",), "c", _owned_by(self.asking))
            yield Row(("SubscriptionTopic",), "rs")


NO_GUEST = Guest()


NOBODY = frozenset({""})
"""The owners of what no organization manages."""


@dataclass(frozen=True, slots=True)
class Own:
    """Audit records by whose doing they are: of the clients that these organizations (None: any; NOBODY: none) have, of
    these clients (None: any) alone.
    """

    owners: frozenset[str] | None
    clients: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Access:
    """What a principal may do in one organization. A required argument of every read of the store."""

    organization: str
    principal: Principal
    layers: tuple[Layer, ...] = ()
    own: Own | None = None
    """Where set, a search of AuditEvents is over these, in whatever organization they lie."""

    policies: tuple[Policy, ...] = ()
    """The AccessPolicies among the layers, and what they see of the caller."""
    seen: Mapping[str, Any] = field(default_factory=dict)

    def about(self, request: Callable[[], Mapping[str, Any]]) -> Access:
        """The access for one request: policies may look at it. `request` tells of it, where there is any policy."""
        if not self.policies:
            return self
        seen = {**self.seen, "request": {**self.seen["request"], **request()}}
        kept = [layer for layer in self.layers if layer.name != "policy"]
        return replace(self, layers=(*kept, *(policy.layer(seen) for policy in self.policies)))

    def clauses(self, type_: str, letter: str, resource: Resource | None = None) -> tuple[Clause, ...] | None:
        """None: nothing of the type for the letter; `()`: everything; else clauses that must all hold for a
        resource. `resource` is what is to be written, once that is known.
        """
        found: list[Clause] = []
        for layer in self.layers:
            judges = layer.judges if resource is not None else None
            alternatives = judges(type_, letter, resource) if judges and resource else layer.permits(type_, letter)
            if alternatives is None:
                return None
            found += _all(alternatives)
        return tuple(found)

    def require(self, type_: str, letter: str) -> tuple[Clause, ...]:
        """The clauses, where something is permitted. Else raises Problem: login for nobody, forbidden from the layer
        at fault.
        """
        for layer in self.layers:
            if layer.permits(type_, letter) is None:
                raise insufficient(layer, type_, letter, self.principal.kind)
        return self.clauses(type_, letter) or ()

    def explain(self, type_: str, letter: str) -> list[tuple[str, bool, str]]:
        """Every layer's answer: its name, whether it permits anything, and the refusal where it does not."""
        answers = [(layer, layer.permits(type_, letter) is not None) for layer in self.layers]
        return [(layer.name, said, "" if said else layer.refusal(type_, letter)) for layer, said in answers]


def everything(organization: str) -> Access:
    """The access of the server itself: jobs, the relay, intake of messages."""
    return Access(organization, SYSTEM)


def _all(alternatives: tuple[tuple[Clause, ...], ...]) -> tuple[Clause, ...]:
    if len(alternatives) < 2:
        return alternatives[0] if alternatives else ()
    return (either(*(both(*one) for one in alternatives)),)


def decide(
    principal: Principal,
    organization: str,
    *,
    definitions: Definitions,
    authorization: Resource | None = None,
    client: Resource | None = None,
    policies: Iterable[Policy] = (),
    guest: Guest = NO_GUEST,
) -> Access:
    """The access of a principal in an organization (`registry` or an Organization's id).

    `client` is the ClientApplication the principal is or acts through, `authorization` that client's
    ClientAuthorization for the organization; both as the database has them now. `policies` are those of the
    installation; operators are not subject to any; `guest` is what a user without a role here has of his own
    organization's clients. Raises Problem: login (401) for nobody, forbidden (403) saying
    whether the client, its authorization or a role is missing.
    """
    if principal.kind == "system":
        return everything(organization)
    if principal.kind == "anonymous":
        raise _login()
    _require_audience(principal, organization)
    if principal.client or principal.kind == "client":
        _require_active(client, principal)
        if authorization and client and authorization.get("requested", "") < client.get("registered", ""):
            authorization = None  # it was about a client of the same id that has been deleted since
    capped = _scope_layers(principal, client, definitions)
    if client is not None and organization != REGISTRY:
        require_same_world(client, organization)
        if authorization and is_sandbox(organization):
            authorization = {**authorization, "scope": client.get("scope", "")}  # nobody else is to decide on it
    if organization == REGISTRY:
        who = principal.name or principal.id
        capped = [_but_own(layer) for layer in capped] if principal.kind == "client" else capped
        permitted = [table_layer("role", registry_rows(principal), f"{principal.kind.title()} {who}")]
    else:
        permitted = _permitted(principal, organization, authorization, definitions, guest)
    owner = str((client or {}).get("managingOrganization", {}).get("reference", "")).rpartition("/")[2]
    mine = () if _operates(principal) else tuple(p for p in policies if p.concerns(principal, organization, owner))
    seen = facts_of(principal, organization, client) if mine else {}
    layers = (*capped, *permitted, *(policy.layer(seen) for policy in mine))
    return Access(organization, principal, layers, policies=mine, seen=seen)


def _operates(principal: Principal) -> bool:
    return principal.operator or principal.kind == "operator"


def _login() -> Exception:
    return problem(
        "login",
        "This needs an access token: send 'Authorization: Bearer <token>', got from the token endpoint.",
        headers={"WWW-Authenticate": 'Bearer realm="fhir"'},
    )


def _require_audience(principal: Principal, organization: str) -> None:
    """A token that names a FHIR base is for that base; one that names the installation alone is for all of its
    bases.
    """
    here = "/1/health/fhir/4" if organization == REGISTRY else f"/1/health/organizations/{organization}/fhir/4"
    bases = [audience for audience in principal.audience if "/1/health/" in audience]
    if bases and not any(base.endswith(here) for base in bases):
        raise refused("The access token is for another base.")


def _require_active(client: Resource | None, principal: Principal) -> None:
    if client is None or _older(principal, client):
        raise refused("The client of this access token does not exist any more.")
    if client.get("active") is False:
        raise problem("forbidden", f"The client {client.get('name', '')} is not active: its owner has switched it off.")


def _older(principal: Principal, client: Resource) -> bool:
    """Whether the token is older than the client: then it was issued to one of the same id, deleted since."""
    if principal.client_since:
        return bool(principal.client_since != client.get("registered"))
    if not principal.issued or not client.get("registered"):
        return False
    return principal.issued < int(datetime.fromisoformat(client["registered"]).timestamp())


def _scope_layers(principal: Principal, client: Resource | None, definitions: Definitions) -> list[Layer]:
    if principal.kind == "user" and not principal.client and not principal.scopes:
        return []  # a person in a session of our own, through no application: the role alone decides
    layers = [scope_layer("scope", principal.scopes, principal, definitions, "The scope of the access token")]
    if client is not None:
        registered = client.get("scope", "")
        layers.append(scope_layer("scope", registered, principal, definitions, "The scope that the client registered"))
    return layers


def _but_own(layer: Layer) -> Layer:
    """The scope layer with an exception: a client may see itself and what was decided about it, whatever its scopes."""

    def permits(type_: str, letter: str) -> Alternatives:
        return () if type_ in ABOUT_CLIENT and letter in "rs" else layer.permits(type_, letter)

    return Layer(layer.name, permits, layer.refusal)


def _permitted(
    principal: Principal, organization: str, authorization: Resource | None, definitions: Definitions, guest: Guest
) -> list[Layer]:
    layers = []
    if principal.kind == "client" or principal.client:
        layers.append(_authorization(principal, organization, authorization, definitions))
    if principal.kind == "client":
        layers.append(_own(principal))
    if principal.kind == "user":
        layers.append(_role(principal, organization, guest))
    if principal.kind == "operator" and principal.organization != organization:
        raise problem("forbidden", "This operator token was issued for another organization.")
    return layers


def _authorization(
    principal: Principal, organization: str, authorization: Resource | None, definitions: Definitions
) -> Layer:
    client = principal.client or principal.id
    if authorization is None:
        named = _named(principal.name if principal.kind == "client" else "", client)
        raise problem(
            "forbidden",
            f"Client {named} is not authorized by organization {organization}: request it with"
            f" POST ClientApplication/{client}/$request-authorization on the registry.",
        )
    status, named = authorization.get("status", ""), _named(authorization.get("clientName"), client)
    by = _named(authorization.get("organizationName"), organization)
    if status != "approved":
        raise problem(
            "forbidden",
            f"Client {named} is not authorized by organization {by}: its ClientAuthorization is {status}.",
        )
    return scope_layer(
        "authorization",
        authorization.get("scope", ""),
        principal,
        definitions,
        f"The ClientAuthorization of organization {by}",
    )


def _named(name: object, id: str) -> str:
    """An id with the name that people know it by."""
    return f"{name} ({id})" if name and name != id else id


def _own(principal: Principal) -> Layer:
    """Narrows a client to what is its own among the types that clients share an organization's base for."""

    own = _owned_by((principal.id,))

    def permits(type_: str, letter: str) -> Alternatives:
        if type_ in INTERNAL and not (type_ == "InboundMessage" and letter == "c"):
            return None
        if type_ not in OWNED:
            return ()
        return ((own,),)

    return Layer("role", permits, lambda type_, letter: f"{type_} is not for clients.")


def _owned_by(clients: Iterable[str]) -> Clause:
    """The clause of what belongs to one of these clients, among the OWNED types."""
    return Leaf(
        "client", "reference", tuple((token.stored(CLIENT_SYSTEM, id),) for id in sorted(clients)), "identifier"
    )


def _role(principal: Principal, organization: str, guest: Guest) -> Layer:
    role = principal.roles.get(organization)
    who = f"User {principal.name or principal.id}"
    if role is None and guest.seen:
        return table_layer("role", guest.rows(), f"{who}, a guest with clients of his own organization,")
    if role is None:
        raise problem("forbidden", f"{who} has no role in organization {organization}.")
    letters = {"admin": "cruds", "member": "rs"}.get(role)
    if letters is None:
        return closed_layer("role", f"{who} has the role {role}, which permits nothing here.")
    return table_layer("role", [Row(("*",), letters)], f"{who}, {role} of organization {organization},")
