"""One search criterion, name and value, to its clause: modifiers, OR values, chains and reverse chains.

FHIR R4: search#modifiers, search#chaining, search#has, search#combining.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import Any

from fhirserver.fhir.definitions import Definitions, SearchParameter
from fhirserver.fhir.problem import Problem, problem
from fhirserver.search.expression import reference_targets
from fhirserver.search.index import component_types, searchable
from fhirserver.search.query import (
    Chain,
    Clause,
    Has,
    Ids,
    Leaf,
    Listed,
    Missing,
    NeedsCodes,
    NeedsHierarchy,
    Not,
    both,
    either,
)
from fhirserver.search.text import split, unescape
from fhirserver.search.types import TYPES, Context
from fhirserver.search.types.composite import Operand
from fhirserver.search.types.reference import ID, RELATIVE

UNSUPPORTED: Mapping[str, str] = {
    "_filter": "filter expressions are not supported",
    "_text": "full-text search is not supported",
    "_content": "full-text search is not supported",
    "_query": "named queries are not supported",
    "near": "search by distance is not supported",
}


class Unknown(Exception):
    """A parameter that does not exist, or is not supported at all: what becomes of it depends on `handling`."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on what one search may ask. length: characters of all names and values together; values: in one comma
    list; chain: links of a chain or reverse chain; count: entries per page; types: resource types an open chain may
    try; lookups: value sets and hierarchies that are looked up."""

    pairs: int = 100
    length: int = 65_536
    values: int = 500
    chain: int = 5
    count: int = 1000
    includes: int = 50
    sort: int = 8
    types: int = 20
    lookups: int = 20


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads criteria against the definitions. base: the FHIR base URL, so that absolute references to it are relative
    ones."""

    definitions: Definitions
    base: str = ""
    now: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    zone: tzinfo = UTC
    limits: Limits = field(default_factory=Limits)

    def parameters(self, types: tuple[str, ...]) -> Mapping[str, SearchParameter]:
        """The parameters that all of the types share."""
        found = dict(self.definitions.search_parameters(types[0]))
        for type in types[1:]:
            others = self.definitions.search_parameters(type)
            found = {c: p for c, p in found.items() if c in others and others[c].type == p.type}
        return found

    def clause(self, types: tuple[str, ...], name: str, value: str, whole: str = "", depth: int = 0) -> Clause:
        """The clause of one criterion on resources of the types. `whole` is the name as the caller wrote it.

        Raises Unknown for a parameter the types do not have, Problem for what is wrong with a known one.
        """
        whole = whole or name
        if depth > self.limits.chain:
            raise problem("too-costly", f"{whole}: a chain may have {self.limits.chain} links.", f"http.{whole}")
        if name.startswith("_has:"):
            return self.has(types, name, value, whole, depth)
        head, dot, rest = name.partition(".")
        code, _, modifier = head.partition(":")
        if code == "_list":
            return self.listed(code, modifier, value, whole)
        parameter = self.parameters(types).get(code)
        if parameter is None or code in UNSUPPORTED:
            without = next((t for t in types if code not in self.definitions.search_parameters(t)), None)
            reason = f"{without} has no search parameter {code}" if without else f"{code} is not the same on all"
            raise Unknown(UNSUPPORTED.get(code, reason))
        if code not in ("_id", "_lastUpdated") and code not in searchable(self.definitions, types[0]):
            raise Unknown("the expression of this search parameter is not supported")
        if dot:
            return self.chain(types, parameter, modifier, rest, value, whole, depth)
        return self.criterion(types, parameter, modifier, value, whole)

    def has(self, types: tuple[str, ...], name: str, value: str, whole: str, depth: int) -> Clause:
        parts = name.split(":", 3)
        if len(parts) != 4 or not parts[3]:
            raise problem("invalid", f"{whole}: write _has:[type]:[reference parameter]:[parameter].", f"http.{whole}")
        _, type, code, rest = parts
        parameter = self.known_type(type, whole) and self.definitions.search_parameters(type).get(code)
        if not parameter or parameter.type != "reference":
            raise problem("invalid", f"{whole}: {type} has no reference parameter {code}.", f"http.{whole}")
        targets = self.targets((type,), parameter)
        if targets and not set(types) & set(targets) and types != ("Resource",):
            raise problem("invalid", f"{whole}: {code} of {type} cannot refer to a {types[0]}.", f"http.{whole}")
        return Has(type, code, self.linked((type,), rest, value, whole, depth))

    def linked(self, types: tuple[str, ...], name: str, value: str, whole: str, depth: int) -> Clause:
        try:
            return self.clause(types, name, value, whole, depth + 1)
        except Unknown as unknown:
            raise problem("not-supported", f"{whole}: {unknown}.", f"http.{whole}") from None

    def known_type(self, type: str, whole: str) -> bool:
        if type not in self.definitions.resource_types:
            raise problem("invalid", f"{whole}: {type[:64]} is not a resource type here.", f"http.{whole}")
        return True

    def chain(
        self,
        types: tuple[str, ...],
        parameter: SearchParameter,
        modifier: str,
        rest: str,
        value: str,
        whole: str,
        depth: int,
    ) -> Clause:
        if parameter.type != "reference":
            raise problem("invalid", f"{whole}: {parameter.code} is not a reference, it has no chain.", f"http.{whole}")
        targets = self.targets(types, parameter)
        if modifier:
            self.known_type(modifier, whole)
            if targets and modifier not in targets:
                raise problem("invalid", f"{whole}: {parameter.code} cannot refer to a {modifier}.", f"http.{whole}")
            return Chain(parameter.code, modifier, self.linked((modifier,), rest, value, whole, depth))
        code = rest.partition(".")[0].partition(":")[0]
        anything = code in ("_has", "_list")
        everything = tuple(sorted(self.definitions.resource_types))
        found = [t for t in targets or everything if anything or code in self.definitions.search_parameters(t)]
        if not found:
            raise problem("not-supported", f"{whole}: nothing it refers to has the parameter {code}.", f"http.{whole}")
        if len(found) > self.limits.types:
            said = f"{parameter.code}:{found[0]}.{rest}"
            raise problem("too-costly", f"{whole}: say what type it refers to, for example {said}.", f"http.{whole}")
        return either(*(Chain(parameter.code, t, self.linked((t,), rest, value, whole, depth)) for t in found))

    def listed(self, code: str, modifier: str, value: str, whole: str) -> Clause:
        if modifier:
            raise _modifier(whole, code, modifier)
        ids = self.values(value, whole)
        if any(not ID.fullmatch(id) for id in ids):
            raise problem("invalid", f"{whole}: the value must be the id of a List.", f"http.{whole}")
        return either(*(Listed(id) for id in ids))

    def values(self, value: str, whole: str) -> list[str]:
        found = split(value, ",")
        if len(found) > self.limits.values:
            raise problem("too-costly", f"{whole}: at most {self.limits.values} values.", f"http.{whole}")
        if any(not part for part in found):
            raise problem("invalid", f"{whole}: an empty value; write \\, for a comma in one.", f"http.{whole}")
        return found

    def criterion(
        self, types: tuple[str, ...], parameter: SearchParameter, modifier: str, value: str, whole: str
    ) -> Clause:
        code = parameter.code
        if modifier == "missing":
            if value not in ("true", "false"):
                raise problem("invalid", f"{whole}: the value must be true or false.", f"http.{whole}")
            return Missing(code, value == "true")
        values = self.values(value, whole)
        if code == "_id":
            return self.ids(values, modifier, whole)
        kind = TYPES[parameter.type]
        typed = "[type]" in kind.modifiers and modifier in self.definitions.resource_types
        if modifier and not typed and modifier not in kind.modifiers:
            raise _modifier(whole, code, modifier)
        if modifier in ("in", "not-in", "above", "below") and parameter.type == "token":
            return self.codes(code, modifier, values, whole)
        context = self.context(types, parameter, modifier, whole)
        if parameter.type == "composite":
            return Leaf(code, "composite", tuple(self.composite(types, parameter, text, context) for text in values))
        operands = tuple(dict.fromkeys(kind.parse(text, context) for text in values))
        if parameter.type == "reference" and modifier in ("above", "below"):
            return self.hierarchy(code, modifier, operands, whole)
        if modifier == "not":
            return Not(Leaf(code, parameter.type, operands))
        return Leaf(code, parameter.type, operands, "" if typed else modifier)

    def targets(self, types: tuple[str, ...], parameter: SearchParameter) -> tuple[str, ...]:
        """The types that a reference parameter can point at; () is any."""
        return reference_targets(self.definitions, types[0], parameter)

    def hierarchy(self, code: str, modifier: str, operands: tuple[tuple[str, ...], ...], whole: str) -> Clause:
        relative = frozenset(form for operand in operands for form in operand if RELATIVE.fullmatch(form))
        if not relative:
            raise problem("invalid", f"{whole}: the value must be an id or Type/id of this server.", f"http.{whole}")
        return NeedsHierarchy(code, modifier, relative)

    def context(self, types: tuple[str, ...], parameter: SearchParameter, modifier: str, whole: str) -> Context:
        targets = self.targets(types, parameter) if parameter.type == "reference" else ()
        if targets and modifier in self.definitions.resource_types and modifier not in targets:
            raise problem("invalid", f"{whole}: {parameter.code} cannot refer to a {modifier}.", f"http.{whole}")
        return Context(whole, modifier, self.base, targets, self.definitions.resource_types, self.now, self.zone)

    def ids(self, values: list[str], modifier: str, whole: str) -> Clause:
        if modifier not in ("", "not"):
            raise _modifier(whole, "_id", modifier)
        ids = Ids(frozenset(unescape(value, whole) for value in values))
        return Not(ids) if modifier else ids

    def codes(self, code: str, modifier: str, values: list[str], whole: str) -> Clause:
        needs: list[Clause] = []
        for value in values:
            if modifier in ("in", "not-in"):
                needs.append(NeedsCodes(code, modifier, url=unescape(value, whole)))
                continue
            parts = [unescape(part, whole) for part in split(value, "|")]
            if len(parts) > 2 or not parts[-1]:
                raise problem("invalid", f"{whole}: write code or system|code.", f"http.{whole}")
            needs.append(NeedsCodes(code, modifier, "", parts[0] if len(parts) == 2 else None, parts[-1]))
        return both(*needs) if modifier == "not-in" else either(*needs)

    def composite(self, types: tuple[str, ...], parameter: SearchParameter, text: str, context: Context) -> Operand:
        components = component_types(self.definitions, types[0], parameter)
        parts = split(text, "$")
        if not components or len(parts) != len(components) or not all(parts):
            raise context.invalid(f"write its {len(components)} values with $ between them.")
        found: list[tuple[Any, Any]] = []
        for (kind, _), part in zip(components, parts, strict=True):
            found.append((TYPES[kind], TYPES[kind].parse(part, context)))
        return Operand(tuple(found))


def _modifier(whole: str, code: str, modifier: str) -> Problem:
    text = f"{whole}: the modifier :{modifier[:64]} cannot be used on {code}."
    return problem("not-supported", text, f"http.{whole}")
