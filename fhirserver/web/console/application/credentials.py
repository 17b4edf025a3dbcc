"""The secrets and keys of a client: when each was made and used, and another secret, with time for both to work."""

from __future__ import annotations

import json
from typing import Any

from flask import Response as HttpResponse

from fhirserver.fhir import Resource
from fhirserver.rules.client import is_public, needs_secret
from fhirserver.web.console.application.answers import parameters, values
from fhirserver.web.console.application.clients import named
from fhirserver.web.console.application.registering import shown_once
from fhirserver.web.console.here import Here

OVERLAPS = (86_400, 3_600, 604_800, 2_592_000, 0)
"""Seconds for which the secret before goes on working, the usual first."""


def credentials(here: Here) -> HttpResponse:
    """What the client proves itself with, and since when."""
    found = named(here)
    return _page(here, found)


def rotate(here: Here) -> HttpResponse:
    """A new secret, shown once."""
    found = named(here)
    overlap = next((seconds for seconds in OVERLAPS if str(seconds) == here.form.get("overlap")), OVERLAPS[0])
    with here.trying():
        client = here.operate("ClientApplication", found["id"], "rotate-secret", overlap=overlap)
    if here.refused:
        return _page(here, found)
    secrets = _secrets(here, found)
    until = next((each.get("expires", "") for each in secrets if not each["current"]), "")
    return shown_once(here, client, "rotated", "secret", until)


def _page(here: Here, found: Resource) -> HttpResponse:
    told = here.operate("ClientApplication", found["id"], "secrets", method="GET")
    return here.page(
        "application/credentials.html",
        title=here.t("application.client-credentials.title"),
        client=found,
        proof="secret" if needs_secret(found) else "public" if is_public(found) else "keys",
        secrets=[values(each["part"]) for each in parameters(told, "secret")],
        used=values(parameters(told, "keyLastUsed")).get("keyLastUsed", ""),
        keys=_keys(found),
        overlaps=OVERLAPS,
        admin=here.may("update", "ClientApplication"),
    )


def _secrets(here: Here, found: Resource) -> list[dict[str, Any]]:
    told = here.operate("ClientApplication", found["id"], "secrets", method="GET")
    return [values(each["part"]) for each in parameters(told, "secret")]


def _keys(found: Resource) -> list[dict[str, Any]]:
    """The keys in the client's own JWK Set: what each is called and what kind it is."""
    try:
        keys = json.loads(str(found.get("jwks", "{}"))).get("keys", [])
    except (ValueError, AttributeError):
        return []
    return [{"kid": str(key.get("kid", "")), "kty": str(key.get("kty", ""))} for key in keys if isinstance(key, dict)]
