"""Communication/$mark-read: who has read a notice. Each person has a mark; the first also gives `received`.

Unread notices of a person are those that `Communication?read-by:not=<User's id>` finds.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fhirserver.auth.access import Access, everything
from fhirserver.fhir import Resource
from fhirserver.fhir.instants import instant_text
from fhirserver.fhir.parameters import parameters_of
from fhirserver.fhir.problem import problem
from fhirserver.interactions.model import OperationRow, Request, Response, Server
from fhirserver.interactions.operations import parameters
from fhirserver.interactions.read import answer, current
from fhirserver.interactions.versions import put
from fhirserver.interactions.write import persist
from fhirserver.rules.model import CANONICAL, REGISTRY, Prepared
from fhirserver.search.parse import parse
from fhirserver.store.model import Stored
from fhirserver.store.search import compile_search, find

TYPE = "Communication"
READ = f"{CANONICAL}/StructureDefinition/notice-read"
MOST_READERS = 500
MOST_MARKED = 200


def mark_read(server: Server, request: Request, access: Access) -> Response:
    """$mark-read: the notice with the mark of the person who asks; on the type, all that are unread, up to 200.

    Raises Problem: forbidden for anybody but a person, not-found for a notice of others.
    """
    parameters(request)
    if request.principal.kind != "user":
        raise problem("forbidden", "Only a person reads notices: call this with the access token of a user.")
    if request.id:
        return persist(request, lambda: _marked(server, request, access, request.id or ""))
    unread = _unread(server, access, request)
    for version in unread:
        persist(request, lambda id=version.id: _marked(server, request, access, id))  # type: ignore[misc]  # mypy infers no type for a lambda with a default
    count = {"name": "marked", "valueInteger": len(unread)}
    return Response(200, resource=parameters_of([count]))


def _unread(server: Server, access: Access, request: Request) -> list[Stored]:
    clauses = parse(server.definitions, TYPE, [("read-by:not", request.principal.id)], strict=True).clauses
    search = compile_search(server.store, access, TYPE, clauses, None)
    return list(find(server.store, search, (), MOST_MARKED).matches) if search else []


def _marked(server: Server, request: Request, access: Access, id: str) -> Response:
    previous = current(server, access, TYPE, id, request)
    resource = with_reader(previous.resource(), request.principal.id, server.now())
    if resource is None:
        return answer(server, request, previous)
    whole = everything(REGISTRY)
    # The operation has its own audit record; the mark needs no event.
    written = put(server, request, whole, Prepared(resource), previous, f"{TYPE}/{id}", "POST", event={})
    return answer(server, request, written.version)


def with_reader(resource: Resource, user: str, now: datetime) -> Resource | None:
    """The notice with this reader's mark, None where it has it already."""
    extensions: list[dict[str, Any]] = list(resource.get("extension", ()))
    readers = [each for each in extensions if each.get("url") == READ]
    if any(each.get("valueId") == user for each in readers):
        return None
    kept = [each for each in extensions if each.get("url") != READ]
    marks = [*readers, {"url": READ, "valueId": user}][-MOST_READERS:]
    return {**resource, "extension": [*kept, *marks], "received": resource.get("received") or instant_text(now)}


NOTICES = (
    OperationRow(
        "mark-read",
        (TYPE,),
        ("type", "instance"),
        "r",
        mark_read,
        bases=(REGISTRY,),
        definition=f"{CANONICAL}/OperationDefinition/{TYPE}-mark-read",
    ),
)
