"""_include and _revinclude, with `:iterate`. FHIR R4: search#include.

Loop-safe: a resource is included once. Access is asked for each included type anew, so an include reaches no further
than a search of that type would.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fhirserver.auth.access import Access
from fhirserver.fhir.problem import Issue
from fhirserver.interactions.model import Request, Server
from fhirserver.search.query import Include, Query
from fhirserver.store.database import Session
from fhirserver.store.model import Page, Stored
from fhirserver.store.search import by_references, index_values, referrers

Named = tuple[str, str]
MOST_INCLUDED = 1_000
MOST_ROUNDS = 8


@dataclass(frozen=True, slots=True)
class _Reading:
    """Where is read: within what access, and in which transaction."""

    server: Server
    access: Access
    session: Session | None

    def values(self, type: str, ids: Sequence[str], codes: Sequence[str]) -> Mapping[str, Mapping[str, Any]]:
        """Id -> search values of resources that did not come with them."""
        if not ids:
            return {}
        return index_values(self.server.store, self.access.organization, type, ids, codes, self.session)


def codes_of_page(server: Server, type: str, query: Query) -> list[str]:
    """The reference parameters whose values the matches of a page are wanted with, so that what they point at can be
    fetched at once."""
    wanted = [each for each in query.includes if each.source in (type, "*")]
    return list(dict.fromkeys(code for each in wanted for code in _codes(server, type, each)))


def included(
    server: Server, request: Request, access: Access, query: Query, page: Page
) -> tuple[list[Stored], list[Issue]]:
    """The included resources, none twice and none that is a match, and a warning where there were too many."""
    matches = page.matches
    if not (query.includes or query.revincludes) or not matches:
        return [], []
    reading = _Reading(server, access, request.session)
    seen = {(version.type, version.id) for version in matches}
    values = dict(zip(((each.type, each.id) for each in matches), page.values, strict=False))
    found: list[Stored] = []
    fresh: Sequence[Stored] = matches
    for turn in range(MOST_ROUNDS):
        again = turn > 0
        batch = [
            *_forward(reading, [each for each in query.includes if each.iterate or not again], fresh, values),
            *_backward(reading, [each for each in query.revincludes if each.iterate or not again], fresh),
        ]
        fresh = [version for version in _unseen(batch, seen) if not version.deleted]
        found += fresh
        if not fresh or len(found) > MOST_INCLUDED:
            break
    if len(found) > MOST_INCLUDED:
        text = f"Only the first {MOST_INCLUDED} included resources are shown; ask for a smaller page."
        return found[:MOST_INCLUDED], [Issue("incomplete", text, ("_include",), "warning")]
    return found, []


def _unseen(batch: Iterable[Stored], seen: set[tuple[str, str]]) -> Iterable[Stored]:
    for version in batch:
        if (version.type, version.id) not in seen:
            seen.add((version.type, version.id))
            yield version


def _forward(
    reading: _Reading, includes: Sequence[Include], sources: Sequence[Stored], known: Mapping[Named, Mapping[str, Any]]
) -> list[Stored]:
    """What the sources point at; `known` has the search values of those that came with them."""
    references: list[str] = []
    for type in dict.fromkeys(version.type for version in sources):
        ids = [version.id for version in sources if version.type == type]
        wanted = [each for each in includes if each.source in (type, "*")]
        targets = [(code, each.target) for each in wanted for code in _codes(reading.server, type, each)]
        if not targets:
            continue
        read = reading.values(type, [id for id in ids if (type, id) not in known], [code for code, _ in targets])
        for id in ids:
            values = known.get((type, id)) or read.get(id) or {}
            references += [
                text for code, target in targets for text in values.get(code, ()) if _points_at(text, target)
            ]
    if not references:
        return []
    return by_references(reading.server.store, reading.access, references, session=reading.session)


def _backward(reading: _Reading, includes: Sequence[Include], targets: Sequence[Stored]) -> list[Stored]:
    server, store = reading.server, reading.server.store
    found: list[Stored] = []
    for each in includes:
        wanted = [f"{version.type}/{version.id}" for version in targets if each.target in ("", version.type)]
        types = [each.source] if each.source != "*" else store.existing(sorted(server.definitions.resource_types))
        for type in types:
            for code in _codes(server, type, each):
                if wanted and reading.access.clauses(type, "s") is not None:
                    most = MOST_INCLUDED + 1
                    found += referrers(store, reading.access, type, code, wanted, most, reading.session)
    return found


def _codes(server: Server, type: str, include: Include) -> list[str]:
    """The reference parameters that an include names on a type."""
    parameters = server.definitions.search_parameters(type)
    if include.parameter != "*":
        return [include.parameter] if include.parameter in parameters else []
    return [code for code, each in parameters.items() if each.type == "reference" and each.expression]


def _points_at(text: object, target: str) -> bool:
    return isinstance(text, str) and "|" not in text and (not target or text.startswith(f"{target}/"))
