"""The search interactions: on a type, in a compartment, over the system. FHIR R4: search, http#search, http#vsearch.

What the caller asked and we did not do is said: an unknown parameter is refused under `handling=strict` and named in an
OperationOutcome entry otherwise; the self link shows what was really used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote_plus, urlencode

from fhirserver.auth.access import Access
from fhirserver.fhir import Resource
from fhirserver.fhir.json import encode
from fhirserver.fhir.problem import Issue, outcome, problem
from fhirserver.interactions.capabilities import served_types
from fhirserver.interactions.codes import with_known_codes
from fhirserver.interactions.contained import SEARCHED, contained_parts
from fhirserver.interactions.cursor import open_cursor, seal_cursor
from fhirserver.interactions.explain import explained
from fhirserver.interactions.includes import codes_of_page, included
from fhirserver.interactions.model import Pairs, Request, Response, Server
from fhirserver.interactions.own_events import with_own_events
from fhirserver.interactions.parts import Part, back_through, of_type, through
from fhirserver.interactions.reindex import unready
from fhirserver.interactions.summary import subset
from fhirserver.search.parse import CONTROLS, Limits, parse, render
from fhirserver.search.query import Clause, Query, compartment
from fhirserver.store.database import Session
from fhirserver.store.model import Page, Stored, Total
from fhirserver.store.search import Search, compile_search, find, total

COMPARTMENTS = ("Patient", "Encounter", "RelatedPerson", "Practitioner", "Device")
COUNTED = ("accurate", "estimate")
DIRECTIONS = {"n": "after", "p": "before"}
LIMITS = Limits()
WHOLE = ("", "false")
"""Values of _summary that show a resource whole."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A search under way: its parsed query, page size, the key its cursors belong to, and what to say of it."""

    query: Query
    count: int
    path: str
    key: str
    notes: tuple[Issue, ...] = ()


def prepare(server: Server, request: Request, type: str | None, pairs: Pairs, *, strict: bool = True) -> Query:
    """The parsed query. Raises Problem for what is malformed, and when strict for what is unknown."""
    if request.body is not None and request.interaction.startswith("search-"):
        text = "A search by POST takes its parameters as a form (application/x-www-form-urlencoded) or in the URL."
        raise problem("not-supported", text, "Content-Type", status=415)
    return parse(
        server.definitions, type, pairs, base=request.base, strict=strict, now=server.now(), limits=LIMITS
    )  # fmt: skip


def selection(server: Server, request: Request, type: str, pairs: Pairs) -> Query:
    """The query of a conditional interaction or reference. Raises Problem(invalid) where it would match everything, or
    says what an answer is to look like: there is none.
    """
    for name, _ in pairs:
        if name.partition(":")[0] in CONTROLS:
            raise problem("invalid", f"{name[:64]} is not a criterion: leave it out.", f"http.{name[:64]}")
    query = prepare(server, request, type, pairs)
    if not query.clauses:
        raise problem("invalid", "The criteria select nothing: name a search parameter, as in identifier=urn:mrn|1.")
    return query


def matching(
    server: Server, access: Access, query: Query, session: Session | None, *, limit: int, type: str | None = None
) -> list[Stored]:
    """At most `limit` resources that match the criteria of a query: for conditional interactions and references."""
    kind = query.type or type or ""
    clauses = [with_known_codes(server, access, clause, session) for clause in query.clauses]
    found = compile_search(server.store, access, kind, clauses, session)
    if found is None:
        return []
    return list(find(server.store, found, (), limit, session=session).matches)


def search_type(server: Server, request: Request, access: Access) -> Response:
    """The matches of a search on one type, as a searchset Bundle."""
    assert request.type
    return _searched(server, request, with_own_events(server, request, access), request.type, (), request.type)


def search_compartment(server: Server, request: Request, access: Access) -> Response:
    """What of one type (or of every type) belongs to a Patient, Encounter, RelatedPerson, Practitioner or Device."""
    assert request.type
    assert request.id
    assert request.member
    if request.type not in COMPARTMENTS:
        raise problem("not-found", f"There is no {request.type} compartment; there are {', '.join(COMPARTMENTS)}.")
    path = f"{request.type}/{request.id}/{request.member}"
    if request.member == "*":
        return _over_types(server, request, access, path, _compartment_types(server, request, access))
    access.require(request.member, "s")
    clause = compartment(server.definitions, request.type, request.id, request.member)
    if clause is None:
        raise problem("not-found", f"{request.member} is never in the {request.type} compartment.")
    return _searched(server, request, access, request.member, (clause,), path)


def search_system(server: Server, request: Request, access: Access) -> Response:
    """The matches of a search over all types, or those that `_type` names."""
    types = dict.fromkeys(served_types(server, request.organization), ())
    return _over_types(server, request, access, "", types)


def _searched(
    server: Server, request: Request, access: Access, type: str, clauses: tuple[Clause, ...], path: str
) -> Response:
    query = prepare(server, request, type, request.query, strict=request.prefer.strict)
    notes = [*unready(server, type, query, strict=request.prefer.strict)]
    if request.explain:
        notes += explained(server, request, access, type, clauses, query)
    asked = replace(_asked(server, request, query, path), notes=tuple(notes))
    criteria = _known(server, request, access, (*clauses, *query.clauses))
    if query.contained in SEARCHED:
        parts = contained_parts(server, request, access, type, criteria, query)
        return _answer(server, request, access, asked, _through(server, asked, parts))
    search = compile_search(server.store, access, type, criteria, request.session)
    page = _page(server, asked, search, request.session, codes_of_page(server, type, query))
    counted = _total(server, query, page, search, request.session)
    return _answer(server, request, access, asked, replace(page, total=counted))


def _known(server: Server, request: Request, access: Access, clauses: Iterable[Clause]) -> list[Clause]:
    return [with_known_codes(server, access, clause, request.session) for clause in clauses]


def _page(server: Server, asked: Asked, search: Search | None, session: Session | None, values: Sequence[str]) -> Page:
    if search is None or asked.count == 0 or asked.query.summary == "count":
        return Page(())
    start: dict[str, Any] = {}
    if asked.query.cursor:
        direction, *values = open_cursor(server, asked.key, asked.query.cursor)
        start[DIRECTIONS[direction]] = values
    return find(server.store, search, asked.query.sort, asked.count, session=session, values=values, **start)


def _over_types(
    server: Server, request: Request, access: Access, path: str, types: Mapping[str, tuple[Clause, ...]]
) -> Response:
    """A page that runs through the types in order; each type's matches are paged like a search of their own."""
    query = prepare(server, request, None, request.query, strict=request.prefer.strict)
    asked = _asked(server, request, query, path)
    if request.explain:
        text = "X-Explain was ignored: it explains the search of one type."
        asked = replace(asked, notes=(Issue("not-supported", text, (), "warning"),))
    named = [type for type in types if not query.types or type in query.types]
    permitted = [type for type in named if access.clauses(type, "s") is not None]
    if named and not permitted:
        access.require(named[0], "s")

    def parts() -> Iterator[Part]:
        # A type that nothing was ever stored of gets no collection and no index by being searched.
        for type in server.store.existing(sorted(permitted)):
            criteria = _known(server, request, access, (*types[type], *query.clauses))
            search = compile_search(server.store, access, type, criteria, request.session)
            if search is not None:
                yield of_type(server.store, type, search, request.session)

    return _answer(server, request, access, asked, _through(server, asked, parts()))


def _through(server: Server, asked: Asked, parts: Iterable[Part]) -> Page:
    query = asked.query
    direction, *start = open_cursor(server, asked.key, query.cursor) if query.cursor else ("n",)
    alone = query.summary == "count" or asked.count == 0
    bound = server.total_bound if alone or query.total in COUNTED else None
    if DIRECTIONS[direction] == "before":
        page = back_through(parts, 0 if alone else asked.count, start, bound)
    else:
        page = through(parts, 0 if alone else asked.count, start or None, bound)
    if page.total is None and not query.cursor and page.after is None and query.total != "none":
        return replace(page, total=Total(len(page.matches)))
    return replace(page, total=_as_asked(query, page.total))


def _as_asked(query: Query, counted: Total | None) -> Total | None:
    """The total with what was counted up to the bound as an estimate, where that is enough for the caller."""
    if counted is None or not counted.bounded or query.total != "estimate":
        return counted
    return Total(counted.count, estimated=True)


def _compartment_types(server: Server, request: Request, access: Access) -> Mapping[str, tuple[Clause, ...]]:
    found: dict[str, tuple[Clause, ...]] = {}
    for type in served_types(server, request.organization):
        clause = compartment(server.definitions, request.type or "", request.id or "", type)
        if clause is not None:
            found[type] = (clause,)
    return found


def _asked(server: Server, request: Request, query: Query, path: str) -> Asked:
    count = server.page_size if query.count is None else min(query.count, server.page_size_limit)
    pairs = sorted(pair for pair in query.used if pair[0] not in ("_cursor", "_count", "_format", "_pretty"))
    return Asked(query, count, path, f"{request.base}/{path}?{urlencode(pairs)}")


def _total(server: Server, query: Query, page: Page, search: Search | None, session: Session | None) -> Total | None:
    """The total where it is asked for, or known without counting: the first page was also the last."""
    if search is None:
        return Total(0)
    if query.summary == "count" or query.count == 0 or query.total in COUNTED:
        return _as_asked(query, total(server.store, search, server.total_bound, session))
    if not query.cursor and page.after is None and query.total != "none":
        return Total(len(page.matches))
    return None


def _answer(server: Server, request: Request, access: Access, asked: Asked, page: Page) -> Response:
    """The searchset, as text: resources are put into it as they are stored, without being parsed, wherever they are
    shown whole.
    """
    query = asked.query
    bundle: Resource = {"resourceType": "Bundle", "type": "searchset"}
    notes = [*asked.notes, *_notes(query, page.total)]
    if page.total is not None and not page.total.bounded:
        bundle["total"] = page.total.count
    bundle["link"] = _links(server, request, asked, page)
    entries = [_entry(server, request, query, version, "match") for version in page.matches]
    extra, truncated = included(server, request, access, query, page)
    notes += truncated
    entries += [_entry(server, request, query, version, "include") for version in extra]
    if notes:
        entries.append(encode({"resource": outcome(notes), "search": {"mode": "outcome"}}).decode())
    text = encode(bundle).decode()
    if entries:
        text = f'{text[:-1]},"entry":[{",".join(entries)}]}}'
    seen = [f"{each.type}/{each.id.partition('#')[0]}" for each in (*page.matches, *extra)]
    return Response(200, text=text, seen=seen)


def _entry(server: Server, request: Request, query: Query, version: Stored, mode: str) -> str:
    """The JSON text of one entry."""
    text = version.text
    rule = server.rules.get(version.type)
    if (rule and rule.present) or query.elements or query.summary not in WHOLE:
        resource = version.resource()
        if rule and rule.present and "#" not in version.id:
            resource = rule.present(resource, request.principal)
        text = encode(subset(server.definitions, resource, query.summary, query.elements)).decode()
    # Nothing in the URL needs escaping: an id and a type have letters, digits, - and . only; a # is before the id of a
    # contained resource.
    base = request.base if version.organization == request.organization else server.base(version.organization)
    url = f"{base}/{version.type}/{version.id}"
    return f'{{"fullUrl":"{url}","resource":{text},"search":{{"mode":"{mode}"}}}}'


def _notes(query: Query, counted: Total | None) -> Iterable[Issue]:
    for name, reason in query.unsupported:
        yield Issue("not-supported", f"{name} was ignored: {reason}", (name,), "warning")
    if counted is not None and counted.estimated:
        text = f"The total is an estimate: counting stopped at {counted.count}, and more match."
        yield Issue("informational", text, ("_total",), "information")
    if counted is not None and counted.bounded:
        text = f"More than {counted.count} match; counting stopped there, so there is no total."
        yield Issue("incomplete", text, ("_total",), "information")


def _links(server: Server, request: Request, asked: Asked, page: Page) -> list[Resource]:
    base = f"{request.base}/{asked.path}".rstrip("/")
    kept = urlencode([pair for pair in render(asked.query) if pair[0] not in ("_cursor", "_count")])

    def url(cursor: str = "") -> str:
        count = f"_count={asked.count}" if asked.query.count is not None or cursor else ""
        query = "&".join(part for part in (kept, count, cursor and f"_cursor={quote_plus(cursor)}") if part)
        return f"{base}?{query}" if query else base

    links = [{"relation": "self", "url": url(asked.query.cursor)}]
    if asked.query.cursor:
        links.append({"relation": "first", "url": url()})
    if page.before is not None:
        cursor = seal_cursor(server, asked.key, ["p", *page.before])
        links.append({"relation": "previous", "url": url(cursor)})
    if page.after is not None:
        links.append({"relation": "next", "url": url(seal_cursor(server, asked.key, ["n", *page.after]))})
    return links
