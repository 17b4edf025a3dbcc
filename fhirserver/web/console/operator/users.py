"""Users: everybody who can sign in; added, locked and unlocked, given another role, let in by a link."""

from __future__ import annotations

from flask import Response as HttpResponse

from fhirserver.fhir import Resource
from fhirserver.rules.model import reference, target
from fhirserver.rules.user import ROLES
from fhirserver.web.console.here import Here
from fhirserver.web.console.listing import Filter

TYPE = "User"
ALL_ROLES = (*ROLES, "operator")
DONE = {"lock": "locked", "unlock": "unlocked"}
FILTERS = (
    Filter("role", "role", ALL_ROLES, "common.role"),
    Filter("active", "active", ("true", "false"), "operator.active"),
)


def users(here: Here) -> HttpResponse:
    """All of them; `of` narrows to an organization."""
    of = here.asked.get("of", "")
    within = (("organization", f"Organization/{of}"),) if of else ()
    found = here.list(TYPE, *within, ("_sort", "email"), find="name:contains", filters=FILTERS)
    return here.page("operator/users.html", found=found, places=_named(here, found.entries))


def _named(here: Here, people: list[Resource]) -> dict[str, str]:
    """The names of the organizations of these users, asked for together."""
    ids = {target(each.get("organization"), "Organization") for each in people} - {""}
    asked = (("_id", ",".join(sorted(ids))), ("_elements", "name"))
    return {each["id"]: str(each.get("name", "")) for each in here.found("Organization", *asked)} if ids else {}


def user_new(here: Here) -> HttpResponse:
    """Adds somebody."""
    if here.posted:
        with here.trying():
            given = {name: here.form.get(name, "").strip() for name in ("email", "name", "role")}
            body: Resource = {"resourceType": TYPE, **{name: value for name, value in given.items() if value}}
            place = here.form.get("organization", "").strip()
            if place and given["role"] != "operator":
                here.read("Organization", place)
                body["organization"] = reference("Organization", place)
            return linked(here, here.ask("create", TYPE, body=body).content() or {})
    return here.page("operator/user_new.html", roles=_roles(here), places=_places(here))


def _places(here: Here) -> list[tuple[str, str]]:
    """Organizations to choose from; another one is added on its own page, which names it in the address."""
    chosen = here.asked.get("organization", "")
    if chosen:
        found = [here.read("Organization", chosen)]
    else:
        found = here.found("Organization", ("_sort", "name"), ("_count", "200"), ("_elements", "name"))
    return [*([] if chosen else [("", "–")]), *((each["id"], str(each.get("name") or each["id"])) for each in found)]


def user(here: Here) -> HttpResponse:
    """One user."""
    found = here.read(TYPE, here.values["id"])
    if here.posted:
        with here.trying():
            return _changed(here, found, here.form.get("do", ""))
    place = target(found.get("organization"), "Organization")
    return here.page(
        "operator/user.html",
        title=str(found.get("name") or found["email"]),
        one=found,
        place=place,
        organization=_named(here, [found]).get(place, place),
        roles=_roles(here),
        oneself=found["id"] == here.principal.id,
        mails=here.server.mails,
    )


def _changed(here: Here, found: Resource, do: str) -> HttpResponse:
    id, now = found["id"], found["meta"]["versionId"]
    if do == "link":
        return linked(here, found)
    if do == "mail":
        here.operate(TYPE, id, "reset-password", mail=True)
        return here.go(here.url("operator.user", id=id), said="operator.user.mailed")
    if do == "delete":
        here.require_word("DELETE")
        here.ask("delete", TYPE, id)
        return here.go(here.url("operator.users"), said="operator.user.deleted")
    if do in ("lock", "unlock"):
        changed = {**found, "active": do == "unlock"}
    else:
        given = {name: here.form.get(name, "").strip() for name in ("name", "role")}
        changed = {**{key: value for key, value in found.items() if key != "name"}, **given}
    here.ask("update", TYPE, id, body={key: value for key, value in changed.items() if value != ""}, if_match=now)
    return here.go(here.url("operator.user", id=id), said=f"operator.user.{DONE.get(do, 'saved')}")


def linked(here: Here, user: Resource, organization: Resource | None = None) -> HttpResponse:
    """The page with a link to set a password: it is made now and not shown again."""
    told = here.operate(TYPE, user["id"], "reset-password").get("parameter", ())
    values = {part["name"]: part.get("valueUri") or part.get("valueInstant") for part in told}
    return here.page(
        "operator/link.html", title=here.t("operator.link.title"), one=user, link=values["link"],
        until=values["expires"], organization=organization,
    )  # fmt: skip


def _roles(here: Here) -> list[tuple[str, str]]:
    return [(role, here.texts.word("common.role", role)) for role in ALL_ROLES]
