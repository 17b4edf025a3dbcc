"""What a client can discover without credentials. SMART App Launch 2.2 conformance, RFC 8414, OpenID Connect Discovery
1.0.

Only what works is listed. The documents are the same for every base: one issuer and one key set per installation.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

from fhirserver.auth.keys import ALGORITHM

TOKEN_PATH = "/oauth2/token"  # noqa: S105 - a path, not a secret
JWKS_PATH = "/oauth2/jwks"
AUTHORIZE_PATH = "/oauth2/authorize"
INTROSPECT_PATH = "/oauth2/introspect"
REVOKE_PATH = "/oauth2/revoke"
REGISTER_PATH = "/oauth2/register"
USERINFO_PATH = "/oauth2/userinfo"
LOGOUT_PATH = "/oauth2/logout"
SYSTEM_SCOPES = ("system/*.cruds", "system/*.rs")
USER_SCOPES = (
    "openid",
    "profile",
    "email",
    "fhirUser",
    "offline_access",
    "online_access",
    "user/*.cruds",
    "user/*.rs",
)
CLAIMS = ("sub", "iss", "aud", "iat", "exp", "auth_time", "nonce", "fhirUser", "profile", "name", "email")
PATIENT_SCOPES = ("launch/patient", "patient/*.cruds", "patient/*.rs")


def documents(issuer: str, grants: Sequence[str], has: Container[str]) -> Mapping[str, dict[str, Any]]:
    """Every document by its name below `/.well-known/`.

    `grants` are those that work. `has` names what the installation has: `lasting` (tokens can be revoked, an assertion
    counts once), `patients` (one can be chosen), `registration`.
    """
    users, lasting, patients = "authorization_code" in grants, "lasting" in has, "patients" in has
    metadata = _metadata(issuer, grants, lasting, users, patients)
    if "registration" in has:
        metadata["registration_endpoint"] = issuer + REGISTER_PATH
    return {
        "smart-configuration": {**metadata, "capabilities": _capabilities(lasting, users, patients)},
        "oauth-authorization-server": metadata,
        "openid-configuration": {
            **metadata,
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [ALGORITHM],
            "request_parameter_supported": False,
            "request_uri_parameter_supported": False,  # unsaid it would be true
            "claims_supported": list(CLAIMS),
        },
    }


def _metadata(issuer: str, grants: Sequence[str], lasting: bool, users: bool, patients: bool) -> dict[str, Any]:
    ways = ["client_secret_basic", "client_secret_post", *(["private_key_jwt"] if lasting else [])]
    metadata: dict[str, Any] = {
        "issuer": issuer,
        "token_endpoint": issuer + TOKEN_PATH,
        "jwks_uri": issuer + JWKS_PATH,
        "grant_types_supported": list(grants),
        "response_types_supported": ["code"] if users else [],
        "token_endpoint_auth_methods_supported": [*ways, *(["none"] if users else [])],
        "scopes_supported": [
            *SYSTEM_SCOPES,
            *(USER_SCOPES if users else ()),
            *(PATIENT_SCOPES if users and patients else ()),
        ],
        "code_challenge_methods_supported": ["S256"],
    }
    if lasting:
        metadata |= {
            "token_endpoint_auth_signing_alg_values_supported": ["RS384", "ES384"],
            "introspection_endpoint_auth_methods_supported": ways,
            "revocation_endpoint_auth_methods_supported": [*ways, *(["none"] if users else [])],
            "introspection_endpoint": issuer + INTROSPECT_PATH,
            "revocation_endpoint": issuer + REVOKE_PATH,
        }
    if users:
        metadata |= {
            "response_modes_supported": ["query"],
            "prompt_values_supported": ["none", "login", "consent", "select_account"],
            "authorization_endpoint": issuer + AUTHORIZE_PATH,
            "userinfo_endpoint": issuer + USERINFO_PATH,
            "end_session_endpoint": issuer + LOGOUT_PATH,
            "authorization_response_iss_parameter_supported": True,
        }
    return metadata


def _capabilities(lasting: bool, users: bool, patients: bool) -> list[str]:
    found = ["client-confidential-symmetric", "permission-v1", "permission-v2"]
    if lasting:
        found.append("client-confidential-asymmetric")
    if users:
        found += ["launch-standalone", "client-public", "sso-openid-connect", "permission-user", "permission-offline"]
        found += ["permission-online", "authorize-post"]
    if users and patients:
        found += ["context-standalone-patient", "permission-patient"]
    return sorted(found)
