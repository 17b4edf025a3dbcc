"""The authorization server's endpoints: token, introspection, revocation, key set, userinfo, discovery.

RFC 6749, 7009, 7662, 7517; OpenID Connect Core 1.0 (userinfo). Signing in and consent are in `web.signin`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from authlib.oauth2.rfc6749.errors import InvalidRequestError, OAuth2Error
from flask import Blueprint, jsonify
from flask import Response as HttpResponse
from flask import request as http

from fhirserver.auth.keys import public_set
from fhirserver.auth.tokens import refused
from fhirserver.exchange.people import LINK_PATH
from fhirserver.fhir.problem import Problem
from fhirserver.store.attempts import REGISTRATION
from fhirserver.web import codes
from fhirserver.web.accounts import lasting
from fhirserver.web.grants import Client, Server, grants, identity
from fhirserver.web.passwords import SetPassword, password_page
from fhirserver.web.registration import register
from fhirserver.web.signin import SignIn
from fhirserver.web.tokens import Tokens, person
from fhirserver.web.wellknown import (
    INTROSPECT_PATH,
    JWKS_PATH,
    REGISTER_PATH,
    REVOKE_PATH,
    TOKEN_PATH,
    USERINFO_PATH,
    documents,
)

__all__ = ["Tokens", "blueprint", "lasting", "person"]

BASES = ("", "/1/health/fhir/4", "/1/health/organizations/<organization>/fhir/4")
FORM = "application/x-www-form-urlencoded"
NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache", "X-Content-Type-Options": "nosniff"}
SECRETS = ("grant_type", "client_id", "client_secret", "client_assertion", "code", "refresh_token", "token", "scope")
"""Parameters that must not be in a URL, where they end up in logs."""

ERRORS = {401: "invalid_token", 403: "access_denied", 429: "temporarily_unavailable", 503: "temporarily_unavailable"}

View = Callable[..., HttpResponse]


def blueprint(tokens: Tokens) -> Blueprint:
    """The endpoints of the authorization server and its discovery documents, at the root and below every FHIR base."""
    made = Blueprint("oauth", __name__)
    server = Server(tokens)
    made.add_url_rule(TOKEN_PATH, "token", _answered(lambda: _token(server)), methods=["POST"])
    made.add_url_rule(JWKS_PATH, "jwks", _public(lambda: public_set(tokens.keys())))
    if tokens.kept is not None:
        made.add_url_rule(INTROSPECT_PATH, "introspect", _answered(lambda: _introspect(server)), methods=["POST"])
        made.add_url_rule(REVOKE_PATH, "revoke", _answered(lambda: _revoke(server)), methods=["POST"])
    if tokens.create is not None:
        made.add_url_rule(REGISTER_PATH, "register", _answered(lambda: _register(tokens)), methods=["POST"])
    names = [grant.GRANT_TYPE for grant in grants(tokens)]
    if "authorization_code" in names:
        made.add_url_rule(USERINFO_PATH, "userinfo", _answered(lambda: _userinfo(tokens)), methods=["GET", "POST"])
        SignIn(tokens).add_to(made)
    if tokens.set_password is not None:
        made.add_url_rule(LINK_PATH, "password", _password(tokens.set_password), methods=["GET", "POST"])
    found = documents(tokens.issuer, names, made_of(tokens))
    for number, base in enumerate(BASES):
        for name, document in found.items():
            made.add_url_rule(f"{base}/.well-known/{name}", f"{name}-{number}", _public(_constant(document)))
    return made


def made_of(tokens: Tokens) -> frozenset[str]:
    """What the installation has, for the discovery documents."""
    parts = {"lasting": tokens.kept, "patients": tokens.patients, "registration": tokens.create}
    return frozenset(name for name, part in parts.items() if part is not None)


def _constant(document: Mapping[str, Any]) -> Callable[[], Mapping[str, Any]]:
    return lambda: document


def _public(document: Callable[[], Mapping[str, Any]]) -> View:
    """A document that anyone may read, from any origin, whatever media type they ask for."""

    def show(organization: str = "") -> HttpResponse:
        answer: HttpResponse = jsonify(document())
        answer.headers["Access-Control-Allow-Origin"] = "*"
        answer.headers["Cache-Control"] = "public, max-age=300"
        return answer

    return show


def _answered(view: Callable[[], HttpResponse]) -> View:
    """An endpoint with OAuth's own errors, never stored by anybody."""

    def show() -> HttpResponse:
        try:
            answer = view()
        except OAuth2Error as error:
            status, body, headers = error()
            answer = jsonify(dict(body))
            answer.status_code = status
            answer.headers.update(headers)
        except Problem as refusal:
            error_code = ERRORS.get(refusal.status, "invalid_request")
            answer = jsonify(error=error_code, error_description=refusal.issues[0].diagnostics)
            answer.status_code = refusal.status
            answer.headers.update(refusal.headers)
        challenge = answer.headers.get("WWW-Authenticate", "")
        if challenge.startswith("Basic ") and "realm=" not in challenge:  # RFC 7617 wants one, authlib gives none
            answer.headers["WWW-Authenticate"] = challenge.replace("Basic ", 'Basic realm="oauth2", ', 1)
        answer.headers.update(NO_STORE)
        return answer

    return show


def _token(server: Server) -> HttpResponse:
    _well_formed("grant_type")
    answer: HttpResponse = server.create_token_response()
    return answer


def _well_formed(required: str) -> None:
    """Raises InvalidRequestError unless the parameters are in a form body, each at most once (RFC 6749 3.2)."""
    if http.mimetype != FORM:
        raise InvalidRequestError(f"Send the parameters as {FORM} in the body.")
    if any(name in http.args for name in SECRETS):
        raise InvalidRequestError("Send the parameters in the body, not in the URL, where they end up in logs.")
    if any(len(values) > 1 for values in http.form.listvalues()):
        raise InvalidRequestError("A parameter is given more than once.")
    if not http.form.get(required):
        raise InvalidRequestError(f"Missing '{required}' in request.")


def _introspect(server: Server) -> HttpResponse:
    """RFC 7662. A client learns about its own tokens only; of every other it is told that it is not active."""
    _well_formed("token")
    client: Client = server.authenticate_client(None, None)
    if not (http.headers.get("Authorization") or "client_secret" in http.form or "client_assertion" in http.form):
        raise InvalidRequestError("A public client cannot introspect: authenticate.")
    found = _of_client(server, client.get_client_id())
    answer: HttpResponse = jsonify(found or {"active": False})
    return answer


def _revoke(server: Server) -> HttpResponse:
    """RFC 7009. Ends an access token, or a refresh token with all that came of it; says 200 whatever it was."""
    _well_formed("token")
    client: Client = server.authenticate_client(None, None)
    id_, token, now = client.get_client_id(), http.form["token"], server.tokens.now()
    consent = codes.held(server.lasting, token, now)
    if consent is not None:
        if consent.client == id_:
            codes.end_family(server.lasting, consent.family, now)
    else:
        claims = _claims(server.tokens, token)
        if claims and claims.get("client_id") == id_:
            server.tokens.end(claims)
    return HttpResponse(status=200)


def _of_client(server: Server, id_: str) -> dict[str, Any] | None:
    """What RFC 7662 says of the token in the request, None where it is not an active one of this client."""
    tokens, token = server.tokens, http.form["token"]
    consent = codes.held(server.lasting, token, tokens.now())
    if consent is not None and consent.client == id_:
        return {"active": True, "client_id": id_, "scope": consent.scope, "sub": consent.user, "iss": tokens.issuer}
    claims = _claims(tokens, token)
    if claims is None or claims.get("client_id") != id_:
        return None
    shown = ("iss", "sub", "aud", "client_id", "scope", "iat", "exp", "jti", "patient")
    return {"active": True, "token_type": "Bearer", **{name: claims[name] for name in shown if name in claims}}


def _claims(tokens: Tokens, token: str) -> Mapping[str, Any] | None:
    try:
        claims = tokens.claims(token)
        tokens.standing(claims)
        return claims
    except Problem:
        return None


def _password(set_password: SetPassword) -> View:
    return lambda: password_page(set_password)


def _register(tokens: Tokens) -> HttpResponse:
    """RFC 7591, with the access token of a user who may register clients as the initial access token."""
    principal = tokens.authenticate(http)
    if principal.kind not in ("user", "operator") or tokens.create is None:
        text = "Registration needs the access token of a user who may register clients."
        raise refused(text, error="" if principal.kind == "anonymous" else "invalid_token")
    if tokens.attempts:
        tokens.attempts.take("registration", principal.id, REGISTRATION, tokens.now())
    return register(tokens.create, principal)


def _userinfo(tokens: Tokens) -> HttpResponse:
    """OpenID Connect userinfo: what the scopes of the access token let the application know of the user."""
    scheme, _, token = (http.headers.get("Authorization") or "").partition(" ")
    if scheme.lower() != "bearer":
        raise refused("Userinfo needs the access token of a user, as 'Authorization: Bearer <token>'.", error="")
    claims = tokens.claims(token.strip())
    words = str(claims.get("scope", "")).split()
    user = tokens.standing(claims)
    if user is None or "openid" not in words:
        answer: HttpResponse = jsonify(error="insufficient_scope")
        answer.status_code = 403
        answer.headers["WWW-Authenticate"] = 'Bearer error="insufficient_scope", scope="openid"'
        return answer
    found: HttpResponse = jsonify({"sub": claims["sub"], **identity(tokens.issuer, user, words)})
    return found
