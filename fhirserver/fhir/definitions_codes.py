"""Value sets to code lists: which codes of which systems a ValueSet holds, from the CodeSystems at hand.

FHIR R4: valueset#expansion (the part that needs no terminology server), codesystem#hierarchy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

CodeList = Mapping[str, frozenset[str]]  # system -> codes
Terms = Mapping[str, Mapping[str, Any]]  # canonical URL -> resource
_MAX_CODES = 20_000
_MAX_DEPTH = 50


class Inexpandable(Exception):
    """This value set cannot be listed with the code systems at hand."""


class Terminology:
    """CodeSystems and ValueSets by canonical URL, with the expansion of a value set to its codes."""

    def __init__(self, resources: Iterable[Mapping[str, Any]], known: Mapping[str, CodeList] | None = None) -> None:
        kept = [r for r in resources if "url" in r]
        self._systems: Terms = {r["url"]: r for r in kept if r.get("resourceType") == "CodeSystem"}
        self._sets: Terms = {r["url"]: r for r in kept if r.get("resourceType") == "ValueSet"}
        self._known = {} if known is None else known  # its truth would list it, and so make all of it

    @classmethod
    def over(cls, value_sets: Terms, code_systems: Terms, known: Mapping[str, CodeList]) -> Terminology:
        """One over resources that are read when asked for."""
        made = cls((), known)
        made._sets, made._systems = value_sets, code_systems
        return made

    @property
    def value_sets(self) -> Iterable[str]:
        """The canonical URLs of the value sets at hand."""
        return self._sets

    def expand(self, url: str, depth: int = 0) -> CodeList:
        """The codes of a value set. Raises Inexpandable when a part of it is not at hand, or it is too large."""
        url = url.split("|", 1)[0]
        if url not in self._sets:
            if url in self._known:
                return self._known[url]
            raise Inexpandable(url)
        if depth > _MAX_DEPTH:
            raise Inexpandable(url)
        compose = self._sets[url].get("compose")
        if compose is None:
            return self._expansion(url)
        codes: dict[str, set[str]] = {}
        for include in compose.get("include", ()):
            for system, found in self._included(include, depth).items():
                codes.setdefault(system, set()).update(found)
        for exclude in compose.get("exclude", ()):
            for system, found in self._included(exclude, depth).items():
                codes.get(system, set()).difference_update(found)
        if sum(map(len, codes.values())) > _MAX_CODES:
            raise Inexpandable(url)
        return {system: frozenset(found) for system, found in codes.items()}

    def _expansion(self, url: str) -> CodeList:
        codes: dict[str, set[str]] = {}
        pending = list(self._sets[url].get("expansion", {}).get("contains", ()))
        if not pending:
            raise Inexpandable(url)
        while pending:
            entry = pending.pop()
            if "code" in entry and not entry.get("abstract"):
                codes.setdefault(entry.get("system", ""), set()).add(entry["code"])
            pending.extend(entry.get("contains", ()))
        return {system: frozenset(found) for system, found in codes.items()}

    def _included(self, include: Mapping[str, Any], depth: int) -> Mapping[str, frozenset[str]]:
        found: Mapping[str, frozenset[str]] | None = None
        if "system" in include:
            found = {include["system"]: self._of_system(include)}
        for other in include.get("valueSet", ()):  # with a system or another value set beside it: both must hold it
            codes = self.expand(other, depth + 1)
            found = codes if found is None else {s: c & codes.get(s, frozenset()) for s, c in found.items()}
        return found or {}

    def _of_system(self, include: Mapping[str, Any]) -> frozenset[str]:
        if "concept" in include:
            return frozenset(concept["code"] for concept in include["concept"] if "code" in concept)
        system = self._systems.get(include["system"])
        if system is None or system.get("content") != "complete":
            raise Inexpandable(include["system"])
        parents = _parents(system)
        codes = frozenset(parents)
        for rule in include.get("filter", ()):
            codes &= _filtered(parents, rule)
        return codes


class Expansions(Mapping[str, CodeList]):
    """The code lists of value sets, each made when it is first asked for; what cannot be listed is not in it."""

    def __init__(self, value_sets: Terms, code_systems: Terms, known: Mapping[str, CodeList]) -> None:
        self._value_sets = value_sets
        self._terminology = Terminology.over(value_sets, code_systems, known)
        self._made: dict[str, CodeList | None] = {}

    def __getitem__(self, url: str) -> CodeList:
        if url not in self._value_sets:
            raise KeyError(url)
        if url not in self._made:
            self._made[url] = self._listed(url)
        made = self._made[url]
        if made is None:
            raise KeyError(url)
        return made

    def _listed(self, url: str) -> CodeList | None:
        try:
            return self._terminology.expand(url)
        except (Inexpandable, KeyError, TypeError, AttributeError):
            return None

    def __iter__(self) -> Iterator[str]:
        return (url for url in self._value_sets if url in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _parents(system: Mapping[str, Any]) -> dict[str, set[str]]:
    """Code -> its direct parents, from nesting and from `subsumedBy` properties."""
    parents: dict[str, set[str]] = {}
    pending = [(concept, "") for concept in system.get("concept", ())]
    while pending:
        concept, parent = pending.pop()
        mine = parents.setdefault(concept["code"], set())
        if parent:
            mine.add(parent)
        mine.update(p["valueCode"] for p in concept.get("property", ()) if p.get("code") == "subsumedBy")
        pending.extend((child, concept["code"]) for child in concept.get("concept", ()))
    return parents


def _filtered(parents: Mapping[str, set[str]], rule: Mapping[str, Any]) -> frozenset[str]:
    make = _FILTERS.get(rule.get("op", "")) if rule.get("property") in ("concept", "code") else None
    if make is None:
        raise Inexpandable(str(rule))
    return make(parents, rule["value"])


def _is_a(parents: Mapping[str, set[str]], root: str) -> frozenset[str]:
    return _descendants(parents, root) | (frozenset({root}) & frozenset(parents))


def _descendants(parents: Mapping[str, set[str]], root: str) -> frozenset[str]:
    found: set[str] = {root}
    grown = True
    while grown:
        more = {code for code, above in parents.items() if code not in found and above & found}
        found |= more
        grown = bool(more)
    return frozenset(found - {root})


_FILTERS: Mapping[str, Callable[[Mapping[str, set[str]], str], frozenset[str]]] = {
    "is-a": _is_a,
    "descendent-of": _descendants,
    "=": lambda parents, value: frozenset({value}) & frozenset(parents),
    "in": lambda parents, value: frozenset(value.split(",")) & frozenset(parents),
    "is-not-a": lambda parents, value: frozenset(parents) - _is_a(parents, value),
}
