"""$process-message on an organization's base: a FHIR message is stored like an HL7v2 one, and answered by a message.

FHIR R4: messaging, messageheader-operation-process-message. Each resource is matched by its identifiers; all of them,
the InboundMessage that keeps the message, and the pending event are one transaction. The same message again (the same
identity and the same content) is not applied again: it gets the answer it got before.
"""

from __future__ import annotations

import base64
import hashlib
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from fhirserver.auth.access import Access, everything
from fhirserver.auth.principal import SYSTEM
from fhirserver.fhir import Resource
from fhirserver.fhir.instants import instant_text
from fhirserver.fhir.json import decode, encode
from fhirserver.fhir.problem import Problem, problem
from fhirserver.fhir.validation import validate
from fhirserver.interactions.capabilities import served_types
from fhirserver.interactions.model import OperationRow, Request, Response, Server
from fhirserver.interactions.versions import SILENT, next_instant, pending_event, refuse_errors, version_of
from fhirserver.messaging.content import accept
from fhirserver.messaging.parts import ENVELOPE, Content, Done, resolved
from fhirserver.store.model import Stored

TYPE = "InboundMessage"
CONTENT_TYPE = "application/fhir+json"
MOST_ENTRIES = 1_000
MOST_RESULTS = 200
OF_A_SENDER = frozenset({"Organization"})
"""Types whose rules are the registry's: on the base of an organization they are the wards and insurers of messages."""
# Until it is processed; nobody finds it so but after a fault in between, and sending it again takes it up.
UNFINISHED = {"severity": "error", "code": "exception", "diagnostics": "Processing did not end: send it again."}


def process_message(server: Server, request: Request, access: Access) -> Response:
    """Takes a message Bundle and answers the message that says it was taken.

    Raises Problem: structure, required, invariant ... for a message that is not valid, business-rule for a resource
    that cannot come by message, not-supported for asynchronous processing.
    """
    access.require(TYPE, "c")
    if request.unit:
        raise problem("not-supported", "A message is a transaction of its own: it cannot be an entry of another.")
    bundle = _bundle(server, request)
    header: Resource = bundle["entry"][0]["resource"]
    inbound = _taken(server, request, bundle, header)
    known = inbound.resource()
    if known["status"] != "processed":
        known = _applied(server, request, bundle, header, inbound)
    answer = decode(base64.b64decode(known["acknowledgment"]))
    return Response(200, resource=answer, headers={"Content-Location": f"{request.base}/{TYPE}/{inbound.id}"})


def again(server: Server, organization: str, inbound: Stored) -> None:
    """Processes a message that is kept and was not processed: somebody asked to. Raises Problem as it did before."""
    bundle = decode(base64.b64decode(inbound.resource()["content"]["data"]))
    request = Request(
        "operation", organization, server.base(organization), SYSTEM, operation="$process-message", body=bundle
    )
    _applied(server, request, _bundle(server, request), bundle["entry"][0]["resource"], inbound)


def _bundle(server: Server, request: Request) -> Resource:
    for name, value in request.query:
        if (name == "async" and value != "false") or name == "response-url":
            raise problem("not-supported", f"{name} is not possible: messages are processed at once.", name)
    bundle = request.body
    if not isinstance(bundle, dict) or bundle.get("resourceType") != "Bundle" or bundle.get("type") != "message":
        raise problem("structure", "$process-message takes a Bundle of type message.", "Bundle.type")
    entries = bundle.get("entry")
    if isinstance(entries, list) and len(entries) > MOST_ENTRIES:
        raise problem("too-long", f"A message may have at most {MOST_ENTRIES} entries.", "Bundle.entry")
    refuse_errors(validate(server.definitions, bundle))
    first = entries[0].get("resource") if isinstance(entries, list) and entries else None
    if not isinstance(entries, list) or not isinstance(first, dict) or first.get("resourceType") != ENVELOPE:
        raise problem("required", "The first entry of a message is its MessageHeader.", "Bundle.entry[0].resource")
    permitted = set(served_types(server, request.organization)) - (set(server.rules) - OF_A_SENDER) - SILENT
    for index, entry in enumerate(entries[1:], 1):
        type = entry.get("resource", {}).get("resourceType")
        if type not in permitted:
            text = f"Entry {index}: {type or 'nothing'} cannot come by message; write it through its own interactions."
            raise problem("business-rule", text, f"Bundle.entry[{index}].resource")
    return bundle


def _taken(server: Server, request: Request, bundle: Resource, header: Resource) -> Stored:
    """The InboundMessage of this very message: a new one, or the one that was made when it came before."""
    content = encode(bundle)
    said = bundle.get("identifier", {})
    identity = (str(said.get("system", "")), str(said.get("value", "")), str(header.get("id", "")))
    id = hashlib.sha256("\0".join((*identity, hashlib.sha256(content).hexdigest())).encode()).hexdigest()[:40]
    instant = next_instant(server, None)
    lane = hashlib.sha256(f"fhir\0{_source(header)}".encode()).hexdigest()[:24]
    resource = {
        "resourceType": TYPE,
        "id": id,
        "status": "failed",
        "reason": "internal",
        "sendingApplication": (header["source"].get("name") or _source(header))[:200],
        "event": _event(header),
        "version": "4.0.1",
        "controlId": (said.get("value") or header.get("id") or bundle.get("id") or id)[:200],
        "lane": lane,
        "sequence": f"{int(instant.timestamp() * 1_000_000) * 1_000:020d}",
        "received": instant_text(instant),
        "peer": request.facts.get("address") or "unknown",
        "content": {
            "contentType": CONTENT_TYPE,
            "data": base64.b64encode(content).decode(),
            "size": len(content),
            "hash": base64.b64encode(hashlib.sha1(content, usedforsecurity=False).digest()).decode(),
        },
        "attempts": 0,
        "issue": [UNFINISHED],
    }
    server.store.insert_messages([version_of(server, request.organization, resource, None, instant)])
    return _stored(server, request, id)


def _stored(server: Server, request: Request, id: str) -> Stored:
    found = server.store.live(everything(request.organization), TYPE, id)
    if found is None:
        raise problem("deleted", "This message was processed before, and what was kept of it is deleted.")
    return found


def _applied(server: Server, request: Request, bundle: Resource, header: Resource, inbound: Stored) -> Resource:
    """Stores what the message says, and answers the InboundMessage as it is then."""
    content = _content(bundle, header)
    finished: list[Resource] = []

    def finish(done: Sequence[Done]) -> Resource:
        finished[:] = [_finished(server, request, header, inbound, done)]
        return finished[0]

    event = pending_event(server, request, ENVELOPE, inbound.id, 1, inbound.instant, "create") or {}
    try:
        accept(server, request.organization, content, inbound, finish, event["request"])
    except Problem as error:
        if error.issues[0].code != "conflict":
            raise
        known = _stored(server, request, inbound.id).resource()
        if known["status"] != "processed":
            raise
        return known  # the same message came twice at once
    return finished[0]


def _content(bundle: Resource, header: Resource) -> Content:
    """What the message says: its entries have a name each, and refer to each other by it, however they were told."""
    entries = [
        {**entry, "fullUrl": entry.get("fullUrl") or f"urn:uuid:{uuid.UUID(int=index)}"}
        for index, entry in enumerate(bundle["entry"])
    ]
    names = {
        f"{entry['resource']['resourceType']}/{entry['resource']['id']}": entry["fullUrl"]
        for entry in entries
        if "id" in entry["resource"]
    }
    entries = [{**entry, "resource": resolved(entry["resource"], names)} for entry in entries]
    match = {entry["fullUrl"]: _identifiers(entry["resource"]) for entry in entries}
    event = _event(header)
    return Content(bundle={**bundle, "entry": entries}, event=event, names=(event,), match=match)


def _identifiers(resource: Resource) -> list[Mapping[str, str]]:
    """Those that name their system: a bare number is no identity across senders."""
    given = resource.get("identifier", [])
    listed = given if isinstance(given, list) else [given]
    return [each for each in listed if each.get("system") and each.get("value")]


def _source(header: Resource) -> str:
    """The address that a message comes from; one that is not known is only said to be so (data-absent-reason)."""
    return str(header["source"].get("endpoint") or "unknown")


def _event(header: Resource) -> str:
    coding: dict[str, Any] = header.get("eventCoding", {})
    return str(coding.get("code") or header.get("eventUri", "message"))


def _finished(server: Server, request: Request, header: Resource, inbound: Stored, done: Sequence[Done]) -> Resource:
    before = inbound.resource()
    kept = {name: value for name, value in before.items() if name not in ("reason", "issue")}
    patient = next((each for each in done if each.type == "Patient"), None)
    finished = {
        **kept,
        "status": "processed",
        "acknowledgmentCode": "ok",
        "acknowledgment": base64.b64encode(encode(_answer(server, request, header))).decode(),
        "attempts": before.get("attempts", 0) + 1,
        "processed": instant_text(server.now()),
    }
    if patient:
        finished["patient"] = {"reference": f"Patient/{patient.id}", "type": "Patient"}
    if done:
        finished["result"] = [_result(each) for each in done[:MOST_RESULTS]]
    return finished


def _result(done: Done) -> Resource:
    return {"reference": f"{done.type}/{done.id}/_history/{done.version}"}


def _answer(server: Server, request: Request, header: Resource) -> Resource:
    """The message that says the message was taken."""
    id = uuid.UUID(server.new_id())
    said: Resource = {name: header[name] for name in ("eventCoding", "eventUri") if name in header}
    answer: Resource = {
        "resourceType": ENVELOPE,
        "id": str(id),
        **said,
        "destination": [{name: value for name, value in header["source"].items() if name in ("endpoint", "_endpoint")}],
        "source": {"name": "fhirserver", "endpoint": f"{request.base}/$process-message"},
        "response": {"identifier": header.get("id", "unknown"), "code": "ok"},
    }
    return {
        "resourceType": "Bundle",
        "id": server.new_id(),
        "type": "message",
        "timestamp": instant_text(server.now()),
        "entry": [{"fullUrl": id.urn, "resource": answer}],
    }


OPERATIONS = (
    OperationRow(
        "process-message",
        ("Resource",),
        ("system",),
        "c",
        process_message,
        bases=("organization",),
        definition="http://hl7.org/fhir/OperationDefinition/MessageHeader-process-message",
    ),
)
