"""A new client, step by step: its kind, what it is, what it may do, a look at all of it; then its credentials, once.

Every step's answers travel in the form to the next one, so nothing is kept of what is not finished. The client's id is
made with the form: sent twice, it is the same client, and its secret is not shown a second time.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

from flask import Response as HttpResponse

from fhirserver.fhir import Resource
from fhirserver.fhir.json import encode, pretty
from fhirserver.fhir.problem import problem
from fhirserver.rules.client import is_public, needs_secret
from fhirserver.rules.model import reference
from fhirserver.web.console.application.answers import titles
from fhirserver.web.console.application.clients import KINDS
from fhirserver.web.console.application.forms import FIELDS, GRANTS, KEYS, facts_of
from fhirserver.web.console.application.scopes import choices, picked
from fhirserver.web.console.here import Here

STEPS = ("kind", "facts", "scopes", "review")
_ID = re.compile(r"[a-z0-9-]{16,64}")
_SCOPES = re.compile(r"(profile|launch|scopes|(level|type|action)-\d{1,2})")


def new(here: Here) -> HttpResponse:
    """The step that the form has come to."""
    at = here.form.get("at", "kind") if here.form.get("at") in STEPS else "kind"
    step = _next(at, here.form.get("do", "")) if here.posted else "kind"
    words: list[dict[str, Any]] = []
    scope = ""
    with here.trying():
        _check(here, at, step)
        if step in ("review", "done"):
            scope, words = picked(here).permissions(here)
        if step == "done":
            return _registered(here, scope)
    if here.refused:
        step = _at_fault(here, at)
    return _shown(here, step, scope, words)


def _next(at: str, wanted: str) -> str:
    """The step after this one, or before it; the same one for anything else that its form asks for."""
    place = STEPS.index(at) + {"next": 1, "back": -1}.get(wanted, 0)
    if wanted == "create" and at == "review":
        return "done"
    return STEPS[min(max(place, 0), len(STEPS) - 1)]


def _check(here: Here, at: str, step: str) -> None:
    """Raises Problem for what has to be said before the next step; everything else the server says when it is made."""
    if step == at or not here.posted or here.form.get("do") == "back":
        return
    if here.form.get("kind") not in KINDS:
        raise problem("required", here.t("application.client-new.choose_kind"), "kind")
    if at != "kind" and not here.form.get("name", "").strip():
        raise problem("required", here.t("application.client-new.give_name"), "name")
    if at != "kind" and not here.form_list("grantType"):
        raise problem("required", here.t("application.client-new.choose_grant"), "grantType")


def _at_fault(here: Here, at: str) -> str:
    """The step whose form holds what was refused."""
    issues = here.refused.issues if here.refused else ()
    said = {named.rpartition(".")[2].partition("[")[0] for issue in issues for named in issue.expression}
    if "kind" in said:
        return "kind"
    if said & set(FIELDS):
        return "facts"
    return "scopes" if at in ("scopes", "review") else at


def _shown(here: Here, step: str, scope: str, words: list[dict[str, Any]]) -> HttpResponse:
    shown: dict[str, Any] = {"step": step, "steps": STEPS, "carried": list(_carried(here, step)), "words": words}
    shown |= {"scope": scope, "id": _id(here), "grants": GRANTS, "keys": KEYS, "kinds": KINDS}
    shown["held"] = {"keys": KEYS[0], **dict(here.form_pairs())}
    if step == "scopes":
        shown |= choices(here, picked(here))
    if step == "review":
        draft = _client(here, scope)
        shown |= {"draft": draft, "proof": _proof(draft), "profiles": titles(here)}
    title = here.t(f"application.client-new.{step}.title")
    return here.page(f"application/new_{step}.html", title=title, **shown)


def _carried(here: Here, step: str) -> Iterator[tuple[str, str]]:
    """The answers of the other steps, to go into this one's form."""
    for name, value in here.form_pairs():
        home = "kind" if name == "kind" else "facts" if name in FIELDS else "scopes" if _SCOPES.fullmatch(name) else ""
        if home and home != step:
            yield name, value


def _id(here: Here) -> str:
    given = here.form.get("id", "")
    return given if _ID.fullmatch(given) else here.server.new_id()


def _client(here: Here, scope: str) -> Resource:
    chosen = picked(here)
    client = facts_of(here, {"resourceType": "ClientApplication", "id": _id(here), "kind": here.form.get("kind", "")})
    client["managingOrganization"] = reference("Organization", here.organization)
    client |= {"scope": scope} if scope else {}
    return client | ({"iheProfile": chosen.profiles} if chosen.profiles else {})


def _proof(client: Resource) -> str:
    """How the client proves who it is: by keys, a secret, or not at all."""
    return "secret" if needs_secret(client) else "public" if is_public(client) else "keys"


def _registered(here: Here, scope: str) -> HttpResponse:
    """Registers the client; its credentials, if it has just been made."""
    draft = _client(here, scope)
    answer = here.ask("update", "ClientApplication", draft["id"], body=draft)
    client = answer.content() or {}
    if answer.status != 201:
        return here.go(
            here.url("application.client", client=draft["id"]), said="application.credentials.known", tone="info"
        )
    return shown_once(here, client, "made", _proof(client))


def shown_once(here: Here, client: Resource, why: str, proof: str, until: str = "") -> HttpResponse:
    """The page with a client's id and secret, made or rotated: never again."""
    secret = str(client.get("secret", ""))
    kept = {"client_id": client["id"], **({"client_secret": secret} if secret else {}), "token_endpoint": _token(here)}
    file = "data:application/json;base64," + b64encode(pretty(encode(kept))).decode()
    return here.page(
        "application/credentials_once.html",
        title=here.t("application.credentials.title"),
        client=client,
        secret=secret,
        proof=proof,
        text=f"application.credentials.{why}",
        until=until,
        file=file,
        token_endpoint=_token(here),
    )


def _token(here: Here) -> str:
    return f"{here.server.public_url}/oauth2/token"
