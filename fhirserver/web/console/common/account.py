"""The user's own account: the password, and what applications were allowed to do in the user's name."""

from __future__ import annotations

from typing import Any

from flask import Response as HttpResponse

from fhirserver.fhir.problem import problem
from fhirserver.web.console.here import Here


def account(here: Here) -> HttpResponse:
    """Who the user is; a form to change the password."""
    if here.posted:
        with here.trying():
            _change(here)
        if not here.refused:
            return here.go(here.url("common.account"), said="common.account.changed")
    return here.page("common/account.html", grants=_grants(here))


def withdraw(here: Here) -> HttpResponse:
    """Forgets that the user allowed an application something: it has to ask again."""
    client, organization = here.form.get("client", ""), here.form.get("organization", "")
    if here.tokens.kept:
        here.tokens.kept.drop(f"grant/{here.principal.id}/{client}/{organization}")
    return here.go(here.url("common.account"), said="common.account.withdrawn")


def _change(here: Here) -> None:
    if here.form.get("password") != here.form.get("again"):
        raise problem("value", here.t("common.account.differ"), "again")
    here.operate(
        "User",
        here.principal.id,
        "change-password",
        current=here.form.get("current", ""),
        password=here.form.get("password", ""),
    )


def _grants(here: Here) -> list[dict[str, Any]]:
    """What the user allowed, with the names of the client and the organization."""
    kept, organization = here.tokens.kept, here.tokens.organization
    assert kept is not None
    assert organization is not None
    found = []
    for grant in kept.of_group(f"grants/{here.principal.id}", here.tokens.now()):
        client, place = here.tokens.client(grant["client"]), organization(grant["organization"])
        names = {
            "client_name": client[0].get("name") if client else grant["client"],
            "organization_name": place.get("name") if place else here.t("common.registry"),
        }
        found.append({**grant, **names})
    return found
