"""_summary and _elements: a resource with part of its elements, tagged SUBSETTED. FHIR R4: search#summary,
search#elements.
"""

from __future__ import annotations

from collections.abc import Sequence

from fhirserver.fhir import Resource
from fhirserver.fhir.definitions import Definitions
from fhirserver.fhir.problem import problem
from fhirserver.interactions.model import Request

SUBSETTED = {"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED"}
PARTS = ("true", "text", "data", "false")
ALWAYS = ("resourceType", "id", "meta")


def part_asked(request: Request) -> tuple[str, tuple[str, ...]]:
    """What `_summary` and `_elements` of a read ask for; "" and () for the whole. Raises Problem(invalid)."""
    if not request.query or request.interaction not in ("read", "vread"):
        return "", ()
    values = dict(request.query)
    summary = values.get("_summary", "false")
    if summary not in PARTS:
        raise problem("invalid", f"_summary of a read is one of {', '.join(PARTS)}.", "http._summary")
    elements = tuple(name for name in values.get("_elements", "").split(",") if name)
    return "" if summary == "false" else summary, elements


def subset(definitions: Definitions, resource: Resource, summary: str, elements: Sequence[str]) -> Resource:
    """The resource as `_summary` (true, text, data, false) or `_elements` wants it. Mandatory elements always stay."""
    type = definitions.types[resource["resourceType"]]
    if elements:
        kept = {*ALWAYS, *type.required, *elements}
    elif summary == "true":
        kept = {*ALWAYS, *(each.element for each in type.properties.values() if each.summary)}
    elif summary == "text":
        kept = {*ALWAYS, "text", *type.required}
    elif summary == "data":
        kept = {*ALWAYS, *(each.element for each in type.properties.values())} - {"text"}
    else:
        return resource
    elements_of = {name: each.element for name, each in type.properties.items()}
    shown = {
        name: value
        for name, value in resource.items()
        if name in ALWAYS or elements_of.get(name.removeprefix("_"), name) in kept
    }
    meta = dict(shown.get("meta") or {})
    meta["tag"] = [*meta.get("tag", []), SUBSETTED]
    return {**shown, "meta": meta}
