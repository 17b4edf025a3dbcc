"""Audit records of the authorization server's endpoints, and of credentials that were refused anywhere.

One place looks at every answer on its way out, so that no grant and no page can be forgotten. What a user typed is
not recorded: a password may stand in any field.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from collections.abc import Callable, Mapping
from typing import Any

from flask import Blueprint
from flask import Response as HttpResponse
from flask import request as http
from werkzeug.wrappers import Request as HttpRequest

from fhirserver.auth.principal import Principal
from fhirserver.fhir.problem import Problem
from fhirserver.interactions.model import Server
from fhirserver.rules.user import user_id
from fhirserver.store.model import REGISTRY
from fhirserver.web.tokens import basic

# Endpoint of the blueprint -> kind of record.
KINDS: Mapping[str, str] = {
    "token": "token",
    "revoke": "revocation",
    "introspect": "introspection",
    "sign-in": "login",
    "logout": "logout",
    "consent": "consent",
    "password": "password",
}


def recorded(blueprint: Blueprint, server: Server) -> Blueprint:
    """The authorization server's blueprint with a record of each answer that its KINDS name."""

    def after(answer: HttpResponse) -> HttpResponse:
        kind = KINDS.get((http.endpoint or "").rpartition(".")[2])
        if kind and http.method == "POST":
            server.record(kind, **_facts(kind, answer))
        return answer

    blueprint.after_request(after)
    return blueprint


def recorded_refusals(server: Server, authenticate: Callable[[HttpRequest], Principal]) -> Callable[..., Principal]:
    """The authentication of requests, with a record of credentials that were no good."""

    def authenticated(request: HttpRequest) -> Principal:
        try:
            return authenticate(request)
        except Problem as refusal:
            server.record(
                "credentials",
                _organization(request.path),
                status=refusal.status,
                why=refusal.issues[0].code,
                address=request.remote_addr or "",
                who=_basic(request),
            )
            raise

    return authenticated


def _facts(kind: str, answer: HttpResponse) -> dict[str, Any]:
    told = _json(answer)
    claims = _claims(told.get("access_token"))
    status = answer.status_code
    found = {
        "status": status,
        "why": str(told.get("error", "")) or {401: "login"}.get(status, ""),
        "address": http.remote_addr or "",
        "asked": http.form if kind in ("token", "revocation", "introspection") else None,
        "token": claims.get("jti", ""),
        "who": _who(kind, claims),
    }
    organization = _organization("".join(_first(claims.get("aud"))))
    return {"organization": organization, **found}


def _who(kind: str, claims: Mapping[str, Any]) -> dict[str, str]:
    if kind == "login":
        try:
            return {"kind": "user", "id": user_id(http.form.get("email", ""))}
        except Problem:
            return {}
    client = str(claims.get("client_id", "")) or http.form.get("client_id", "") or _basic(http).get("id", "")
    if claims.get("kind") == "user":
        return {"kind": "user", "id": str(claims["sub"]), "client": client}
    return {"kind": "client", "id": client[:64]} if client else {}


def _basic(request: HttpRequest) -> dict[str, str]:
    """The client that Basic credentials name: an id, which is no secret."""
    scheme, _, credentials = (request.headers.get("Authorization") or "").partition(" ")
    id_ = basic(credentials.strip())[0] if scheme.lower() == "basic" else ""
    return {"kind": "client", "id": id_[:64]} if id_ else {}


def _json(answer: HttpResponse) -> Mapping[str, Any]:
    found = answer.get_json(silent=True) if answer.is_json else None
    return found if isinstance(found, dict) else {}


def _claims(token: Any) -> Mapping[str, Any]:
    """The claims of a token that this server has just made."""
    parts = token.split(".") if isinstance(token, str) else []
    if len(parts) != 3:
        return {}
    found = json.loads(urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    return found if isinstance(found, dict) else {}


def _first(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [str(each) for each in value or ()][:1]


def _organization(text: str) -> str:
    """The organization whose base a path or URL is of, else the registry."""
    _, found, rest = text.partition("/1/health/organizations/")
    return rest.partition("/")[0] if found and rest else REGISTRY
