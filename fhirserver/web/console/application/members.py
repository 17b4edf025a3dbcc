"""The people of the organization: who they are, what they may do, letting somebody in and out."""

from __future__ import annotations

from typing import Any

from flask import Response as HttpResponse

from fhirserver.fhir import Resource
from fhirserver.fhir.problem import problem
from fhirserver.rules.model import reference
from fhirserver.web.console.application.answers import id_of, values
from fhirserver.web.console.here import Here
from fhirserver.web.console.listing import Filter

ROLES = ("member", "admin")


def members(here: Here) -> HttpResponse:
    """The list; by a form somebody is added, and let in by a link that is shown once."""
    if here.posted:
        with here.trying():
            made = here.ask("create", "User", body=_new(here)).content() or {}
            return _link(here, made)
    found = here.list(
        "User",
        ("organization", f"Organization/{here.organization}"),
        ("_sort", "name"),
        find="name:contains",
        filters=(
            Filter("role", "role", ROLES, "common.role"),
            Filter("active", "active", ("true", "false"), "application.active"),
        ),
    )
    return here.page("application/members.html", found=found, roles=ROLES, admin=here.may("create", "User"))


def _new(here: Here) -> Resource:
    given = {name: here.form.get(name, "").strip() for name in ("email", "name", "role")}
    user = {name: value for name, value in given.items() if value}
    return {"resourceType": "User", **user, "organization": reference("Organization", here.organization)}


def _link(here: Here, user: Resource) -> HttpResponse:
    """The page with a link to set a password: never again."""
    told = values(here.operate("User", user["id"], "reset-password").get("parameter", ()))
    return here.page(
        "application/member_link.html", title=here.t("application.member_link.title"), member=user, link=told["link"],
        until=told["expires"],
    )  # fmt: skip


def member(here: Here) -> HttpResponse:
    """One person."""
    user = _of_here(here)
    name = str(user.get("name") or user["email"])
    return here.page(
        "application/member.html", title=name, member=user, roles=ROLES, admin=here.may("update", "User"),
        oneself=user["id"] == here.principal.id,
    )  # fmt: skip


def _of_here(here: Here) -> Resource:
    """The person of the address, of this organization."""
    user = here.read("User", here.values["member"])
    if id_of(user.get("organization")) != here.organization:
        raise problem("not-found", here.t("common.error.no_page"))
    return user


def change(here: Here) -> HttpResponse:
    """Another name or role; switched off or on; a link for a new password."""
    user, wanted = _of_here(here), here.form.get("do", "")
    with here.trying():
        if wanted == "link":
            return _link(here, user)
        body = {name: value for name, value in {**user, **_changed(here, wanted)}.items() if value != ""}
        here.ask("update", "User", user["id"], body=body, if_match=user["meta"]["versionId"])
    if here.refused:
        return member(here)
    return here.go(here.url("application.member", member=user["id"]), said="application.member.saved")


def _changed(here: Here, wanted: str) -> dict[str, Any]:
    """What a form changes of a person."""
    if wanted in ("on", "off"):
        return {"active": wanted == "on"}
    return {name: here.form[name].strip() for name in ("name", "role") if wanted == "save" and name in here.form}


def remove(here: Here) -> HttpResponse:
    """Removes a person, once DELETE was typed."""
    user = _of_here(here)
    with here.trying():
        here.require_word("DELETE")
        here.ask("delete", "User", user["id"])
    if here.refused:
        return member(here)
    return here.go(
        here.url("application.members"), said="application.member.removed", name=str(user.get("name") or user["email"])
    )
