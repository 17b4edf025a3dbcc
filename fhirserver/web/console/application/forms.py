"""The form about a client: name, publisher, how it signs in and proves itself; read into a ClientApplication."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhirserver.fhir import Resource
from fhirserver.web.console.here import Here

GRANTS = ("client_credentials", "authorization_code", "refresh_token", "basic_auth")
KEYS = ("none", "jwksUri", "jwks")
TEXTS = ("name", "description", "uri", "logoUri", "tosUri", "policyUri")
FIELDS = (*TEXTS, "email", "grantType", "redirectUri", "keys", "jwks", "jwksUri")
"""The fields of the form."""


def facts_of(here: Here, previous: Mapping[str, Any]) -> Resource:
    """The client as the form says it; what the form does not speak of stays."""
    said: dict[str, Any] = {name: here.form.get(name, "").strip() for name in TEXTS}
    said["grantType"] = [grant for grant in here.form_list("grantType") if grant in GRANTS]
    said["redirectUri"] = here.form.get("redirectUri", "").split()
    said["contact"] = _contact(previous, here.form.get("email", "").strip())
    chosen = here.form.get("keys", "none")
    said |= {name: here.form.get(name, "").strip() if chosen == name else "" for name in ("jwks", "jwksUri")}
    rest = {name: value for name, value in previous.items() if name not in said and name != "responseTypes"}
    return {**rest, **{name: value for name, value in said.items() if value}}


def keys_of(client: Mapping[str, Any]) -> str:
    """Which of KEYS a client has."""
    return next((name for name in ("jwks", "jwksUri") if client.get(name)), "none")


def email_of(client: Mapping[str, Any]) -> str:
    """The e-mail address for questions about a client, "" where its contact is none or of another kind."""
    contact = client.get("contact", {})
    return str(contact.get("value", "")) if contact.get("system") == "email" else ""


def _contact(previous: Mapping[str, Any], email: str) -> Any:
    """The contact: the address, or one of another kind as it is."""
    kept = previous.get("contact") if previous.get("contact", {}).get("system") != "email" else None
    return {"system": "email", "value": email} if email else kept
