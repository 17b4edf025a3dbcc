"""Messages: what came in and what became of it; one message beside the resources it made; codes that nobody mapped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Response as HttpResponse

from fhirserver.fhir import Resource
from fhirserver.fhir.problem import Problem, problem
from fhirserver.rules.model import CANONICAL
from fhirserver.web.console.here import Here
from fhirserver.web.console.hospital.pair import Pair, pair, text_of
from fhirserver.web.console.listing import Filter

TYPE = "InboundMessage"
STATUSES = (
    "received", "processed", "warning", "parse-error", "mapping-error", "code-mapping-error", "failed", "deferred",
)  # fmt: skip
LIVE = 5
"""Seconds after which the feed asks for itself again."""
STUCK = "failed,parse-error,mapping-error,code-mapping-error"
"""The statuses that wait for a person."""
FILTERS = (
    Filter("sender", "sender", (), "hospital.messages.sender", typed="text"),
    Filter("event", "event", (), "hospital.event", typed="text"),
    Filter("control", "control-id", (), "hospital.messages.control", typed="text"),
    Filter("number", "patient-identifier", (), "hospital.messages.number", typed="text"),
    Filter("from", "received", (), "hospital.from", typed="date", prefix="ge"),
    Filter("to", "received", (), "hospital.to", typed="date", prefix="le"),
)
STEPS: Mapping[str, tuple[str, ...]] = {
    "reprocess": ("mapping-error", "code-mapping-error", "failed", "deferred", "warning", "processed"),
    "defer": ("received", "mapping-error", "code-mapping-error", "failed"),
    "resolve": ("parse-error", "mapping-error", "code-mapping-error", "failed", "deferred", "warning"),
}
"""What a person may do with a message -> the statuses in which the operation takes it."""
AGAIN = ("mapping-error", "code-mapping-error", "failed", "deferred", "warning")
TASK = f"{CANONICAL}/CodeSystem/hl7v2-task"
OPEN = ("requested", "completed", "rejected")
MOST_MAPPED = 20


def messages(here: Here) -> HttpResponse:
    """The feed, the latest first; it keeps itself up to date. After a map was mended, those of a status go again."""
    if here.posted:
        with here.trying():
            status = _again(here.form.get("status", ""))
            if not status:
                raise problem("value", here.t("common.error.form"))
            answer = here.operate(TYPE, None, "reprocess", base=here.organization, filter=f"status={status}")
            count = answer["parameter"][0]["valueInteger"]
            return here.go(here.url("hospital.messages"), "hospital.said.reprocess_all", count=count)
    choice = Filter("status", "status", (STUCK, *STATUSES), "common.status", {STUCK: here.t("hospital.messages.stuck")})
    found = here.list(TYPE, ("_sort", "-received"), base=here.organization, filters=(choice, *FILTERS))
    live = 0 if here.asked.get("page") else LIVE
    may = bool(here.place and here.place.role == "admin")
    again = _again(found.chosen.get("status", "")) if may else ""
    return here.page("hospital/messages.html", found=found, live=live, again=again)


def message(here: Here) -> HttpResponse:
    """One message: raw and as FHIR, what is wrong with it, and what a person may do."""
    one = here.read(TYPE, here.values["id"], base=here.organization)
    if here.posted:
        action = here.form.get("action", "")
        if action not in STEPS:
            raise problem("value", here.t("common.error.form"))
        with here.trying():
            given = {} if action == "reprocess" else {"note": here.form.get("note", "").strip()}
            here.operate(TYPE, one["id"], action, base=here.organization, **given)
        if not here.refused:
            return here.go(here.url("hospital.message", id=one["id"]), f"hospital.said.{action}")
    sides, fault = _sides(here, one)
    may = bool(here.place and here.place.role == "admin")
    return here.page(
        "hospital/message.html",
        title=here.t("hospital.message.of", id=one.get("controlId") or one["id"]),
        one=one,
        sides=sides,
        fault=fault,
        chosen=here.asked.get("field", "")[:80],
        can=[name for name, statuses in STEPS.items() if may and one["status"] in statuses],
        acknowledgment=text_of({"data": one.get("acknowledgment", "")}).replace("\r", "\n"),
    )


def codes(here: Here) -> HttpResponse:
    """Codes that no table maps."""
    found = here.list(
        "Task",
        ("code", f"{TASK}|map-code"),
        ("_sort", "-_lastUpdated"),
        base=here.organization,
        filters=(Filter("status", "status", OPEN, "hospital.task"),),
    )
    return here.page("hospital/codes.html", found=found, said=inputs)


def code(here: Here) -> HttpResponse:
    """One code: where it stood, how often, which messages wait for it; what it means."""
    task = here.read("Task", here.values["id"], base=here.organization)
    said = inputs(task)
    if "table" not in said or "code" not in said:
        raise problem("not-found", here.t("common.error.no_page"))
    if here.posted:
        with here.trying():
            if here.form.get("action") == "reject":
                here.ask("update", "Task", task["id"], base=here.organization, body={**task, "status": "rejected"})
                return here.go(here.url("hospital.codes"), "hospital.said.code_rejected", code=said["code"])
            names = ("code", "system", "display", "scope")
            given = {name: here.form.get(name, "").strip() for name in names}
            here.operate("Task", task["id"], "map-code", base=here.organization, **given)
            return here.go(here.url("hospital.codes"), "hospital.said.code_mapped", code=said["code"])
    waiting = here.found(
        TYPE, ("code-task", f"Task/{task['id']}"), ("_sort", "-received"), ("_count", "10"), base=here.organization
    )
    return here.page(
        "hospital/code.html",
        title=here.t("hospital.code.of", code=said["code"]),
        one=task,
        said=said,
        mapped=_mapped(here, said["table"]),
        waiting=waiting,
        may=bool(here.place and here.place.role == "admin"),
    )


def inputs(task: Mapping[str, Any]) -> dict[str, str]:
    """What a Task of an unmapped code says, by name."""
    said = {}
    for each in task.get("input", ()):
        name = next((coding.get("code", "") for coding in each.get("type", {}).get("coding", ())), "")
        value = next((value for key, value in each.items() if key.startswith("value")), "")
        said[str(name)] = str(value.get("reference", "") if isinstance(value, dict) else value)
    return said


def converted(here: Here, id: str | None, **given: Any) -> Resource:
    """What a message becomes, kept (`id`) or given; an overlay may be tried. Raises Problem for what no map takes."""
    return here.operate(TYPE, id, "convert", base=here.organization, **given)


def _again(status: str) -> str:
    """The status where all messages of it may go again at once, else ""."""
    return status if status in AGAIN else ""


def _sides(here: Here, one: Resource) -> tuple[Pair, str]:
    """The message beside what it becomes now; where it becomes nothing, why."""
    raw = text_of(one.get("content", {}))
    try:
        return pair(raw, converted(here, one["id"])), ""
    except Problem as refusal:
        return pair(raw, None), " ".join(issue.diagnostics for issue in refusal.issues)


def _mapped(here: Here, table: str) -> list[tuple[str, str, str, str]]:
    """What the shipped table maps already, as examples: (code, to, display, system)."""
    url = f"{CANONICAL}/ConceptMap/v2-{table}"
    found = here.found("ConceptMap", ("url", url), ("_count", "1"))
    rows = []
    for group in (group for each in found for group in each.get("group", ())):
        for element in group.get("element", ()):
            for to in element.get("target", ())[:1]:
                code, display = str(to.get("code", "")), str(to.get("display", ""))
                rows.append((str(element.get("code", "")), code, display, str(group.get("target", ""))))
    return rows[:MOST_MAPPED]
