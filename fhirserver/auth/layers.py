"""The layers of a decision. Each says which resources it permits for a type and a letter; all of them must permit.

A layer answers with alternatives: None permits nothing, `()` everything, else one tuple of clauses per alternative,
any of which suffices. AccessPolicies are one more layer: another that can only narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from fhirserver.auth import scopes
from fhirserver.auth.principal import Principal
from fhirserver.fhir import Resource
from fhirserver.fhir.definitions import Definitions
from fhirserver.fhir.problem import Problem, problem
from fhirserver.search import query
from fhirserver.search.parse import parse
from fhirserver.search.query import Chain, Clause, Has, Listed, NeedsCodes, NeedsHierarchy, walk

Alternatives = tuple[tuple[Clause, ...], ...] | None
Pairs = tuple[tuple[str, str], ...]

_BY_STORE = (Chain, Has, Listed, NeedsCodes, NeedsHierarchy)
"""Clauses that only the store can resolve: a written resource cannot be held to them."""

LEVELS: Mapping[str, tuple[str, ...]] = {
    "client": ("system",),
    "user": ("user", "patient"),
    "operator": ("system", "user"),
}
"""The levels of scope that count for each kind of principal."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One party to a decision: `name` is scope, authorization, policy or role; `refusal` explains to whom it says
    no.
    """

    name: str
    permits: Callable[[str, str], Alternatives]
    refusal: Callable[[str, str], str]
    judges: Callable[[str, str, Resource], Alternatives] | None = None
    """What is permitted once the resource to be written is known, where that makes a difference."""


def scope_layer(name: str, text: str, principal: Principal, definitions: Definitions, who: str) -> Layer:
    """The layer of a set of scopes: the token's, those the client registered, or those an organization approved.

    A text that cannot be read permits nothing. A granular scope is the search clause that it says; a patient scope
    adds the compartment of the patient in launch context.
    """
    held = _read(text, definitions)
    levels = LEVELS.get(principal.kind, ())

    def permits(type_: str, letter: str) -> Alternatives:
        found: list[tuple[Clause, ...]] = []
        for level in levels:
            alternatives = held.alternatives(level, type_, letter)
            if alternatives is None or (level == "patient" and not principal.patient):
                continue
            around = _compartment(definitions, type_, principal.patient) if level == "patient" else ()
            if around is None:
                continue
            found += _narrowed(definitions, type_, alternatives, around)
        return _alternatives(found)

    def refusal(type_: str, letter: str) -> str:
        return f"{who} does not permit {scopes.ACTIONS[letter]} {type_}: it needs {levels[-1]}/{type_}.{letter}."

    return Layer(name, permits, refusal)


def _read(text: str, definitions: Definitions) -> scopes.Scopes:
    try:
        return scopes.cached(text, definitions.resource_types)
    except Problem:
        return scopes.Scopes()


def _narrowed(
    definitions: Definitions, type_: str, alternatives: tuple[Pairs, ...], around: tuple[Clause, ...]
) -> list[tuple[Clause, ...]]:
    if not alternatives:
        return [around]
    read = (clauses_of(definitions, type_, params) for params in alternatives)
    return [(*clauses, *around) for clauses in read if clauses is not None]


def _alternatives(found: list[tuple[Clause, ...]]) -> Alternatives:
    if not found:
        return None
    return () if () in found else tuple(found)


def _compartment(definitions: Definitions, type_: str, patient: str) -> tuple[Clause, ...] | None:
    """The clause of the patient's compartment, None for a type that is in no patient compartment."""
    clause = query.compartment(definitions, "Patient", patient, type_)
    return None if clause is None else (clause,)


def clauses_of(definitions: Definitions, type_: str, pairs: Pairs) -> tuple[Clause, ...] | None:
    """The clauses of search parameters that a single resource can be held to.

    None where one cannot be served: a narrowing must never get lost.
    """
    known = definitions.search_parameters(type_)
    if any(name.split(":")[0] not in known for name, _ in pairs):
        return None
    try:
        clauses = parse(definitions, type_, pairs, strict=True).clauses
    except Problem:
        return None
    return None if any(isinstance(part, _BY_STORE) for clause in clauses for part in walk(clause)) else clauses


def check_narrowing(held: scopes.Scopes, definitions: Definitions) -> None:
    """Raises Problem(value) for a granular scope whose search parameters cannot be asked of a single resource."""
    for scope in held.resource:
        if scope.params and clauses_of(definitions, scope.type, scope.params) is None:
            text = f"The scope {scope} may only use {scope.type}'s own search parameters, without chains or value sets."
            raise problem("value", text)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a table of rights: the letters on the types, for resources that match `where` (a search; none:
    all).
    """

    types: tuple[str, ...]
    letters: str
    where: Clause | None = None


def table_layer(name: str, rows: Iterable[Row], who: str) -> Layer:
    """The layer of a table of rights; type `*` stands for every type. Rows about the same type are alternatives."""
    held = tuple(rows)

    def permits(type_: str, letter: str) -> Alternatives:
        mine = [row for row in held if letter in row.letters and (type_ in row.types or "*" in row.types)]
        return _alternatives([() if row.where is None else (row.where,) for row in mine])

    def refusal(type_: str, letter: str) -> str:
        return f"{who} may not {scopes.ACTIONS[letter].lower()} {type_} here."

    return Layer(name, permits, refusal)


def closed_layer(name: str, sentence: str) -> Layer:
    """A layer that permits nothing, and says why."""
    return Layer(name, lambda type_, letter: None, lambda type_, letter: sentence)


def insufficient(layer: Layer, type_: str, letter: str, kind: str) -> Problem:
    """The 403 of a layer that permits nothing of the type and letter; for a scope with the challenge of RFC 6750."""
    text = layer.refusal(type_, letter)
    if layer.name != "scope":
        return problem("forbidden", text)
    needed = f"{LEVELS.get(kind, ('system',))[0]}/{type_}.{letter}"
    challenge = f'Bearer realm="fhir", error="insufficient_scope", scope="{needed}"'
    return problem("forbidden", text, headers={"WWW-Authenticate": challenge})
