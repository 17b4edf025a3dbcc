"""The token endpoint's grants over authlib's server: client_credentials, authorization_code, refresh_token; client
authentication.

RFC 6749 (errors in its own form), RFC 7523, OpenID Connect Core 1.0 (id_token), SMART App Launch 2.2 (launch context).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from authlib.integrations.flask_oauth2 import AuthorizationServer
from authlib.oauth2.rfc6749 import BaseGrant, ClientMixin, TokenEndpointMixin
from authlib.oauth2.rfc6749.errors import (
    InvalidClientError,
    InvalidGrantError,
    InvalidRequestError,
    InvalidScopeError,
    UnauthorizedClientError,
)
from flask import request as http
from joserfc import jwt

from fhirserver.auth import assertions, scopes
from fhirserver.auth.keys import ALGORITHM
from fhirserver.auth.principal import Principal
from fhirserver.fhir import Resource
from fhirserver.fhir.problem import Problem
from fhirserver.rules.client import is_public
from fhirserver.rules.model import target
from fhirserver.rules.user import older
from fhirserver.store.kept import Kept
from fhirserver.web import codes
from fhirserver.web.codes import Consent, Spent
from fhirserver.web.sessions import digest
from fhirserver.web.tokens import Tokens, basic, client_principal, scopes_of
from fhirserver.web.wellknown import TOKEN_PATH

MOST_LIFETIME = 86_400
HEADERS = [("Content-Type", "application/json"), ("Cache-Control", "no-store"), ("Pragma", "no-cache")]

# At DEBUG authlib writes the tokens it issues into the log.
logging.getLogger("authlib").setLevel(logging.INFO)

Answer = tuple[int, dict[str, Any], list[tuple[str, str]]]


class Client(ClientMixin):  # type: ignore[misc]  # authlib has no type information
    """A ClientApplication as authlib sees it."""

    def __init__(self, resource: Resource) -> None:
        self.resource = resource

    def get_client_id(self) -> str:
        return str(self.resource["id"])

    def check_grant_type(self, grant_type: str) -> bool:
        return grant_type in self.resource.get("grantType", ())


class _Grant(BaseGrant, TokenEndpointMixin):  # type: ignore[misc]  # authlib has no type information
    """What the grants share: the client authenticates and is registered for the grant; `answer` is each one's own."""

    def validate_token_request(self) -> None:
        self.request.client = self.server.authenticate_client(self.request, None)
        if not self.request.client.check_grant_type(self.GRANT_TYPE):
            raise UnauthorizedClientError(f"The client is not registered for grant_type {self.GRANT_TYPE}.")

    def create_token_response(self) -> Answer:
        return 200, self.answer(self.request.client.resource), HEADERS


class ClientCredentials(_Grant):
    """RFC 6749 4.4: system scopes for the client itself. Never a refresh token."""

    GRANT_TYPE = "client_credentials"

    def answer(self, client: Resource) -> dict[str, Any]:
        if is_public(client):
            raise InvalidClientError(status_code=401, description="A public client cannot use client_credentials.")
        tokens: Tokens = self.server.tokens
        try:
            scope = scopes_of(client, tokens.types(), ("system",), http.form.get("scope"))
        except Problem as refusal:
            raise InvalidScopeError(plain(refusal.issues[0].diagnostics)) from None
        if not scope:
            text = "None of these scopes is registered for the client; this grant gives system scopes only."
            raise InvalidScopeError(text)
        lifetime = lifetime_of(client, tokens)
        token = tokens.issue(client_principal(client, scope), lifetime)
        return {"access_token": token, "token_type": "Bearer", "expires_in": lifetime, "scope": scope}


class AuthorizationCode(_Grant):
    """RFC 6749 4.1 with RFC 7636: the code of a consent, once."""

    GRANT_TYPE = "authorization_code"

    def answer(self, client: Resource) -> dict[str, Any]:
        tokens: Tokens = self.server.tokens
        form, now = http.form, tokens.now()
        if not form.get("code") or not form.get("code_verifier"):
            raise InvalidRequestError("Send code, redirect_uri and code_verifier.")
        try:
            consent = codes.redeem(
                self.server.lasting,
                form["code"],
                client["id"],
                form.get("redirect_uri", ""),
                form["code_verifier"],
                now,
            )
        except Spent as reason:
            raise InvalidGrantError(f"The code is no good: {reason}.") from None
        server: Server = self.server
        return server.tokens_for(client, consent, consent.scope)


class RefreshToken(_Grant):
    """RFC 6749 6: a new access token and a new refresh token for one that is spent by this."""

    GRANT_TYPE = "refresh_token"

    def answer(self, client: Resource) -> dict[str, Any]:
        tokens: Tokens = self.server.tokens
        text = http.form.get("refresh_token", "")
        if not text:
            raise InvalidRequestError("Missing 'refresh_token' in request.")
        found = codes.held(self.server.lasting, text, tokens.now())
        scope = _narrowed(found, http.form.get("scope"), tokens.types()) if found else ""
        try:
            consent = codes.refresh(self.server.lasting, text, client["id"], tokens.now())
        except Spent as reason:
            raise InvalidGrantError(f"The refresh token is no good: {reason}.") from None
        server: Server = self.server
        return server.tokens_for(client, consent, scope or consent.scope)


def _narrowed(consent: Consent, requested: str | None, types: frozenset[str]) -> str:
    """The scope of a refreshed token: what was consented to, or a part of it. Raises InvalidScopeError for more."""
    if not requested:
        return consent.scope
    try:
        wanted = scopes.parse(requested, types)
    except Problem as refusal:
        raise InvalidScopeError(plain(refusal.issues[0].diagnostics)) from None
    if not wanted or not scopes.cached(consent.scope, types).covers(wanted):
        raise InvalidScopeError("This is more than the user consented to.")
    return requested


class Server(AuthorizationServer):  # type: ignore[misc]  # authlib has no type information
    """authlib's server over our clients and tokens."""

    def __init__(self, tokens: Tokens) -> None:
        super().__init__()
        self.tokens = tokens
        for grant in grants(tokens):
            self.register_grant(grant)

    @property
    def lasting(self) -> Kept:
        """What all processes agree on. The grants and endpoints that need it are there only where it is."""
        assert self.tokens.kept is not None
        return self.tokens.kept

    def send_signal(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Nobody listens."""

    def authenticate_client(self, request: Any, methods: Any, endpoint: str = "token") -> Client:
        """The client of the request: by Basic header, by secret or assertion in the form, or a public one by its id
        alone.

        Raises InvalidRequestError for more than one way at once, InvalidClientError (401) for credentials that are no
        good.
        """
        scheme, _, credentials = (http.headers.get("Authorization") or "").partition(" ")
        ways = [bool(scheme), "client_secret" in http.form, "client_assertion" in http.form]
        if sum(ways) > 1:
            raise InvalidRequestError("Authenticate in one way only.")
        if "client_assertion" in http.form:
            return Client(self._asserted())
        if scheme.lower() == "basic":
            id_, secret = basic(credentials.strip())
        else:
            id_, secret = http.form.get("client_id", ""), http.form.get("client_secret", "")
        address = http.remote_addr or ""
        if id_ and secret:
            found = self.tokens.authenticated(id_, secret, address)
            if found is not None:
                return Client(found[0])
        elif id_ and not any(ways):
            open_ = self.tokens.client(id_)
            if open_ is not None and is_public(open_[0]) and open_[0].get("active") is not False:
                return Client(open_[0])
        raise InvalidClientError(status_code=401, description="The client id or secret is wrong.")

    def _asserted(self) -> Resource:
        """The client of a client_assertion; its jti is spent by this. Failures count like wrong secrets."""
        now, address, id_ = self.tokens.now(), http.remote_addr or "", "an assertion"
        try:
            if http.form.get("client_assertion_type") != assertions.TYPE or self.tokens.kept is None:
                raise assertions.Refused(f"client_assertion_type must be {assertions.TYPE}")
            assertion = http.form["client_assertion"]
            id_ = assertions.subject(assertion)
            self.tokens.refuse_throttled(address, id_)
            client = self._with_keys(id_)
            audiences = (self.tokens.issuer + TOKEN_PATH,)
            jwks = self._keys_of(client, assertion)
            claims = assertions.verify(jwks, assertion, id_, audiences, now, client.get("jwksUri", ""))
            until = datetime.fromtimestamp(claims["exp"], UTC) + timedelta(minutes=1)
            if not self.lasting.put(f"assertion/{digest(id_ + ' ' + claims['jti'])}", {}, until):
                raise assertions.Refused("the assertion has been used before")
            self.tokens.used(id_, "", now)
        except assertions.Refused as reason:
            self.tokens.failed(address, id_)
            raise InvalidClientError(status_code=401, description=f"The client is not known: {reason}.") from None
        return client

    def _with_keys(self, id_: str) -> Resource:
        found = self.tokens.client(id_)
        if found is None or found[0].get("active") is False or http.form.get("client_id", id_) != id_:
            raise assertions.Refused("there is no active client of this id")
        return found[0]

    def _keys_of(self, client: Resource, assertion: str) -> Mapping[str, Any]:
        if client.get("jwks"):
            held: Mapping[str, Any] = json.loads(client["jwks"])
            return held
        if client.get("jwksUri") and self.tokens.fetch:
            return self.tokens.fetch(client["jwksUri"], assertions.key_id(assertion))
        raise assertions.Refused("the client has no keys that can be read")

    def tokens_for(self, client: Resource, consent: Consent, scope: str) -> dict[str, Any]:
        """The token response for a user's consent: access token, and by its scopes id token, refresh token and
        context.
        """
        tokens, now = self.tokens, self.tokens.now()
        user = tokens.user(consent.user)
        if user is None or user.get("active") is False or older(consent.signed_in, user, consent.user_since):
            raise InvalidGrantError("The user does not exist any more or is not active.")
        if consent.client_since not in ("", client.get("registered")):
            raise InvalidGrantError("The client that the user allowed this does not exist any more.")
        lifetime = lifetime_of(client, tokens)
        codes.note(self.lasting, consent, now + timedelta(seconds=lifetime))
        principal = Principal(
            "user",
            consent.user,
            scopes=scope,
            client=client["id"],
            patient=consent.patient,
            audience=(consent.audience,),
            client_since=str(client.get("registered", "")),
            user_since=str(user.get("registered", "")),
        )
        answer = {
            "access_token": tokens.issue(principal, lifetime, consent.family),
            "token_type": "Bearer",
            "expires_in": lifetime,
            "scope": scope,
        }
        words = consent.scope.split()
        if consent.patient:
            answer |= {"patient": consent.patient, "need_patient_banner": True}
        if "openid" in words:
            answer["id_token"] = self._id_token(client, consent, user, lifetime)
        if "refresh_token" in client["grantType"] and {"offline_access", "online_access"} & set(words):
            bound = replace(consent, session="" if "offline_access" in words else consent.session)
            left = refresh_lifetime(client, consent, now)
            if left > timedelta():
                answer["refresh_token"] = codes.new_refresh(self.lasting, bound, now, left)
        return answer

    def _id_token(self, client: Resource, consent: Consent, user: Resource, lifetime: int) -> str:
        start = int(self.tokens.now().timestamp())
        claims = {
            "iss": self.tokens.issuer,
            "sub": consent.user,
            "aud": client["id"],
            "iat": start,
            "exp": start + lifetime,
            "auth_time": consent.signed_in,
            "nonce": consent.nonce,
            **identity(self.tokens.issuer, user, consent.scope.split()),
        }
        key = self.tokens.keys()[0]
        kept = {name: value for name, value in claims.items() if value}
        return jwt.encode({"alg": ALGORITHM, "kid": key.kid, "typ": "JWT"}, kept, key.pair, algorithms=[ALGORITHM])


def identity(issuer: str, user: Resource, words: Sequence[str]) -> dict[str, Any]:
    """What the scopes let an application know of the user: fhirUser, name, e-mail address."""
    url = f"{issuer}/1/health/fhir/4/User/{user['id']}"
    place, who = target(user.get("organization"), "Organization"), str(user.get("person", {}).get("reference", ""))
    known = f"{issuer}/1/health/organizations/{place}/fhir/4/{who}" if place and who else url
    return {
        **({"fhirUser": known} if "fhirUser" in words else {}),
        **({"profile": url} if "profile" in words else {}),
        **({"name": user["name"]} if "profile" in words and user.get("name") else {}),
        **({"email": user["email"]} if "email" in words else {}),
    }


def grants(tokens: Tokens) -> list[type[_Grant]]:
    """The grants that work with what the installation has."""
    if tokens.kept is None or tokens.account is None:
        return [ClientCredentials]
    return [ClientCredentials, AuthorizationCode, RefreshToken]


def lifetime_of(client: Resource, tokens: Tokens) -> int:
    """Seconds an access token of this client is good for."""
    return min(int(client.get("accessTokenLifetime", tokens.lifetime)), MOST_LIFETIME)


def refresh_lifetime(client: Resource, consent: Consent, now: datetime) -> timedelta:
    """How long a refresh token issued now is good for: counted anew with each use, or from the sign-in where the client
    is registered so.
    """
    whole = timedelta(seconds=int(client.get("refreshTokenLifetime", codes.REFRESH_LIFETIME.total_seconds())))
    if client.get("refreshTokenExpiry") != "absolute":
        return whole
    return datetime.fromtimestamp(consent.signed_in, UTC) + whole - now


def plain(text: str) -> str:
    """A description with the characters that RFC 6749 5.2 allows."""
    return "".join(c if " " <= c <= "~" and c not in '"\\' else "'" for c in text)
