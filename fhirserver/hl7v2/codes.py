"""Codes that no table maps: a Task for each, and what goes on when somebody has mapped it.

One Task for an organization, sender, table and code, with a count; its messages refer to it. It is completed when the
effective maps of the sender translate the code, however that came about; messages that waited for it are processed in
the order they came.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from fhirserver.auth.access import Access, everything
from fhirserver.auth.principal import SYSTEM
from fhirserver.fhir import Resource
from fhirserver.fhir.definitions import Definitions
from fhirserver.fhir.instants import instant_text
from fhirserver.fhir.problem import Problem, problem
from fhirserver.hl7v2.effective import TYPE, Overlays
from fhirserver.hl7v2.inbound import issue_element
from fhirserver.hl7v2.kept import again, found, rewrite
from fhirserver.hl7v2.mapping import Maps, Unmapped
from fhirserver.hl7v2.mapping.conceptmaps import BASE, MAP, TABLE
from fhirserver.hl7v2.mapping.overlay import EXTENSION
from fhirserver.hl7v2.senders import Sender
from fhirserver.interactions import versions, write
from fhirserver.interactions.model import Request, Response, Server
from fhirserver.interactions.operations import parameters, text_parameter
from fhirserver.interactions.read import answer, current
from fhirserver.rules.model import Prepared
from fhirserver.search.parse import parse
from fhirserver.store.model import REGISTRY, Stored
from fhirserver.store.search import compile_search, total

log = logging.getLogger(__name__)

SYSTEM_OF_TASKS = f"{BASE}/CodeSystem/hl7v2-task"
MAP_CODE = "map-code"
OPEN = ("requested", "accepted", "in-progress", "on-hold", "ready", "received")
LET_BE = ("rejected", "cancelled", "failed", "entered-in-error")
"""Somebody has decided that the code is not going to be mapped."""
MOST_CODES = 20
"""Unmapped codes of one message that get a Task."""
MOST_TASKS = 500
MOST_AT_ONCE = 500
EXACT = 10
"""Messages of one code that are counted each; after that the count is brought up to date every so many seconds."""
COUNT_SECONDS = 60.0
_VALUE_SETS = ("http://terminology.hl7.org/ValueSet", "http://hl7.org/fhir/ValueSet")
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}:[^\s<>\"]{1,500}\Z")
MOST_COUNTED = 100_000
JOB = "process"


def noted(
    server: Server, organization: str, inbound: Stored, sender: Sender | None, unmapped: Sequence[Unmapped]
) -> list[dict[str, Any]]:
    """The InboundMessage.unmapped of a message, each with its Task, which is made or counted up."""
    said: dict[tuple[str, str], dict[str, Any]] = {}
    for each in unmapped:
        if len(said) >= MOST_CODES:
            break
        if (each.table, each.code) in said or not each.code.strip():
            continue
        names = _names(inbound.resource(), sender)
        id = _id(organization, names, each)
        try:
            _count(server, organization, id, lambda each=each, names=names: _task(server, inbound, names, each))
        except Problem as fault:
            if fault.issues[0].code == "transient":
                raise
            log.warning("the Task %s could not be written: %s", id, fault.issues[0].code)
        row = {"table": each.table, "code": each.code, "field": each.field}
        said[each.table, each.code] = {**row, "task": {"reference": f"Task/{id}"}}
    return list(said.values())


def held(resource: Resource, unmapped: Sequence[Mapping[str, Any]]) -> Resource:
    """The InboundMessage that waits for its codes to be mapped."""
    texts = ", ".join(f"{row['code']} of {row['table']}" for row in unmapped)[:900]
    fault = problem("code-invalid", f"The message waits for codes to be mapped: {texts}.")
    return resource | {
        "status": "code-mapping-error",
        "reason": "unmapped-code",
        "attempts": resource.get("attempts", 0) + 1,
        "unmapped": list(unmapped),
        "issue": [issue_element(issue) for issue in fault.issues],
    }


def settle(server: Server, overlays: Overlays, organization: str) -> int:
    """Completes the Tasks whose code is mapped by now, and lets the messages that waited go on. Answers how many."""
    pairs = [("code", f"{SYSTEM_OF_TASKS}|{MAP_CODE}"), ("status", ",".join(OPEN))]
    settled = 0
    for task in found(server, everything(organization), "Task", pairs, MOST_TASKS):
        said = inputs(task.resource())
        try:
            maps = overlays.maps(organization, said["endpoint"], said["sending-application"], said["sending-facility"])
        except Problem:
            continue  # logged where they could not be compiled
        target = _target_of(maps, said["table"], said["code"])
        if target:
            _complete(server, organization, task, target)
            settled += 1
    return settled


def map_code(server: Server, overlays: Overlays, request: Request, access: Access) -> Response:
    """Maps the code of a Task by an overlay of its sender, or of the organization, and lets its messages go on."""
    values = parameters(request, "code", "system", "display", "scope")
    code, scope = text_parameter(values, "code", limit=200), text_parameter(values, "scope") or "sender"
    if not code:
        raise problem("required", "code is required: what the sender's code means.", "Parameters.parameter")
    if scope not in ("sender", "organization"):
        raise problem("value", "scope is sender or organization.", "Parameters.parameter.where(name='scope')")
    task = current(server, access, "Task", request.id or "", request)
    said = inputs(task.resource())
    if not said["table"] or not said["code"]:
        raise problem("business-rule", "This Task is not about a code: it has no input `table` and `code`.", "Task")
    names = _sender_parts(said) if scope == "sender" else []
    maps = overlays.maps(request.organization, said["endpoint"], said["sending-application"], said["sending-facility"])
    system = text_parameter(values, "system") or _system_of(maps, said["table"])
    _check(server.definitions, maps, code, system)
    target = {"code": code, "display": text_parameter(values, "display"), "equivalence": "equivalent"}
    target = {name: value for name, value in target.items() if value}
    _write_overlay(server, request, access, names, said, system, target)
    settle(server, overlays, request.organization)
    return answer(server, request, current(server, access, "Task", task.id, request))


def _check(definitions: Definitions, maps: Maps, code: str, system: str) -> None:
    """Raises Problem where the code is none of its system, as far as that is known: the codes of a system that a value
    set of the same name lists, and those that tables of ours give. That an element takes the code is for the overlay.
    """
    where = "Parameters.parameter.where(name='{}')"
    if " ".join(code.split()) != code:
        raise problem("value", "A code has no white space but single spaces.", where.format("code"))
    if system and not _URI.match(system):
        text = "system is the URI of a code system, such as http://loinc.org."
        raise problem("value", text, where.format("system"))
    name = system.rpartition("/")[2]
    listed = (definitions.codes(f"{base}/{name}") or {} for base in _VALUE_SETS)
    known = next((codes[system] for codes in listed if system in codes), frozenset())
    used = {each.code for table in maps.tables.values() for each in table.codes.values() if each.system == system}
    if known and code not in known and code not in used:
        some = ", ".join(sorted(known)[:40]) + (" and others" if len(known) > 40 else "")
        text = f"{code[:80]} is no code of {system}. It has {some}."
        raise problem("code-invalid", text, where.format("code"))


def inputs(task: Mapping[str, Any]) -> dict[str, str]:
    """What a Task of ours says: code, table, endpoint, sending-application, sending-facility, field; "" for none."""
    names = ("code", "table", "endpoint", "sending-application", "sending-facility", "field")
    said = dict.fromkeys(names, "")
    for each in task.get("input") or ():
        name = next((c.get("code") for c in each.get("type", {}).get("coding", ())), "")
        value = each.get("valueString") or each.get("valueReference", {}).get("reference", "").rpartition("/")[2]
        if name in said and isinstance(value, str):
            said[name] = value
    return said


def _count(server: Server, organization: str, id: str, make: Any) -> None:
    """A new Task, or one more met by an old one. Raises Problem(conflict) where others count at the same time."""
    for attempt in range(write.ATTEMPTS):
        stored = server.store.read(everything(organization), "Task", id)
        before = stored.resource() if stored is not None and not stored.deleted else None
        if before is not None and before.get("status") in LET_BE:
            return
        fresh = before is None or before.get("status") == "completed"
        if before is not None and not fresh and _is_recent(server, before):
            return
        task = make() if before is None else _counted(server, organization, id, before)
        try:
            _put(server, organization, stored, id, task, None if fresh else {})
            return
        except Problem as fault:
            if fault.issues[0].code != "conflict" or attempt == write.ATTEMPTS - 1:
                raise


def _put(
    server: Server, organization: str, stored: Stored | None, id: str, task: Resource, event: dict[str, Any] | None
) -> None:
    request = Request("update", organization, server.base(organization), SYSTEM)
    method = "PUT" if stored else "POST"
    versions.put(server, request, everything(organization), Prepared(task), stored, f"Task/{id}", method, event)


def _task(server: Server, inbound: Stored, names: Mapping[str, str], unmapped: Unmapped) -> Resource:
    now = instant_text(server.now())
    who = " at ".join(names[name] for name in ("sending-application", "sending-facility") if names[name])
    said = [
        _input("code", valueString=unmapped.code),
        _input("table", valueString=unmapped.table),
        _input("field", valueString=unmapped.field or "?"),
        _input("count", valueInteger=1),
        *(_input(name, valueString=names[name]) for name in ("sending-application", "sending-facility") if names[name]),
    ]
    if names["endpoint"]:
        reference = {"reference": f"{server.base(REGISTRY)}/Endpoint/{names['endpoint']}"}
        said.append(_input("endpoint", valueReference={**reference, **({"display": who} if who else {})}))
    return {
        "resourceType": "Task",
        "status": "requested",
        "intent": "order",
        "code": {"coding": [{"system": SYSTEM_OF_TASKS, "code": MAP_CODE, "display": "Map a code"}]},
        "description": f"Say what the code {unmapped.code} of the table {unmapped.table} means"
        + (f" when {who} sends it." if who else "."),
        "focus": {"reference": f"InboundMessage/{inbound.id}"},
        "authoredOn": now,
        "lastModified": now,
        "input": said,
    }


def _input(name: str, **value: Any) -> dict[str, Any]:
    return {"type": {"coding": [{"system": SYSTEM_OF_TASKS, "code": name}]}, **value}


def _is_recent(server: Server, task: Resource) -> bool:
    """Whether a Task of many messages was counted a short while ago: not every message shall write a version of it."""
    written = datetime.fromisoformat(task["meta"]["lastUpdated"])
    return _met(task) >= EXACT and (server.now() - written).total_seconds() < COUNT_SECONDS


def _met(task: Mapping[str, Any]) -> int:
    return next((each["valueInteger"] for each in task.get("input") or () if "valueInteger" in each), 0)


def _counted(server: Server, organization: str, id: str, task: Resource) -> Resource:
    """The Task with one message more; of many, with as many as refer to it."""
    number = _met(task) + 1
    if number > EXACT:
        query = parse(server.definitions, "InboundMessage", [("code-task", f"Task/{id}")], strict=True)
        search = compile_search(server.store, everything(organization), "InboundMessage", query.clauses, None)
        number = max(number, 1 + (total(server.store, search, MOST_COUNTED).count if search else 0))
    said = [{**each, "valueInteger": number} if "valueInteger" in each else each for each in task.get("input", ())]
    kept = {name: value for name, value in task.items() if name != "output"}
    status = "requested" if task.get("status") == "completed" else task["status"]
    return kept | {"status": status, "input": said, "lastModified": instant_text(server.now())}


def _names(resource: Mapping[str, Any], sender: Sender | None) -> dict[str, str]:
    """Whose code it is. What an Endpoint takes from any sender is told apart by MSH-3 and MSH-4."""
    return {
        "endpoint": sender.endpoint if sender else "",
        "sending-application": str(resource.get("sendingApplication", "")),
        "sending-facility": str(resource.get("sendingFacility", "")),
    }


def _id(organization: str, names: Mapping[str, str], unmapped: Unmapped) -> str:
    key = "\0".join((organization, *(names[name] for name in sorted(names)), unmapped.table, unmapped.code))
    return hashlib.sha256(key.encode()).hexdigest()[:40]


def _target_of(maps: Maps, table: str, code: str) -> str:
    found = maps.tables[table].codes if table in maps.tables else {}
    target = found.get(code) or found.get(code.upper())
    return target.code if target else ""


def _system_of(maps: Maps, table: str) -> str:
    """The system that most of a table's codes are mapped to."""
    systems = [target.system for target in maps.tables[table].codes.values()] if table in maps.tables else []
    return max(systems, key=systems.count) if systems else ""


def _complete(server: Server, organization: str, task: Stored, target: str) -> None:
    """Lets the messages go on first: a Task that is open still is looked at again."""
    pairs = [("code-task", f"Task/{task.id}"), ("status", "code-mapping-error"), ("_sort", "sequence")]
    while waiting := found(server, everything(organization), "InboundMessage", pairs, MOST_AT_ONCE):
        lanes: dict[str, None] = {}
        for each in waiting:
            rewrite(server, each, again(each.resource()))
            lanes[each.resource()["lane"]] = None
        for lane in lanes:
            server.enqueue(JOB, organization, lane)
    resource = task.resource()
    output = {"type": {"coding": [{"system": SYSTEM_OF_TASKS, "code": "target"}]}, "valueString": target}
    done = {**resource, "status": "completed", "output": [output], "lastModified": instant_text(server.now())}
    try:
        _put(server, organization, task, task.id, done, None)
    except Problem as fault:
        if fault.issues[0].code != "conflict":  # counted up meanwhile: the sweep comes back to it
            raise


def _sender_parts(said: Mapping[str, str]) -> list[dict[str, Any]]:
    """The parts of hl7v2-overlay that name the sender of a Task."""
    parts: list[dict[str, Any]] = []
    if said["endpoint"]:
        parts.append({"url": "endpoint", "valueReference": {"reference": f"Endpoint/{said['endpoint']}"}})
    names = ("sending-application", "sending-facility")
    return parts + [{"url": name, "valueString": said[name]} for name in names if said[name]]


def _write_overlay(
    server: Server,
    request: Request,
    access: Access,
    names: list[dict[str, Any]],
    said: Mapping[str, str],
    system: str,
    target: Mapping[str, Any],
) -> None:
    """Puts the code into the ConceptMap of mapped codes of this sender (of the organization, with no names)."""
    key = "\0".join(str(part) for part in names)
    id = "hl7v2-codes" + (f"-{hashlib.sha256(key.encode()).hexdigest()[:24]}" if names else "")
    stored = server.store.live(everything(request.organization), TYPE, id)
    resource = stored.resource() if stored is not None else None
    resource = resource or _codes_map(request.organization, names, said)
    element = {"code": said["code"], "target": [dict(target)]}
    groups = [dict(each) for each in resource.get("group", ())]
    head = {
        "url": MAP,
        "extension": [{"url": "map", "valueString": said["table"]}, {"url": "kind", "valueCode": TABLE}],
    }
    group = next((g for g in groups if g.get("extension") == [head] and g.get("target", "") == system), None)
    if group is None:
        group = {"extension": [head], **({"target": system} if system else {}), "element": []}
        groups.append(group)
    for each in groups:  # a code is mapped once in a table
        if each.get("extension") == [head]:
            each["element"] = [e for e in each["element"] if e.get("code") != said["code"]]
    group["element"] = [*group["element"], element]
    body = {**resource, "id": id, "group": [each for each in groups if each["element"]]}
    asked = replace(request, interaction="update", type=TYPE, id=id, operation=None, query=(), body=body)
    write.update(server, asked, access)


def _codes_map(organization: str, names: Sequence[Mapping[str, Any]], said: Mapping[str, str]) -> Resource:
    who = " at ".join(said[name] for name in ("sending-application", "sending-facility") if said[name])
    title = f"Codes of {who or 'one sender'}" if names else "Codes of the organization"
    parts = list(names) or [{"url": "organization", "valueReference": {"reference": f"Organization/{organization}"}}]
    return {
        "resourceType": TYPE,
        "title": title,
        "status": "active",
        "extension": [{"url": EXTENSION, "extension": parts}],
    }
