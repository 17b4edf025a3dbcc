"""The operations on messages: $convert and $validate-v2 without storing, $trace of a resource, and what people do
with a message that did not get through: $reprocess, $defer, $resolve.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Any

from fhirserver.auth.access import Access, everything
from fhirserver.fhir import Resource
from fhirserver.fhir.parameters import parameters_of
from fhirserver.fhir.problem import Issue, outcome, problem
from fhirserver.hl7v2 import codes, conformance
from fhirserver.hl7v2.compare import compare, given
from fhirserver.hl7v2.ingest import JOB, Intake
from fhirserver.hl7v2.kept import again, content_of, found, rewrite
from fhirserver.hl7v2.mapping import Maps, Result, Traced
from fhirserver.hl7v2.process import convert, sender_of
from fhirserver.interactions.model import OperationRow, Request, Response, Server
from fhirserver.interactions.operations import parameters, text_parameter
from fhirserver.interactions.read import current
from fhirserver.store.model import Stored

MOST_TEXT = 16 * 1024 * 1024
MOST_REPROCESSED = 1_000
REPROCESSED = ("mapping-error", "code-mapping-error", "failed", "deferred", "warning", "processed")
DEFERRED = ("received", "mapping-error", "code-mapping-error", "failed")
RESOLVED = ("parse-error", "mapping-error", "code-mapping-error", "failed", "deferred", "warning")

IntakeOf = Callable[[Server], Intake]
BASE = "https://fhirserver.example/fhir/OperationDefinition/"


def operations(intake: IntakeOf) -> tuple[OperationRow, ...]:
    """The rows of the operations table. `intake` gives the Intake of a server (made at its first use)."""
    inbound, both = ("InboundMessage",), ("type", "instance")
    rows: tuple[tuple[str, tuple[str, ...], tuple[str, ...], str, _Function, bool], ...] = (
        ("convert", inbound, both, "r", _convert, False),
        ("validate-v2", inbound, both, "r", _validate, False),
        ("reprocess", inbound, both, "u", _reprocess, True),
        ("defer", inbound, ("instance",), "u", _defer, True),
        ("resolve", inbound, ("instance",), "u", _resolve, True),
        ("compare", ("ConceptMap",), both, "r", compare, False),
        ("map-code", ("Task",), ("instance",), "u", _map_code, True),
        ("trace", ("Resource",), ("instance",), "r", _trace, False),
    )
    return tuple(
        OperationRow(
            name, types, levels, letter, _bound(intake, function), state, ("organization",), f"{BASE}{types[0]}-{name}"
        )
        for name, types, levels, letter, function, state in rows
    )


_Function = Callable[[Intake, Server, Request, Access], Response]


def _bound(intake: IntakeOf, function: _Function) -> Callable[[Server, Request, Access], Response]:
    return lambda server, request, access: function(intake(server), server, request, access)


def _convert(intake: Intake, server: Server, request: Request, access: Access) -> Response:
    """What a message becomes, with a trace: nothing is stored. The message is given, or a kept one is taken; an
    overlay may be tried with it.
    """
    values = parameters(request, "message", "content", "overlay")
    raw, stored = _message(server, request, access, values)
    sender = sender_of(server, stored.resource()) if stored else None
    instead = given(server, request, access, values["overlay"]) if "overlay" in values else None
    result = convert(intake, raw, request.organization, sender, trace=True, message=stored, instead=instead)
    maps = result.maps
    parts: list[Resource] = [{"name": "bundle", "resource": result.bundle}]
    parts.append({"name": "mapping", "valueString": maps.name})
    parts += [_traced(maps, t, t.full_url) for t in result.trace]
    parts += [{"name": "unmapped", "valueString": f"{u.table}: {u.code} ({u.field})"} for u in result.unmapped]
    parts += [{"name": "skipped", "valueString": name} for name in result.skipped]
    parts += [{"name": "warning", "valueString": text} for text in result.warnings]
    return Response(200, resource=parameters_of(parts))


def _map_code(intake: Intake, server: Server, request: Request, access: Access) -> Response:
    """Says what the code of a Task means; the messages that waited for it go on."""
    return codes.map_code(server, intake.overlays, request, access)


def _validate(intake: Intake, server: Server, request: Request, access: Access) -> Response:
    """An OperationOutcome with every departure of the message from the standard."""
    raw, _ = _message(server, request, access, parameters(request, "message", "content"))
    issues = conformance.report(raw, intake.maps)
    return Response(
        200, resource=outcome(issues or [Issue("informational", "No faults were found.", (), "information")])
    )


def _reprocess(intake: Intake, server: Server, request: Request, access: Access) -> Response:
    """Puts a message, or every one that a search finds, back in the queue of its lane."""
    values = parameters(request, "filter")
    if request.id:
        waiting = [current(server, access, "InboundMessage", request.id, request)]
    else:
        text = text_parameter(values, "filter") or "status=mapping-error"
        pairs = [(name, value) for name, _, value in (part.partition("=") for part in text.split("&"))]
        waiting = found(server, access, "InboundMessage", pairs, MOST_REPROCESSED)
    lanes: dict[str, None] = {}
    for version in waiting:
        resource = version.resource()
        if resource["status"] not in REPROCESSED and request.id:
            raise problem("business-rule", f"A message that is {resource['status']} is not processed again.")
        if resource["status"] in REPROCESSED and (request.id or "purged" not in resource):
            rewrite(server, version, again(resource))
            lanes[resource["lane"]] = None
    for lane in lanes:
        server.enqueue(JOB, request.organization, lane)
    count = {"name": "count", "valueInteger": len(waiting)}
    return Response(200, resource=parameters_of([count]))


def _defer(intake: Intake, server: Server, request: Request, access: Access) -> Response:
    """Puts a message off: its lane goes on without it."""
    return _moved(server, request, access, "deferred", DEFERRED)


def _resolve(intake: Intake, server: Server, request: Request, access: Access) -> Response:
    """Somebody has seen to the message by hand: it is done."""
    return _moved(server, request, access, "processed", RESOLVED)


def _moved(server: Server, request: Request, access: Access, status: str, allowed: tuple[str, ...]) -> Response:
    note = text_parameter(parameters(request, "note"), "note", limit=1000)
    version = current(server, access, "InboundMessage", request.id or "", request)
    resource = version.resource()
    if resource["status"] not in allowed:
        text = f"A message that is {resource['status']} cannot be made {status}; possible from {', '.join(allowed)}."
        raise problem("business-rule", text, "InboundMessage.status")
    said = f"Made {status} by hand" + (f": {note}" if note else ".")
    issue = {"severity": "information", "code": "informational", "diagnostics": said}
    told = {**resource, "status": status, "issue": [*resource.get("issue", []), issue]}
    changed = rewrite(server, version, told).resource()
    return Response(200, resource=changed)


def _trace(intake: Intake, server: Server, request: Request, access: Access) -> Response:
    """Which message, segment, field and rule wrote each element: its messages are mapped once more, newest first."""
    target = f"{request.type}/{request.id}"
    current(server, access, request.type or "", request.id or "", request)
    pairs = [("result", target), ("_sort", "-received"), ("status", "processed,warning")]
    parts: list[Resource] = []
    for version in found(server, everything(request.organization), "InboundMessage", pairs, 20):
        resource = version.resource()
        if "purged" in resource:
            continue
        sender = sender_of(server, resource)
        raw = content_of(version)
        result = convert(intake, raw, request.organization, sender, trace=True, message=version)
        maps = result.maps
        url = _full_url(result, resource, target)
        written = [t for t in result.trace if t.full_url == url]
        rows = [{"name": "element", "part": _traced(maps, t)["part"]} for t in written]
        if rows:
            head: list[Resource] = [
                {"name": "message", "valueReference": {"reference": f"InboundMessage/{version.id}"}},
                {"name": "mapping", "valueString": resource.get("mapping") or maps.name},
            ]
            parts.append({"name": "trace", "part": head + rows})
    return Response(200, resource=parameters_of(parts))


def _full_url(result: Result, resource: Resource, target: str) -> str:
    """The entry that was stored as `target`: the results stand in the order of the entries, the header left out."""
    entries = [e for e in result.bundle["entry"] if e["resource"]["resourceType"] != "MessageHeader"]
    for entry, written in zip(entries, resource.get("result", ()), strict=False):
        if written["reference"].split("/_history/")[0] == target:
            return str(entry["fullUrl"])
    return ""


def _traced(maps: Maps, traced: Traced, full_url: str = "") -> Resource:
    texts = (
        ("entry", full_url),
        ("element", traced.element),
        ("field", traced.field),
        ("rule", traced.rule),
        ("layer", maps.layer(traced.rule)),
    )
    return {"name": "trace", "part": [{"name": name, "valueString": text} for name, text in texts if text]}


def _message(server: Server, request: Request, access: Access, values: dict[str, Any]) -> tuple[bytes, Stored | None]:
    if request.id:
        version = current(server, access, "InboundMessage", request.id, request)
        return content_of(version), version
    text = text_parameter(values, "message", limit=MOST_TEXT)
    encoded = text_parameter(values, "content", limit=MOST_TEXT)
    if text or encoded[:3].upper() in ("MSH", "FHS", "BHS"):  # the text itself, where base64 was asked for
        return (text or encoded).encode(), None
    try:
        raw = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise problem("value", "content must be base64.", "Parameters.parameter.where(name='content')") from None
    if not raw:
        text = "Give the message as it is (Content-Type application/hl7-v2), as text (message) or as base64 (content)."
        raise problem("required", text, "Parameters.parameter")
    return raw, None
