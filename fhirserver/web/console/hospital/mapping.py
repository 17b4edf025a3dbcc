"""The mapping workbench: paste a message and see what becomes of it; write an overlay, see what it would change in the
last messages, publish it.
"""

from __future__ import annotations

from typing import Any

from flask import Response as HttpResponse

from fhirserver.fhir import Resource
from fhirserver.fhir.json import decode, encode, pretty
from fhirserver.fhir.problem import Issue, Problem, problem
from fhirserver.rules.model import CANONICAL
from fhirserver.web.console.here import Here
from fhirserver.web.console.hospital.messages import converted
from fhirserver.web.console.hospital.pair import pair, text_of
from fhirserver.web.console.listing import Filter

TYPE = "ConceptMap"
OVERLAY = f"{CANONICAL}/StructureDefinition/hl7v2-overlay"
MAP = f"{CANONICAL}/StructureDefinition/hl7v2-map"
RULE = f"{CANONICAL}/StructureDefinition/hl7v2-rule"
STATUSES = ("draft", "active", "retired")
MOST_MESSAGE, MOST_OVERLAY = 1024 * 1024, 1024 * 1024
COMPARED = 100


def workbench(here: Here) -> HttpResponse:
    """A message to paste, and the overlays of this organization."""
    text, sides = here.form.get("message", "")[:MOST_MESSAGE], None
    if here.asked.get("message") and not here.posted:
        kept = here.read("InboundMessage", here.asked["message"], base=here.organization)
        text = text_of(kept.get("content", {})).replace("\r", "\n")
    overlay = here.form.get("overlay", "")
    if here.posted:
        with here.trying():
            given: dict[str, Any] = {"message": _message(text)}
            if overlay:
                given["overlay"] = {"reference": f"{TYPE}/{overlay}"}
            sides = pair(given["message"], converted(here, None, **given))
    found = _overlays(here)
    options = [("", here.t("hospital.mapping.as_it_is")), *((each["id"], _title(each)) for each in found.entries)]
    return here.page(
        "hospital/mapping.html",
        text=text,
        sides=sides,
        found=found,
        options=options,
        chosen=here.asked.get("field", "")[:80],
        name=_title,
        whose=_whose,
        may=_may(here),
    )


def overlay_new(here: Here) -> HttpResponse:
    """A new overlay, as a draft."""
    return _edited(here, None)


def overlay(here: Here) -> HttpResponse:
    """One overlay: edit, try on the last messages, publish or take out of use."""
    found = here.read(TYPE, here.values["id"], base=here.organization)
    if not any(each.get("url") == OVERLAY for each in found.get("extension", ())):
        raise problem("not-found", here.t("common.error.no_page"))
    return _edited(here, found)


def _edited(here: Here, kept: Resource | None) -> HttpResponse:
    text = here.form.get("overlay", "") if here.posted else _pretty(kept or _beginning(here))
    compared: Resource | None = None
    if here.posted:
        with here.trying():
            action, given = here.form.get("action", ""), _given(here, text)
            if action == "compare":
                compared = here.operate(TYPE, None, "compare", base=here.organization, overlay=given, count=COMPARED)
            else:
                return _saved(here, kept, given, action)
    messages = _differences(compared) if compared else []
    return here.page(
        "hospital/overlay.html",
        title=_title(kept) if kept else here.t("hospital.overlay-new.title"),
        kept=kept,
        text=text,
        compared=_counts(compared) if compared else None,
        messages=messages,
        names=_names(here, [each["id"] for each in messages]),
        may=_may(here),
    )


def _saved(here: Here, kept: Resource | None, given: Resource, action: str) -> HttpResponse:
    """Writes the overlay: as a draft, in use, or out of use. Raises Problem for what the maps do not take."""
    statuses = {"draft": "draft", "publish": "active", "retire": "retired"}
    if action not in statuses:
        raise problem("value", here.t("common.error.form"))
    body = {**given, "status": statuses[action]}
    if kept is None:
        body.pop("id", None)
        made = here.ask("create", TYPE, base=here.organization, body=body).content() or {}
    else:
        body["id"], match = kept["id"], here.form.get("version") or kept["meta"]["versionId"]
        answer = here.ask("update", TYPE, kept["id"], base=here.organization, body=body, if_match=match)
        made = answer.content() or kept
    said = f"hospital.said.overlay_{action}"
    return here.go(here.url("hospital.overlay", id=made["id"]), said, name=_title(made))


def _given(here: Here, text: str) -> Resource:
    if len(text) > MOST_OVERLAY:
        raise problem("too-long", here.t("hospital.overlay.long"), "overlay")
    try:
        found = decode(text.encode())
    except Problem as refusal:
        raise Problem(
            tuple(Issue(each.code, each.diagnostics, ("overlay",)) for each in refusal.issues), status=refusal.status
        ) from None
    if not isinstance(found, dict) or found.get("resourceType") != TYPE:
        raise problem("value", here.t("hospital.overlay.no_map"), "overlay")
    return found


def _message(text: str) -> str:
    """What was pasted as HL7v2 wants it: segments end with a carriage return."""
    return "\r".join(line for line in text.replace("\r\n", "\r").replace("\n", "\r").split("\r") if line.strip()) + "\r"


def _overlays(here: Here) -> Any:
    return here.list(
        TYPE,
        ("_sort", "-_lastUpdated"),
        base=here.organization,
        filters=(Filter("status", "status", STATUSES, "hospital.overlay_status"),),
    )


def _counts(compared: Resource) -> dict[str, int]:
    return {part["name"]: int(part["valueInteger"]) for part in compared["parameter"] if "valueInteger" in part}


def _differences(compared: Resource) -> list[dict[str, Any]]:
    """The messages that do not become the same, each with what differs."""
    found = []
    for part in compared["parameter"]:
        if part["name"] != "message":
            continue
        one: dict[str, Any] = {"differences": [], "faults": []}
        for each in part["part"]:
            if each["name"] == "difference":
                one["differences"].append({inner["name"]: _value(inner) for inner in each["part"]})
            elif each["name"] == "fault":
                one["faults"].append(_value(each))
            else:
                one[each["name"]] = _value(each)
        one["id"] = str(one["reference"]["reference"]).rpartition("/")[2]
        found.append(one)
    return found


def _names(here: Here, ids: list[str]) -> dict[str, str]:
    """Message id -> its event and control id."""
    if not ids:
        return {}
    query = (("_id", ",".join(ids)), ("_count", str(len(ids))), ("_elements", "event,controlId"))
    found = here.found("InboundMessage", *query, base=here.organization)
    return {each["id"]: f"{each.get('event', '')} {each.get('controlId', '')}".strip() for each in found}


def _value(part: Resource) -> Any:
    return next((value for name, value in part.items() if name.startswith("value")), None)


def _title(overlay: Resource) -> str:
    return str(overlay.get("title") or overlay.get("name") or overlay.get("id", ""))


def _whose(overlay: Resource) -> str:
    """Whose messages an overlay is for: the sender that it names."""
    parts = [part for each in overlay.get("extension", ()) if each.get("url") == OVERLAY for part in each["extension"]]
    said = {part["url"]: part.get("valueString") or part.get("valueReference", {}).get("reference") for part in parts}
    return ", ".join(
        str(said[name]) for name in ("sending-application", "sending-facility", "endpoint") if said.get(name)
    )


def _pretty(overlay: Resource) -> str:
    return pretty(encode({name: value for name, value in overlay.items() if name != "meta"})).decode()


def _beginning(here: Here) -> Resource:
    """What a new overlay starts from: a rule of one's own in the map of the segment PID."""
    rule = {
        "code": "PID-26.1",
        "target": [{"code": "extension(https://example.org/citizenship).valueCode", "equivalence": "relatedto"}],
        "extension": [{"url": RULE, "extension": [{"url": "id", "valueString": "citizenship"}]}],
    }
    map_ = [{"url": "map", "valueString": "PID.Patient"}, {"url": "kind", "valueCode": "segment"}]
    owner = {"url": "organization", "valueReference": {"reference": f"Organization/{here.organization}"}}
    return {
        "resourceType": TYPE,
        "title": here.t("hospital.overlay-new.title"),
        "status": "draft",
        "extension": [{"url": OVERLAY, "extension": [owner]}],
        "group": [{"extension": [{"url": MAP, "extension": map_}], "element": [rule]}],
    }


def _may(here: Here) -> bool:
    return bool(here.place and here.place.role == "admin")
