"""Members: who may sign in for this organization, in which role; let in and helped out by links that are good once."""

from __future__ import annotations

from flask import Response as HttpResponse

from fhirserver.fhir import Resource
from fhirserver.fhir.problem import problem
from fhirserver.rules.model import reference, target
from fhirserver.rules.user import ROLES
from fhirserver.web.console.here import Here
from fhirserver.web.console.listing import Filter

TYPE = "User"
FILTERS = (
    Filter("role", "role", ROLES, "common.role"),
    Filter("active", "active", ("true", "false"), "hospital.active"),
)


def members(here: Here) -> HttpResponse:
    """Everybody with a role here."""
    found = here.list(
        TYPE,
        ("organization", f"Organization/{here.organization}"),
        ("_sort", "email"),
        find="name:contains",
        filters=FILTERS,
    )
    return here.page("hospital/members.html", found=found, may=_may(here))


def member_new(here: Here) -> HttpResponse:
    """Adds somebody by e-mail address, and shows the link with which they set a password, this once."""
    if here.posted:
        with here.trying():
            user = {
                "resourceType": TYPE,
                "email": here.form.get("email", "").strip(),
                "name": here.form.get("name", "").strip(),
                "role": here.form.get("role", "member"),
                "organization": reference("Organization", here.organization),
            }
            made = here.ask("create", TYPE, body={name: value for name, value in user.items() if value}).content() or {}
            return _link(here, made)
    return here.page("hospital/member_new.html", roles=_roles(here))


def member(here: Here) -> HttpResponse:
    """One person: another name or role, a new link, no access for a while or for good."""
    user = _own(here)
    if here.posted:
        with here.trying():
            action = here.form.get("action", "")
            if action == "link":
                return _link(here, user)
            return _changed(here, user, action)
    title = str(user.get("name") or user["email"])
    return here.page("hospital/member.html", title=title, one=user, roles=_roles(here), may=_may(here))


def _changed(here: Here, user: Resource, action: str) -> HttpResponse:
    """Does what the form asked for. Raises Problem for what the server refuses."""
    name = str(user.get("name") or user["email"])
    if action == "remove":
        here.require_word("DELETE")
        here.ask("delete", TYPE, user["id"])
        return here.go(here.url("hospital.members"), "hospital.said.removed", name=name)
    after = dict(user)
    if action == "save":
        after |= {"name": here.form.get("name", "").strip(), "role": here.form.get("role", user["role"])}
    elif action in ("activate", "deactivate"):
        after["active"] = action == "activate"
    else:
        raise problem("value", here.t("common.error.form"))
    body = {key: value for key, value in after.items() if value != ""}
    here.ask("update", TYPE, user["id"], body=body, if_match=user["meta"]["versionId"])
    return here.go(here.url("hospital.member", id=user["id"]), "hospital.said.saved", name=name)


def _link(here: Here, user: Resource) -> HttpResponse:
    """The page with the link: it is on no other."""
    answer = here.operate(TYPE, user["id"], "reset-password")
    said = {part["name"]: part.get("valueUri") or part.get("valueInstant") for part in answer["parameter"]}
    return here.page("hospital/member_link.html", one=user, link=said["link"], expires=said["expires"])


def _own(here: Here) -> Resource:
    found = here.read(TYPE, here.values["id"])
    if target(found.get("organization"), "Organization") != here.organization:
        raise problem("not-found", here.t("common.error.no_page"))
    return found


def _roles(here: Here) -> list[tuple[str, str]]:
    return [(code, here.texts.word("common.role", code)) for code in reversed(ROLES)]


def _may(here: Here) -> bool:
    return bool(here.place and here.place.role == "admin")
