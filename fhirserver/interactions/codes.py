"""Token searches against stored value sets and hierarchies: `:in`, `:not-in`, `:above`, `:below`. FHIR R4:
search#modifiers.

Only what is stored here is looked into: the ValueSet by its canonical URL with the codes it lists, includes by system
from a stored CodeSystem, and its expansion where it has one; hierarchies of a stored CodeSystem.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fhirserver.auth.access import Access, everything
from fhirserver.fhir import Resource
from fhirserver.fhir.problem import problem
from fhirserver.interactions.model import Server
from fhirserver.search.expression import reference_targets
from fhirserver.search.parse import parse
from fhirserver.search.query import Clause, NeedsCodes, NeedsHierarchy, References, rewrite, walk, with_codes
from fhirserver.store.database import Session
from fhirserver.store.search import by_references, compile_search, find, referrers

MOST_CODES = 10_000
MOST_LEVELS = 32
PARENTS = ("partof", "part-of")
"""Parameters on the element partOf, by which a type may have a hierarchy."""
Codes = list[tuple[str | None, str]]


@dataclass(frozen=True, slots=True)
class Where:
    """Where is looked: within what access, and in which transaction."""

    server: Server
    access: Access
    session: Session | None = None


def with_known_codes(server: Server, access: Access, clause: Clause, session: Session | None = None) -> Clause:
    """The clause with every part that asks for a value set or hierarchy replaced by the codes or references it
    stands for.
    """
    if not any(isinstance(part, NeedsCodes | NeedsHierarchy) for part in walk(clause)):
        return clause
    where = Where(server, access, session)

    def replacement(part: Clause) -> Clause | None:
        if isinstance(part, NeedsCodes):
            return with_codes(part, _codes(where, part))
        if isinstance(part, NeedsHierarchy):
            return References(part.parameter, frozenset(_hierarchy(where, part)))
        return None

    return rewrite(clause, replacement)


def _codes(where: Where, needs: NeedsCodes) -> Codes:
    found = _value_set(where, needs.url, set()) if needs.url else _relatives(where, needs)
    if len(found) > MOST_CODES:
        raise problem("too-costly", f"The value set has more than {MOST_CODES} codes.", needs.parameter)
    return found


def _value_set(where: Where, url: str, seen: set[str]) -> Codes:
    """The codes of a stored ValueSet: its expansion, else what its compose includes without what it excludes."""
    if url in seen:
        return []
    seen.add(url)
    resource = _canonical(where, "ValueSet", url)
    if resource is None:
        raise problem("not-found", f"The ValueSet {url[:300]} is not stored here.")
    contains = resource.get("expansion", {}).get("contains")
    if contains:
        return [(each.get("system"), each["code"]) for each in _flat(contains, "contains") if "code" in each]
    compose = resource.get("compose", {})
    excluded = {code for part in compose.get("exclude", []) for code in _included(where, part, seen)}
    included = [code for part in compose.get("include", []) for code in _included(where, part, seen)]
    return [code for code in included if code not in excluded]


def _included(where: Where, part: Resource, seen: set[str]) -> Codes:
    found = [code for url in part.get("valueSet", []) for code in _value_set(where, url, seen)]
    system = part.get("system")
    if system is None:
        return found
    if "concept" in part:
        return found + [(system, each["code"]) for each in part["concept"]]
    concepts = _concepts(where, system)
    for condition in part.get("filter", []):
        if condition.get("op") not in ("is-a", "descendent-of") or condition.get("property") != "concept":
            raise problem(
                "not-supported", "Only the value set filters is-a and descendent-of on concept are understood."
            )
        below = _below(concepts, condition["value"], with_itself=condition["op"] == "is-a")
        concepts = [each for each in _flat(concepts, "concept") if each["code"] in below]
    return found + [(system, each["code"]) for each in _flat(concepts, "concept")]


def _relatives(where: Where, needs: NeedsCodes) -> Codes:
    """The code itself and what is above or below it in its stored CodeSystem."""
    if not needs.system:
        raise problem("invalid", f"{needs.parameter}:{needs.modifier} needs a system: system|code.", needs.parameter)
    concepts = _concepts(where, needs.system)
    if needs.modifier == "below":
        return [(needs.system, code) for code in sorted(_below(concepts, needs.code, with_itself=True))]
    above = [
        each["code"]
        for each in _flat(concepts, "concept")
        if needs.code in _below([each], each["code"], with_itself=True)
    ]
    return [(needs.system, code) for code in above]


def _concepts(where: Where, system: str) -> list[Resource]:
    resource = _canonical(where, "CodeSystem", system)
    if resource is None:
        raise problem("not-found", f"The CodeSystem {system[:300]} is not stored here.")
    concepts: list[Resource] = resource.get("concept", [])
    return concepts


def _below(concepts: list[Resource], code: str, *, with_itself: bool) -> set[str]:
    for concept in _flat(concepts, "concept"):
        if concept["code"] == code:
            below = {each["code"] for each in _flat(concept.get("concept", []), "concept")}
            return below | {code} if with_itself else below
    return set()


def _flat(concepts: list[Any], inner: str) -> Iterator[Resource]:
    stack = list(reversed(concepts))
    while stack:
        concept = stack.pop()
        yield concept
        stack += reversed(concept.get(inner, []))


def _canonical(where: Where, type: str, url: str) -> Resource | None:
    """The stored resource of a canonical URL: on this base as far as the caller may see it, else on the registry."""
    plain, _, version = url.partition("|")
    pairs = [("url", plain), *([("version", version)] if version else [])]
    clauses = parse(where.server.definitions, type, pairs, strict=True).clauses
    store = where.server.store
    for access in (where.access, everything("registry")):
        search = compile_search(store, access, type, clauses, where.session)
        found = find(store, search, (), 1, session=where.session).matches if search else []
        if found:
            return found[0].resource()
    return None


def _hierarchy(where: Where, needs: NeedsHierarchy) -> set[str]:
    """The references themselves and what is above or below them, by the part-of reference of their own type.

    A bare id may be one of several types: those that have no hierarchy stand for themselves.
    """
    parents = {type: _parent(where.server, type) for type in {each.partition("/")[0] for each in needs.references}}
    if not any(parents.values()):
        raise problem("not-supported", f"{', '.join(sorted(parents))}: there is no hierarchy.", needs.parameter)
    step = _children if needs.modifier == "below" else _parents
    found = set(needs.references)
    for type, parent in parents.items():
        fresh = {each for each in needs.references if parent and each.startswith(f"{type}/")}
        for _ in range(MOST_LEVELS):
            if not fresh:
                break
            fresh = step(where, type, parent, fresh) - found
            found |= fresh
            if len(found) > MOST_CODES:
                raise problem("too-costly", f"The hierarchy has more than {MOST_CODES} {type}.", needs.parameter)
    return found


def _parent(server: Server, type: str) -> str:
    """The parameter by which a type is part of another of the same type; "" where there is none."""
    parameters = server.definitions.search_parameters(type)
    for code in PARENTS:
        parameter = parameters.get(code)
        if parameter and type in reference_targets(server.definitions, type, parameter):
            return code
    return ""


def _children(where: Where, type: str, parent: str, references: set[str]) -> set[str]:
    found = referrers(where.server.store, where.access, type, parent, sorted(references), MOST_CODES + 1, where.session)
    return {f"{type}/{each.id}" for each in found}


def _parents(where: Where, type: str, parent: str, references: set[str]) -> set[str]:
    found = by_references(where.server.store, where.access, references, session=where.session)
    held = [version.resource().get("partOf", []) for version in found]
    said = [one.get("reference", "") for each in held for one in (each if isinstance(each, list) else [each])]
    return {text for text in said if text.startswith(f"{type}/")}
