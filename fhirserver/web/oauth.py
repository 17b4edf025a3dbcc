"""The authorization server: the token endpoint, the key set, discovery; and who an Authorization header stands for.

RFC 6749 (errors in its own form), 6750, 7617, 9068; SMART App Launch 2.2 backend services.
"""

from __future__ import annotations

import logging
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import unquote_plus

from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import ClientMixin, grants
from authlib.oauth2.rfc6749.errors import InvalidClientError, InvalidRequestError, InvalidScopeError, OAuth2Error
from flask import Blueprint, jsonify
from flask import Response as HttpResponse
from flask import request as http

from fhirserver.auth import scopes, tokens
from fhirserver.auth.keys import SigningKey, by_kid, public_set
from fhirserver.auth.principal import ANONYMOUS, Principal
from fhirserver.fhir import Resource
from fhirserver.fhir.problem import Problem, problem
from fhirserver.rules.client import has_secret
from fhirserver.rules.model import instant, target
from fhirserver.rules.user import operator, roles
from fhirserver.web.throttle import Throttle
from fhirserver.web.wellknown import JWKS_PATH, TOKEN_PATH, documents

GRANTS = ("client_credentials",)
BASES = ("", "/1/health/fhir/4", "/1/health/organizations/<organization>/fhir/4")
FORM = "application/x-www-form-urlencoded"
NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache", "X-Content-Type-Options": "nosniff"}

# At DEBUG authlib writes the tokens it issues into the log.
logging.getLogger("authlib").setLevel(logging.INFO)

Private = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Tokens:
    """The issuing and reading of access tokens over plain values and a few functions of the composition root.

    `client` and `user` answer what the database holds now, None for what is absent or deleted. `keys` are the signing
    keys, the current one first. `matches` compares a secret with its keyed hash in constant time. `lifetime` is in
    seconds.
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
    throttle: Throttle = field(default_factory=Throttle)

    def issue(self, principal: Principal, lifetime: int | None = None) -> str:
        """An access token for this principal; `lifetime` in seconds where it is other than the usual."""
        claims = tokens.claims_of(
            principal,
            issuer=self.issuer,
            audience=self.issuer,
            now=self.now(),
            lifetime=lifetime or self.lifetime,
            token_id=self.new_id(),
        )
        return tokens.issue(self.keys()[0], claims)

    def authenticate(self, header: str | None) -> Principal:
        """Who an Authorization header stands for; without one nobody in particular.

        Raises Problem: login (401) for credentials that are no good, throttled (429) after too many of them.
        """
        if not header:
            return ANONYMOUS
        scheme, _, credentials = header.strip().partition(" ")
        if scheme.lower() == "bearer":
            return self._bearer(credentials.strip())
        if scheme.lower() == "basic":
            return self._basic(credentials.strip())
        raise tokens.refused("The Authorization header must be 'Bearer <token>'.", "invalid_request")

    def authenticated(self, id_: str, secret: str, address: str) -> tuple[Resource, Private] | None:
        """The active client with this id and secret, None for wrong ones; failures count against client and address.

        Raises Problem(throttled) with Retry-After where there were too many.
        """
        now = self.now()
        keys = (f"{address} {id_[:64]}", address)
        self._refuse_throttled(now, *keys)
        found = self.client(id_)
        private = found[1] if found else {}
        same = has_secret(private, self.matches, secret, instant(now))
        if found is None or not same or found[0].get("active") is False:
            self.throttle.failed(now.timestamp(), *keys)
            return None
        return found

    def _refuse_throttled(self, now: datetime, *keys: str) -> None:
        wait = self.throttle.wait(now.timestamp(), *keys)
        if wait:
            raise throttled(wait)

    def _bearer(self, token: str) -> Principal:
        now = self.now()
        claims = self.cache.get(token, now)
        if claims is None:
            claims = tokens.verify(by_kid(self.keys()), token, self.issuer, now, self.issuer)
            self.cache.put(token, claims)
        if claims.get("kind") != "user":
            return tokens.principal_of(claims)
        user = self.user(str(claims["sub"]))
        if user is None or user.get("active") is False:
            raise tokens.refused("The user of this access token does not exist any more or is not active.")
        return tokens.principal_of(claims, **person(user))

    def _basic(self, credentials: str) -> Principal:
        id_, secret = basic(credentials)
        found = self.authenticated(id_, secret, http.remote_addr or "")
        if found is None or "basic_auth" not in found[0].get("grantType", ()):
            refusal = tokens.refused(
                "The client id or secret is wrong, or the client is not registered for basic_auth."
            )
            raise Problem(refusal.issues, headers={"WWW-Authenticate": 'Basic realm="fhir", Bearer realm="fhir"'})
        return client_principal(found[0], scopes_of(found[0], self.types(), scopes.LEVELS))


def throttled(wait: int) -> Problem:
    """The 429 after too many failed attempts."""
    text = f"Too many failed attempts: try again in {wait} seconds."
    return problem("throttled", text, headers={"Retry-After": str(wait)})


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
    return Principal("client", client["id"], organization, scopes=scope, name=str(client.get("name", "")))


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
    wanted = scopes.Scopes(tuple(scope for scope in asked.resource if scope.level in levels))
    return scopes.granted(wanted, registered)


class _Client(ClientMixin):  # type: ignore[misc]  # authlib has no type information
    """A ClientApplication as authlib sees it."""

    def __init__(self, resource: Resource) -> None:
        self.resource = resource

    def get_client_id(self) -> str:
        return str(self.resource["id"])

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type in self.resource.get("grantType", ())


class _ClientCredentials(grants.ClientCredentialsGrant):  # type: ignore[misc]  # authlib has no type information
    """RFC 6749 4.4. The scope granted is put into the answer."""

    def create_token_response(self) -> tuple[int, dict[str, Any], list[tuple[str, str]]]:
        return 200, self.server.granted(self.client.resource, self.request.payload.scope), self.TOKEN_RESPONSE_HEADER


class Server(AuthorizationServer):  # type: ignore[misc]  # authlib has no type information
    """authlib's server over our clients and tokens."""

    def __init__(self, tokens_: Tokens) -> None:
        super().__init__()
        self.tokens = tokens_
        self.register_grant(_ClientCredentials)

    def authenticate_client(self, request: Any, methods: Any, endpoint: str = "token") -> _Client:
        """The client of the request, by Basic header or by form, never both. Raises InvalidClientError (401) for
        others.
        """
        scheme, _, credentials = (http.headers.get("Authorization") or "").partition(" ")
        if scheme and http.form.get("client_secret"):
            raise InvalidRequestError("Authenticate by header or by form, not by both.")
        if scheme.lower() == "basic":
            id_, secret = basic(credentials.strip())
        else:
            id_, secret = http.form.get("client_id", ""), http.form.get("client_secret", "")
        found = self.tokens.authenticated(id_, secret, http.remote_addr or "") if id_ and secret else None
        if found is None:
            raise InvalidClientError(status_code=401, description="The client id or secret is wrong.")
        return _Client(found[0])

    def granted(self, client: Resource, requested: str | None) -> dict[str, Any]:
        """The token response for a client that has authenticated. Raises InvalidScopeError where nothing can be
        granted.
        """
        try:
            scope = scopes_of(client, self.tokens.types(), ("system",), requested)
        except Problem as refusal:
            raise InvalidScopeError(_plain(refusal.issues[0].diagnostics)) from None
        if not scope:
            text = "None of these scopes is registered for the client; this grant gives system scopes only."
            raise InvalidScopeError(text)
        lifetime = min(int(client.get("accessTokenLifetime", self.tokens.lifetime)), 86_400)
        token = self.tokens.issue(client_principal(client, scope), lifetime)
        return {"access_token": token, "token_type": "Bearer", "expires_in": lifetime, "scope": scope}

    def send_signal(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Nobody listens."""


def _plain(text: str) -> str:
    """A description with the characters that RFC 6749 5.2 allows."""
    return "".join(c if " " <= c <= "~" and c not in '"\\' else "'" for c in text)


def blueprint(tokens_: Tokens) -> Blueprint:
    """The endpoints of the authorization server and its discovery documents, at the root and below every FHIR base."""
    made = Blueprint("oauth", __name__)
    server = Server(tokens_)

    def token() -> HttpResponse:
        return _no_store(_token(server))

    def jwks() -> HttpResponse:
        answer: HttpResponse = jsonify(public_set(tokens_.keys()))
        answer.headers["Cache-Control"] = "public, max-age=300"
        return answer

    made.add_url_rule(TOKEN_PATH, "token", token, methods=["POST"])
    made.add_url_rule(JWKS_PATH, "jwks", jwks)
    for number, base in enumerate(BASES):
        for name, document in documents(tokens_.issuer, GRANTS).items():
            made.add_url_rule(f"{base}/.well-known/{name}", f"{name}-{number}", _shows(document))
    return made


def _shows(document: Mapping[str, Any]) -> Callable[..., HttpResponse]:
    def show(organization: str = "") -> HttpResponse:
        answer: HttpResponse = jsonify(document)
        answer.headers["Access-Control-Allow-Origin"] = "*"
        answer.headers["Cache-Control"] = "public, max-age=300"
        return answer

    return show


def _token(server: Server) -> HttpResponse:
    try:
        _well_formed()
        answer: HttpResponse = server.create_token_response()
    except OAuth2Error as error:
        answer = server.handle_response(*error())
    except Problem as refusal:
        answer = jsonify(error="temporarily_unavailable", error_description=refusal.issues[0].diagnostics)
        answer.status_code = refusal.status
        answer.headers.update(refusal.headers)
    return answer


def _well_formed() -> None:
    """Raises InvalidRequestError unless the parameters are in a form body, each at most once (RFC 6749 3.2)."""
    if http.mimetype != FORM:
        raise InvalidRequestError(f"Send the parameters as {FORM} in the body.")
    if any(name in http.args for name in ("grant_type", "client_id", "client_secret", "scope")):
        raise InvalidRequestError("Send the parameters in the body, not in the URL, where they end up in logs.")
    if any(len(values) > 1 for values in http.form.listvalues()):
        raise InvalidRequestError("A parameter is given more than once.")
    if not http.form.get("grant_type"):
        raise InvalidRequestError("Missing 'grant_type' in request.")


def _no_store(answer: HttpResponse) -> HttpResponse:
    answer.headers.update(NO_STORE)
    return answer
