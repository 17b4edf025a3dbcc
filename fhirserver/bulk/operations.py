"""What may be asked of exports: $export on the system, on Patient and a Group; state, files and end of one.

FHIR Bulk Data Access 2.0: export. The addresses of status and files are those of `web.bulk`; what they answer, here. A
file is given to who asked for the export, as long as he may read what is in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any
from urllib.parse import urlencode

from fhirserver.auth.access import CLIENT_SYSTEM, Access, everything
from fhirserver.bulk.asked import Asked, asked, kept
from fhirserver.bulk.gather import OPERATIONAL
from fhirserver.bulk.record import rewritten, written
from fhirserver.bulk.work import JOB, access_of, asked_by, may, scope_of
from fhirserver.fhir import Resource
from fhirserver.fhir.instants import instant_text
from fhirserver.fhir.problem import problem
from fhirserver.interactions.capabilities import served_types
from fhirserver.interactions.model import OperationRow, Request, Response, Server
from fhirserver.interactions.operations import parameters
from fhirserver.interactions.read import current, gone
from fhirserver.rules.bulk_export import OPEN, TYPE
from fhirserver.rules.model import reference
from fhirserver.store.exports import Export, Exports
from fhirserver.store.search import by_references

GUIDE = "http://hl7.org/fhir/uv/bulkdata/OperationDefinition"
OURS = "https://fhirserver.example/fhir/OperationDefinition"
MOST_OPEN = 5
"""Exports of one client in one organization that may be under way."""
MOST_KEPT = 50
"""Those whose files are there, too: each may be all of the data once more."""
MOST_MEMBERS = 100_000
MEMBERS_READ = 500
NDJSON = "application/fhir+ndjson"
WAIT_SECONDS = 2


def export(server: Server, request: Request, access: Access) -> Response:
    """Begins an export: 202 with the address of its status.

    Raises Problem: invalid (not asked for asynchronously, a parameter at fault), forbidden (nothing of a type named may
    be searched), not-found (the group, a patient), throttled (too many under way).
    """
    if not request.prefer.asynchronous:
        raise problem(
            "invalid", "An export is done in the background: send the header Prefer: respond-async.", "Prefer"
        )
    wanted = asked(server, request)
    level = "members" if request.type == "Group" or wanted.patients else "patient" if request.type else "system"
    patients = tuple(sorted(_members(server, request, access, wanted))) if level == "members" else ()
    types, wider = _types(server, request, access, wanted, level)
    exports, whose = Exports(server.store.database), request.principal.client or request.principal.id
    if exports.open_of(request.organization, whose) >= MOST_OPEN:
        raise problem(
            "throttled",
            f"{MOST_OPEN} exports of {whose} are under way: wait for one of them, or end it with DELETE.",
            headers={"Retry-After": "60"},
        )
    if exports.kept_of(request.organization, whose) >= MOST_KEPT:
        raise problem(
            "throttled",
            f"The files of {MOST_KEPT} exports of {whose} are kept: end those that you have fetched with DELETE.",
            headers={"Retry-After": "3600"},
        )
    id, now = server.new_id(), server.now()
    now = now.replace(microsecond=now.microsecond // 1000 * 1000)
    facts: dict[str, Any] = {
        "who": {**asdict(request.principal), "token": ""},
        "told": _told(request),
        "asked": kept(wanted),
        "level": level,
        "types": types,
        "wider": wider,
        "patients": list(patients),
        "may": may(server, access),
        "time": now,
    }
    # In this order: one that only the work knows of is done and found by nobody, one that only people see never ends.
    exports.begin(Export(request.organization, id, whose, facts))
    written(server, request.organization, _record(request, wanted, id, instant_text(now), len(patients)))
    server.enqueue(JOB, request.organization, id)
    return Response(202, headers={"Content-Location": f"{request.base}/bulk/{id}"}, seen=[f"{TYPE}/{id}"])


def status(server: Server, request: Request, access: Access) -> Response:
    """How an export stands: 202 with X-Progress while it is under way, 200 with the manifest when it is done. For who
    asked for it, and whoever may read its BulkExport: people of the organization, and of the client's own.

    Raises Problem: not-found (none that the caller may see), and what made it fail.
    """
    resource, export = _known(server, request, access, "r")
    if resource["status"] == "failed":
        raise problem("exception", f"The export failed: {resource.get('statusReason', '')}", status=500)
    if export.until is None:
        steps = scope_of(export).length
        done, count = min(export.position[0], steps), sum(each["count"] for each in export.listed)
        headers = {"X-Progress": f"{done} of {steps} steps, {count} resources", "Retry-After": str(WAIT_SECONDS)}
        return Response(202, headers=headers)
    base, files = f"{request.base}/bulk/{export.id}", list(enumerate(export.listed))
    manifest: dict[str, Any] = {
        "transactionTime": instant_text(export.facts["time"]),
        "request": resource["request"],
        "requiresAccessToken": True,
        **{
            kind: [
                {"type": each["type"], "url": f"{base}/{number}", "count": each["count"]}
                for number, each in files
                if each["kind"] == kind
            ]
            for kind in ("output", "deleted", "error")
        },
    }
    return Response(200, resource=manifest)


def output(server: Server, request: Request, access: Access) -> Response:
    """One file of an export, as NDJSON compressed with gzip. Raises Problem: not-found, forbidden."""
    _, export = _known(server, request, access, "d")
    number = str(parameters(request, "part").get("part", ""))
    if not asked_by(export, request.principal):
        raise problem("forbidden", "The files of an export are for who asked for it.")
    found = None
    if export.until is not None and number.isascii() and number.isdecimal() and len(number) < 9:
        found = Exports(server.store.database).file(export, int(number))
    if found is None:
        raise problem("not-found", "There is no such file of this export, or its time is over: ask for a new export.")
    type, data = found
    of = export.facts["types"] if type in ("Bundle", "OperationOutcome") else [type]
    for each in of:
        _require_as_much(server, export, access, each)
    _require_same(server, export, access)
    return Response(200, data=data, headers={"Content-Type": NDJSON}, seen=[f"{TYPE}/{export.id}"])


def cancel(server: Server, request: Request, access: Access) -> Response:
    """Ends an export and takes away its files: 202. Raises Problem(not-found)."""
    resource, export = _known(server, request, access, "d")
    ended = "cancelled" if resource["status"] in OPEN else "expired"
    rewritten(server, export, {"status": ended}, (*OPEN, "completed", "failed"))
    Exports(server.store.database).drop(request.organization, export.id)
    return Response(202)


def _known(server: Server, request: Request, access: Access, letter: str) -> tuple[Resource, Export]:
    """An export of the caller's; to be looked at (r) any whose BulkExport he may read, to be ended (d) any for an
    administrator of the organization, whose token may be for less.
    """
    whole = everything(request.organization)
    found = server.store.read(whole, TYPE, request.id or "")
    export = Exports(server.store.database).get(request.organization, request.id or "")
    principal = request.principal
    known = export is not None and asked_by(export, principal)
    if not known and letter == "r":
        known = server.store.live(access, TYPE, request.id or "") is not None
    elif not known:
        known = principal.admin(request.organization) and access.clauses(TYPE, letter) == ()
    if found is None or export is None or not known:
        raise problem("not-found", "There is no such export, or its time is over.")
    if found.deleted:
        raise gone(found)
    return found.resource(), export


def _require_as_much(server: Server, export: Export, access: Access, type: str) -> None:
    """The token may not be of less than the one that asked: of other scopes, or of another patient."""
    letter = "r" if type in export.facts["wider"] else "s"
    access.require(type, letter)
    who, principal = export.facts["who"], access.principal
    if (who["scopes"], who["patient"]) == (principal.scopes, principal.patient):
        return
    permitted = access.clauses(type, letter)
    if permitted and permitted != access_of(server, export).clauses(type, letter):
        raise problem(
            "forbidden", f"The access token is for less of {type} than the one with which this export was asked for."
        )


def _require_same(server: Server, export: Export, access: Access) -> None:
    """What the caller may read must be what it was when the file was written: else the file may hold more."""
    if export.facts["may"] != may(server, access):
        raise problem(
            "forbidden", "What you may read has been changed since this export: ask for a new one, and leave this one."
        )


def _members(server: Server, request: Request, access: Access, wanted: Asked) -> Iterator[str]:
    """The ids of the patients: the group's members, those that `patient` names. Raises Problem(not-found)."""
    if request.type == "Group":
        group = current(server, access, "Group", request.id or "", request).resource()
        entities = [each for each in group.get("member", ()) if each.get("inactive") is not True]
        texts = [str(each.get("entity", {}).get("reference", "")).removeprefix(f"{request.base}/") for each in entities]
        members = dict.fromkeys(text.partition("/")[2] for text in texts if text.startswith("Patient/"))
        if len(members) > MOST_MEMBERS:
            raise problem("too-costly", f"An export is of at most {MOST_MEMBERS} members of a group.")
        missing = [id for id in wanted.patients if id not in members]
        if missing:
            raise problem("not-found", f"Patient/{missing[0]} is not a member of this group.", "patient")
        yield from wanted.patients or members
        return
    for start in range(0, len(wanted.patients), MEMBERS_READ):
        some = wanted.patients[start : start + MEMBERS_READ]
        found = {version.id for version in by_references(server.store, access, [f"Patient/{id}" for id in some], "s")}
        for id in some:
            if id not in found:
                raise problem("not-found", f"Patient/{id} is not known here.", "patient")
            yield id


def _types(server: Server, request: Request, access: Access, wanted: Asked, level: str) -> tuple[list[str], list[str]]:
    """The types to export, and those exported only where something refers to them. Raises Problem(forbidden)."""
    for type in wanted.types:
        access.require(type, "s")
    served = served_types(server, request.organization)
    allowed = [type for type in wanted.types or sorted(served) if type in served]
    if not wanted.types:
        allowed = [type for type in allowed if type not in OPERATIONAL and access.clauses(type, "s") is not None]
        if not allowed:
            access.require("Patient", "s")
    stored = server.store.existing(allowed)
    if level == "system":
        return stored, []
    inside = {"Patient", *server.definitions.compartments.get("Patient", {})}
    return [type for type in stored if type in inside], [type for type in stored if type not in inside]


def _told(request: Request) -> dict[str, Any]:
    """What policies see of the kick-off, whenever a part is written."""
    told = {"interaction": "operation", "operation": request.operation, "id": request.id}
    told |= {"method": request.facts.get("method"), "address": request.facts.get("address")}
    return {name: value for name, value in told.items() if value}


def _record(request: Request, wanted: Asked, id: str, now: str, patients: int) -> Resource:
    client = request.principal.client or (request.principal.id if request.principal.kind == "client" else "")
    identifier = {"type": "ClientApplication", "identifier": {"system": CLIENT_SYSTEM, "value": client}}
    path = "/".join(part for part in (request.type, request.id, request.operation) if part)
    query = urlencode(request.query, safe=",/:|")
    return {
        "resourceType": TYPE,
        "id": id,
        "status": "accepted",
        **({"client": identifier} if client else {}),
        "requester": {"display": request.principal.name or request.principal.id},
        "request": f"{request.base}/{path}{f'?{query}' if query else ''}",
        "level": "group" if request.type == "Group" else "patient" if request.type else "system",
        **({"group": reference("Group", request.id or "")} if request.type == "Group" else {}),
        **({"patients": patients} if request.type == "Group" or wanted.patients else {}),
        **({"type": list(wanted.types)} if wanted.types else {}),
        **({"since": instant_text(wanted.since)} if wanted.since else {}),
        "requested": now,
    }


OPERATIONS = (
    OperationRow("export", ("Resource",), ("system",), "", export, False, ("organization",), f"{GUIDE}/export"),
    OperationRow("export", ("Patient",), ("type",), "", export, False, ("organization",), f"{GUIDE}/patient-export"),
    OperationRow("export", ("Group",), ("instance",), "", export, False, ("organization",), f"{GUIDE}/group-export"),
    OperationRow("status", (TYPE,), ("instance",), "", status, False, ("organization",), f"{OURS}/BulkExport-status"),
    OperationRow("output", (TYPE,), ("instance",), "", output, False, ("organization",), f"{OURS}/BulkExport-output"),
    OperationRow("cancel", (TYPE,), ("instance",), "", cancel, True, ("organization",), f"{OURS}/BulkExport-cancel"),
)
