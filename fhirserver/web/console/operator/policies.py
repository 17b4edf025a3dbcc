"""Access policies, and the decision tester: would this client or user be let, and who says so."""

from __future__ import annotations

from typing import Any

from flask import Response as HttpResponse

from fhirserver.rules.model import reference
from fhirserver.rules.user import user_id
from fhirserver.web.console.here import Here
from fhirserver.web.console.listing import Filter

ENGINES = ("allow", "matcho", "fhirpath", "json-schema", "complex")
INTERACTIONS = ("read", "search-type", "create", "update", "patch", "delete", "history-instance", "vread")
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
FILTERS = (
    Filter("engine", "engine", ENGINES, "operator.engine"),
    Filter("active", "active", ("true", "false"), "operator.active"),
)


def policies(here: Here) -> HttpResponse:
    """All of them."""
    found = here.list("AccessPolicy", ("_sort", "name"), find="name:contains", filters=FILTERS)
    return here.page("operator/policies.html", found=found)


def decision(here: Here) -> HttpResponse:
    """The form, and the answer: everything is in the address, so that it can be shared."""
    told = None
    if here.asked.get("who"):
        with here.trying():
            told = _told(here)
    values = {name: here.asked.get(name, "") for name in ("who", "organization", "type", "interaction", "url")}
    values["kind"] = here.asked.get("kind") or "client"
    values["method"] = here.asked.get("method") or ""
    return here.page(
        "operator/decision.html", told=told, given=values, interactions=INTERACTIONS, methods=METHODS, pairs=_pairs
    )


def _told(here: Here) -> dict[str, Any]:
    """What $why says: whether, of what, and each party's word."""
    who, kind = here.asked.get("who", "").strip(), here.asked.get("kind", "client")
    id = user_id(who) if kind == "user" and "@" in who else who
    place = here.asked.get("organization", "").strip()
    asked: dict[str, Any] = {"organization": reference("Organization", place) if place else None}
    if here.asked.get("url"):
        asked |= {"method": here.asked.get("method") or "GET", "url": here.asked["url"]}
    else:
        asked |= {"type": here.asked.get("type", ""), "interaction": here.asked.get("interaction", "")}
    answer = here.operate("User" if kind == "user" else "ClientApplication", id, "why", **asked)
    parts = answer.get("parameter", ())
    said = {each["name"]: each.get("valueBoolean", each.get("valueString")) for each in parts if "part" not in each}
    parties = [
        {inner["name"]: next(value for name, value in inner.items() if name != "name") for inner in each["part"]}
        for each in parts
        if "part" in each
    ]
    return {**said, "parties": parties}


def _pairs(codes: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(code, code) for code in codes]
