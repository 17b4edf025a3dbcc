"""The topic catalogue: what applications can be told of by name here, and which of it this organization has changed.

What is shipped can be subscribed to unless a SubscriptionTopic of the same URL on the organization's base says
otherwise, or the organization has decided that only what it activated can.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Response as HttpResponse

from fhirserver.fhir import Resource
from fhirserver.fhir.problem import problem
from fhirserver.rules.model import CANONICAL, target
from fhirserver.web.console.here import Here
from fhirserver.web.console.listing import SIZE, Filter, Listing, asked_of

TYPE = "SubscriptionTopic"
CONDITIONS = {
    "condition": f"{CANONICAL}/StructureDefinition/subscription-fhirpath-criteria",
    "search": f"{CANONICAL}/StructureDefinition/subscription-topic-criteria",
}
"""Field of the form -> the extension of a topic that narrows what fires it."""
MOST_OWN = 200
STATUS = Filter("status", "status", ("active", "draft", "retired"), "hospital.topic_status")
NEXT = {"draft": ("active",), "active": ("retired",), "retired": ("active",), "unknown": ("active", "retired")}
"""Status of a topic -> what an administrator may make it."""


def topics(here: Here) -> HttpResponse:
    """The catalogue, found by title, name or type, a page at a time; whether the organization governs it."""
    if here.posted:
        with here.trying():
            wanted = here.form.get("governed") == "true"
            here.operate(TYPE, None, "govern", base=here.organization, governed=wanted)
            return here.go(here.url("hospital.topics"), f"hospital.said.{'governed' if wanted else 'ungoverned'}")
    own = _own(here)
    text, chosen, page = asked_of(here.asked, "title", (STATUS,))
    rows = [row for row in _rows(here, own) if _fits(row, text.lower())]
    rows = [row for row in rows if chosen.get("status") in (None, row["status"])]
    start = min(int(page), len(rows)) if page.isascii() and page.isdigit() and len(page) < 6 else 0
    found = Listing(
        here.url("hospital.topics"),
        rows[start : start + SIZE],
        total=len(rows),
        find=text,
        searchable=True,
        filters=(STATUS,),
        chosen=chosen,
        before=str(max(start - SIZE, 0)) if start else "",
        after=str(start + SIZE) if start + SIZE < len(rows) else "",
    )
    governed, stopped = _governed(here) if not here.part else (False, [])
    may = bool(here.place and here.place.role == "admin")
    return here.page("hospital/topics.html", found=found, governed=governed, stopped=stopped, may=may)


def topic(here: Here) -> HttpResponse:
    """One topic: what fires it, its condition, its status here."""
    id = here.values["id"]
    row = next((row for row in _rows(here, _own(here)) if row["resource"].get("id") == id), None)
    if row is None:
        raise problem("not-found", here.t("common.error.no_page"))
    resource = row["resource"]
    may = bool(here.place and here.place.role == "admin")
    if here.posted:
        with here.trying():
            _write(here, row)
        if not here.refused:
            return here.go(
                here.url("hospital.topic", id=id), "hospital.said.topic", name=str(resource.get("title", id))
            )
    return here.page(
        "hospital/topic.html",
        title=str(resource.get("title") or id),
        row=row,
        steps=NEXT.get(row["status"], ()) if may else (),
        conditions={name: _condition(resource, url) for name, url in CONDITIONS.items()},
        may=may,
    )


def _write(here: Here, row: Mapping[str, Any]) -> None:
    """Writes the topic with the status and the condition of the form on this organization's base."""
    before, wanted = row["resource"], here.form.get("status", row["status"])
    if wanted != row["status"] and wanted not in NEXT.get(row["status"], ()):
        raise problem("value", here.t("common.error.form"))
    after = {name: value for name, value in before.items() if name != "meta"} | {"status": wanted}
    conditions = {url: here.form.get(name, "").strip() for name, url in CONDITIONS.items()}
    after["extension"] = _conditioned(before, conditions)
    after = {name: value for name, value in after.items() if value}
    match = before.get("meta", {}).get("versionId") if row["own"] else None
    here.ask("update", TYPE, before["id"], base=here.organization, body=after, if_match=match)


def _conditioned(topic: Resource, conditions: Mapping[str, str]) -> list[dict[str, Any]]:
    """The topic's extensions with these conditions, or without where one is empty."""
    kept = [each for each in topic.get("extension", ()) if each.get("url") not in conditions]
    return [*kept, *({"url": url, "valueString": text} for url, text in conditions.items() if text)]


def _condition(topic: Resource, url: str) -> str:
    found = (str(each.get("valueString", "")) for each in topic.get("extension", ()) if each.get("url") == url)
    return next(found, "")


def _governed(here: Here) -> tuple[bool, list[str]]:
    """Whether only what is active here can be subscribed to, and the subscriptions that are told of nothing."""
    parts = here.operate(TYPE, None, "govern", base=here.organization).get("parameter", ())
    stopped = [target(part["valueReference"], "Subscription") for part in parts if part["name"] == "stopped"]
    return any(part.get("valueBoolean") for part in parts), stopped


def _own(here: Here) -> dict[str, Resource]:
    """URL -> the topic of this organization's own."""
    found = here.found(TYPE, ("_count", str(MOST_OWN)), ("_sort", "title"), base=here.organization)
    return {str(each["url"]): each for each in found}


def _rows(here: Here, own: Mapping[str, Resource]) -> list[dict[str, Any]]:
    """Every topic with its status here: those that are not active first, then by title."""
    answer = here.operate("Subscription", None, "topics", base=here.organization, method="GET", all=True)
    rows = [
        {"resource": each, "own": str(each["url"]) in own, "status": each.get("status", ""), "events": _events(each)}
        for each in (entry["resource"] for entry in answer.get("entry", ()))
        if each.get("id")
    ]
    return sorted(rows, key=lambda row: (row["status"] != "draft" or not row["own"], row["resource"].get("title", "")))


def _events(topic: Resource) -> list[tuple[str, str]]:
    """What fires it: (name, type of resource)."""
    found = []
    for each in topic.get("eventTrigger", ()):
        codings: list[dict[str, Any]] = each.get("event", {}).get("coding", [])
        coding = codings[0] if codings else {}
        found.append((str(coding.get("display") or coding.get("code", "")), _type(each)))
    for each in topic.get("resourceTrigger", ()):
        found.append((", ".join(each.get("supportedInteraction", ())), _type(each)))
    return found


def _type(trigger: Mapping[str, Any]) -> str:
    return str(trigger.get("resource", "")).rpartition("/")[2]


def _fits(row: Mapping[str, Any], asked: str) -> bool:
    texts = [str(row["resource"].get("title", "")), str(row["resource"].get("id", "")), *map(" ".join, row["events"])]
    return not asked or any(asked in text.lower() for text in texts)
