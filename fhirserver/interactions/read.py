"""The read and vread interactions. FHIR R4: http#read, http#vread, http#cread (conditional read).

The stored text is answered as it is, without being parsed, unless the type's rule masks something in it.
"""

from __future__ import annotations

from dataclasses import replace

from fhirserver.auth.access import Access
from fhirserver.fhir.problem import Problem, problem
from fhirserver.interactions.model import Request, Response, Server
from fhirserver.interactions.own_events import own_event
from fhirserver.interactions.summary import part_asked, subset
from fhirserver.store.model import Stored


def read(server: Server, request: Request, access: Access) -> Response:
    """The current version. Raises Problem: not-found, deleted (410)."""
    assert request.type
    assert request.id
    found = own_event(server, request, access) or current(server, access, request.type, request.id, request)
    if _unchanged(found, request):
        return Response(304, version=found.version, instant=found.instant)
    return answer(server, request, found)


def vread(server: Server, request: Request, access: Access) -> Response:
    """One version. Raises Problem: not-found, deleted (410) when that version is the deletion."""
    assert request.type
    assert request.id
    assert request.vid
    number = version_number(request.vid)
    found = server.store.vread(access, request.type, request.id, number, request.session) if number else None
    if found is None:
        raise problem("not-found", f"{request.type}/{request.id} has no version {request.vid}.")
    if found.deleted:
        raise gone(found)
    return answer(server, request, found)


def current(server: Server, access: Access, type: str, id: str, request: Request) -> Stored:
    """The current version of a resource that exists. Raises Problem: not-found, deleted."""
    found = server.store.read(access, type, id, session=request.session)
    if found is None:
        raise problem("not-found", f"{type}/{id} is not known here.")
    if found.deleted:
        raise gone(found)
    return found


def answer(server: Server, request: Request, version: Stored, status: int = 200) -> Response:
    """The response that shows a version, masked as its type's rule says, or the part that `_summary` or `_elements`
    asks for.
    """
    response = Response(status, text=version.text, version=version.version, instant=version.instant)
    rule = server.rules.get(version.type)
    summary, elements = part_asked(request)
    if (rule is None or rule.present is None) and not summary and not elements:
        return response
    shown = version.resource()
    if rule and rule.present:
        shown = rule.present(shown, request.principal)
    return replace(response, text=None, resource=subset(server.definitions, shown, summary, elements))


def gone(version: Stored) -> Problem:
    """The 410 of a deleted resource."""
    return problem(
        "deleted",
        f"{version.type}/{version.id} was deleted with version {version.version}. Its history can still be read.",
        headers={"ETag": f'W/"{version.version}"'},
    )


def version_number(text: str) -> int:
    """A version id as a number; 0 (no version has it) where it is not one of ours."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _unchanged(version: Stored, request: Request) -> bool:
    conditions = request.preconditions
    if conditions.if_none_match is not None:
        return not {"*", str(version.version)}.isdisjoint(conditions.if_none_match.split(","))
    since = conditions.if_modified_since
    return since is not None and version.instant.replace(microsecond=0) <= since
