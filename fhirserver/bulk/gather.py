"""What an export holds, step by step: the steps, and the resources of each in the order of their ids.

Everything is read as the caller may search it. An export is as of its transaction time: of a resource that has changed
since, the version of then is taken.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from fhirserver.auth.access import Access
from fhirserver.auth.principal import Principal
from fhirserver.bulk.asked import Asked
from fhirserver.fhir.json import encode
from fhirserver.fhir.references import named
from fhirserver.interactions.codes import with_known_codes
from fhirserver.interactions.model import Server
from fhirserver.interactions.summary import subset
from fhirserver.search.parse import parse
from fhirserver.search.query import Clause, Ids, Missing, Nothing, References, both, either
from fhirserver.store.exports import as_of, scan
from fhirserver.store.model import Stored
from fhirserver.store.search import by_references, compile_search, joined

MEMBERS_TOGETHER = 100
REFERRED_TOGETHER = 100
MOST_REFERRED = 100_000
ROUNDS = 2
"""How far what is referred to is followed: a role's practitioner and organization, not all that hangs on those."""
OPERATIONAL = frozenset({"AuditEvent", "BulkExport", "InboundMessage", "NotificationDelivery", "Subscription"})
"""Types about the traffic itself, exported only where `_type` names them."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Of what an export is. level: system, patient (all patients) or members (those of `patients`). types: those to
    scan, in their order. wider: types outside the compartment that are exported where something refers to them.
    patients: their ids, sorted.
    """

    level: str
    types: tuple[str, ...]
    wider: frozenset[str]
    patients: tuple[str, ...]
    time: datetime
    wanted: Asked

    @property
    def groups(self) -> int:
        """Into how many groups the members are cut; one at the other levels."""
        return -(-len(self.patients) // MEMBERS_TOGETHER) if self.level == "members" else 1

    @property
    def length(self) -> int:
        """How many steps there are: every type with every group."""
        return len(self.types) * self.groups

    def type(self, step: int) -> str:
        """The type of a step; "" for the step behind the last."""
        return self.types[step // self.groups] if step < self.length else ""

    def earlier(self, group: int, text: str) -> bool:
        """Whether a reference is to a member of an earlier group."""
        type, _, id = text.partition("/")
        at = bisect_left(self.patients, id)
        return type == "Patient" and at < group * MEMBERS_TOGETHER and self.patients[at] == id


@dataclass(frozen=True, slots=True)
class Line:
    """One resource of an export: its id, its line of NDJSON, and what it refers to in the wider types."""

    type: str
    id: str
    text: bytes
    referred: frozenset[str]


Criteria = dict[str, list[Clause]]
"""What is asked for of a type, which is the same in all of its steps: chains and value sets are looked up once."""


def lines(server: Server, access: Access, scope: Scope, step: int, after: str, criteria: Criteria) -> Iterator[Line]:
    """The resources of a step, those behind the id `after`."""
    type, group = scope.type(step), step % scope.groups
    members = scope.patients[group * MEMBERS_TOGETHER : (group + 1) * MEMBERS_TOGETHER]
    codes = _compartment(server, type)
    if type not in criteria:
        asked = _clauses(server, access, scope.wanted, type)
        criteria[type] = [joined(server.store, access, type, clause) for clause in asked]
    clauses = list(criteria[type])
    if scope.level == "patient" and type != "Patient":
        clauses.append(either(*(Missing(code, False) for code in codes)))
    elif scope.level == "members":
        clauses.append(_of(type, codes, members))
    if scope.wanted.until and scope.wanted.until < scope.time:
        clauses += _changed(server, type, f"le{scope.wanted.until.isoformat()}")
    search = compile_search(server.store, access, type, clauses, None)
    if search is None:
        return
    server.store.indexes.ensure(type, search.fields)
    for version, values in scan(server.store, search, f"{access.organization}/{after}" if after else "", codes):
        held = {text for code in codes for text in values.get(code) or () if isinstance(text, str)}
        if scope.level == "patient" and type != "Patient" and not any(text.startswith("Patient/") for text in held):
            continue
        if group and type != "Patient" and any(scope.earlier(group, text) for text in held):
            continue  # it is in the file of an earlier group: a resource of two patients is exported once
        line = _line(server, access.principal, scope, version)
        if line:
            yield line


def wider(server: Server, access: Access, scope: Scope, referred: Iterable[str]) -> Iterator[Line]:
    """What the exported resources refer to outside the compartment, type by type in each round."""
    seen: set[str] = set()
    fresh = set(referred)
    for _ in range(ROUNDS):
        now = sorted(fresh - seen)[: MOST_REFERRED - len(seen)]
        seen.update(now)
        fresh = set()
        for start in range(0, len(now), REFERRED_TOGETHER):
            for version in by_references(server.store, access, now[start : start + REFERRED_TOGETHER]):
                line = _line(server, access.principal, scope, version)
                if line:
                    fresh |= line.referred
                    if scope.wanted.since is None or version.instant > scope.wanted.since:
                        yield line


def _line(server: Server, principal: Principal, scope: Scope, current: Stored) -> Line | None:
    version = current if current.instant <= scope.time else as_of(server.store, current, scope.time)
    if version is None or version.text is None:
        return None
    text = version.text.encode()
    rule = server.rules.get(version.type)
    elements = [*_elements(scope.wanted, version.type), *_elements(scope.wanted, "")]
    resource = version.resource() if scope.wider or elements or (rule and rule.present) else {}
    if rule and rule.present:
        resource = rule.present(resource, principal)
        text = encode(resource)
    if elements:
        text = encode(subset(server.definitions, resource, "", elements))
    referred = frozenset(each for each in named(resource) if each.partition("/")[0] in scope.wider)
    return Line(version.type, version.id, text, referred)


def _elements(wanted: Asked, type: str) -> Sequence[str]:
    return (wanted.elements or {}).get(type, ())


def _compartment(server: Server, type: str) -> tuple[str, ...]:
    """The parameters that put a resource of the type into a Patient's compartment."""
    known = server.definitions.search_parameters(type)
    inside: Mapping[str, Sequence[str]] = server.definitions.compartments.get("Patient", {})
    return () if type == "Patient" else tuple(code for code in inside.get(type, ()) if code in known)


def _of(type: str, codes: Sequence[str], members: Sequence[str]) -> Clause:
    if type == "Patient":
        return Ids(frozenset(members))
    references = frozenset(f"Patient/{id}" for id in members)
    return either(*(References(code, references) for code in codes)) if codes and members else Nothing()


def _clauses(server: Server, access: Access, wanted: Asked, type: str) -> Iterator[Clause]:
    if wanted.since is not None:
        yield from _changed(server, type, f"gt{wanted.since.isoformat()}")
    filters = (wanted.filters or {}).get(type, ())
    if filters:
        base = server.base(access.organization)
        queries = [
            parse(server.definitions, type, pairs, base=base, strict=True, now=server.now()) for pairs in filters
        ]
        yield either(
            *(both(*(with_known_codes(server, access, clause) for clause in query.clauses)) for query in queries)
        )


def _changed(server: Server, type: str, value: str) -> Iterable[Clause]:
    return parse(server.definitions, type, [("_lastUpdated", value)], strict=True).clauses
