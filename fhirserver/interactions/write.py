"""The create, update, patch and delete interactions, plain and conditional. FHIR R4: http#create, http#update,
http#patch, http#delete.

Each write goes the same way: the type's rule prepares the resource, it is validated, indexed, held against what the
writer may write, and committed together with its pending event.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from fhirserver.auth.access import Access, everything
from fhirserver.fhir import Resource
from fhirserver.fhir.instants import instant_text
from fhirserver.fhir.json import encode
from fhirserver.fhir.problem import Issue, Problem, outcome, problem
from fhirserver.fhir.validation import validate
from fhirserver.interactions.audit import who
from fhirserver.interactions.indexing import entry_of
from fhirserver.interactions.model import Request, Response, Server
from fhirserver.rules.model import Prepared
from fhirserver.search.index import Entry
from fhirserver.search.match import matches
from fhirserver.store.database import Session
from fhirserver.store.model import REGISTRY, Change, Stored

ID = re.compile(r"[A-Za-z0-9\-.]{1,64}\Z")
ATTEMPTS = 5
# No pending event: nothing may subscribe to these, and their own writes would feed the relay for ever (design 5.7).
SILENT = frozenset({"AuditEvent", "InboundMessage", "NotificationDelivery"})
NO_HISTORY = frozenset({"InboundMessage", "NotificationDelivery"})


@dataclass(frozen=True, slots=True)
class Written:
    """The outcome of a write: the new version, what its writer alone is shown, and warnings."""

    version: Stored
    shown: Resource | None
    warnings: tuple[Issue, ...]


def create(server: Server, request: Request, access: Access) -> Response:
    """Stores a new resource under an id of ours. Raises Problem: structure, required, value, invariant, forbidden
    ...
    """
    resource = body(server, request)
    resource.pop("id", None)  # http#create: the id in the body is ignored
    written = store(server, request, access, resource, None, request.assigned or server.new_id(), "POST")
    return answer(server, request, written, 201)


def update(server: Server, request: Request, access: Access) -> Response:
    """Stores the next version, or the first one under the id of the URL (update as create).

    Raises Problem: conflict (412 when If-Match names another version), required and value (400) when the id is
    missing or differs from the URL's.
    """
    assert request.type
    assert request.id
    resource = body(server, request)
    id = _same_id(request, resource)

    def attempt() -> Response:
        previous = superseded(server, request, request.type or "", id)
        if previous and not previous.deleted and not may_change(server, access, previous, "u"):
            raise problem("forbidden", f"Your scopes do not permit to write {request.type}/{id}.")
        require_match(request, previous)
        if previous is None or previous.deleted:
            access.require(request.type or "", "c")
        written = store(server, request, access, resource, previous, id, "PUT")
        return answer(server, request, written, 200 if previous and not previous.deleted else 201)

    return persist(request, attempt)


def delete(server: Server, request: Request, access: Access) -> Response:
    """Writes the version that is the deletion; deleting again, or what never was, succeeds and changes nothing."""
    assert request.type
    assert request.id

    def attempt() -> Response:
        previous = superseded(server, request, request.type or "", request.id or "")
        if previous and not previous.deleted and not may_change(server, access, previous, "d"):
            previous = None  # What may not be deleted looks like what is not there.
        require_match(request, previous)
        if previous is None or previous.deleted:
            return _deleted(f"{request.type}/{request.id} was not there; nothing changed.", request, previous)
        version = remove(server, request, access, previous)
        return _deleted(f"{request.type}/{request.id} was deleted.", request, version)

    return persist(request, attempt)


def superseded(server: Server, request: Request, type: str, id: str) -> Stored | None:
    """The version that a write supersedes, a tombstone too; it is held against the writer's access by `may_change`.

    A narrowed read would miss a tombstone, which has no values to be found by, and a write would collide with it.
    """
    return server.store.read(everything(request.organization), type, id, session=request.session)


def may_change(server: Server, access: Access, version: Stored, letter: str) -> bool:
    """Whether what is stored is within what the writer may change: a granular scope holds for before and after."""
    clauses = access.clauses(version.type, letter)
    if not clauses:
        return clauses is not None
    entry = entry_of(server, version.resource(), server.base(version.organization))
    return all(matches(clause, entry, version.id, version.instant) for clause in clauses)


def persist(request: Request, attempt: Callable[[], Response]) -> Response:
    """Runs a read-modify-write again when somebody else wrote in between, unless the caller named the version or
    owns the session.
    """
    for _ in range(ATTEMPTS - 1):
        try:
            return attempt()
        except Problem as error:
            if error.issues[0].code != "conflict" or request.preconditions.if_match or request.unit:
                raise
    return attempt()


def store(
    server: Server, request: Request, access: Access, resource: Resource, previous: Stored | None, id: str, method: str
) -> Written:
    """Writes what a caller sent: prepared by the type's rule first."""
    type = resource["resourceType"]
    prepared = _prepared(server, request, resource, previous, id)
    if previous is None:
        # A rule may know a better id than a new one: derived, so that it is unique.
        derived = prepared.resource.get("id", id)
        previous = _deleted_before(server, request, type, derived) if derived != id else None
        id = derived
    return put(server, request, access, prepared, previous, f"{type}/{id}", method)


def _deleted_before(server: Server, request: Request, type: str, id: str) -> Stored | None:
    """The tombstone that a create under a derived id supersedes. Raises Problem(conflict) where the id is taken."""
    found = superseded(server, request, type, id)
    if found and not found.deleted:
        raise problem("conflict", f"There is such a {type} already: {type}/{id}.")
    return found


def put(
    server: Server,
    request: Request,
    access: Access,
    prepared: Prepared,
    previous: Stored | None,
    reference: str,
    method: str,
    event: Mapping[str, Any] | None = None,
) -> Written:
    """The one way a version is written: validation, index, access, commit. `reference` is Type/id.

    `event` is the pending event to write with it: None for the usual one of a single change, {} for none.
    """
    type, _, id = reference.partition("/")
    version = previous.version + 1 if previous else 1
    instant = next_instant(server, previous)
    resource = stamped(prepared.resource, id, version, instant)
    issues = validate(server.definitions, resource)
    refuse_errors(issues)
    entry = entry_of(server, resource, request.base)
    may_write(access, resource, "u" if previous else "c", entry, instant)
    action = "update" if previous and not previous.deleted else "create"
    change = Change(
        organization=access.organization,
        type=type,
        id=id,
        version=version,
        instant=instant,
        method=method,
        text=encode(resource).decode(),
        entry=entry,
        event=pending_event(server, request, type, id, version, instant, action) if event is None else event,
        private=_private(prepared, previous),
        previous=previous,
        keep_previous=type not in NO_HISTORY,
    )
    _commit(server, request, change)
    shown = stamped(prepared.shown, id, version, instant) if prepared.shown else None
    warnings = (*prepared.warnings, *(issue for issue in issues if issue.severity == "warning"))
    return Written(change.stored(), shown, warnings)


def version_of(
    server: Server,
    organization: str,
    resource: Resource,
    previous: Stored | None,
    instant: datetime,
    *,
    event: Mapping[str, Any] | None = None,
    private: Mapping[str, Any] | None = None,
    keep_previous: bool = True,
) -> Change:
    """The next version of a resource that the server itself has made: nothing is asked of it."""
    version = previous.version + 1 if previous else 1
    complete = stamped(resource, resource["id"], version, instant)
    return Change(
        organization=organization,
        type=resource["resourceType"],
        id=resource["id"],
        version=version,
        instant=instant,
        method="PUT" if previous else "POST",
        text=encode(complete).decode(),
        entry=entry_of(server, complete, server.base(organization)),
        event=event,
        private=private or {},
        previous=previous,
        keep_previous=keep_previous,
    )


# Types that the definitions are compiled from: writing one on the registry moves the generation (design 5.11).
DEFINING = frozenset({"StructureDefinition", "SearchParameter", "CompartmentDefinition", "ValueSet", "CodeSystem"})
COMPILED = DEFINING | {"AccessPolicy"}


def remove(server: Server, request: Request, access: Access, previous: Stored) -> Stored:
    """Writes the tombstone of a resource."""
    rule = server.rules.get(previous.type)
    if rule:
        rule.delete(server.context(server, request.principal, request.organization), previous.resource())
    instant = next_instant(server, previous)
    version = previous.version + 1
    change = Change(
        organization=request.organization,
        type=previous.type,
        id=previous.id,
        version=version,
        instant=instant,
        method="DELETE",
        text=None,
        event=pending_event(server, request, previous.type, previous.id, version, instant, "delete"),
        previous=previous,
    )
    _commit(server, request, change)
    return change.stored()


def _commit(server: Server, request: Request, change: Change) -> None:
    defines = change.type in COMPILED and change.organization == REGISTRY
    if request.unit:
        request.unit.add(change)
        if defines:
            server.store.advance_generation(session=request.session)
    elif defines:
        _define(server, change)
    else:
        server.store.commit([change])


def _define(server: Server, change: Change) -> None:
    """A definition and the generation that tells of it, together: a process killed between the two would leave all
    on the old ones.
    """
    server.store.database.current(change.type)
    server.store.database.history(change.type)

    def work(session: Session) -> None:
        server.store.commit([change], session=session)
        server.store.advance_generation(session=session)

    server.store.transaction(work)


def body(server: Server, request: Request) -> Resource:
    """The resource in the body, of the type in the URL. Raises Problem(structure or value)."""
    resource = request.body
    if not isinstance(resource, dict):
        raise problem("structure", f"The body must be a {request.type} resource as a JSON object.")
    named = resource.get("resourceType")
    if named != request.type:
        raise problem(
            "value", f"The body's resourceType is {named!r}, the URL's is {request.type!r}; they must be the same.",
            "resourceType",
        )  # fmt: skip
    return dict(resource)


def stamped(resource: Resource, id: str, version: int, instant: datetime) -> Resource:
    """The resource with its id and meta in place; resourceType, id and meta come first, the rest keeps its order."""
    kept = resource.get("meta", {})
    if not isinstance(kept, dict):
        raise problem("structure", "meta must be an object.", f"{resource['resourceType']}.meta")
    meta = {**kept, "versionId": str(version), "lastUpdated": instant_text(instant)}
    made = {"resourceType": None, "id": None, "meta": None, **resource}
    made["id"], made["meta"] = id, meta
    return made


def refuse_errors(issues: list[Issue]) -> None:
    """Raises one Problem with all faults, the structural ones first, if there is any error among the issues."""
    errors = [issue for issue in issues if issue.severity in ("error", "fatal")]
    if errors:
        raise Problem(tuple(issues))


def require_match(request: Request, previous: Stored | None) -> None:
    """Raises Problem(conflict, 412) when If-Match or If-None-Match do not hold for what is stored."""
    exists = previous is not None and not previous.deleted
    wanted = request.preconditions.if_match
    if wanted is not None and (previous is None or not exists or wanted not in ("*", str(previous.version))):
        held = f"version {previous.version}" if previous and exists else "no such resource"
        raise problem("conflict", f"If-Match asks for version {wanted}, but there is {held}.", status=412)
    if request.preconditions.if_none_match == "*" and exists:
        raise problem("conflict", "If-None-Match is *, but the resource exists.", status=412)


def pending_event(
    server: Server, request: Request, type: str, id: str, version: int, instant: datetime, action: str
) -> dict[str, Any] | None:
    """The event of one change, for the relay; None for the types that are never a topic."""
    if type in SILENT:
        return None
    change = {"type": type, "id": id, "version": version, "action": action}
    return {
        "id": server.new_id(),
        "t": instant,
        "changes": [change],
        "focus": [f"{type}/{id}"],
        "names": [f"{action}.{type.lower()}"],
        "trigger": None,
        "message": None,
        "request": {
            **request.facts,
            **({"op": request.operation} if request.operation else {}),
            "who": who(request.principal),
        },
    }


def answer(server: Server, request: Request, written: Written, status: int) -> Response:
    """The response to a write, as the Prefer header wants it. A secret made by the write is always shown, this once."""
    version = written.version
    location = f"{request.base}/{version.type}/{version.id}/_history/{version.version}" if status == 201 else None
    rule = server.rules.get(version.type)
    present = rule.present if rule else None
    plain = written.shown is None and present is None and request.prefer.returned in ("", "representation")
    response = Response(
        status,
        text=version.text if plain else None,
        version=version.version,
        instant=version.instant,
        location=location,
        warnings=written.warnings,
    )
    if written.shown is not None:
        return replace(response, resource=written.shown, once=True)
    if request.prefer.returned == "minimal":
        return response
    if request.prefer.returned == "OperationOutcome":
        done = Issue(
            "informational", f"{version.type}/{version.id} is at version {version.version}.", (), "information"
        )
        return replace(response, resource=outcome((done, *written.warnings)))
    return replace(response, resource=present(version.resource(), request.principal)) if present else response


def _prepared(server: Server, request: Request, resource: Resource, previous: Stored | None, id: str) -> Prepared:
    rule = server.rules.get(resource["resourceType"])
    if rule is None:
        return Prepared(resource)
    context = server.context(server, request.principal, request.organization)
    resource = {**resource, "id": id}
    if previous is None or previous.deleted:
        prepared = rule.create(context, resource)
        if previous:
            rule.again(context, _before(server, request, previous), prepared.resource)
        return prepared
    return rule.update(context, previous.resource(), dict(previous.private), resource)


def _before(server: Server, request: Request, tombstone: Stored) -> Resource:
    """What was deleted; empty where its versions are not kept."""
    whole, number = everything(request.organization), tombstone.version - 1
    found = server.store.vread(whole, tombstone.type, tombstone.id, number, request.session)
    return {} if found is None or found.deleted else found.resource()


def _private(prepared: Prepared, previous: Stored | None) -> Mapping[str, Any]:
    if prepared.private is not None:
        return prepared.private
    return previous.private if previous else {}


def may_write(access: Access, resource: Resource, letter: str, entry: Entry, instant: datetime) -> None:
    """Raises Problem(forbidden) for a resource that may not be written: a granular scope is a search clause that it
    must match. Policies see the resource.
    """
    type = resource["resourceType"]
    clauses = access.clauses(type, letter, resource)
    if clauses is None or not all(matches(clause, entry, resource["id"], instant) for clause in clauses):
        raise problem("forbidden", f"Your scopes or a policy do not permit to write this {type} with this content.")


def next_instant(server: Server, previous: Stored | None) -> datetime:
    """Now in milliseconds, never before the version it supersedes: lastUpdated must not go backwards."""
    now = server.now()
    now = now.replace(microsecond=now.microsecond // 1000 * 1000)
    return max(now, previous.instant) if previous else now


def _same_id(request: Request, resource: Resource) -> str:
    id = request.id or ""
    if not ID.match(id):
        raise problem("value", "An id has 1 to 64 characters out of A-Z a-z 0-9 - and .", f"{request.type}.id")
    if "id" not in resource:
        raise problem("required", f"The body needs the id in the URL: {id}.", f"{request.type}.id", status=400)
    if resource["id"] != id:
        raise problem("value", "The id in the body must be the id in the URL.", f"{request.type}.id")
    return id


def _deleted(text: str, request: Request, version: Stored | None) -> Response:
    number = version.version if version else None
    if request.prefer.returned == "minimal":
        return Response(204, version=number)
    return Response(200, resource=outcome([Issue("informational", text, (), "information")]), version=number)
