"""Two patients become one, and two again: links, and the references of everything that spoke of the one that ended.

FHIR R4: patient#links, compartmentdefinition; HL7 v2.8.2 chapter 3 (A40 and its kin, A37). A merge leaves the prior
resource where it is, linked; what is in its compartment refers to the survivor afterwards, where the policy says so.
A Provenance with the activity `merge` records, privately, which reference of which resource was changed, so that it
can be undone exactly. One transaction changes at most MOST_MOVED resources; what is left is a `Rest`, kept with the
message that asked for it, and taken up again before anything else is done for these patients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fhirserver.auth.access import everything
from fhirserver.fhir import Resource
from fhirserver.fhir.instants import instant_text
from fhirserver.fhir.problem import problem
from fhirserver.interactions.model import Request, Server
from fhirserver.interactions.versions import next_instant, version_of
from fhirserver.messaging import moving
from fhirserver.search.query import References, compartment
from fhirserver.store.model import Stored
from fhirserver.store.search import compile_search, find

REPOINT, KEEP = "re-point", "keep"
POLICIES = (REPOINT, KEEP)
MOST_MOVED = 500
MOST_HOPS = 20
MOST_RECORDS = 1_000
LIFECYCLE = "http://terminology.hl7.org/CodeSystem/iso-21089-lifecycle"
ACTIVITIES, ROLES = {"move": "amend"}, {"move": "revision"}  # of what has no code, and of a patient that stays
ITSELF = "A merge names the same resource as the prior and as the surviving one."
# Records of what was: they keep naming whom they named. Links between patients are not moved either.
FIXED = frozenset({"AuditEvent", "Provenance", "InboundMessage", "NotificationDelivery", "Patient"})


@dataclass(frozen=True, slots=True)
class Rest:
    """What is left to do: `merge`, `unmerge` or `move`, of what (Type/id), and which survived. `source`: why (Type/id).
    `within`: a move takes along only what refers to these too (visits and accounts, Type/id).
    """

    kind: str
    prior: str
    survivor: str
    source: str = ""
    within: tuple[str, ...] = ()

    def kept(self) -> dict[str, Any]:
        """As it lies in the private part of a message."""
        ends = {"kind": self.kind, "prior": self.prior, "survivor": self.survivor, "source": self.source}
        return {**ends, **({"within": list(self.within)} if self.within else {})}


@dataclass(frozen=True, slots=True)
class Moved:
    """One resource that a merge changed, at its new version."""

    type: str
    id: str
    version: int


def prepare(server: Server, kinds: Sequence[str]) -> None:
    """Makes the indexes by which references to these types are found; not possible within a transaction."""
    for kind in kinds:
        for type in _types(server, kind):
            codes = [*server.definitions.compartments[kind][type], *moving.PARTS.get(type, ())]
            known = server.definitions.search_parameters(type)
            server.store.database.history(type)
            server.store.indexes.ensure(type, [(f"s.{code}",) for code in codes if code in known])
    server.store.database.current("Provenance")
    server.store.database.history("Provenance")
    server.store.indexes.ensure("Provenance", [("s.entity",)])


def replaced_by(resource: Mapping[str, Any]) -> str:
    """What a merged resource points at as its successor, "" for one that stands for itself."""
    for link in resource.get("link") or ():
        if isinstance(link, dict) and link.get("type") == "replaced-by":
            return str(link.get("other", {}).get("reference", ""))
    return ""


def survivor(server: Server, request: Request, version: Stored) -> Stored:
    """The patient that this one has become, through however many merges; itself where it was not merged."""
    seen = {version.id}
    for _ in range(MOST_HOPS):
        resource = version.resource()
        type, _, id = replaced_by(resource).partition("/")
        if resource.get("active") is not False or type != version.type or not id or id in seen:
            return version
        after = server.store.live(everything(request.organization), type, id, session=request.session)
        if after is None:
            return version
        seen.add(id)
        version = after
    return version


def check(server: Server, request: Request, prior: Stored | None, reference: str, into: str) -> bool:
    """Whether `reference`, at the version `prior`, is to be linked to `into` by a merge; False where it is already.

    Raises Problem(business-rule) for a merge into itself, or of what was merged into something else before.
    """
    if reference == into:
        raise problem("business-rule", ITSELF, "MRG")
    before = replaced_by(prior.resource()) if prior else ""
    if not before or before == into:
        return True
    assert prior
    last = survivor(server, request, prior)
    if f"{last.type}/{last.id}" == into:
        return False
    text = f"{reference} was merged into {before} before. Undo that merge (A37) or send the merge of {before}."
    raise problem("business-rule", text, "MRG")


@dataclass(frozen=True, slots=True)
class Step:
    """What one step changed, and whether the rest is done with it."""

    moved: Sequence[Moved]
    finished: bool


def step(
    server: Server,
    request: Request,
    rest: Rest,
    first: Mapping[str, Any] | None,
    policy: str,
    room: int | None = None,
) -> Step:
    """Does as much of the rest as fits into the transaction of the request's unit: `room` resources.

    `first`: what the record of a new merge holds beside (None where it goes on, or nothing was linked).
    """
    room = MOST_MOVED if room is None else max(0, room)
    if rest.kind != "unmerge":
        return _repointed(server, request, rest, first, room if policy == REPOINT or rest.within else None)
    return _restored(server, request, rest) if room else Step((), False)


def recorded(server: Server, request: Request, prior: str, into: str) -> list[Stored]:
    """The records of a merge that has not been undone, the oldest first."""
    whole = everything(request.organization)
    clause = References("entity", frozenset({prior}))
    search = compile_search(server.store, whole, "Provenance", [clause], request.session)
    found = find(server.store, search, (), MOST_RECORDS, session=request.session).matches if search else ()
    wanted = [each for each in found if _pair(each) == (prior, into)]
    return sorted(wanted, key=lambda each: (each.instant, each.id))


def _pair(version: Stored) -> tuple[str, str]:
    record = version.private.get("merge", {})
    return record.get("prior", ""), record.get("survivor", "")


def _repointed(server: Server, request: Request, rest: Rest, first: Mapping[str, Any] | None, room: int | None) -> Step:
    found = list(_referring(server, request, rest, room + 1)) if room is not None else []
    names = {rest.prior: rest.survivor, f"{request.base}/{rest.prior}": rest.survivor}
    moved: list[Moved] = []
    places: list[list[Any]] = []
    for version in found[:room]:
        resource = version.resource()
        changed: list[list[str | int]] = []
        _replace(resource, names, [], changed)
        if changed:
            moved.append(_write(server, request, version, resource))
            places.append([version.type, version.id, changed])
    if moved or first is not None:
        _record(server, request, rest, {**(first or {}), "moved": places}, moved)
    # What holds the reference in a place that is no reference cannot be moved, and must not be looked at for ever.
    return Step(moved, room is None or len(found) <= room or (room > 0 and not moved))


def _referring(server: Server, request: Request, rest: Rest, limit: int) -> Iterator[Stored]:
    kind, _, id = rest.prior.partition("/")
    whole = everything(request.organization)
    for type in _types(server, kind):
        clauses = [compartment(server.definitions, kind, id, type)]
        if rest.within:
            clauses.append(moving.about(server, type, rest.within))
        known = [each for each in clauses if each is not None]
        whether = limit > 0 and len(known) == len(clauses)
        search = compile_search(server.store, whole, type, known, request.session) if whether else None
        if search is not None:
            found = find(server.store, search, (), limit, session=request.session).matches
            limit -= len(found)
            yield from found


def _types(server: Server, kind: str) -> list[str]:
    inside = set(server.definitions.compartments.get(kind, {})) - FIXED - {kind}
    return server.store.existing(sorted(inside))


def _replace(value: Any, names: Mapping[str, str], path: list[str | int], changed: list[list[str | int]]) -> None:
    """Replaces the references that are names, in place, and notes the path of each. A reference to one version stays:
    it names what was.
    """
    if isinstance(value, dict):
        if isinstance(reference := value.get("reference"), str) and reference in names:
            value["reference"] = names[reference]
            changed.append([*path, "reference"])
        for name, each in value.items():
            if isinstance(each, dict | list):
                _replace(each, names, [*path, name], changed)
    elif isinstance(value, list):
        for index, each in enumerate(value):
            _replace(each, names, [*path, index], changed)


def _restored(server: Server, request: Request, rest: Rest) -> Step:
    """Undoes one record of the merge: at most MOST_MOVED resources."""
    records = recorded(server, request, rest.prior, rest.survivor)
    if not records:
        return Step((), True)
    record = records[0]
    held = _successors(server, request, rest.survivor)
    moved: list[Moved] = []
    whole = everything(request.organization)
    for type, id, paths in record.private["merge"].get("moved", ()):
        version = server.store.live(whole, type, id, session=request.session)
        if version is None:
            continue
        resource = version.resource()
        changed = [path for path in paths if _put_back(resource, path, held, rest.prior)]
        if changed:
            moved.append(_write(server, request, version, resource))
    undone = {**record.private["merge"], "prior": "", "undone": rest.source}
    _write(server, request, record, record.resource(), {"merge": undone})
    _record(server, request, rest, None, moved)
    return Step(moved, len(records) == 1)


def _successors(server: Server, request: Request, reference: str) -> frozenset[str]:
    """The survivor and what it was merged into later: the references moved to it went on with it."""
    names, whole = {reference}, everything(request.organization)
    for _ in range(MOST_HOPS):
        type, _, id = reference.partition("/")
        version = server.store.live(whole, type, id, session=request.session)
        reference = replaced_by(version.resource()) if version else ""
        if not reference or reference in names:
            break
        names.add(reference)
    return frozenset(names)


def _put_back(resource: Any, path: Sequence[str | int], held: frozenset[str], prior: str) -> bool:
    """Whether the reference at the path is still what the merge made it; then it is the prior's again."""
    for name in path[:-1]:
        inside = isinstance(resource, dict) and name in resource
        listed = isinstance(resource, list) and isinstance(name, int) and name < len(resource)
        if not inside and not listed:
            return False
        resource = resource[name]
    if not isinstance(resource, dict) or resource.get("reference") not in held:
        return False
    resource["reference"] = prior
    return True


def _write(
    server: Server, request: Request, version: Stored, resource: Resource, private: Mapping[str, Any] | None = None
) -> Moved:
    """The next version, with nothing but references changed: it is not validated again, for faults that it had."""
    assert request.unit
    instant, kept = next_instant(server, version), version.private if private is None else private
    change = version_of(server, version.organization, resource, version, instant, private=kept)
    request.unit.add(change)
    return Moved(change.type, change.id, change.version)


def _record(
    server: Server, request: Request, rest: Rest, private: Mapping[str, Any] | None, moved: Sequence[Moved]
) -> None:
    """The Provenance of a step; that of a merge holds, privately, what undoing it needs."""
    assert request.unit
    instant = next_instant(server, None)
    targets = [rest.survivor, rest.prior, *(f"{m.type}/{m.id}/_history/{m.version}" for m in moved)]
    source = [{"role": "source", "what": {"reference": rest.source}}] if rest.source else []
    resource: Resource = {
        "resourceType": "Provenance",
        "id": server.new_id(),
        "target": [{"reference": each} for each in targets],
        "recorded": instant_text(instant),
        "activity": {"coding": [{"system": LIFECYCLE, "code": ACTIVITIES.get(rest.kind, rest.kind)}]},
        "agent": [{"who": {"display": f"fhirserver {server.software}"}}],
        "entity": [{"role": ROLES.get(rest.kind, "removal"), "what": {"reference": rest.prior}}, *source],
    }
    kept = {"merge": {"prior": rest.prior, "survivor": rest.survivor, **private}} if private is not None else {}
    request.unit.add(version_of(server, request.organization, resource, None, instant, private=kept))
