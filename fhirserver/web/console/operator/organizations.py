"""Organizations: application providers and provider organizations, made together with their first administrator."""

from __future__ import annotations

from flask import Response as HttpResponse

from fhirserver.auth.sandbox import TAG, is_sandbox
from fhirserver.fhir import Resource
from fhirserver.fhir.problem import Problem
from fhirserver.rules.model import reference
from fhirserver.rules.organization import KINDS, kind, kind_concept
from fhirserver.web.console.here import Here
from fhirserver.web.console.listing import Filter
from fhirserver.web.console.operator.users import linked

TYPE = "Organization"
FILTERS = (
    Filter("kind", "type", KINDS, "operator.kind"),
    Filter("world", "_tag", (TAG,), "operator.world"),
)


def organizations(here: Here) -> HttpResponse:
    """All of them."""
    found = here.list(TYPE, ("_sort", "name"), find="name:contains", filters=FILTERS)
    return here.page("operator/organizations.html", found=found, kind=kind, sandbox=is_sandbox)


def organization_new(here: Here) -> HttpResponse:
    """A new organization with its first administrator, who gets a link to set a password: shown once."""
    if here.posted:
        with here.trying():
            return _made(here)
    return here.page("operator/organization_new.html", kinds=KINDS)


def _made(here: Here) -> HttpResponse:
    """What is wrong with the person is found before the organization is there."""
    name, kind_ = here.form.get("name", "").strip(), here.form.get("kind", "")
    body = {"resourceType": TYPE, "active": True, "name": name, "type": [kind_concept(kind_)]}
    user = {"resourceType": "User", "email": here.form.get("email", "").strip(), "role": "admin"}
    user |= {"name": person} if (person := here.form.get("person", "").strip()) else {}
    made = here.ask("create", TYPE, body={key: value for key, value in body.items() if value != ""}).content() or {}
    try:
        admin = here.ask("create", "User", body=user | {"organization": reference(TYPE, made["id"])}).content() or {}
    except Problem:  # nobody would administer it: it is taken back, and the reason said
        here.ask("delete", TYPE, made["id"])
        raise
    return linked(here, admin, organization=made)


def organization(here: Here) -> HttpResponse:
    """One organization: its people, how many clients it has or has let in."""
    found = here.read(TYPE, here.values["id"])
    if here.posted:
        with here.trying():
            _switch(here, found)
            return here.go(here.url("operator.organization", id=found["id"]), said="operator.organization.saved")
    own = f"{TYPE}/{found['id']}"
    users = here.found("User", ("organization", own), ("_sort", "email"), ("_count", "20"))
    counts = (
        ("clients", here.count("ClientApplication", ("managing-organization", own))),
        ("authorizations", here.count("ClientAuthorization", ("organization", own))),
        ("endpoints", here.count("Endpoint", ("organization", own))),
    )
    title = str(found.get("name") or found["id"])
    return here.page(
        "operator/organization.html", title=title, one=found, users=users, counts=counts, kind=kind(found),
        sandbox=is_sandbox(found["id"]), base_url=here.server.base(found["id"]),
    )  # fmt: skip


def _switch(here: Here, found: Resource) -> None:
    name = here.form.get("name", "").strip()
    changed = {**found, "name": name} if name else {key: value for key, value in found.items() if key != "name"}
    here.ask("update", TYPE, found["id"], body=changed, if_match=found["meta"]["versionId"])
