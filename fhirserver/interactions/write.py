"""The create, update and delete interactions. FHIR R4: http#create, http#update, http#delete.

Each write goes the same way: the type's rule prepares the resource, and `versions` makes and commits its version. A
patch (`patch`) and the conditional interactions (`conditional`) end here too.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from fhirserver.auth.access import Access, everything
from fhirserver.fhir import Resource
from fhirserver.fhir.problem import Issue, Problem, outcome, problem
from fhirserver.interactions.indexing import entry_of
from fhirserver.interactions.model import Request, Response, Server
from fhirserver.interactions.versions import Written, put, remove
from fhirserver.rules.model import Prepared
from fhirserver.search.match import matches
from fhirserver.store.model import Stored

ID = re.compile(r"[A-Za-z0-9\-.]{1,64}\Z")
ATTEMPTS = 5


def create(server: Server, request: Request, access: Access) -> Response:
    """Stores a new resource under an id of ours. Raises Problem: structure, required, value, invariant, forbidden."""
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


def require_match(request: Request, previous: Stored | None) -> None:
    """Raises Problem(conflict, 412) when If-Match or If-None-Match do not hold for what is stored."""
    exists = previous is not None and not previous.deleted
    wanted = request.preconditions.if_match
    if wanted is not None and (previous is None or not exists or wanted not in ("*", str(previous.version))):
        held = f"version {previous.version}" if previous and exists else "no such resource"
        raise problem("conflict", f"If-Match asks for version {wanted}, but there is {held}.", status=412)
    if request.preconditions.if_none_match == "*" and exists:
        raise problem("conflict", "If-None-Match is *, but the resource exists.", status=412)


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
