"""ClientApplication: an OAuth client. Its secret is made or taken at registration, answered once, and kept as a keyed
hash only.

RFC 6749 section 2, RFC 7591 (the metadata), OAuth 2.1 (redirect URIs compared exactly).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from fhirserver.auth import scopes
from fhirserver.auth.layers import check_narrowing
from fhirserver.auth.principal import Principal
from fhirserver.fhir import Resource
from fhirserver.fhir.instants import instant_text
from fhirserver.fhir.problem import Issue, Problem, problem
from fhirserver.rules.model import Context, Prepared, Rule, listed, only_on_registry, reference, target

SECRET_GRANTS = ("client_credentials", "basic_auth")
"""The grants that need a secret, unless the client has keys."""

LEAST_SECRET = 32
MOST_SECRET = 256
MOST_URI = 2048
MOST_JWKS = 16_384
DEFAULT_OVERLAP, MOST_OVERLAP = 86_400, 30 * 86_400
"""Seconds for which a rotated secret goes on working."""

MOST_LIFETIME = {"accessTokenLifetime": 86_400, "refreshTokenLifetime": 400 * 86_400}

WEAK = f"The secret is weak: use {LEAST_SECRET} random characters or more, or leave it out and get one made."


def create(context: Context, resource: Resource) -> Prepared:
    """A registered client; `shown` carries the secret.

    Raises Problem: value, required or business-rule for what the registration may not say, forbidden for another's
    organization.
    """
    only_on_registry(context, "ClientApplication")
    client = dict(resource)
    if str(client.get("id", "")) != str(client.get("id", "")).lower():
        # Tokens compare without regard to case, so two ids that differ by case only could see each other's things.
        raise problem("value", "The id of a client has no capital letters: choose another.", "ClientApplication.id")
    client.setdefault("kind", "test")
    client.setdefault("active", True)
    client["registered"] = instant_text(context.now)
    _own(context.principal, client)
    _check(context, client)
    sent = client.pop("secret", None)
    if not needs_secret(client):
        if sent is not None:
            raise _no_secret(client)
        return Prepared(client, {"secrets": []})
    warnings = _judged(sent, client["kind"])
    secret = sent or context.new_secret()
    entry: dict[str, Any] = {**_entry(context, secret), **({"weak": True} if warnings else {})}
    return Prepared(client, {"secrets": [entry]}, {**client, "secret": secret}, warnings)


def update(context: Context, previous: Resource, private: Mapping[str, Any], resource: Resource) -> Prepared:
    """The changed client; its secret stays. A client that now needs one for the first time gets it in `shown`."""
    client = dict(resource)
    client.setdefault("kind", previous["kind"])
    client.setdefault("active", previous.get("active", True))
    if "managingOrganization" not in client and "managingOrganization" in previous:
        client["managingOrganization"] = previous["managingOrganization"]
    client.pop("registered", None)
    if "registered" in previous:
        client["registered"] = previous["registered"]
    _own(context.principal, client)
    _unmoved(context, previous, client)
    _check(context, client)
    sent, held = client.pop("secret", None), list(private.get("secrets", ()))
    if not needs_secret(client):
        if sent is not None:
            raise _no_secret(client)
        return Prepared(client, {**private, "secrets": []})
    if not held:
        gained = create(context, {**client, **({"secret": sent} if sent else {})})
        return replace(
            gained, resource={**gained.resource, "registered": client.get("registered", instant_text(context.now))}
        )
    if sent is not None and not (isinstance(sent, str) and any(context.matches(sent, one["hash"]) for one in held)):
        raise problem(
            "business-rule",
            "A secret is not changed by an update: leave it out, and call $rotate-secret.",
            "ClientApplication.secret",
        )
    return Prepared(client, dict(private), warnings=_scope_note(previous, client))


def again(context: Context, before: Resource, resource: Resource) -> None:
    """Raises Problem(business-rule) for the id of a client that was another organization's: the records of what that
    one did, and what was decided about it, are found by its id.
    """
    one, two = (target(each.get("managingOrganization"), "Organization") for each in (before, resource))
    if one != two:
        text = "A client of another organization had this id: choose another."
        raise problem("business-rule", text, "ClientApplication.id")


def rotate(
    context: Context, previous: Resource, private: Mapping[str, Any], overlap: int = DEFAULT_OVERLAP
) -> Prepared:
    """The client with a new secret, in `shown`; the one before works for another `overlap` seconds, any older no more.

    Raises Problem: forbidden for anybody but the client or an administrator of its owner, business-rule for a client
    that has no secret, value for too long an overlap.
    """
    principal, owner = context.principal, target(previous.get("managingOrganization"), "Organization")
    is_itself = principal.kind == "client" and principal.id == previous["id"]
    if not (is_itself or _is_operator(principal) or principal.admin(owner)):
        raise problem("forbidden", "Only the client or an administrator of its organization may rotate its secret.")
    if not needs_secret(previous):
        raise _no_secret(previous)
    if not 0 <= overlap <= MOST_OVERLAP:
        raise problem("value", f"overlap is 0 to {MOST_OVERLAP} seconds.", "Parameters.parameter")
    end = instant_text(context.now + timedelta(seconds=overlap))
    kept = [{**entry, "expires": min(entry.get("expires", end), end)} for entry in private.get("secrets", ())[-1:]]
    secret = context.new_secret()
    secrets = [*kept, _entry(context, secret)] if overlap else [_entry(context, secret)]
    return Prepared(dict(previous), {**private, "secrets": secrets}, {**previous, "secret": secret})


def needs_secret(client: Mapping[str, Any]) -> bool:
    """Whether the client authenticates by a secret: by its grants, and because it has no keys."""
    keys = client.get("jwks") or client.get("jwksUri")
    return not keys and any(grant in SECRET_GRANTS for grant in listed(client.get("grantType")))


def is_public(client: Mapping[str, Any]) -> bool:
    """Whether the client has nothing to authenticate with: neither secret nor keys."""
    return not (needs_secret(client) or client.get("jwks") or client.get("jwksUri"))


def _entry(context: Context, secret: str) -> dict[str, str]:
    return {"hash": context.seal(secret), "created": instant_text(context.now)}


def _no_secret(client: Resource) -> Problem:
    why = "it authenticates by its keys" if client.get("jwks") or client.get("jwksUri") else "it is a public client"
    return problem("business-rule", f"This client has no secret, {why}: leave it out.", "ClientApplication.secret")


def _judged(secret: Any, kind: str) -> tuple[Issue, ...]:
    if secret is None:
        return ()
    if not isinstance(secret, str) or not 0 < len(secret) <= MOST_SECRET or not secret.isprintable():
        text = f"ClientApplication.secret must have 1 to {MOST_SECRET} printable characters."
        raise problem("value", text, "ClientApplication.secret")
    if len(secret) >= LEAST_SECRET and len(set(secret)) >= 10:
        return ()
    if kind != "test":
        raise problem("business-rule", WEAK, "ClientApplication.secret")
    return (Issue("business-rule", WEAK, ("ClientApplication.secret",), "warning"),)


def _own(principal: Principal, client: Resource) -> None:
    """Gives the client the writer's own organization where none is said; refuses one that the writer does not
    administer.
    """
    if "managingOrganization" not in client and principal.organization:
        client["managingOrganization"] = reference("Organization", principal.organization)
    organization = target(client.get("managingOrganization"), "Organization")
    if _is_operator(principal):
        return
    if not organization:
        text = "ClientApplication.managingOrganization is missing: reference your Organization."
        raise problem("required", text, "ClientApplication.managingOrganization")
    if not principal.admin(organization):
        raise problem("forbidden", f"Only an administrator of organization {organization} may write its clients.")


def _is_operator(principal: Principal) -> bool:
    return principal.operator or principal.kind in ("operator", "system")


def _unmoved(context: Context, previous: Resource, client: Resource) -> None:
    if client["kind"] != previous["kind"]:
        text = "The kind of a client cannot change, because test and production never mix: register another."
        raise problem("business-rule", text, "ClientApplication.kind")
    one, two = (target(c.get("managingOrganization"), "Organization") for c in (previous, client))
    if one != two and not _is_operator(context.principal):
        text = "Only an operator may move a client to another organization."
        raise problem("forbidden", text, "ClientApplication.managingOrganization")


def _check(context: Context, client: Resource) -> None:
    if "scope" in client:
        held = scopes.parse(str(client["scope"]), context.definitions.resource_types)
        check_narrowing(held, context.definitions)
        client["scope"] = str(held)
    grants, uris = listed(client.get("grantType")), listed(client.get("redirectUri"))
    client.setdefault("responseTypes", "code" if "authorization_code" in grants else "token")
    if "authorization_code" in grants and not uris:
        text = "The grant authorization_code needs a redirectUri to send the code to."
        raise problem("required", text, "ClientApplication.redirectUri")
    for index, uri in enumerate(uris):
        if not valid_redirect(str(uri)):
            text = (
                "A redirect URI is absolute, without wildcard or fragment: https, or http to a loopback address,"
                " or a scheme of the application's own like com.example.app:/callback."
            )
            raise problem("value", text, f"ClientApplication.redirectUri[{index}]")
    _check_keys(client)
    for name, most in MOST_LIFETIME.items():
        if isinstance(client.get(name), int) and client[name] > most:
            raise problem("value", f"{name} is at most {most} seconds.", f"ClientApplication.{name}")


def valid_redirect(uri: str) -> bool:
    """Whether a redirect URI may be registered: it is later compared character by character."""
    if len(uri) > MOST_URI or not uri.isprintable() or any(c in uri for c in ' *#\\<>"'):
        return False
    try:
        parts = urlsplit(uri)
        host = parts.hostname or ""
    except ValueError:
        return False
    if parts.username is not None or parts.password is not None:
        return False
    if parts.scheme == "https":
        return bool(host)
    if parts.scheme == "http":
        return host == "localhost" or _is_loopback(host)
    return "." in parts.scheme


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _scheme(uri: str) -> str:
    """The scheme of a URI, "" of what is none."""
    try:
        return urlsplit(uri).scheme
    except ValueError:
        return ""


def _check_keys(client: Resource) -> None:
    uri, text = client.get("jwksUri"), client.get("jwks")
    if uri and text:
        raise problem("business-rule", "Give either jwks or jwksUri, not both.", "ClientApplication.jwks")
    if uri and _scheme(str(uri)) != "https":
        raise problem("value", "ClientApplication.jwksUri must be an https URL.", "ClientApplication.jwksUri")
    if text and not _is_public_set(str(text)):
        raise problem(
            "value",
            "ClientApplication.jwks must be the JSON text of a JWK Set: public RSA or EC P-384 keys with a kid.",
            "ClientApplication.jwks",
        )


def _is_public_set(text: str) -> bool:
    try:
        keys = json.loads(text)["keys"] if len(text) <= MOST_JWKS else []
    except (ValueError, KeyError, TypeError, RecursionError):
        return False
    if not isinstance(keys, list) or not keys or not all(isinstance(key, dict) for key in keys):
        return False
    return all(key.get("kid") and "d" not in key and _is_asymmetric(key) for key in keys)


def _is_asymmetric(key: Mapping[str, Any]) -> bool:
    return key.get("kty") == "RSA" or (key.get("kty") == "EC" and key.get("crv") == "P-384")


def _scope_note(previous: Resource, client: Resource) -> tuple[Issue, ...]:
    if client["kind"] != "production" or previous.get("scope") == client.get("scope"):
        return ()
    text = "Organizations that approved this client keep permitting what they approved; request again for more."
    return (Issue("informational", text, ("ClientApplication.scope",), "information"),)


def secret_of(private: Mapping[str, Any], matches: Callable[[str, str], bool], secret: str, now: str) -> str:
    """The hash of the one of the client's secrets in force that this is, "" for none of them; `matches` is
    `Vault.matches`, `now` an instant.

    Every stored hash is compared, so that the time taken does not tell which of them it was.
    """
    held = [entry["hash"] for entry in private.get("secrets", ()) if entry.get("expires", "9") > now]
    return "".join([hash for hash in held if matches(secret, hash)][:1])


RULE = Rule("ClientApplication", create=create, update=update, again=again)
