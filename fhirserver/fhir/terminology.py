"""Value sets, code systems and concept maps at hand: what a ValueSet holds, what a code is, what it is mapped to. Pure.

FHIR R4: valueset#expansion (the part that needs no terminology server), codesystem#hierarchy, conceptmap#translation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

CodeList = Mapping[str, frozenset[str]]  # system -> codes
Terms = Mapping[str, Mapping[str, Any]]  # canonical URL -> resource
Filter = Callable[["System", str, str], Iterable[str]]
_MAX_CODES = 20_000
_MAX_DEPTH = 50
_MAX_STEPS = 2_000_000
"""Concepts looked at for one expansion, a second or two: includes may ask for the same again and again."""
_MAKING = 4
"""The steps that a concept of a code system costs which has to be made."""
_LOOKUP = 2_000
"""The steps that a resource which is not at hand yet costs: it is asked for in the database."""


class Inexpandable(Exception):
    """This value set cannot be listed with the code systems at hand; the text says why, `code` as FHIR's issue type:
    not-found, not-supported, too-costly.
    """

    def __init__(self, text: str, code: str = "not-found") -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class Concept:
    """A code in its system ("" where none is said). abstract: it may not be used to code with."""

    system: str
    code: str
    display: str = ""
    version: str = ""
    abstract: bool = False
    inactive: bool = False


Concepts = dict[tuple[str, str], Concept]


@dataclass(slots=True)
class _Effort:
    """What one expansion may still cost, and the value sets that it has listed already."""

    left: int
    held: dict[str, Concepts] = field(default_factory=dict)

    def spend(self, steps: int) -> None:
        """Raises Inexpandable where it is too much."""
        self.left -= steps
        if self.left < 0:
            raise Inexpandable("what the value set includes takes too long to be listed", "too-costly")


@dataclass(eq=False)
class System:
    """The concepts of a CodeSystem by code, in their order, with their parents (nesting, and `subsumedBy`)."""

    resource: Mapping[str, Any]
    entries: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    parents: dict[str, set[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        pending = [(concept, "") for concept in reversed(self.resource.get("concept", ()))]
        while pending:
            entry, parent = pending.pop()
            code = _code(entry)
            self.entries.setdefault(code, entry)
            mine = self.parents.setdefault(code, set())
            mine |= {parent} - {""}
            mine |= {each["valueCode"] for each in entry.get("property", ()) if each.get("code") == "subsumedBy"}
            pending += [(child, code) for child in reversed(entry.get("concept", ()))]

    @property
    def url(self) -> str:
        """Its canonical URL."""
        return str(self.resource.get("url", ""))

    @property
    def complete(self) -> bool:
        """Whether all of its concepts are in it."""
        return self.resource.get("content") == "complete"

    def concept(self, code: str) -> Concept:
        """A concept of it. Raises KeyError."""
        entry = self.entries[code]
        said = {each.get("code"): each for each in entry.get("property", ())}
        retired = said.get("status", {}).get("valueCode") in ("retired", "inactive")
        return Concept(
            self.url,
            code,
            str(entry.get("display", "")),
            str(self.resource.get("version", "")),
            bool(said.get("notSelectable", {}).get("valueBoolean")),
            bool(said.get("inactive", {}).get("valueBoolean")) or retired,
        )

    def above(self, code: str) -> set[str]:
        """What subsumes a code, without itself."""
        found: set[str] = set()
        fresh = set(self.parents.get(code, ()))
        while fresh:
            found |= fresh
            fresh = {above for one in fresh for above in self.parents.get(one, ())} - found
        return found - {code}

    def below(self, code: str) -> set[str]:
        """What a code subsumes, without itself."""
        children: dict[str, set[str]] = {}
        for child, parents in self.parents.items():
            for parent in parents:
                children.setdefault(parent, set()).add(child)
        found: set[str] = set()
        fresh = children.get(code, set())
        while fresh:
            found |= fresh
            fresh = {below for one in fresh for below in children.get(one, ())} - found
        return found - {code}

    def filtered(self, rule: Mapping[str, Any]) -> set[str]:
        """The codes that a filter of a ValueSet takes. Raises Inexpandable for one that is not understood."""
        property, op, value = str(rule.get("property", "")), str(rule.get("op", "")), str(rule.get("value", ""))
        kind = "concept" if property in ("concept", "code") else "property"
        make = _FILTERS.get((kind, op))
        if make is None:
            raise Inexpandable(f"the filter {op} on {property} of a value set is not understood", "not-supported")
        return set(make(self, property, value)) & set(self.entries)


class Terminology:
    """CodeSystems and ValueSets by canonical URL, with the expansion of a value set to its concepts.

    known: lists of codes, without anything else, of value sets that are not at hand. partial: whether a code system may
    be taken for what it holds where that is a part or an example of it. most: how many codes a value set may have.
    """

    def __init__(
        self,
        value_sets: Terms,
        code_systems: Terms,
        known: Mapping[str, CodeList] | None = None,
        *,
        partial: bool = False,
        most: int = _MAX_CODES,
    ) -> None:
        self._sets, self._resources = value_sets, code_systems
        self._known = {} if known is None else known  # its truth would list it, and so make all of it
        self._partial, self._most = partial, most
        self._systems: dict[str, System | None] = {}

    @classmethod
    def of(cls, resources: Iterable[Mapping[str, Any]], known: Mapping[str, CodeList] | None = None) -> Terminology:
        """The one of these resources."""
        kept = [each for each in resources if "url" in each]
        kinds = [{r["url"]: r for r in kept if r.get("resourceType") == kind} for kind in ("ValueSet", "CodeSystem")]
        return cls(kinds[0], kinds[1], known)

    @property
    def value_sets(self) -> Iterable[str]:
        """The canonical URLs of the value sets at hand."""
        return self._sets

    def expand(self, url: str) -> CodeList:
        """The codes of a value set. Raises Inexpandable when a part of it is not at hand, or it is too large."""
        plain = url.split("|", 1)[0]
        if plain not in self._sets and plain in self._known:
            return self._known[plain]
        listed: dict[str, set[str]] = {}
        for system, code in self.concepts(url):
            listed.setdefault(system, set()).add(code)
        return {system: frozenset(codes) for system, codes in listed.items()}

    def concepts(self, url: str) -> Concepts:
        """The concepts of a value set, in their order. Raises Inexpandable."""
        return self._concepts(url, _Effort(_MAX_STEPS), 0)

    def concepts_of(self, value_set: Mapping[str, Any]) -> Concepts:
        """The same of a value set given: by its compose, else by the expansion that it came with. Raises KeyError,
        TypeError or AttributeError for what is no ValueSet.
        """
        return self._composed(value_set, _Effort(_MAX_STEPS), 0)

    def system(self, url: str) -> System | None:
        """A code system at hand, None where there is none."""
        if url not in self._systems:
            resource = self._resources[url] if url in self._resources else self._resources.get(url.split("|", 1)[0])
            self._systems[url] = None if resource is None else System(resource)
        return self._systems[url]

    def _concepts(self, url: str, effort: _Effort, depth: int) -> Concepts:
        if url not in effort.held:
            effort.held[url] = self._listed(url, effort, depth)
        return effort.held[url]

    def _listed(self, url: str, effort: _Effort, depth: int) -> Concepts:
        effort.spend(_LOOKUP)
        plain = url.split("|", 1)[0]
        found = self._sets[url] if url in self._sets else self._sets.get(plain)
        if found is not None:
            return self._composed(found, effort, depth)
        if plain not in self._known:
            raise Inexpandable(f"the ValueSet {url} is not known here")
        listed = self._known[plain]
        effort.spend(sum(map(len, listed.values())))
        return {(system, code): Concept(system, code) for system in sorted(listed) for code in sorted(listed[system])}

    def _composed(self, value_set: Mapping[str, Any], effort: _Effort, depth: int) -> Concepts:
        if depth > _MAX_DEPTH:
            raise Inexpandable("value sets include each other without end", "not-supported")
        compose = value_set.get("compose")
        concepts: Concepts = {}
        if compose is None:
            concepts = _of_expansion(value_set)
            effort.spend(len(concepts))
            return concepts
        for include in compose.get("include", ()):
            concepts |= self._included(include, effort, depth)
            if len(concepts) > self._most:
                raise Inexpandable(f"the value set has more than {self._most} codes", "too-costly")
        for exclude in compose.get("exclude", ()):
            for key in self._included(exclude, effort, depth):
                concepts.pop(key, None)
        return concepts

    def _included(self, include: Mapping[str, Any], effort: _Effort, depth: int) -> Concepts:
        """What an include holds: with a system and value sets beside each other, what all of them hold."""
        found: Concepts | None = self._of_system(include, effort) if "system" in include else None
        for other in include.get("valueSet", ()):
            concepts = self._concepts(other, effort, depth + 1)
            found = concepts if found is None else {key: one for key, one in found.items() if key in concepts}
            effort.spend(len(found))
        effort.spend(1 + len(found or ()))
        return found or {}

    def _of_system(self, include: Mapping[str, Any], effort: _Effort) -> Concepts:
        url = include["system"]
        fresh = url not in self._systems
        effort.spend(_LOOKUP if fresh else 0)
        system = self.system(url)
        effort.spend(len(system.entries) if fresh and system else 0)
        if "concept" in include:
            return {(url, _code(each)): _named(system, url, each) for each in include["concept"] if "code" in each}
        if system is None or not (system.complete or (self._partial and system.entries)):
            raise Inexpandable(f"the codes of {url} are not known here")
        codes: Iterable[str] = system.entries
        for rule in include.get("filter", ()):
            effort.spend(2 * len(system.entries))
            taken = system.filtered(rule)
            codes = [code for code in codes if code in taken]
        codes = list(codes)
        effort.spend(_MAKING * len(codes))
        return {(url, code): replace(system.concept(code), system=url) for code in codes}


class Expansions(Mapping[str, CodeList]):
    """The code lists of value sets, each made when it is first asked for; what cannot be listed is not in it."""

    def __init__(self, value_sets: Terms, code_systems: Terms, known: Mapping[str, CodeList]) -> None:
        self._value_sets = value_sets
        self._terminology = Terminology(value_sets, code_systems, known)
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


@dataclass(frozen=True, slots=True)
class Mapped:
    """One translation: R4's equivalence, the target concept ("" code: there is none), and the map's URL."""

    equivalence: str
    concept: Concept
    source: str


def translations(
    concept_map: Mapping[str, Any], system: str, code: str, *, target: str = "", reverse: bool = False
) -> list[Mapped]:
    """What a ConceptMap says of a code. system: "" for any. target: the system wanted. reverse: from targets to
    sources, whose equivalence is turned round.
    """
    found: list[Mapped] = []
    for group in concept_map.get("group", ()):
        ends = (str(group.get("source", "")), str(group.get("target", "")))
        here, there = (ends[1], ends[0]) if reverse else ends
        if (system and here and here != system) or (target and there and there != target):
            continue
        found += _reversed(concept_map, group, code, there) if reverse else _of_group(concept_map, group, code, there)
    return found


def _of_group(concept_map: Mapping[str, Any], group: Mapping[str, Any], code: str, there: str) -> Iterator[Mapped]:
    url = str(concept_map.get("url", ""))
    elements = [each for each in group.get("element", ()) if each.get("code") == code]
    for each in (target for element in elements for target in element.get("target", ())):
        concept = Concept(there, str(each.get("code", "")), str(each.get("display", "")))
        yield Mapped(str(each.get("equivalence", "")), concept, url)
    unmapped = group.get("unmapped", {})
    if not elements and unmapped.get("mode") == "fixed":
        yield Mapped("inexact", Concept(there, str(unmapped.get("code", "")), str(unmapped.get("display", ""))), url)
    elif not elements and unmapped.get("mode") == "provided":
        yield Mapped("equal", Concept(there, code), url)


def _reversed(concept_map: Mapping[str, Any], group: Mapping[str, Any], code: str, there: str) -> Iterator[Mapped]:
    for element in group.get("element", ()):
        for each in element.get("target", ()):
            if each.get("code") == code and "code" in element:
                said = str(each.get("equivalence", ""))
                concept = Concept(there, element["code"], str(element.get("display", "")))
                yield Mapped(_TURNED.get(said, said), concept, str(concept_map.get("url", "")))


_TURNED = {"wider": "narrower", "narrower": "wider", "subsumes": "specializes", "specializes": "subsumes"}


def _of_expansion(value_set: Mapping[str, Any]) -> Concepts:
    concepts: Concepts = {}
    pending = list(reversed(value_set.get("expansion", {}).get("contains", ())))
    if not pending:
        raise Inexpandable(f"the ValueSet {value_set.get('url', '')} says nothing of its codes")
    while pending:
        entry = pending.pop()
        if "code" in entry and not entry.get("abstract"):
            system, code = str(entry.get("system", "")), _code(entry)
            display, version = str(entry.get("display", "")), str(entry.get("version", ""))
            concepts[system, code] = Concept(system, code, display, version, inactive=bool(entry.get("inactive")))
        pending += reversed(entry.get("contains", ()))
    return concepts


def _code(entry: Mapping[str, Any]) -> str:
    """The code of a concept. Raises KeyError or TypeError where it has none."""
    code = entry["code"]
    if not isinstance(code, str):
        raise TypeError("a code is a text")
    return code


def _named(system: System | None, url: str, entry: Mapping[str, Any]) -> Concept:
    """A concept that a value set lists itself, with what its system says of it."""
    code = _code(entry)
    known = system.concept(code) if system and code in system.entries else Concept(url, code)
    return replace(known, system=url, display=str(entry.get("display", "")) or known.display)


def _said(system: System, property: str) -> Iterator[tuple[str, Sequence[str]]]:
    """Every code with what it says of a property, as text."""
    for code, entry in system.entries.items():
        values = [each for each in entry.get("property", ()) if each.get("code") == property]
        yield code, [_text(next((v for name, v in one.items() if name.startswith("value")), "")) for one in values]


def _saying(system: System, property: str, values: frozenset[str], wanted: bool) -> set[str]:
    """The codes that say one of the values of a property, or none of them."""
    return {code for code, said in _said(system, property) if values.isdisjoint(said) is not wanted}


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return str(value.get("code", ""))
    return str(value).lower() if isinstance(value, bool) else str(value)


_FILTERS: Mapping[tuple[str, str], Filter] = {
    ("concept", "is-a"): lambda system, _, value: {value, *system.below(value)},
    ("concept", "descendent-of"): lambda system, _, value: system.below(value),
    ("concept", "is-not-a"): lambda system, _, value: set(system.entries) - {value, *system.below(value)},
    ("concept", "generalizes"): lambda system, _, value: {value, *system.above(value)},
    ("concept", "="): lambda _, __, value: {value},
    ("concept", "in"): lambda _, __, value: value.split(","),
    ("concept", "not-in"): lambda system, _, value: set(system.entries) - set(value.split(",")),
    ("property", "="): lambda system, name, value: {code for code, said in _said(system, name) if value in said},
    ("property", "in"): lambda system, name, value: _saying(system, name, frozenset(value.split(",")), True),
    ("property", "not-in"): lambda system, name, value: _saying(system, name, frozenset(value.split(",")), False),
    ("property", "exists"): lambda system, name, value: {
        code for code, said in _said(system, name) if bool(said) == (value == "true")
    },
}
