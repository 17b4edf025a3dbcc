"""How a version comes to be: validated, indexed, held against what its writer may write, and committed together with
its pending event. FHIR R4: resource#versions. The interactions that ask for it are in `write`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fhirserver.auth.access import Access
from fhirserver.fhir import Resource
from fhirserver.fhir.instants import instant_text
from fhirserver.fhir.json import encode
from fhirserver.fhir.problem import Issue, Problem, problem
from fhirserver.fhir.validation import validate
from fhirserver.interactions.audit import who
from fhirserver.interactions.indexing import entry_of
from fhirserver.interactions.model import Request, Server
from fhirserver.rules.model import Prepared
from fhirserver.search.index import Entry
from fhirserver.search.match import matches
from fhirserver.store.database import Session
from fhirserver.store.model import REGISTRY, Change, Stored

# No pending event: nothing may subscribe to these, and their own writes would feed the relay for ever.
SILENT = frozenset({"AuditEvent", "InboundMessage", "NotificationDelivery"})
NO_HISTORY = frozenset({"InboundMessage", "NotificationDelivery"})
# Types that the definitions are compiled from: writing one on the registry moves the generation.
DEFINING = frozenset({"StructureDefinition", "SearchParameter", "CompartmentDefinition", "ValueSet", "CodeSystem"})
COMPILED = DEFINING | {"AccessPolicy"}


@dataclass(frozen=True, slots=True)
class Written:
    """The outcome of a write: the new version, what its writer alone is shown, and warnings."""

    version: Stored
    shown: Resource | None
    warnings: tuple[Issue, ...]


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


def stamped(resource: Resource, id: str, version: int, instant: datetime) -> Resource:
    """The resource with its id and meta in place; resourceType, id and meta come first, the rest keeps its order."""
    kept = resource.get("meta", {})
    if not isinstance(kept, dict):
        raise problem("structure", "meta must be an object.", f"{resource['resourceType']}.meta")
    meta = {**kept, "versionId": str(version), "lastUpdated": instant_text(instant)}
    made = {"resourceType": None, "id": None, "meta": None, **resource}
    made["id"], made["meta"] = id, meta
    return made


def next_instant(server: Server, previous: Stored | None) -> datetime:
    """Now in milliseconds, never before the version it supersedes: lastUpdated must not go backwards."""
    now = server.now()
    now = now.replace(microsecond=now.microsecond // 1000 * 1000)
    return max(now, previous.instant) if previous else now


def may_write(access: Access, resource: Resource, letter: str, entry: Entry, instant: datetime) -> None:
    """Raises Problem(forbidden) for a resource that may not be written: a granular scope is a search clause that it
    must match. Policies see the resource.
    """
    type = resource["resourceType"]
    clauses = access.clauses(type, letter, resource)
    if clauses is None or not all(matches(clause, entry, resource["id"], instant) for clause in clauses):
        raise problem("forbidden", f"Your scopes or a policy do not permit to write this {type} with this content.")


def _private(prepared: Prepared, previous: Stored | None) -> Mapping[str, Any]:
    if prepared.private is not None:
        return prepared.private
    return previous.private if previous else {}


def refuse_errors(issues: list[Issue]) -> None:
    """Raises one Problem with all faults, the structural ones first, if there is any error among the issues."""
    errors = [issue for issue in issues if issue.severity in ("error", "fatal")]
    if errors:
        raise Problem(tuple(issues))


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
