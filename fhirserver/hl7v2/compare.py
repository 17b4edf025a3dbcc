"""What an overlay would change: the last messages mapped with it and without, and where the Bundles differ.

Nothing is stored. Differences are named by FHIRPath below the resource of an entry, which is found by its fullUrl.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fhirserver.auth.access import Access
from fhirserver.fhir import Resource
from fhirserver.fhir.json import encode
from fhirserver.fhir.parameters import parameters_of
from fhirserver.fhir.problem import Problem, problem
from fhirserver.hl7v2.ingest import Intake
from fhirserver.hl7v2.kept import content_of, found
from fhirserver.hl7v2.mapping import Result
from fhirserver.hl7v2.mapping.overlay import is_overlay
from fhirserver.hl7v2.process import convert, sender_of
from fhirserver.interactions.model import Request, Response, Server
from fhirserver.interactions.operations import parameters, text_parameter
from fhirserver.interactions.read import current
from fhirserver.messaging.parts import resolved
from fhirserver.store.model import Stored

MOST_MESSAGES = 100
USUAL = 20
MOST_DIFFERENCES = 100
"""Differences of one message that are told."""
MOST_TEXT = 1_000


def compare(intake: Intake, server: Server, request: Request, access: Access) -> Response:
    """$compare: an overlay, given or stored, against what holds now, over the last messages."""
    access.require("InboundMessage", "r")
    values = parameters(request, "overlay", "count", "filter")
    instead = given(server, request, access, values.get("overlay"))
    count = _count(values.get("count", USUAL))
    text = text_parameter(values, "filter")
    pairs = [(name, value) for name, _, value in (part.partition("=") for part in text.split("&") if part)]
    last = found(server, access, "InboundMessage", [*pairs, ("_sort", "-received")], count)
    messages = [each for each in last if "purged" not in each.resource()]
    parts: list[Resource] = []
    outcomes = dict.fromkeys(("same", "differs", "fails", "mended"), 0)
    for message in messages:
        outcome, told = _compared(intake, server, message, instead)
        outcomes[outcome] += 1
        if outcome != "same":
            head = [
                {"name": "reference", "valueReference": {"reference": f"InboundMessage/{message.id}"}},
                {"name": "outcome", "valueCode": outcome},
            ]
            parts.append({"name": "message", "part": head + told})
    counts: list[Resource] = [{"name": "compared", "valueInteger": len(messages)}]
    counts += [{"name": name, "valueInteger": number} for name, number in outcomes.items()]
    seen = [f"InboundMessage/{message.id}" for message in messages]
    return Response(200, resource=parameters_of(counts + parts), seen=seen)


def given(server: Server, request: Request, access: Access, overlay: Any) -> Resource:
    """The overlay of a parameter: a ConceptMap, or a reference to one; without one the resource of the call.

    Raises Problem: required, value, not-found.
    """
    where = "Parameters.parameter.where(name='overlay')"
    if isinstance(overlay, dict) and overlay.get("resourceType") == "ConceptMap":
        resource = overlay
    else:
        named = overlay.get("reference", "") if isinstance(overlay, dict) else overlay or ""
        id = str(named).rpartition("/")[2] or (request.id if request.type == "ConceptMap" else "")
        if not id:
            raise problem("required", "Give the overlay: a ConceptMap, or a reference to one.", where)
        access.require("ConceptMap", "r")
        resource = current(server, access, "ConceptMap", id, request).resource()
    if not is_overlay(resource):
        raise problem("value", "This ConceptMap is no overlay: it lacks the extension hl7v2-overlay.", where)
    return resource


def _count(value: Any) -> int:
    number = int(value) if str(value).isdigit() and len(str(value)) < 6 else 0
    if not 1 <= number <= MOST_MESSAGES:
        text = f"count is a number from 1 to {MOST_MESSAGES}."
        raise problem("value", text, "Parameters.parameter.where(name='count')")
    return number


def _compared(intake: Intake, server: Server, message: Stored, instead: Resource) -> tuple[str, list[Resource]]:
    raw, sender = content_of(message), sender_of(server, message.resource())

    def mapped(with_it: Resource | None) -> Result | Problem:
        try:
            return convert(intake, raw, message.organization, sender, message=message, instead=with_it)
        except Problem as fault:
            return fault

    before, after = mapped(None), mapped(instead)
    if isinstance(after, Problem):
        same = isinstance(before, Problem) and str(before) == str(after)
        return ("same", []) if same else ("fails", [_text("fault", str(after))])
    if isinstance(before, Problem):
        return "mended", [_text("fault", str(before))]
    told = list(_differences(before, after))
    parts = [_difference(*each) for each in told[:MOST_DIFFERENCES]]
    if len(told) > MOST_DIFFERENCES:
        parts.append(_text("fault", f"{len(told) - MOST_DIFFERENCES} more differences are not told."))
    return ("differs" if told else "same"), parts


Difference = tuple[str, str, str, Any, Any]
"""Operation (add, remove, replace), the entry's type and fullUrl, path, value before, value after."""


def _differences(before: Result, after: Result) -> Iterator[Difference]:
    """Entries are the same by their fullUrl; what is left over, because an identifier changed, by type and order."""
    held, made = _entries(before), _entries(after)
    pairs = {url: url for url in held if url in made}
    for url in (each for each in held if each not in pairs):
        type, taken = held[url]["resourceType"], set(pairs.values())
        other = next((u for u, r in made.items() if u not in taken and u not in held and r["resourceType"] == type), "")
        pairs |= {url: other} if other else {}
    names = {other: url for url, other in pairs.items()}
    for url, resource in held.items():
        name = resource["resourceType"]
        if url not in pairs:
            yield "remove", url, name, resource, None
        elif name != "Provenance":
            yield from _within(url, name, resource, resolved(made[pairs[url]], names))
    for url, resource in made.items():
        if url not in names:
            yield "add", url, resource["resourceType"], None, resource
    yield from _within("", "unmapped", _unmapped(before), _unmapped(after))


def _entries(result: Result) -> dict[str, Resource]:
    return {entry["fullUrl"]: entry["resource"] for entry in result.bundle["entry"]}


def _unmapped(result: Result) -> dict[str, str]:
    return {f"{each.table}: {each.code}": each.field for each in result.unmapped}


def _within(url: str, path: str, before: Any, after: Any) -> Iterator[Difference]:
    if isinstance(before, dict) and isinstance(after, dict):
        for name in [*before, *(name for name in after if name not in before)]:
            inner = f"{path}.{name}"
            if name not in after:
                yield "remove", url, inner, before[name], None
            elif name not in before:
                yield "add", url, inner, None, after[name]
            else:
                yield from _within(url, inner, before[name], after[name])
    elif isinstance(before, list) and isinstance(after, list):
        for number in range(max(len(before), len(after))):
            inner = f"{path}[{number}]"
            if number >= len(after):
                yield "remove", url, inner, before[number], None
            elif number >= len(before):
                yield "add", url, inner, None, after[number]
            else:
                yield from _within(url, inner, before[number], after[number])
    elif before != after:
        yield "replace", url, path, before, after


def _difference(operation: str, url: str, path: str, before: Any, after: Any) -> Resource:
    parts: list[Resource] = [{"name": "op", "valueCode": operation}, _text("path", path)]
    parts += [_text("entry", url)] if url else []
    parts += [
        _text(name, encode(value).decode())
        for name, value in (("before", before), ("after", after))
        if value is not None
    ]
    return {"name": "difference", "part": parts}


def _text(name: str, value: str) -> Resource:
    return {"name": name, "valueString": value[:MOST_TEXT]}
