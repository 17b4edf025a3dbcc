"""What a client can discover without credentials. SMART App Launch 2.2 conformance, RFC 8414, OpenID Connect Discovery
1.0.

Only what works is listed. The documents are the same for every base: one issuer and one key set per installation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fhirserver.auth.keys import ALGORITHM

TOKEN_PATH = "/oauth2/token"  # noqa: S105 - a path, not a secret
JWKS_PATH = "/oauth2/jwks"
CLIENT_AUTHENTICATION = ("client_secret_basic", "client_secret_post")
SCOPES = ("system/*.cruds", "system/*.rs", "user/*.cruds", "user/*.rs")


def metadata(issuer: str, grants: Sequence[str]) -> dict[str, Any]:
    """The authorization server metadata (RFC 8414)."""
    return {
        "issuer": issuer,
        "token_endpoint": issuer + TOKEN_PATH,
        "jwks_uri": issuer + JWKS_PATH,
        "grant_types_supported": list(grants),
        "response_types_supported": [],
        "token_endpoint_auth_methods_supported": list(CLIENT_AUTHENTICATION),
        "scopes_supported": list(SCOPES),
        "code_challenge_methods_supported": ["S256"],
    }


def smart_configuration(issuer: str, grants: Sequence[str]) -> dict[str, Any]:
    """The SMART configuration of a FHIR base."""
    capabilities = ["client-confidential-symmetric", "permission-v1", "permission-v2"]
    return {**metadata(issuer, grants), "capabilities": capabilities}


def openid_configuration(issuer: str, grants: Sequence[str]) -> dict[str, Any]:
    """The OpenID provider metadata."""
    return {
        **metadata(issuer, grants),
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [ALGORITHM],
    }


def documents(issuer: str, grants: Sequence[str]) -> Mapping[str, dict[str, Any]]:
    """Every document by its name below `/.well-known/`."""
    return {
        "smart-configuration": smart_configuration(issuer, grants),
        "oauth-authorization-server": metadata(issuer, grants),
        "openid-configuration": openid_configuration(issuer, grants),
    }
