"""Access tokens: issued by this installation, read from Authorization headers, ended before their time. RFC 6750,
7617, 9068.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote_plus

from werkzeug.wrappers import Request as HttpRequest

from fhirserver.auth import scopes, tokens
from fhirserver.auth.keys import SigningKey, by_kid
from fhirserver.auth.principal import ANONYMOUS, Principal
from fhirserver.fhir import Resource
from fhirserver.fhir.instants import instant_text
from fhirserver.fhir.problem import Problem
from fhirserver.rules.client import secret_of
from fhirserver.rules.model import target
from fhirserver.rules.user import older, operator, roles
from fhirserver.store.attempts import Attempts
from fhirserver.store.kept import Kept

Private = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Tokens:
    """The issuing and reading of access tokens over plain values and a few functions of the composition root.

    `client` and `user` answer what the database holds now, None for what is absent or deleted. `keys` are the signing
    keys, the current one first. `matches` compares a secret with its keyed hash in constant time. `lifetime` is in
    seconds. `kept` holds what all processes must agree on; without it there is no revocation and no grant but
    client_credentials; `attempts` counts failures for all of them. `account` answers a User with its private part, for
    signing in; `organization` an Organization of the registry; `patients` a few (id, label) of an organization's
    patients for a text, as the user may see them; `create` stores a resource on the registry for somebody; `fetch`
    answers the JWK Set at a URL; `set_password` sets a password by a link.
    """

    issuer: str
    keys: Callable[[], Sequence[SigningKey]]
    client: Callable[[str], tuple[Resource, Private] | None]
    user: Callable[[str], Resource | None]
    matches: Callable[[str, str], bool]
    types: Callable[[], frozenset[str]]
    now: Callable[[], datetime]
    new_id: Callable[[], str]
    lifetime: int = 300
    cache: tokens.TokenCache = field(default_factory=tokens.TokenCache)
    kept: Kept | None = None
    attempts: Attempts | None = None
    account: Callable[[str], tuple[Resource, Private] | None] | None = None
    organization: Callable[[str], Resource | None] | None = None
    patients: Callable[[Principal, str, str], Sequence[tuple[str, str]]] | None = None
    fetch: Callable[[str, str], Mapping[str, Any]] | None = None
    used: Callable[[str, str, datetime], None] = lambda client, secret, now: None
    create: Callable[[Principal, Resource], Resource] | None = None
    set_password: Callable[[str, str, Mapping[str, Any]], bool] | None = None

    def issue(self, principal: Principal, lifetime: int | None = None, family: str = "") -> str:
        """An access token for this principal; `lifetime` in seconds where it is other than the usual.

        It is for the bases in the principal's `audience`, for all of them where there is none; ending the `family`
        ends it.
        """
        claims = tokens.claims_of(
            principal,
            issuer=self.issuer,
            audience=list(principal.audience) or self.issuer,
            now=self.now(),
            lifetime=lifetime or self.lifetime,
            token_id=self.new_id(),
        )
        return tokens.issue(self.keys()[0], {**claims, **({"family": family} if family else {})})

    def authenticate(self, http: HttpRequest) -> Principal:
        """Who the Authorization header of a request stands for; without one nobody in particular.

        Raises Problem: login (401) for credentials that are no good, throttled (429) after too many of them.
        """
        header = http.headers.get("Authorization")
        if not header:
            return ANONYMOUS
        scheme, _, credentials = header.strip().partition(" ")
        if scheme.lower() == "bearer":
            return self.principal(self.claims(credentials.strip()), http.path)
        if scheme.lower() == "basic":
            return self._basic(credentials.strip(), http.remote_addr or "")
        raise tokens.refused("The Authorization header must be 'Bearer <token>'.", error="")

    def claims(self, token: str) -> Mapping[str, Any]:
        """The claims of an access token that is in force. Raises Problem(login) for every other one."""
        now, keys = self.now(), self.keys()
        cache = self.cache.under(keys)
        claims = cache.get(token, now)
        if claims is None:
            claims = tokens.verify(by_kid(keys), token, self.issuer, now)
            cache.put(token, claims)
        if self.kept and self.kept.ended(*(claims[name] for name in ("jti", "family") if claims.get(name))):
            raise tokens.refused("The access token has been revoked.")
        return claims

    def principal(self, claims: Mapping[str, Any], path: str) -> Principal:
        """The principal of an access token on the base that `path` is of. Raises Problem(login) where it is for another
        base.
        """
        held = claims.get("aud", [])
        audience = [held] if isinstance(held, str) else held
        here = f"{self.issuer}{path}/"
        if self.issuer not in audience and not any(here.startswith(f"{base}/") for base in audience):
            raise tokens.refused("The access token is for another base.")
        if claims.get("kind") != "user":
            return tokens.principal_of(claims)
        return tokens.principal_of(claims, **person(self.holder(claims)))

    def holder(self, claims: Mapping[str, Any]) -> Resource:
        """The user of an access token. Raises Problem(login) where that one is not there any more, or not active."""
        user = self.user(str(claims["sub"]))
        issued, since = int(claims.get("iat", 0)), str(claims.get("user_since", ""))
        if user is None or user.get("active") is False or older(issued, user, since):
            raise tokens.refused("The user of this access token does not exist any more or is not active.")
        return user

    def standing(self, claims: Mapping[str, Any]) -> Resource | None:
        """The user of an access token, None for that of a client itself, where whoever it stands for is still there and
        active: what a FHIR base asks of every call, asked where there is none. Raises Problem(login).
        """
        if claims.get("client_id"):
            found = self.client(str(claims["client_id"]))
            gone = found is None or found[0].get("active") is False
            if gone or (found and claims.get("client_since", "") not in ("", found[0].get("registered"))):
                raise tokens.refused("The client of this access token does not exist any more or is not active.")
        return self.holder(claims) if claims.get("kind") == "user" else None

    def end(self, claims: Mapping[str, Any]) -> None:
        """Ends one access token before its time, for every process at once."""
        if self.kept:
            self.kept.end(claims["jti"], datetime.fromtimestamp(claims["exp"], UTC))

    def authenticated(self, id_: str, secret: str, address: str) -> tuple[Resource, Private] | None:
        """The active client with this id and secret, None for wrong ones; failures count against client and address.

        Raises Problem(throttled) with Retry-After where there were too many.
        """
        now = self.now()
        self.refuse_throttled(address, id_)
        found = self.client(id_)
        private = found[1] if found else {}
        same = secret_of(private, self.matches, secret, instant_text(now))
        if found is None or not same or found[0].get("active") is False:
            self.failed(address, id_)
            return None
        self.used(id_, same, now)
        return found

    def refuse_throttled(self, address: str, who: str, *, person: bool = False) -> None:
        """Raises Problem(throttled) with Retry-After where this address, or somebody there as `who`, or anybody as the
        person `who`, has failed too often.
        """
        if self.attempts:
            self.attempts.refuse(address, who, self.now(), person=person)

    def failed(self, address: str, who: str, *, person: bool = False) -> None:
        """Counts a failed attempt of an address as `who`: see `store.attempts`."""
        if self.attempts:
            self.attempts.failed(address, who, self.now(), person=person)

    def _basic(self, credentials: str, address: str) -> Principal:
        id_, secret = basic(credentials)
        found = self.authenticated(id_, secret, address) if id_ and secret else None
        if found is None or "basic_auth" not in found[0].get("grantType", ()):
            refusal = tokens.refused("The client id or secret is wrong, or the client may not use basic_auth.")
            raise Problem(refusal.issues, headers={"WWW-Authenticate": 'Basic realm="fhir", Bearer realm="fhir"'})
        return client_principal(found[0], scopes_of(found[0], self.types(), ("system",)))


def person(user: Resource) -> dict[str, Any]:
    """What a Principal knows of a user beside its token."""
    return {
        "name": str(user.get("name") or user["email"]),
        "organization": target(user.get("organization"), "Organization"),
        "roles": roles(user),
        "operator": operator(user),
    }


def client_principal(client: Resource, scope: str) -> Principal:
    """The Principal of a client that has proved who it is."""
    organization = target(client.get("managingOrganization"), "Organization")
    since, name = str(client.get("registered", "")), str(client.get("name", ""))
    return Principal("client", client["id"], organization, scopes=scope, name=name, client_since=since)


def basic(credentials: str) -> tuple[str, str]:
    """Id and secret of Basic credentials, form-decoded as RFC 6749 2.3.1 wants it; both empty for what is malformed."""
    try:
        id_, _, secret = b64decode(credentials, validate=True).decode().partition(":")
    except ValueError:
        return "", ""
    return unquote_plus(id_), unquote_plus(secret)


def scopes_of(client: Resource, types: frozenset[str], levels: Sequence[str], requested: str | None = None) -> str:
    """The scope a client is granted: of what it asks for (default everything) that which it registered, on these
    levels.

    Raises Problem(value) for a request that is no scope.
    """
    registered = scopes.cached(str(client.get("scope", "")), types)
    asked = scopes.parse(requested, types) if requested and requested.strip() else registered
    others = asked.other if "user" in levels else ()
    wanted = scopes.Scopes(tuple(scope for scope in asked.resource if scope.level in levels), others)
    return scopes.granted(wanted, registered)
