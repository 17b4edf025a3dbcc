"""_include and _revinclude, with `:iterate`. FHIR R4: search#include.

Loop-safe: a resource is included once. Access is asked for each included type anew, so an include reaches no
further than a
search of that type would.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fhirserver.auth.access import Access
from fhirserver.fhir.problem import Issue
from fhirserver.interactions.model import Server
from fhirserver.search.query import Include, Query
from fhirserver.store.model import Stored
from fhirserver.store.search import by_references, index_values, referrers

MOST_INCLUDED = 1_000
MOST_ROUNDS = 8


def included(
    server: Server, access: Access, organization: str, query: Query, matches: Sequence[Stored]
) -> tuple[list[Stored], list[Issue]]:
    """The included resources, none twice and none that is a match, and a warning where there were too many."""
    if not (query.includes or query.revincludes) or not matches:
        return [], []
    seen = {(version.type, version.id) for version in matches}
    found: list[Stored] = []
    fresh: Sequence[Stored] = matches
    for turn in range(MOST_ROUNDS):
        again = turn > 0
        batch = [
            *_forward(server, access, [each for each in query.includes if each.iterate or not again], fresh),
            *_backward(server, access, [each for each in query.revincludes if each.iterate or not again], fresh),
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


def _forward(server: Server, access: Access, includes: Sequence[Include], sources: Sequence[Stored]) -> list[Stored]:
    references: list[str] = []
    for type in dict.fromkeys(version.type for version in sources):
        ids = [version.id for version in sources if version.type == type]
        wanted = [each for each in includes if each.source in (type, "*")]
        targets = {code: each.target for each in wanted for code in _codes(server, type, each)}
        if not targets:
            continue
        for values in index_values(server.store, access.organization, type, ids, list(targets)).values():
            for code, target in targets.items():
                references += [text for text in values.get(code, ()) if _points_at(text, target)]
    return by_references(server.store, access, references) if references else []


def _backward(server: Server, access: Access, includes: Sequence[Include], targets: Sequence[Stored]) -> list[Stored]:
    found: list[Stored] = []
    for each in includes:
        wanted = [f"{version.type}/{version.id}" for version in targets if each.target in ("", version.type)]
        types = (
            [each.source] if each.source != "*" else server.store.existing(sorted(server.definitions.resource_types))
        )
        for type in types:
            for code in _codes(server, type, each):
                if wanted and access.clauses(type, "s") is not None:
                    found += referrers(server.store, access, type, code, wanted, MOST_INCLUDED + 1)
    return found


def _codes(server: Server, type: str, include: Include) -> list[str]:
    """The reference parameters that an include names on a type."""
    parameters = server.definitions.search_parameters(type)
    if include.parameter != "*":
        return [include.parameter] if include.parameter in parameters else []
    return [code for code, each in parameters.items() if each.type == "reference" and each.expression]


def _points_at(text: object, target: str) -> bool:
    return isinstance(text, str) and "|" not in text and (not target or text.startswith(f"{target}/"))
