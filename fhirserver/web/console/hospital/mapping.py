"""The mapping workbench: paste a message and see what becomes of it; the overlays of an organization."""

from __future__ import annotations

from typing import Any

from flask import Response as HttpResponse

from fhirserver.fhir import Resource
from fhirserver.web.console.here import Here
from fhirserver.web.console.hospital.messages import converted
from fhirserver.web.console.hospital.pair import pair, text_of
from fhirserver.web.console.hospital.sheet import OVERLAY
from fhirserver.web.console.listing import Filter

TYPE = "ConceptMap"
STATUSES = ("draft", "active", "retired")
MOST_MESSAGE = 1024 * 1024


def workbench(here: Here) -> HttpResponse:
    """A message to paste, and the overlays of this organization."""
    text, sides = here.form.get("message", "")[:MOST_MESSAGE], None
    if here.asked.get("message") and not here.posted:
        kept = here.read("InboundMessage", here.asked["message"], base=here.organization)
        text = text_of(kept.get("content", {})).replace("\r", "\n")
    overlay = here.form.get("overlay", "")
    if here.posted:
        with here.trying():
            given: dict[str, Any] = {"message": message_of(text)}
            if overlay:
                given["overlay"] = {"reference": f"{TYPE}/{overlay}"}
            sides = pair(given["message"], converted(here, None, **given))
    found = _overlays(here)
    options = [("", here.t("hospital.mapping.as_it_is")), *((each["id"], title_of(each)) for each in found.entries)]
    return here.page(
        "hospital/mapping.html",
        text=text,
        sides=sides,
        found=found,
        options=options,
        chosen=here.asked.get("field", "")[:80],
        name=title_of,
        whose=_whose,
        may=may_edit(here),
    )


def message_of(text: str) -> str:
    """What was pasted as HL7v2 wants it: segments end with a carriage return."""
    return "\r".join(line for line in text.replace("\r\n", "\r").replace("\n", "\r").split("\r") if line.strip()) + "\r"


def _overlays(here: Here) -> Any:
    return here.list(
        TYPE,
        ("_sort", "-_lastUpdated"),
        base=here.organization,
        filters=(Filter("status", "status", STATUSES, "hospital.overlay_status"),),
    )


def title_of(overlay: Resource) -> str:
    """What an overlay is called."""
    return str(overlay.get("title") or overlay.get("name") or overlay.get("id", ""))


def _whose(overlay: Resource) -> str:
    """Whose messages an overlay is for: the sender that it names."""
    parts = [part for each in overlay.get("extension", ()) if each.get("url") == OVERLAY for part in each["extension"]]
    said = {part["url"]: part.get("valueString") or part.get("valueReference", {}).get("reference") for part in parts}
    return ", ".join(
        str(said[name]) for name in ("sending-application", "sending-facility", "endpoint") if said.get(name)
    )


def may_edit(here: Here) -> bool:
    """Whether the user may write overlays, for leaving out buttons."""
    return bool(here.place and here.place.role == "admin")
