"""What happened that concerns the user's organization: notices on the registry, and which of them the user has read."""

from __future__ import annotations

from flask import Response as HttpResponse

from fhirserver.fhir import Resource
from fhirserver.rules.model import CANONICAL, target
from fhirserver.web.console.here import Here

READ = f"{CANONICAL}/StructureDefinition/notice-read"
"""The mark of a person who has read a notice."""


def notifications(here: Here) -> HttpResponse:
    """The notices, the newest first; sent as a form it marks those unread as read."""
    if here.posted:
        here.operate("Communication", None, "mark-read")
        return here.go(here.url(here.name), said="common.notifications.marked")
    found = here.list("Communication", ("recipient", f"Organization/{here.organization}"), ("_sort", "-sent"))
    read = {
        each["id"]
        for each in found.entries
        for mark in each.get("extension", ())
        if mark.get("url") == READ and mark.get("valueId") == here.principal.id
    }
    leads = {each["id"]: _leads(here, each) for each in found.entries}
    return here.page("common/notifications.html", found=found, read=read, leads=leads)


def latest(here: Here, count: int) -> list[tuple[Resource, str]]:
    """The latest notices, each with the address of what it is about."""
    query = (("recipient", f"Organization/{here.organization}"), ("_sort", "-sent"), ("_count", str(count)))
    return [(each, _leads(here, each)) for each in here.found("Communication", *query)]


def _leads(here: Here, notice: Resource) -> str:
    """The address of the screen of what a notice is about: an authorization, or a subscription at the sender's."""
    type, _, id = str(notice["about"][0]["reference"]).rpartition("/")
    ours, authorization = here.name.startswith("hospital."), type.endswith("ClientAuthorization")
    if authorization:
        return here.url("hospital.client", id=id) if ours else here.url("application.authorization", authorization=id)
    if ours:
        return here.url("hospital.subscription", id=id)
    at = target(notice.get("sender"), "Organization")
    return here.url("application.subscription", at=at, subscription=id) if at else here.url("application.subscriptions")
