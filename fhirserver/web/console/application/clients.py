"""The clients of an application provider: the list, one of them, what is said of it, and its end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flask import Response as HttpResponse

from fhirserver.fhir import Resource
from fhirserver.fhir.problem import problem
from fhirserver.web.console.application.answers import explained, id_of, permissions, titles
from fhirserver.web.console.application.forms import GRANTS, KEYS, email_of, facts_of, keys_of
from fhirserver.web.console.application.scopes import Picked, choices, picked, picked_of
from fhirserver.web.console.here import Here
from fhirserver.web.console.listing import Filter

KINDS = ("production", "test")
ACTIVE = Filter("active", "active", ("true", "false"), "application.active")
MOST_SHOWN = 100


def clients(here: Here) -> HttpResponse:
    """The list, with a tab for each kind."""
    kind = here.asked.get("kind", "") if here.asked.get("kind") in KINDS else ""
    found = here.list(
        "ClientApplication",
        ("managing-organization", f"Organization/{here.organization}"),
        ("_sort", "name"),
        find="name:contains",
        filters=(Filter("kind", "kind", KINDS, "application.kind", shown=False), ACTIVE),
    )
    return here.page("application/clients.html", found=found, kind=kind, known=_known(here, found.entries))


def _known(here: Here, entries: list[Resource]) -> dict[str, list[Resource]]:
    """The authorizations of the clients on the page, by client."""
    known: dict[str, list[Resource]] = {}
    if entries:
        who = ",".join(f"ClientApplication/{each['id']}" for each in entries)
        for each in here.found(
            "ClientAuthorization", ("client", who), ("_elements", "client,status"), ("_count", str(MOST_SHOWN))
        ):
            known.setdefault(id_of(each["client"]), []).append(each)
    return known


def named(here: Here) -> Resource:
    """The client that the address names; the way to the page says its name. Raises Problem(not-found) for another
    organization's.
    """
    client = here.read("ClientApplication", here.values["client"])
    if id_of(client.get("managingOrganization")) != here.organization:
        raise problem("not-found", here.t("common.error.no_page"))
    address = here.url("application.client", client=client["id"])
    here.trail = [replace(each, title=client["name"]) if each.address == address else each for each in here.trail]
    return client


def client(here: Here) -> HttpResponse:
    """The overview: what it is, which organizations let it in, its subscriptions' way."""
    found = named(here)
    authorizations = here.list(
        "ClientAuthorization", ("client", f"ClientApplication/{found['id']}"), ("_sort", "-requested")
    )
    sandbox = next((id_of(each["organization"]) for each in authorizations.entries if each.get("kind") == "test"), "")
    return here.page(
        "application/client.html",
        title=found["name"],
        client=found,
        found=authorizations,
        sandbox=here.server.base(sandbox) if sandbox else "",
        words=[each["words"] for each in permissions(here, str(found.get("scope", "")))[1]],
    )


def sandbox(here: Here) -> HttpResponse:
    """Makes the sandbox of a test client and leads back."""
    found = named(here)
    with here.trying():
        here.operate("ClientApplication", found["id"], "sandbox")
    if here.refused:
        return client(here)
    return here.go(here.url("application.client", client=found["id"]), said="application.client.sandbox_made")


def settings(here: Here) -> HttpResponse:
    """What is said of a client, to be changed; switching it off and on; its end."""
    found = named(here)
    if here.posted:
        with here.trying():
            _changed(here, found, facts_of(here, found))
        if not here.refused:
            return here.go(here.url("application.client", client=found["id"]), said="application.settings.saved")
    return here.page(
        "application/settings.html", client=found, grants=GRANTS, keys=KEYS, held=_held(found), admin=_admin(here)
    )


def _held(found: Resource) -> dict[str, Any]:
    uris = "\n".join(found.get("redirectUri", ()))
    return {**found, "email": email_of(found), "redirectUri": uris, "keys": keys_of(found)}


def _admin(here: Here) -> bool:
    return here.may("update", "ClientApplication")


def _changed(here: Here, previous: Resource, client: Resource) -> Resource:
    """Writes the client over the version that the page showed."""
    version = here.form.get("version") or previous["meta"]["versionId"]
    answer = here.ask("update", "ClientApplication", previous["id"], body=client, if_match=version)
    return answer.content() or {}


def switch(here: Here) -> HttpResponse:
    """Switches a client off, or on again."""
    found = named(here)
    on = here.form.get("active") == "true"
    with here.trying():
        _changed(here, found, {**found, "active": on})
    if here.refused:
        return client(here)
    said = f"application.settings.switched_{'on' if on else 'off'}"
    return here.go(here.url("application.client", client=found["id"]), said=said)


def delete(here: Here) -> HttpResponse:
    """Deletes a client, once DELETE was typed."""
    found = named(here)
    with here.trying():
        here.require_word("DELETE")
        here.ask("delete", "ClientApplication", found["id"])
    if here.refused:
        return here.page(
            "application/settings.html",
            title=here.t("application.client-settings.title"),
            client=found,
            grants=GRANTS,
            keys=KEYS,
            held=_held(found),
            admin=_admin(here),
        )
    return here.go(here.url("application.clients"), said="application.settings.deleted", name=found["name"])


def scopes(here: Here) -> HttpResponse:
    """What the client may do, in words."""
    found = named(here)
    scope, profiles = str(found.get("scope", "")), list(found.get("iheProfile", ()))
    return here.page(
        "application/scopes.html",
        client=found,
        permissions=explained(here, scope, profiles),
        profiles=titles(here),
        behind=_behind(here, found),
        admin=_admin(here),
    )


def _behind(here: Here, found: Resource) -> list[Resource]:
    """The authorizations that were approved for another scope than the client has now, and were not asked for it."""
    approved = here.found(
        "ClientAuthorization",
        ("client", f"ClientApplication/{found['id']}"),
        ("status", "approved"),
        ("_count", str(MOST_SHOWN)),
    )
    scope = found.get("scope", "")
    return [each for each in approved if scope and scope not in (each.get("scope", ""), each.get("pendingScope", ""))]


def change(here: Here) -> HttpResponse:
    """Another choice of what the client may do: chosen, reviewed, then saved."""
    found = named(here)
    chosen = picked(here) if here.posted else picked_of(here, found)
    wanted = here.form.get("do", "")
    if wanted in ("next", "save"):
        with here.trying():
            scope, words = chosen.permissions(here)
            if wanted == "save":
                _changed(here, found, _scoped(found, scope, chosen))
        if not here.refused:
            if wanted == "save":
                return here.go(
                    here.url("application.client-scopes", client=found["id"]),
                    said=f"application.change.saved_{found['kind']}",
                )
            return here.page(
                "application/change_review.html", client=found, permissions=words, scope=scope, profiles=titles(here),
                carried=here.form_pairs(), version=found["meta"]["versionId"],
            )  # fmt: skip
    return here.page("application/change.html", client=found, **choices(here, chosen))


def _scoped(found: Resource, scope: str, chosen: Picked) -> Resource:
    rest = {name: value for name, value in found.items() if name not in ("scope", "iheProfile")}
    return {
        **rest,
        **({"scope": scope} if scope else {}),
        **({"iheProfile": chosen.profiles} if chosen.profiles else {}),
    }
