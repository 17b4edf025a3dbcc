"""Why a search finds what it finds: how many resources each of its criteria matches alone, how many its chains lead
through, and which index answers it. Asked for by `X-Explain`.

Counted within the caller's own access, so it tells nothing that the caller could not find by searching.
"""

from __future__ import annotations

from collections.abc import Iterator

from fhirserver.auth.access import Access
from fhirserver.fhir.problem import Issue
from fhirserver.interactions.codes import with_known_codes
from fhirserver.interactions.contained import SEARCHED, inner_searches
from fhirserver.interactions.model import Request, Server
from fhirserver.search.parse import CONTROLS, parse
from fhirserver.search.query import Chain, Clause, Contained, Has, NeedsCodes, Or, Query, walk
from fhirserver.store.model import Total
from fhirserver.store.plans import plan
from fhirserver.store.search import Search, compile_search, total

MOST_CRITERIA = 20


def explained(
    server: Server, request: Request, access: Access, type: str, fixed: tuple[Clause, ...], query: Query
) -> Iterator[Issue]:
    """What may be searched at all, each criterion (as far as MOST_CRITERIA) with what it was joined from, and how all
    of them are answered.
    """
    yield _said(_counted(server, request, access, type, fixed), f"{type} that you may search here")
    criteria = [pair for pair in query.used if pair[0].partition(":")[0] not in CONTROLS]
    for name, value in criteria[:MOST_CRITERIA]:
        alone = parse(
            server.definitions, type, [(name, value)], base=request.base, strict=True, now=server.now()
        ).clauses
        count = _counted(server, request, access, type, (*fixed, *alone))
        yield _said(count, f"match {name}={value[:200]} alone", name)
        yield from _joined(server, request, access, alone, name)
        yield from _led_inside(server, request, access, type, alone, name)
    if len(criteria) > 1:
        yield _said(_counted(server, request, access, type, (*fixed, *query.clauses)), "match all of it")
    yield from _planned(server, request, access, type, (*fixed, *query.clauses), query)
    if query.contained in SEARCHED:
        yield from _inside(server, request, access, type, (*fixed, *query.clauses), query)


def _joined(
    server: Server, request: Request, access: Access, clauses: tuple[Clause, ...], name: str
) -> Iterator[Issue]:
    """What the inner searches of chains find, and how many codes a value set or hierarchy stands for."""
    for part in (part for clause in clauses for part in walk(clause)):
        if isinstance(part, Chain | Has):
            count = _counted(server, request, access, part.type, (part.clause,))
            yield _said(count, f"{part.type} match the inner criteria of {name}; the search goes on by them", name)
        elif isinstance(part, NeedsCodes):
            known = with_known_codes(server, access, part, request.session)
            codes = {value for each in walk(known) for value in getattr(each, "values", ())}
            yield _said(str(len(codes)), f"codes are what {name} stands for", name)


def _led_inside(
    server: Server, request: Request, access: Access, type: str, clauses: tuple[Clause, ...], name: str
) -> Iterator[Issue]:
    """What a chain finds inside the resources themselves, where any of them may hold such a resource."""
    for clause in clauses:
        for part in clause.clauses if isinstance(clause, Or) else (clause,):
            if isinstance(part, Chain) and server.store.containers.holds(type, part.type):
                inside = Contained(part.type, part.clause, part.parameter)
                count = _counted(server, request, access, type, (inside,))
                yield _said(count, f"{type} have a {part.type} inside that {name} leads to", name)


def _planned(
    server: Server, request: Request, access: Access, type: str, clauses: tuple[Clause, ...], query: Query
) -> Iterator[Issue]:
    search = _compiled(server, request, access, type, clauses)
    if search is None:
        return
    found = plan(server.store, search, query.sort, query.count or server.page_size)
    by = f"Answered by {', '.join(found.indexes)}" if found.indexes else f"Answered by looking at every {type}"
    yield Issue("informational", f"{by}{', then sorted' if found.sorts else ''}.", (), "information")


def _inside(
    server: Server, request: Request, access: Access, type: str, clauses: tuple[Clause, ...], query: Query
) -> Iterator[Issue]:
    """For each type that may hold what is searched, how many do, and which index finds them."""
    known = [with_known_codes(server, access, clause, request.session) for clause in clauses]
    for container, inner in inner_searches(server, request, access, type, known):
        found = total(server.store, inner.search, server.total_bound, request.session)
        by = ", ".join(plan(server.store, inner.search, (), query.count or server.page_size).indexes)
        yield _said(f"{_text(found)} {container}", f"have a {type} inside that matches. Answered by {by}", "_contained")


def _compiled(
    server: Server, request: Request, access: Access, type: str, clauses: tuple[Clause, ...]
) -> Search | None:
    known = [with_known_codes(server, access, clause, request.session) for clause in clauses]
    return compile_search(server.store, access, type, known, request.session)


def _counted(server: Server, request: Request, access: Access, type: str, clauses: tuple[Clause, ...]) -> str:
    """How many match, as a text: counting stops at a bound."""
    search = _compiled(server, request, access, type, clauses)
    if search is None:
        return "0"
    return _text(total(server.store, search, server.total_bound, request.session))


def _text(found: Total) -> str:
    return f"{'more than ' if found.bounded else ''}{found.count}"


def _said(count: str, what: str, name: str = "") -> Issue:
    return Issue("informational", f"{count} {what}.", (f"http.{name}",) if name else (), "information")
