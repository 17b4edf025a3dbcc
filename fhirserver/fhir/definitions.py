"""What FHIR R4 and the resources added at run time define: types, search parameters, compartments, profiles, codes.

FHIR R4: structuredefinition, searchparameter, compartmentdefinition, valueset. The R4 part is a snapshot of the
official package made by tools/build_definitions.py. A Definitions is immutable: `extended` makes a new one.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from importlib import resources as files
from typing import Any, TypeVar, cast

import msgspec

from fhirserver.fhir import Resource
from fhirserver.fhir.definitions_model import Binding, Constraint, Property, SearchParameter, TypeDefinition
from fhirserver.fhir.definitions_structure import types_of
from fhirserver.fhir.problem import problem
from fhirserver.fhir.terminology import CodeList, Expansions, Inexpandable, Terminology

__all__ = ["Binding", "CodeList", "Constraint", "Definitions", "Property", "SearchParameter", "TypeDefinition"]

T = TypeVar("T")
VERSION = "4.0.1"
Compartments = Mapping[str, Mapping[str, tuple[str, ...]]]

# Code lists that name every type: those a server adds belong into them, or none could refer to its own types.
_TYPE_LISTS = {
    f"http://hl7.org/fhir/ValueSet/{name}": "http://hl7.org/fhir/resource-types"
    for name in ("resource-types", "defined-types", "all-types")
}


class _Layered(Mapping[str, T]):
    """Mappings of which an earlier one wins; what the official package has comes last, and is read when first asked
    for.
    """

    def __init__(self, own: tuple[Mapping[str, T], ...], official: Callable[[], Mapping[str, T]]) -> None:
        self._own, self._official = own, official

    def __getitem__(self, url: str) -> T:
        for mapping in self._own:
            found = mapping.get(url)
            if found is not None:
                return found
        return self._official()[url]

    def __contains__(self, url: object) -> bool:
        return any(url in mapping for mapping in self._own) or url in self._official()

    def __iter__(self) -> Iterator[str]:
        return iter({url: None for mapping in (*self._own, self._official()) for url in mapping})

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def under(self, *more: Mapping[str, T]) -> _Layered[T]:
        """The same with these before it."""
        return _Layered((*more, *self._own), self._official)


@dataclass(frozen=True, slots=True)
class Shelf:
    """Resources by canonical URL that are read when asked for, so that there may be many: profiles (extension
    definitions included), value sets, code systems.
    """

    profiles: Mapping[str, Resource] = field(default_factory=dict)
    value_sets: Mapping[str, Resource] = field(default_factory=dict)
    code_systems: Mapping[str, Resource] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Definitions:
    """Everything known about types at one generation.

    types: name -> TypeDefinition, backbone elements under their path. resource_types: the concrete ones, ours included.
    parameters: base type -> code -> SearchParameter, as declared on that very base (see `search_parameters`).
    compartments: compartment -> resource type -> codes of the reference parameters that put a resource into it; the
    focal type's own tuple begins with "{def}": the resource itself is in its compartment.
    profiles: canonical URL -> StructureDefinition resource that constrains a type, extension definitions included.
    code_lists: canonical URL of a value set (no version) -> system -> codes; only value sets that can be listed.
    """

    generation: int
    types: Mapping[str, TypeDefinition]
    parameters: Mapping[str, Mapping[str, SearchParameter]]
    compartments: Compartments
    profiles: _Layered[Resource]
    code_lists: _Layered[CodeList]
    _found: dict[str, Mapping[str, SearchParameter]] = field(default_factory=dict, repr=False)
    _derived: dict[Callable[[Definitions], Any], Any] = field(default_factory=dict, repr=False)

    @classmethod
    def load(cls) -> Definitions:
        """The definitions of FHIR R4, generation 0."""
        return _official()

    @cached_property
    def resource_types(self) -> frozenset[str]:
        """The names of all resource types that can be stored."""
        return frozenset(n for n, t in self.types.items() if t.kind == "resource" and not t.abstract)

    def search_parameters(self, type: str) -> Mapping[str, SearchParameter]:
        """Code -> parameter for a resource type, those of its base types (Resource, DomainResource) included."""
        found = self._found.get(type)
        if found is None:
            chain = list(self.bases(type))
            found = {c: p for base in reversed(chain) for c, p in self.parameters.get(base, {}).items()}
            self._found[type] = found
        return found

    def bases(self, name: str) -> Iterator[str]:
        """The type and what it derives from, nearest first: Patient, DomainResource, Resource."""
        current: str | None = name
        for _ in range(20):  # a bound: an added type could name itself as its base
            if current is None or current not in self.types:
                return
            yield current
            current = self.types[current].base

    def is_subtype(self, name: str, base: str) -> bool:
        """Whether a type is `base` or derives from it: ("Patient", "Resource"), ("Age", "Quantity")."""
        return base in self.bases(name)

    def codes(self, value_set: str) -> CodeList | None:
        """System -> codes of a value set given by canonical URL; None when it cannot be listed."""
        return self.code_lists.get(value_set.split("|", 1)[0])

    def derived(self, make: Callable[[Definitions], T]) -> T:
        """What `make` (a class, a function) makes of these definitions: made once, kept as long as they are."""
        found = self._derived.get(make)
        if found is None:
            found = self._derived.setdefault(make, make(self))
        return cast(T, found)

    def extended(self, resources: Iterable[Resource], generation: int, shelf: Shelf | None = None) -> Definitions:
        """These definitions with StructureDefinition, SearchParameter, CompartmentDefinition, ValueSet and CodeSystem
        resources added; others and those with status `retired` are passed over. What is added wins over what is there;
        what is on the shelf comes between.

        Raises Problem(invalid) for a StructureDefinition that cannot be read.
        """
        kept = [r for r in resources if r.get("status") != "retired"]
        added, shelf = _by_kind(kept), shelf or Shelf()
        types = _with_types(self.types, added["specialization"])
        profiles = {s["url"]: s for s in added["constraint"] if "url" in s}
        lists = self.code_lists.under(Expansions(shelf.value_sets, shelf.code_systems, self.code_lists))
        return replace(
            self,
            generation=generation,
            types=types,
            parameters=_with_parameters(self.parameters, added["SearchParameter"]),
            compartments=_with_compartments(self.compartments, added["CompartmentDefinition"]),
            profiles=self.profiles.under(profiles, shelf.profiles),
            code_lists=lists.under(_codes(lists, added["terminology"], types)),
            _found={},
            _derived={},
        )


def restates(resource: Resource) -> bool:
    """Whether a StructureDefinition or SearchParameter is R4's own, said again: it adds nothing to the definitions."""
    return resource.get("version") == VERSION and resource.get("url") in official_urls()


@cache
def official_urls() -> frozenset[str]:
    """The canonical URLs of R4's own types and search parameters."""
    known = _official()
    parameters = (parameter.url for of_type in known.parameters.values() for parameter in of_type.values())
    return frozenset((*(definition.url for definition in known.types.values()), *parameters))


def _by_kind(resources: Iterable[Resource]) -> dict[str, list[Resource]]:
    names = ("specialization", "constraint", "SearchParameter", "CompartmentDefinition", "terminology")
    kinds: dict[str, list[Resource]] = {name: [] for name in names}
    for resource in resources:
        kind = resource.get("resourceType", "")
        if kind == "StructureDefinition":
            kind = "constraint" if resource.get("derivation") == "constraint" else "specialization"
        elif kind in ("ValueSet", "CodeSystem"):
            kind = "terminology"
        if kind in kinds:
            kinds[kind].append(resource)
    return kinds


def _with_types(types: Mapping[str, TypeDefinition], structures: Iterable[Resource]) -> Mapping[str, TypeDefinition]:
    known = dict(types)
    waiting = [s for s in structures if s.get("kind") != "logical"]
    while waiting:  # a type may come before its base
        ready = [s for s in waiting if "snapshot" in s or _base(s) in known] or waiting
        for structure in ready:
            try:
                known |= {t.name: t for t in types_of(structure, known)}
            except (KeyError, TypeError, ValueError, AttributeError, IndexError):
                where = f"StructureDefinition {structure.get('url')}"
                raise problem("invalid", f"{where} cannot be read: correct its elements.", "snapshot") from None
        waiting = [s for s in waiting if s not in ready]
    return known


def _base(structure: Resource) -> str:
    return str(structure.get("baseDefinition", "")).rsplit("/", 1)[-1]


def _with_parameters(
    known: Mapping[str, Mapping[str, SearchParameter]], resources: Iterable[Resource]
) -> Mapping[str, Mapping[str, SearchParameter]]:
    merged = {base: dict(parameters) for base, parameters in known.items()}
    for resource in resources:
        parameter = _parameter(resource)
        for base in parameter.base:
            of_base = merged.setdefault(base, {})
            if not _finds_the_same(of_base.get(parameter.code), parameter, base):
                of_base[parameter.code] = parameter
    return merged


def _finds_the_same(known: SearchParameter | None, added: SearchParameter, base: str) -> bool:
    """Whether a parameter says again what one that is known does on a type, as implementation guides do."""
    if known is None or known.type != added.type:
        return False
    paths = _paths(added, base)
    return bool(paths) and paths == _paths(known, base)


def _paths(parameter: SearchParameter, base: str) -> set[str]:
    parts = (part.strip() for part in parameter.expression.split("|"))
    return {part for part in parts if part.lstrip("(").startswith(f"{base}.")}


def _parameter(resource: Resource) -> SearchParameter:
    components = ((c.get("definition", ""), c.get("expression", "")) for c in resource.get("component", ()))
    return SearchParameter(
        code=resource["code"],
        type=resource["type"],
        expression=resource.get("expression", ""),
        base=tuple(resource["base"]),
        url=resource.get("url", ""),
        target=() if "Resource" in resource.get("target", ()) else tuple(resource.get("target", ())),
        components=tuple(components),
        modifiers=tuple(resource.get("modifier", ())),
        comparators=tuple(resource.get("comparator", ())),
    )


def _with_compartments(known: Compartments, resources: Iterable[Resource]) -> Compartments:
    merged = dict(known)
    for resource in resources:
        code = resource["code"]
        of_type = {r["code"]: tuple(r["param"]) for r in resource.get("resource", ()) if r.get("param")}
        own = tuple(p for p in of_type.get(code, ()) if p != "{def}")
        merged[code] = {**of_type, code: ("{def}", *own)}
    return merged


def _codes(
    known: Mapping[str, CodeList], terminology: Iterable[Resource], types: Mapping[str, TypeDefinition]
) -> dict[str, CodeList]:
    """The code lists that value sets and types add to those that are known."""
    added: dict[str, CodeList] = {}
    at_hand = Terminology.of(terminology, known)
    for url in at_hand.value_sets:
        try:
            added[url] = at_hand.expand(url)
        except (Inexpandable, KeyError, TypeError, AttributeError):
            continue
    resource_types = frozenset(n for n, t in types.items() if t.kind == "resource")
    for url, system in _TYPE_LISTS.items():
        added[url] = {**known[url], system: known[url][system] | resource_types}
    return added


def _read(name: str) -> Any:
    data = files.files("fhirserver.fhir").joinpath("data", name).read_bytes()
    return msgspec.json.decode(gzip.decompress(data))


@cache
def _official() -> Definitions:
    snapshot = _read("r4.json.gz")
    return Definitions(
        generation=0,
        types=_with_types({}, snapshot["StructureDefinition"]),
        parameters=_with_parameters({}, snapshot["SearchParameter"]),
        compartments=_with_compartments({}, snapshot["CompartmentDefinition"]),
        profiles=_Layered((), _official_profiles),
        code_lists=_Layered((_lists(snapshot["codes"]),), _official_codes),
    )


@cache
def _official_profiles() -> Mapping[str, Resource]:
    return {s["url"]: s for s in _read("r4-profiles.json.gz")["StructureDefinition"]}


@cache
def _official_codes() -> Mapping[str, CodeList]:
    return _lists(_read("r4-codes.json.gz"))


def _lists(codes: Mapping[str, Mapping[str, list[str]]]) -> Mapping[str, CodeList]:
    return {url: {system: frozenset(of) for system, of in systems.items()} for url, systems in codes.items()}
