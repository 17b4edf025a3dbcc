"""Dynamic client registration: client metadata in, a ClientApplication out. RFC 7591; the initial access token is a
user's own.

It is a create like any other: the same rule, the same rights, the same audit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from flask import Response as HttpResponse
from flask import jsonify
from flask import request as http

from fhirserver.auth.principal import Principal
from fhirserver.fhir import Resource
from fhirserver.fhir.problem import Problem, problem
from fhirserver.rules.client import is_public

# RFC 7591 metadata -> element of ClientApplication, where the value is taken as it is.
ELEMENTS: Mapping[str, str] = {
    "client_name": "name",
    "scope": "scope",
    "redirect_uris": "redirectUri",
    "grant_types": "grantType",
    "client_uri": "uri",
    "logo_uri": "logoUri",
    "tos_uri": "tosUri",
    "policy_uri": "policyUri",
    "jwks_uri": "jwksUri",
}
MOST = 65_536

Create = Callable[[Principal, Resource], Resource]


def register(create: Create, principal: Principal) -> HttpResponse:
    """The answer to a registration: 201 with the client's metadata and its secret, this once; 400 as RFC 7591 3.2.2
    says.

    `create` stores a ClientApplication for somebody and answers it as its writer sees it, or raises Problem.
    """
    try:
        resource = create(principal, client_of(_metadata()))
    except Problem as refusal:
        if refusal.status in (401, 403):
            raise
        uri = any("redirectUri" in where for issue in refusal.issues for where in issue.expression)
        error = "invalid_redirect_uri" if uri else "invalid_client_metadata"
        answer: HttpResponse = jsonify(error=error, error_description=refusal.issues[0].diagnostics)
        answer.status_code = 400
        return answer
    answer = jsonify(metadata_of(resource))
    answer.status_code = 201
    return answer


def _metadata() -> dict[str, Any]:
    given = http.get_json(silent=True) if (http.content_length or 0) <= MOST else None
    if not isinstance(given, dict):
        raise problem("structure", "Send the client metadata as a JSON object.")
    return given


def client_of(metadata: Mapping[str, Any]) -> Resource:
    """The ClientApplication that the metadata describe. Raises Problem(value) for a way to authenticate that does not
    fit.
    """
    client: Resource = {"resourceType": "ClientApplication", "kind": "production"}
    client |= {element: metadata[name] for name, element in ELEMENTS.items() if name in metadata}
    client.setdefault("grantType", ["authorization_code"])
    if "jwks" in metadata:
        client["jwks"] = json.dumps(metadata["jwks"])
    fits = _way(client)
    wanted = metadata.get("token_endpoint_auth_method", fits)
    if wanted != fits and (wanted, fits) != ("client_secret_post", "client_secret_basic"):
        raise problem(
            "value",
            f"token_endpoint_auth_method is {fits} for a client with these grants and keys: private_key_jwt with jwks"
            " or jwks_uri, a secret for client_credentials without them, none (with PKCE) for the others.",
        )
    return client


def _way(client: Resource) -> str:
    """How a client authenticates at the token endpoint."""
    if "jwks" in client or "jwksUri" in client:
        return "private_key_jwt"
    return "none" if is_public(client) else "client_secret_basic"


def metadata_of(client: Resource) -> dict[str, Any]:
    """The metadata of a registered client, with its secret where this answer may show it."""
    metadata = {name: client[element] for name, element in ELEMENTS.items() if element in client}
    if "jwks" in client:
        metadata["jwks"] = json.loads(client["jwks"])
    secret = {"client_secret": client["secret"], "client_secret_expires_at": 0} if "secret" in client else {}
    return {"client_id": client["id"], **secret, **metadata, "token_endpoint_auth_method": _way(client)}
