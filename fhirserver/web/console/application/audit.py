"""The audit records of the provider's own clients, wherever they were written."""

from __future__ import annotations

from collections.abc import Mapping

from flask import Response as HttpResponse

from fhirserver.fhir import Resource
from fhirserver.web.console.application.activity import call, organization_of
from fhirserver.web.console.application.answers import names_of
from fhirserver.web.console.here import Here
from fhirserver.web.console.listing import Filter

MOST_CLIENTS = 200
ACTIONS = ("C", "R", "U", "D", "E")
OUTCOMES = ("0", "4", "8")


def audit(here: Here) -> HttpResponse:
    """The list: search by what a record is about; by client, action, outcome, since when."""
    clients = _client(here)
    found = here.list(
        "AuditEvent",
        ("_sort", "-_lastUpdated"),
        find="entity",
        filters=(
            clients,
            Filter("action", "action", ACTIONS, "application.audit_action"),
            Filter("outcome", "outcome", OUTCOMES, "application.audit_outcome"),
            Filter("since", "date", (), "application.audit_since", typed="date", prefix="ge"),
            Filter("until", "date", (), "application.audit_until", typed="date", prefix="le"),
        ),
    )
    calls = [call(each, found.urls.get(each["id"], "")) for each in found.entries]
    return here.page(
        "application/audit.html",
        found=found,
        calls={each["id"]: each for each in calls},
        names=names_of(here, (each["organization"] for each in calls)),
        who={each["id"]: _who(each, clients.words) for each in found.entries},
    )


def _who(event: Resource, clients: Mapping[str, str]) -> str:
    """Who asked: the client by its name where that is known, else what the record says."""
    asking = [agent.get("who", {}) for agent in event.get("agent", ())]
    named = [clients.get(who.get("identifier", {}).get("value", ""), "") for who in asking]
    said = [str(who.get("display", "")) for who in asking]
    return next((name for name in (*named, *said) if name), "")


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


def record(here: Here) -> HttpResponse:
    """One record, whole."""
    answer = here.search("AuditEvent", ("_id", here.values["event"]))
    entries = answer.get("entry", ())
    event = entries[0]["resource"] if entries else here.read("AuditEvent", here.values["event"])
    url = entries[0].get("fullUrl", "") if entries else ""
    at = organization_of(url)
    return here.page("application/record.html", event=event, call=call(event, url), names=names_of(here, [at]), url=url)
