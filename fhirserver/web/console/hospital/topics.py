"""The topic catalogue: what applications can be told of by name here, and which of it this organization has changed.

What is shipped is active unless a SubscriptionTopic of the same URL on the organization's base says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Response as HttpResponse

from fhirserver.fhir import Resource
from fhirserver.fhir.problem import problem
from fhirserver.web.console.here import Here
from fhirserver.web.console.listing import SIZE, Filter, Listing, asked_of

TYPE = "SubscriptionTopic"
CONDITION = "https://fhirserver.example/fhir/StructureDefinition/subscription-fhirpath-criteria"
MOST_OWN = 200
STATUS = Filter("status", "status", ("active", "draft", "retired"), "hospital.topic_status")
NEXT = {"draft": ("active",), "active": ("retired",), "retired": ("active",), "unknown": ("active", "retired")}
"""Status of a topic -> what an administrator may make it."""


def topics(here: Here) -> HttpResponse:
    """The catalogue, found by title, name or type, a page at a time."""
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
    return here.page("hospital/topics.html", found=found)


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
        condition=_condition(resource),
        may=may,
    )


def _write(here: Here, row: Mapping[str, Any]) -> None:
    """Writes the topic with the status and the condition of the form on this organization's base."""
    before, wanted = row["resource"], here.form.get("status", row["status"])
    if wanted != row["status"] and wanted not in NEXT.get(row["status"], ()):
        raise problem("value", here.t("common.error.form"))
    after = {name: value for name, value in before.items() if name != "meta"} | {"status": wanted}
    condition = here.form.get("condition", "").strip()
    after["extension"] = _conditioned(before, condition)
    after = {name: value for name, value in after.items() if value}
    match = before.get("meta", {}).get("versionId") if row["own"] else None
    here.ask("update", TYPE, before["id"], base=here.organization, body=after, if_match=match)


def _conditioned(topic: Resource, condition: str) -> list[dict[str, Any]]:
    """The topic's extensions with this FHIRPath condition, or none."""
    kept = [each for each in topic.get("extension", ()) if each.get("url") != CONDITION]
    return [*kept, *([{"url": CONDITION, "valueString": condition}] if condition else [])]


def _condition(topic: Resource) -> str:
    found = (str(each.get("valueString", "")) for each in topic.get("extension", ()) if each.get("url") == CONDITION)
    return next(found, "")


def _own(here: Here) -> dict[str, Resource]:
    """URL -> the topic of this organization's own."""
    found = here.found(TYPE, ("_count", str(MOST_OWN)), ("_sort", "title"), base=here.organization)
    return {str(each["url"]): each for each in found}


def _rows(here: Here, own: Mapping[str, Resource]) -> list[dict[str, Any]]:
    """Every topic with its status here, by title: those that can be subscribed to, and the others of one's own."""
    active = here.operate("Subscription", None, "topics", base=here.organization, method="GET").get("entry", ())
    known = {str(each["fullUrl"]): each["resource"] for each in active}
    known |= own
    rows = [
        {"resource": each, "own": url in own, "status": each.get("status", ""), "events": _events(each)}
        for url, each in known.items()
        if each.get("id")
    ]
    return sorted(rows, key=lambda row: (row["status"] == "active", str(row["resource"].get("title", ""))))


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
