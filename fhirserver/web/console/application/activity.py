"""What a client did: its calls as the audit record repository has them, those refused with the reason, what it is
permitted and never does; and why a call is permitted or not.
"""

from __future__ import annotations

from base64 import b64decode
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, tzinfo
from typing import Any

from flask import Response as HttpResponse

from fhirserver.fhir import Resource
from fhirserver.web.console.application.answers import id_of, names_of, parameters, permissions, values
from fhirserver.web.console.application.clients import named
from fhirserver.web.console.application.scopes import served
from fhirserver.web.console.days import noon
from fhirserver.web.console.here import Here

LOOKED = 500
"""How many of the latest calls the chart and the unused permissions are made of."""
SHOWN = 15
DAYS = 14
INTERACTIONS = ("read", "search-type", "create", "update", "delete")
ACTION_OF: Mapping[str, str] = {
    "read": "read",
    "vread": "read",
    "history-instance": "read",
    "search-type": "search",
    "history-type": "search",
    "create": "create",
    "update": "update",
    "patch": "update",
    "delete": "delete",
}
"""FHIR's interactions -> the action of a scope that each needs."""


def activity(here: Here) -> HttpResponse:
    """The chart, the latest calls, the latest refusals, and what is permitted but not used."""
    found = named(here)
    who = ("agent:identifier", f"ClientApplication/{found['id']}")
    bundle = here.search("AuditEvent", who, ("_sort", "-_lastUpdated"), ("_count", str(LOOKED)))
    entries = [entry for entry in bundle.get("entry", ()) if entry["search"]["mode"] == "match"]
    records = [call(entry["resource"], entry.get("fullUrl", "")) for entry in entries]
    calls = [each for each in records if each["interaction"] != "notification"]
    refused = [each for each in calls if each["refused"]]
    times, series = _by_day(calls, here.server.now(), here.zone)
    return here.page(
        "application/activity.html",
        client=found,
        calls=calls[:SHOWN],
        refusals=refused[:SHOWN],
        times=times,
        answered=series[0],
        denied=series[1],
        looked=len(calls),
        most=LOOKED,
        unused=_unused(here, found, calls),
        names=names_of(here, (each["organization"] for each in calls)),
    )


def call(event: Resource, url: str) -> dict[str, Any]:
    """One audit record as a row: when, where, what, what came of it."""
    interaction = next((each["code"] for each in event.get("subtype", ())), "")
    codes = [each["code"] for each in event.get("subtype", ())]
    type, what = _about(event)
    return {
        "id": event["id"],
        "recorded": event["recorded"],
        "organization": organization_of(url),
        "interaction": interaction,
        "operation": next((code for code in codes[1:] if code.startswith("$")), ""),
        "type": type,
        "what": what,
        "permission": interaction in ACTION_OF,
        "refused": event.get("outcome", "0") != "0",
        "reason": event.get("outcomeDesc", ""),
        "event": event,
    }


def organization_of(url: str) -> str:
    """The organization on whose base an absolute URL lies, "registry" for the registry's."""
    return url.partition("/organizations/")[2].partition("/")[0] or "registry"


def _about(event: Resource) -> tuple[str, str]:
    """The resource type of a call and what it asked for: a reference, or the search."""
    for entity in event.get("entity", ()):
        if entity.get("query"):
            text = b64decode(entity["query"]).decode("utf-8", "replace").partition(" ")[2].removesuffix("?")
            return text.partition("?")[0].partition("/")[0], text
    named = [
        entity["what"]["reference"] for entity in event.get("entity", ()) if entity.get("what", {}).get("reference")
    ]
    return (named[-1].partition("/")[0], named[-1]) if named else ("", "")


def _by_day(
    calls: Sequence[Mapping[str, Any]], now: datetime, zone: tzinfo
) -> tuple[list[str], tuple[list[int], list[int]]]:
    """The last days where the viewer lives, and how many calls were answered and refused on each."""
    today = now.astimezone(zone).date()
    days = [today - timedelta(days=back) for back in reversed(range(DAYS))]
    counted = Counter(
        (datetime.fromisoformat(each["recorded"]).astimezone(zone).date(), each["refused"]) for each in calls
    )
    return [noon(day, zone) for day in days], (
        [counted[day, False] for day in days],
        [counted[day, True] for day in days],
    )


def _unused(here: Here, found: Resource, calls: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The permissions that none of these calls used, each with the actions that are left."""
    used = {(each["type"], ACTION_OF.get(each["interaction"], "")) for each in calls if not each["refused"]}
    unused = []
    for each in permissions(here, str(found.get("scope", "")))[1]:
        left = [action for action in each["actions"] if not _was_used(used, each["type"], action)]
        if left:
            unused.append({**each, "actions": left})
    return unused


def _was_used(used: set[tuple[str, str]], type: str, action: str) -> bool:
    return any(done == action and type in ("*", name) for name, done in used)


def why(here: Here) -> HttpResponse:
    """Whether the client may do something in an organization, and who says so."""
    found = named(here)
    known = here.found(
        "ClientAuthorization",
        ("client", f"ClientApplication/{found['id']}"),
        ("_sort", "-requested"),
        ("_count", "100"),
    )
    asked = {name: here.asked.get(name, "") for name in ("at", "type", "interaction")}
    told: dict[str, Any] = {}
    parties: list[dict[str, Any]] = []
    if asked["at"] and asked["type"]:
        with here.trying():
            answer = here.operate(
                "ClientApplication",
                found["id"],
                "why",
                organization={"reference": f"Organization/{asked['at']}"},
                type=asked["type"],
                interaction=asked["interaction"],
            )
            told = values(parameters(answer))
            said = [values(each["part"]) for each in parameters(answer, "party")]
            parties = list({each["name"]: each for each in said}.values())  # asked without a token: one answer a party
    places = [(id_of(each["organization"]), each.get("organizationName", "")) for each in known]
    place = asked["at"]
    if place and place not in dict(places):
        places.append((place, names_of(here, [place]).get(place, place)))
    return here.page(
        "application/why.html", client=found, asked=asked, told=told, parties=parties, places=places,
        types=served(here), interactions=INTERACTIONS,
    )  # fmt: skip
