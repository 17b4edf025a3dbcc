"""Token searches against stored value sets and hierarchies: `:in`, `:not-in`, `:above`, `:below`. FHIR R4:
search#modifiers.

Looked into is what is stored here, on this base or the registry, and what the definitions of R4 list.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fhirserver.auth.access import Access, everything
from fhirserver.fhir import Resource
from fhirserver.fhir.problem import problem
from fhirserver.fhir.terminology import Inexpandable, Terminology
from fhirserver.interactions.model import Server
from fhirserver.search.expression import reference_targets
from fhirserver.search.parse import parse
from fhirserver.search.query import Clause, NeedsCodes, NeedsHierarchy, References, rewrite, walk, with_codes
from fhirserver.store.database import Session
from fhirserver.store.search import by_references, compile_search, find, referrers

_SPECIAL = re.compile(r"[\\,|$]")
"""What a search would take for more than one value."""
MOST_CODES = 20_000
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

    @property
    def terminology(self) -> Terminology:
        """The value sets and code systems that are stored here, and the lists of codes that R4 has."""
        known = self.server.definitions.code_lists
        return Terminology(_Held(self, "ValueSet"), _Held(self, "CodeSystem"), known, partial=True, most=MOST_CODES)


def with_known_codes(server: Server, access: Access, clause: Clause, session: Session | None = None) -> Clause:
    """The clause with every part that asks for a value set or hierarchy replaced by the codes or references it
    stands for.
    """
    if not any(isinstance(part, NeedsCodes | NeedsHierarchy) for part in walk(clause)):
        return clause
    where = Where(server, access, session)
    known: dict[tuple[str, str | None, str, str], Codes] = {}

    def replacement(part: Clause) -> Clause | None:
        if isinstance(part, NeedsCodes):
            key = (part.url, part.system, part.code, part.modifier)
            if key not in known:
                known[key] = _codes(where, part)
            return with_codes(part, known[key])
        if isinstance(part, NeedsHierarchy):
            return References(part.parameter, frozenset(_hierarchy(where, part)))
        return None

    return rewrite(clause, replacement)


def _codes(where: Where, needs: NeedsCodes) -> Codes:
    if not needs.url:
        return _relatives(where, needs)
    try:
        concepts = where.terminology.concepts(needs.url)
    except Inexpandable as why:
        raise problem(why.code, f"{needs.parameter}:{needs.modifier}: {why}."[:500], needs.parameter) from None
    return [(system or None, code) for system, code in concepts]


def _relatives(where: Where, needs: NeedsCodes) -> Codes:
    """The code itself and what is above or below it in its stored CodeSystem."""
    if not needs.system:
        raise problem("invalid", f"{needs.parameter}:{needs.modifier} needs a system: system|code.", needs.parameter)
    system = where.terminology.system(needs.system)
    if system is None:
        raise problem("not-found", f"The CodeSystem {needs.system[:300]} is not stored here.")
    if needs.code not in system.entries:
        return []
    related = system.below(needs.code) if needs.modifier == "below" else system.above(needs.code)
    if len(related) > MOST_CODES:
        raise problem("too-costly", f"The hierarchy has more than {MOST_CODES} codes.", needs.parameter)
    return [(needs.system, code) for code in sorted({needs.code, *related})]


class _Held(Mapping[str, Resource]):
    """The resources of a type that the caller may see here, and those of the registry, by canonical URL (with |version
    for that one); each is read when it is asked for.
    """

    def __init__(self, where: Where, type: str) -> None:
        self._where, self._type = where, type
        self._read: dict[str, Resource | None] = {}

    def __getitem__(self, url: str) -> Resource:
        if url not in self._read:
            self._read[url] = canonical(self._where, self._type, url)
        found = self._read[url]
        if found is None:
            raise KeyError(url)
        return found

    def __contains__(self, url: object) -> bool:
        return isinstance(url, str) and self.get(url) is not None

    def __iter__(self) -> Iterator[str]:
        return (url for url, found in self._read.items() if found is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def canonical(where: Where, type: str, url: str) -> Resource | None:
    """The stored resource of a canonical URL: on this base as far as the caller may see it, else on the registry."""
    plain, _, version = (_SPECIAL.sub(r"\\\g<0>", part) for part in url.partition("|"))
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
