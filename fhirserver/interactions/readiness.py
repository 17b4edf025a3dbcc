"""Making the indexes exist that a search needs, before the transaction begins in which it runs: inside one none can be
made, and a search without them is slow or refused.

Nothing is looked up for it that the transaction itself may write: lists, value sets and hierarchies count as unknown.
"""

from __future__ import annotations

from collections.abc import Iterable

from fhirserver.auth.access import Access
from fhirserver.interactions.model import Request, Server
from fhirserver.search.parse import Limits, parse
from fhirserver.search.query import (
    Clause,
    Leaf,
    Listed,
    NeedsCodes,
    NeedsHierarchy,
    Nothing,
    Query,
    References,
    compartment,
    rewrite,
    walk,
)
from fhirserver.store.search import compile_search

TERMINOLOGY = ("ValueSet", "CodeSystem")
SEARCHES = ("search-type", "search-compartment")


def ensure_indexes(server: Server, access: Access, query: Query, type: str = "") -> None:
    """Makes the indexes of a query's criteria, order and includes. Raises Problem(transient) while one is made."""
    searched = query.type or type
    needs = [each for clause in query.clauses for each in walk(clause)]
    if any(isinstance(each, NeedsCodes) for each in needs):
        for terminology in TERMINOLOGY:
            server.store.indexes.ensure(terminology, [("s.url",)])
    clauses = [rewrite(clause, _unknown) for clause in query.clauses]
    search = compile_search(server.store, access, searched, clauses, None)
    if search is not None:
        fields = [*search.fields, *((key.field,) for key in query.sort)]
        server.store.indexes.ensure(search.type, fields, search.whose)
    for include in query.revincludes:
        if "*" not in (include.source, include.parameter):
            server.store.indexes.ensure(include.source, [(f"s.{include.parameter}",)])


def ready(server: Server, request: Request, access: Access) -> None:
    """The same for a search that is an entry of a transaction; what is wrong with it is found when it runs."""
    if request.interaction not in SEARCHES or request.member == "*":
        return
    type = (request.member if request.interaction == "search-compartment" else request.type) or ""
    if type not in server.definitions.resource_types:
        return
    query = parse(server.definitions, type, request.query, base=request.base, now=server.now(), limits=Limits())
    ensure_indexes(server, access, query)
    if request.member:
        within = compartment(server.definitions, request.type or "", request.id or "", type)
        search = compile_search(server.store, access, type, _some(within), None)
        if search is not None:
            server.store.indexes.ensure(type, search.fields)


def _some(clause: Clause | None) -> Iterable[Clause]:
    return () if clause is None else (clause,)


def _unknown(clause: Clause) -> Clause | None:
    """What takes the place of a clause whose values are not looked up: one that goes by the same index."""
    if isinstance(clause, NeedsCodes):
        return Leaf(clause.parameter, "token", ("",))
    if isinstance(clause, NeedsHierarchy):
        return References(clause.parameter, clause.references)
    return Nothing() if isinstance(clause, Listed) else None
