"""What moves from one patient to another by message: a number (A43), an account (A44), a visit (A45).

HL7 v2.8.2 chapter 3: what came under it moves along, nothing is retired, and another move brings it back. What came
under a visit refers to it; under an account, to it or to one of its visits. What came under a number is everything of
a patient that has no other: of one that has, nobody can say, and only the number moves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fhirserver.auth.access import everything
from fhirserver.fhir import Resource
from fhirserver.fhir.problem import problem
from fhirserver.interactions.model import Request, Server
from fhirserver.search.query import Clause, References, either
from fhirserver.store.model import Stored
from fhirserver.store.search import compile_search, find

MOVE = "move"
MOST_VISITS = 200
"""Visits of one account whose records move with it."""
PARTS: Mapping[str, tuple[str, ...]] = {"Encounter": ("account",), "ChargeItem": ("account",)}
"""Type -> the search parameters by which it belongs to an account, which has no compartment in FHIR."""
NOBODY = "A move names only the number that moves. PID-2, or another number in PID-3, says whose it becomes."
ITSELF = "A move names the same patient as the one that had the number and the one that gets it."

Number = tuple[str, str]


def number(identifier: Mapping[str, Any]) -> Number:
    """System and value, by which numbers are told apart."""
    return str(identifier.get("system", "")), str(identifier.get("value", ""))


def taken(source: Resource) -> frozenset[Number]:
    """The numbers that a message takes from a patient: those that it says are old there."""
    return frozenset(number(each) for each in source.get("identifier", ()) if each.get("use") == "old")


def owner(match: Sequence[Mapping[str, str]], source: Resource) -> list[Mapping[str, str]]:
    """The identifiers that tell who gets a number: not the number itself. Raises Problem(business-rule) for none."""
    moved = taken(source)
    own = [each for each in match if number(each) not in moved]
    if not own:
        raise problem("business-rule", NOBODY, "PID-2")
    return own


def is_whole(before: Resource, said: Resource) -> bool:
    """Whether all that is known of a patient came under the numbers that a message takes from it: beside them it has
    those only that stand above them (MRG-4).
    """
    named = {number(each) for each in said.get("identifier", ())}
    return all(number(each) in named for each in before.get("identifier", ()) if each.get("use") != "secondary")


def holder(resource: Resource) -> str:
    """The patient (Patient/id) that a visit or an account is of, "" for none of ours."""
    subject = resource.get("subject", ())
    references = [str(each.get("reference", "")) for each in (subject if isinstance(subject, list) else [subject])]
    return next((each for each in references if each.startswith("Patient/")), "")


def within(server: Server, request: Request, name: str) -> tuple[str, ...]:
    """What those refer to that move with a visit or an account: it, and the visits of an account."""
    if not name.startswith("Account/"):
        return (name,)
    whole, clause = everything(request.organization), References("account", frozenset({name}))
    search = compile_search(server.store, whole, "Encounter", [clause], request.session)
    found = find(server.store, search, (), MOST_VISITS, session=request.session).matches if search else ()
    return (name, *(f"Encounter/{each.id}" for each in found))


def about(server: Server, type: str, names: Sequence[str]) -> Clause | None:
    """The clause that a resource of a type refers to one of these visits and accounts; None where it cannot."""
    definitions = server.definitions
    known = definitions.search_parameters(type)
    accounts = frozenset(each for each in names if each.startswith("Account/"))
    visits = frozenset(names) - accounts
    codes = definitions.compartments["Encounter"].get(type, ())
    clauses: list[Clause] = [References(code, visits) for code in codes if visits and code in known]
    clauses += [References(code, accounts) for code in PARTS.get(type, ()) if accounts and code in known]
    return either(*clauses) if clauses else None


def origin(before: Stored | None, name: str, said: Resource, into: str) -> str:
    """The patient (Patient/id) whose references a move changes, "" where it changes none: `before` is what moves (or
    the patient that a number is taken from) as it was stored, `name` its Type/id, `said` what the message says of it.
    """
    if before is None:
        return ""
    resource = before.resource()
    if before.type == "Patient":
        return name if is_whole(resource, said) else ""
    source = holder(resource)
    return source if source != into else ""
