"""`_contained` and `_containedType`: searches for resources that are inside others. FHIR R4: search#contained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from fhirserver.auth.access import Access
from fhirserver.fhir import Resource
from fhirserver.fhir.json import encode
from fhirserver.interactions.model import Request, Server
from fhirserver.interactions.parts import Part, of_type
from fhirserver.search.query import Clause, Query
from fhirserver.store.contained import Inner, Match, compile_contained, find_contained, total_contained
from fhirserver.store.model import Page, Stored
from fhirserver.store.search import compile_search

BOTH = "both"
SEARCHED = ("true", BOTH)
"""Values of `_contained` that look inside."""
ALONE = "contained"


def contained_parts(
    server: Server, request: Request, access: Access, type: str, criteria: Sequence[Clause], query: Query
) -> Iterator[Part]:
    """The parts of a search for contained resources: with `both` first those that are not, then each type that may
    hold some. A match is the container, or with `_containedType=contained` the contained resource, whose id is
    `container#id`.
    """
    if query.contained == BOTH:
        search = compile_search(server.store, access, type, criteria, request.session)
        if search is not None:
            yield of_type(server.store, "", search, request.session)
    for container, inner in inner_searches(server, request, access, type, criteria):
        # The cursor names the part: a # keeps a container of the type that is searched apart from the plain search.
        name = f"#{container}"
        if query.contained_type == ALONE:
            yield _of_contained(server, request, name, inner)
        else:
            yield of_type(server.store, name, inner.search, request.session)


def inner_searches(
    server: Server, request: Request, access: Access, type: str, criteria: Sequence[Clause]
) -> Iterator[tuple[str, Inner]]:
    """(container type, search inside it) for each type that may hold resources of `type` and that may be searched."""
    for container in server.store.containers.of(type):
        inner = compile_contained(server.store, access, type, container, criteria, request.session)
        if inner is not None:
            yield container, inner


def _of_contained(server: Server, request: Request, name: str, inner: Inner) -> Part:
    def find(count: int, after: Sequence[object] | None) -> Page:
        found, more = find_contained(server.store, inner, count, after, request.session)
        shown = [_shown(server, request, match) for match in found]
        return Page([each for each in shown if each], after=more)

    return Part(name, find, lambda bound: total_contained(server.store, inner, bound, request.session))


def _shown(server: Server, request: Request, match: Match) -> Stored | None:
    """The contained resource of a match as a version of its own, as far as its container is shown to the caller."""
    container = match.container
    resource = container.resource()
    rule = server.rules.get(container.type)
    if rule and rule.present:
        resource = rule.present(resource, request.principal)
    inside: Resource | None = next((each for each in resource.get("contained", []) if each.get("id") == match.id), None)
    return replace(container, id=f"{container.id}#{match.id}", text=encode(inside).decode()) if inside else None
