"""The user's own account: the password, and what applications were allowed to do in the user's name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Response as HttpResponse

from fhirserver.fhir.problem import problem
from fhirserver.rules.model import reference
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
    """Takes back what the user allowed an application: it has to ask again."""
    client, organization = here.form.get("client", ""), here.form.get("organization", "")
    here.operate(
        "User",
        here.principal.id,
        "withdraw-grant",
        client=reference("ClientApplication", client),
        organization=reference("Organization", organization) if organization else None,
    )
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
    """What the user allowed: the parts of $grants by name."""
    given = here.operate("User", here.principal.id, "grants", method="GET").get("parameter", ())
    return [{part["name"]: _value(part) for part in grant.get("part", ())} for grant in given]


def _value(part: Mapping[str, Any]) -> Any:
    return next((value for name, value in part.items() if name != "name"), None)
