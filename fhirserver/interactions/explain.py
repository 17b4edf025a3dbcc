"""Why a search finds what it finds: how many resources each of its criteria matches alone. Asked for by `X-Explain`.

Counted within the caller's own access, so it tells nothing that the caller could not find by searching.
"""

from __future__ import annotations

from collections.abc import Iterator

from fhirserver.auth.access import Access
from fhirserver.fhir.problem import Issue
from fhirserver.interactions.codes import with_known_codes
from fhirserver.interactions.model import Request, Server
from fhirserver.search.parse import CONTROLS, parse
from fhirserver.search.query import Clause, Query
from fhirserver.store.search import compile_search, total

MOST_CRITERIA = 20


def explained(
    server: Server, request: Request, access: Access, type: str, fixed: tuple[Clause, ...], query: Query
) -> Iterator[Issue]:
    """One issue for what may be searched at all, and one for each criterion, as far as MOST_CRITERIA."""
    yield _issue(server, request, access, type, fixed, f"{type} that you may search here", "")
    criteria = [pair for pair in query.used if pair[0].partition(":")[0] not in CONTROLS]
    for name, value in criteria[:MOST_CRITERIA]:
        alone = parse(
            server.definitions, type, [(name, value)], base=request.base, strict=True, now=server.now()
        ).clauses
        yield _issue(server, request, access, type, (*fixed, *alone), f"match {name}={value[:200]} alone", name)


def _issue(
    server: Server, request: Request, access: Access, type: str, clauses: tuple[Clause, ...], what: str, name: str
) -> Issue:
    known = [with_known_codes(server, access, clause) for clause in clauses]
    search = compile_search(server.store, access, type, known, request.session)
    counted = total(server.store, search, server.total_bound, request.session) if search else None
    number = f"{'more than ' if counted.bounded else ''}{counted.count}" if counted else "0"
    return Issue("informational", f"{number} {what}.", (f"http.{name}",) if name else (), "information")
