"""A parsed search: clauses that say which resources match, and what the answer is to look like.

FHIR R4: search. Clauses are values: `mongo.filter` turns them into a MongoDB filter, `match.matches` asks them of
index values in memory. Those that need the store (Chain, Has, Listed, NeedsCodes, NeedsHierarchy) are first replaced
by it: `rewrite`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from fhirserver.fhir.definitions import Definitions
from fhirserver.search.types import token


@dataclass(frozen=True, slots=True)
class Leaf:
    """One parameter has one of the values. type: the search parameter type; values: its operands (see `types`)."""

    parameter: str
    type: str
    values: tuple[Any, ...]
    modifier: str = ""


@dataclass(frozen=True, slots=True)
class And:
    """All of the clauses; of none, everything."""

    clauses: tuple[Clause, ...]


@dataclass(frozen=True, slots=True)
class Or:
    """One of the clauses; of none, nothing."""

    clauses: tuple[Clause, ...]


@dataclass(frozen=True, slots=True)
class Not:
    """What the clause does not match, resources without the parameter included."""

    clause: Clause


@dataclass(frozen=True, slots=True)
class Missing:
    """The resource has no value for the parameter, or (missing False) has one."""

    parameter: str
    missing: bool


@dataclass(frozen=True, slots=True)
class Ids:
    """The resource's id is one of these."""

    ids: frozenset[str]


@dataclass(frozen=True, slots=True)
class Nothing:
    """Matches no resource."""


@dataclass(frozen=True, slots=True)
class References:
    """A reference parameter holds one of these, as they are stored: "Patient/1", an absolute URL."""

    parameter: str
    references: frozenset[str]


@dataclass(frozen=True, slots=True)
class Chain:
    """A reference parameter points at a resource of `type` that the clause matches. The store replaces it by
    References."""

    parameter: str
    type: str
    clause: Clause


@dataclass(frozen=True, slots=True)
class Has:
    """A resource of `type` that the clause matches points at this one with its reference parameter. The store
    replaces it by Ids."""

    type: str
    parameter: str
    clause: Clause


@dataclass(frozen=True, slots=True)
class Listed:
    """The resource is an entry of the List (`_list`). The store replaces it by Ids."""

    list: str


@dataclass(frozen=True, slots=True)
class NeedsCodes:
    """A token parameter related to a value set (modifier in, not-in: `url`) or to a code's ancestors or descendants
    (above, below: `system`, `code`). The store finds the codes and replaces it by `with_codes`."""

    parameter: str
    modifier: str
    url: str = ""
    system: str | None = None
    code: str = ""


@dataclass(frozen=True, slots=True)
class NeedsHierarchy:
    """A reference parameter points at one of `references` ("Location/1") or at what lies above or below it in the
    hierarchy of its own type. The store replaces it by References."""

    parameter: str
    modifier: str
    references: frozenset[str]


@dataclass(frozen=True, slots=True)
class Contained:
    """The resource has one of `type` inside it that the clause matches (search#contained); with `by` one that its
    reference parameter of that code refers to."""

    type: str
    clause: Clause
    by: str = ""


Clause = (
    Leaf
    | And
    | Or
    | Not
    | Missing
    | Ids
    | Nothing
    | References
    | Chain
    | Has
    | Listed
    | NeedsCodes
    | NeedsHierarchy
    | Contained
)


@dataclass(frozen=True, slots=True)
class SortKey:
    """One key of `_sort`. field: the scalar field in the store (`k.birthdate.lo`, `t`, `i`). Missing values come
    last."""

    parameter: str
    field: str
    descending: bool = False


@dataclass(frozen=True, slots=True)
class Include:
    """One _include or _revinclude: of resources of type `source`, what its reference parameter points at; `parameter`
    "*" is every one. target: only resources of that type, "" any. iterate: also of what was included."""

    source: str
    parameter: str
    target: str = ""
    iterate: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    """A parsed search.

    type: the resource type, None for a search over `types` (those `_type` names, or all where it is empty).
    clauses: all must match. count: entries per page, None where not said. total: none, estimate, accurate.
    summary: "", true, text, data, count or false. elements: names of top-level elements, () all.
    contained: "", false, true or both: whether resources inside others are searched; contained_type: "", container or
    contained: which of the two is answered. format, pretty: `_format`, `_pretty`.
    cursor: the text of the paging cursor, "" on the first page. explain is set by the caller who may ask for it.
    used: the (name, value) pairs that took effect, in order. unsupported: (name, reason) of those that did not.
    """

    type: str | None
    clauses: tuple[Clause, ...] = ()
    types: tuple[str, ...] = ()
    sort: tuple[SortKey, ...] = ()
    count: int | None = None
    total: str = ""
    summary: str = ""
    elements: tuple[str, ...] = ()
    includes: tuple[Include, ...] = ()
    revincludes: tuple[Include, ...] = ()
    contained: str = ""
    contained_type: str = ""
    format: str = ""
    pretty: bool = False
    cursor: str = ""
    explain: bool = False
    used: tuple[tuple[str, str], ...] = ()
    unsupported: tuple[tuple[str, str], ...] = field(default=())

    @property
    def clause(self) -> Clause:
        """All the clauses as one."""
        return both(*self.clauses)


def both(*clauses: Clause) -> Clause:
    """All of the clauses, flattened: one that matches nothing makes it Nothing."""
    found: list[Clause] = []
    for clause in clauses:
        found.extend(clause.clauses if isinstance(clause, And) else (clause,))
    if any(clause == Nothing() or clause == Or(()) for clause in found):
        return Nothing()
    kept = tuple(dict.fromkeys(found))
    return kept[0] if len(kept) == 1 else And(kept)


def either(*clauses: Clause) -> Clause:
    """One of the clauses, flattened: those that match nothing fall away."""
    found: list[Clause] = []
    for clause in clauses:
        found.extend(clause.clauses if isinstance(clause, Or) else (clause,))
    kept = tuple(clause for clause in dict.fromkeys(found) if clause != Nothing())
    if not kept:
        return Nothing()
    return kept[0] if len(kept) == 1 else Or(kept)


def rewrite(clause: Clause, replacement: Callable[[Clause], Clause | None]) -> Clause:
    """The clause with every part replaced for which `replacement` answers another.

    It is asked outermost first, and not about the parts of what it replaced. It is asked about the clauses inside
    Chain, Has and Contained too, which are about other resources, unless it replaced the Chain, Has or Contained.
    """
    replaced = replacement(clause)
    if replaced is not None:
        return replaced
    if isinstance(clause, And):
        return both(*(rewrite(part, replacement) for part in clause.clauses))
    if isinstance(clause, Or):
        return either(*(rewrite(part, replacement) for part in clause.clauses))
    if isinstance(clause, Not):
        inner = rewrite(clause.clause, replacement)
        return And(()) if inner == Nothing() else replace(clause, clause=inner)
    if isinstance(clause, Chain | Has | Contained):
        inner = rewrite(clause.clause, replacement)
        return inner if inner == Nothing() else replace(clause, clause=inner)
    return clause


def walk(clause: Clause) -> Iterator[Clause]:
    """The clause and all its parts, those inside Chain, Has and Contained included, outermost first."""
    yield clause
    if isinstance(clause, And | Or):
        for part in clause.clauses:
            yield from walk(part)
    elif isinstance(clause, Not | Chain | Has | Contained):
        yield from walk(clause.clause)


def with_codes(needs: NeedsCodes, codes: Iterable[tuple[str | None, str]]) -> Clause:
    """What takes the place of a NeedsCodes once the codes are known, each with its system (None: any)."""
    values = tuple(dict.fromkeys(token.stored(system, code) for system, code in codes))
    found: Clause = Leaf(needs.parameter, "token", values) if values else Nothing()
    if needs.modifier == "not-in":
        return Not(found) if values else And(())
    return found


def compartment(definitions: Definitions, compartment: str, id: str, type: str) -> Clause | None:
    """The clause that a resource of `type` is in the compartment of `<compartment>/<id>`; None where that type never
    is.

    The focal resource is in its own compartment where the definition says so ({def}).
    """
    codes = definitions.compartments.get(compartment, {}).get(type)
    if not codes:
        return None
    parameters = definitions.search_parameters(type)
    reference = frozenset({f"{compartment}/{id}"})
    clauses: list[Clause] = [Ids(frozenset({id}))] if "{def}" in codes else []
    clauses += [References(code, reference) for code in codes if code in parameters]
    return either(*clauses) if clauses else None
