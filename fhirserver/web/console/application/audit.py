"""The audit records of the provider's own clients, wherever they were written."""

from __future__ import annotations

from datetime import timedelta

from flask import Response as HttpResponse

from fhirserver.web.console.application.activity import call, organization_of
from fhirserver.web.console.application.answers import names_of
from fhirserver.web.console.here import Here
from fhirserver.web.console.listing import Filter

MOST_CLIENTS = 200
ACTIONS = ("C", "R", "U", "D", "E")
OUTCOMES = ("0", "4", "8")
DAYS = (1, 7, 30)


def audit(here: Here) -> HttpResponse:
    """The list: search by what a record is about; by client, action, outcome, since when."""
    found = here.list(
        "AuditEvent",
        ("_sort", "-date"),
        find="entity",
        filters=(
            _client(here),
            Filter("action", "action", ACTIONS, "application.audit_action"),
            Filter("outcome", "outcome", OUTCOMES, "application.audit_outcome"),
            _since(here),
        ),
    )
    calls = [call(each, found.urls.get(each["id"], "")) for each in found.entries]
    return here.page(
        "application/audit.html",
        found=found,
        calls={each["id"]: each for each in calls},
        names=names_of(here, (each["organization"] for each in calls)),
    )


def _client(here: Here) -> Filter:
    own = ("managing-organization", f"Organization/{here.organization}")
    clients = here.found(
        "ClientApplication", own, ("_sort", "name"), ("_elements", "name"), ("_count", str(MOST_CLIENTS))
    )
    words = {f"ClientApplication/{each['id']}": str(each["name"]) for each in clients}
    chosen = here.asked.get("client", "")
    if chosen.startswith("ClientApplication/") and chosen not in words:
        words[chosen] = chosen.rpartition("/")[2]
    return Filter("client", "agent:identifier", tuple(words), "application.audit_client", words)


def _since(here: Here) -> Filter:
    """Days back, as the date itself: an address that is shared goes on meaning the same."""
    today = here.server.now().date()
    days = {f"ge{today - timedelta(days=back)}": here.t("application.audit.days", count=back) for back in DAYS}
    chosen = here.asked.get("since", "")
    if len(chosen) == 12 and chosen.startswith("ge") and chosen not in days:
        days[chosen] = chosen[2:]
    return Filter("since", "date", tuple(days), "application.audit_since", days)


def record(here: Here) -> HttpResponse:
    """One record, whole."""
    answer = here.search("AuditEvent", ("_id", here.values["event"]))
    entries = answer.get("entry", ())
    event = entries[0]["resource"] if entries else here.read("AuditEvent", here.values["event"])
    url = entries[0].get("fullUrl", "") if entries else ""
    at = organization_of(url)
    return here.page("application/record.html", event=event, call=call(event, url), names=names_of(here, [at]), url=url)
