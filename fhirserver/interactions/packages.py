"""Loading a FHIR package: its definitions and terminology become resources of the registry.

FHIR packages specification. What is there already (by canonical URL and version) stays; what is invalid, or of a type
that packages do not define, is left out and named. The definitions move on once, when all is stored.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from fhirserver.auth.access import everything
from fhirserver.fhir import Resource
from fhirserver.fhir.problem import Problem
from fhirserver.fhir.validation import validate
from fhirserver.interactions.model import Request, Server
from fhirserver.interactions.versions import DEFINING, next_instant, pending_event, refuse_errors, stamped, version_of
from fhirserver.search.parse import parse
from fhirserver.store.model import REGISTRY, Change
from fhirserver.store.search import compile_search, find

LOADED = DEFINING | {"CapabilityStatement", "ConceptMap", "NamingSystem", "OperationDefinition", "ImplementationGuide"}
_SPECIAL = re.compile(r"[\\,|$]")
AT_ONCE = 100
AT_ONCE_BYTES = 4 * 1024 * 1024


@dataclass(slots=True)
class PackageLoaded:
    """What became of the resources of a package: how many, and why not (file name and reason)."""

    stored: int = 0
    there: int = 0
    others: int = 0
    refused: list[str] = field(default_factory=list)


def load(server: Server, request: Request, resources: Iterable[tuple[str, Resource]]) -> PackageLoaded:
    """Stores the resources of a package on the registry, by whom `request` names. Raises Problem if the store fails."""
    server.refresh()
    done = PackageLoaded()
    try:
        for changes in _together(_changes(server, request, resources, done)):
            server.store.commit(changes)
            done.stored += len(changes)
    finally:
        if done.stored:
            server.store.advance_generation()
    return done


def _changes(
    server: Server, request: Request, resources: Iterable[tuple[str, Resource]], done: PackageLoaded
) -> Iterator[Change]:
    taken: set[str] = set()
    for name, resource in resources:
        if resource["resourceType"] not in LOADED or not isinstance(resource.get("url"), str):
            done.others += 1
            continue
        id = _id(resource)
        if id in taken or _is_there(server, resource):
            done.there += 1
            continue
        taken.add(id)
        try:
            yield _change(server, request, resource, id)
        except Problem as error:
            done.refused.append(f"{name}: {error.issues[0].diagnostics}")


def _change(server: Server, request: Request, resource: Resource, id: str) -> Change:
    """The write. Raises Problem where the resource is not valid, or its type's rule does not take it."""
    type, instant = resource["resourceType"], next_instant(server, None)
    rule = server.rules.get(type)
    if rule:
        resource = rule.create(server.context(server, request.principal, REGISTRY), {**resource, "id": id}).resource
    refuse_errors(validate(server.definitions, stamped(resource, id, 1, instant)))
    event = pending_event(server, request, type, id, 1, instant, "create")
    return version_of(server, REGISTRY, {**resource, "id": id}, None, instant, event=event)


def _id(resource: Resource) -> str:
    """The same resource of the same version always has the same id, so that two who load it at once store one."""
    named = f"{resource['resourceType']} {resource['url']}|{resource.get('version', '')}"
    return hashlib.sha256(named.encode()).hexdigest()[:40]


def _is_there(server: Server, resource: Resource) -> bool:
    text = _SPECIAL.sub(r"\\\g<0>", resource["url"])
    try:
        query = parse(server.definitions, resource["resourceType"], [("url", text)], strict=True)
    except Problem:
        return False  # no URL: validation says it better
    search = compile_search(server.store, everything(REGISTRY), resource["resourceType"], query.clauses, None)
    found = find(server.store, search, (), AT_ONCE).matches if search else ()
    return any(each.resource().get("version") == resource.get("version") for each in found)


def _together(changes: Iterable[Change]) -> Iterator[list[Change]]:
    """What goes into one transaction."""
    part: list[Change] = []
    size = 0
    for change in changes:
        length = len(change.text or "")
        if part and (len(part) == AT_ONCE or size + length > AT_ONCE_BYTES):
            yield part
            part, size = [], 0
        part.append(change)
        size += length
    if part:
        yield part
