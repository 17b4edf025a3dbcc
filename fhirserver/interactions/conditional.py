"""Conditional create, update, patch and delete. FHIR R4: http#ccreate, http#cond-update, http#cdelete.

Race-free: the transaction first touches the lock documents of its criteria (`locks`), then searches, then writes. Of
two with the same criteria the second is retried by the database and finds what the first has written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from urllib.parse import parse_qsl

from fhirserver.auth.access import Access
from fhirserver.fhir.problem import Issue, outcome, problem
from fhirserver.interactions import locks, versions, write
from fhirserver.interactions import patch as patching
from fhirserver.interactions.model import Pairs, Request, Response, Server, Unit
from fhirserver.interactions.read import answer as show
from fhirserver.interactions.readiness import ensure_indexes
from fhirserver.interactions.search import matching, selection
from fhirserver.search.parse import CONTROLS
from fhirserver.search.query import Query
from fhirserver.store.model import Stored

MOST_DELETED = 1_000
CONDITIONAL = ("conditional-update", "conditional-patch", "conditional-delete")
Work = Callable[[Request, list[Stored]], Response]


def create(server: Server, request: Request, access: Access) -> Response:
    """A create; with If-None-Exist only when nothing matches: one match is answered 200 with it, several are 412.

    Criteria in the URL mean the same: clients send them there, and ignoring them would make a second resource.
    """
    criteria = asked_criteria(request)
    if not criteria:
        return write.create(server, request, access)

    def work(inner: Request, found: list[Stored]) -> Response:
        if found:
            return replace(show(server, inner, found[0]), location=_location(inner, found[0]))
        return write.create(server, inner, access)

    return _settled(server, request, access, criteria, work)


def update(server: Server, request: Request, access: Access) -> Response:
    """An update of the one resource that matches; a create when none does; 412 when several do.

    An id in the body must be the match's; with no match, the resource is created under it.
    """
    resource = write.body(server, request)

    def work(inner: Request, found: list[Stored]) -> Response:
        given = resource.get("id")
        if found:
            if given not in (None, found[0].id):
                raise problem(
                    "value", f"The criteria match {request.type}/{found[0].id}, the body's id is another.", "id"
                )
            named = {**resource, "id": found[0].id}
            return write.update(server, replace(inner, id=found[0].id, body=named), access)
        access.require(request.type or "", "c")
        if given is not None:
            return write.update(server, replace(inner, id=given), access)
        return write.create(server, inner, access)

    return _settled(server, request, access, _criteria(request), work)


def patch(server: Server, request: Request, access: Access) -> Response:
    """A patch of the one resource that matches; 404 when none does, 412 when several do."""

    def work(inner: Request, found: list[Stored]) -> Response:
        if not found:
            raise problem("not-found", f"No {request.type} matches the criteria; nothing was patched.")
        return patching.patch(server, replace(inner, id=found[0].id), access)

    return _settled(server, request, access, _criteria(request), work)


def delete(server: Server, request: Request, access: Access) -> Response:
    """A delete of all resources that match, or of none: 412 beyond MOST_DELETED. Nothing to delete is success."""
    for name, _ in _used(request):
        if name.partition(":")[0] in CONTROLS:
            raise problem("invalid", f"{name} does not say what to delete: all that match are deleted.", name)

    def work(inner: Request, found: list[Stored]) -> Response:
        for version in found:
            if not write.may_change(server, access, version, "d"):
                raise problem("forbidden", f"Your scopes do not permit to delete what matches here of {request.type}.")
            versions.remove(server, inner, access, version)
        text = f"{len(found)} {request.type} deleted."
        return Response(200, resource=outcome([Issue("informational", text, (), "information")]))

    return _settled(server, request, access, _criteria(request), work, most=MOST_DELETED)


def criteria_pairs(text: str) -> Pairs:
    """The pairs of a search string, as in If-None-Exist; a leading `Type?` or `?` is left out."""
    query = text.partition("?")[2] if "?" in text else text
    pairs = tuple(parse_qsl(query, keep_blank_values=True))
    if not pairs:
        raise problem(
            "invalid", "A conditional interaction needs search criteria, as in identifier=http://example.org|1."
        )
    return pairs


def _criteria(request: Request) -> Pairs:
    pairs = _used(request)
    if not pairs:
        raise problem(
            "invalid", f"{request.interaction} on the type needs search criteria in the URL, or an id in the path."
        )
    return pairs


def _used(request: Request) -> Pairs:
    return tuple(pair for pair in request.query if pair[0] not in ("_format", "_pretty"))


def prepare(server: Server, request: Request, access: Access, type: str, criteria: Pairs) -> Query:
    """The query of the criteria, with all in place that cannot be made once the transaction has begun: its lock, its
    indexes. Raises Problem: forbidden for who may not search and must not be answered "nothing matches"; invalid.
    """
    access.require(type, "s")
    query = selection(server, request, type, criteria)
    server.store.locks.prepare(request.organization, locks.of_criteria(type, criteria), server.now())
    ensure_indexes(server, access, query)
    return query


def _settled(
    server: Server, request: Request, access: Access, criteria: Pairs, work: Work, *, most: int = 1
) -> Response:
    type = request.type or ""

    def inside(unit: Unit) -> Response:
        inner = replace(request, unit=unit, query=())
        unit.flush()
        server.store.locks.touch(unit.session, request.organization, locks.of_criteria(type, criteria))
        found = matching(server, access, query, unit.session, limit=most + 1)
        if len(found) > most:
            how = f"More than {most} {type} match" if most > 1 else f"More than one {type} matches"
            raise problem("multiple-matches", f"{how} the criteria; make them more selective.", status=412)
        response = work(inner, found)
        unit.flush()
        return response

    if request.unit is not None:  # the Bundle has prepared it
        access.require(type, "s")
        query = selection(server, request, type, criteria)
        return inside(request.unit)
    query = prepare(server, request, access, type, criteria)
    response: Response = server.store.transaction(lambda session: inside(Unit(server.store, session)))
    return response


def asked_criteria(request: Request) -> Pairs:
    """The criteria of a conditional interaction, () where the request is none. Raises Problem(invalid)."""
    if request.interaction == "create":
        text = request.preconditions.if_none_exist
        return _used(request) if text is None else criteria_pairs(text)
    return _criteria(request) if request.interaction in CONDITIONAL else ()


def _location(request: Request, version: Stored) -> str:
    return f"{request.base}/{version.type}/{version.id}/_history/{version.version}"
