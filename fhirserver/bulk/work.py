"""The job that does an export, part by part: it can be killed, moved to another worker or stopped at any moment.

An export that is open stands in the database; a sweep has it worked on until it is done. Whoever works on it holds its
lease, and asks before every part whether its client may still have it: a client that is disabled gets nothing more.
"""

from __future__ import annotations

import gzip
import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from itertools import chain
from typing import Any

from fhirserver.auth.access import REGISTRY, Access, everything
from fhirserver.auth.principal import Principal
from fhirserver.bulk.asked import Asked, again
from fhirserver.bulk.gather import Criteria, Line, Scope, lines, wider
from fhirserver.bulk.record import rewritten
from fhirserver.fhir.instants import instant_text
from fhirserver.fhir.json import encode
from fhirserver.fhir.problem import Problem, problem
from fhirserver.interactions.model import Server
from fhirserver.rules.authorization import authorization_id
from fhirserver.rules.bulk_export import OPEN
from fhirserver.rules.user import operator, roles
from fhirserver.store.exports import Export, Exports, Part, Position, deleted

JOB = "export"
LEASE_SECONDS = 60.0
TURN_SECONDS = 20.0
"""How long one job works before it lets others go first."""
PART_BYTES, PART_LINES, PART_SECONDS = 8 * 1024 * 1024, 50_000, 15.0
MOST_BYTES, MOST_REFERRED = 12 * 1024 * 1024, 50_000
"""Of a file, compressed, and of what it refers to: MongoDB's documents have at most 16 MB."""
BUNDLE_ENTRIES = 1_000
MOST_FAULTS = 5
ROOM = threading.BoundedSemaphore(4)
"""How many exports a process works on at once: its other threads are for messages and notifications."""
FETCHED_WITHIN = timedelta(hours=24)
AT_MOST = timedelta(days=7)
"""How long an export may take, and how long its files then wait to be fetched."""
log = logging.getLogger(__name__)


@dataclass(slots=True)
class Filling:
    """A file being filled: lines of one type."""

    type: str
    lines: list[bytes] = field(default_factory=list)
    bytes: int = 0
    referred: set[str] = field(default_factory=set)
    since: float = field(default_factory=time.monotonic)

    def add(self, line: Line) -> None:
        """Takes a line in."""
        self.lines.append(line.text)
        self.bytes += len(line.text) + 1
        self.referred |= line.referred

    @property
    def full(self) -> bool:
        """Whether it is to be written now."""
        return self.bytes >= PART_BYTES or len(self.lines) >= PART_LINES

    @property
    def old(self) -> bool:
        """Whether it has been filled for so long that it should be written: a worker that dies loses it."""
        return time.monotonic() - self.since > PART_SECONDS

    def part(self) -> Part:
        """The file. One resource too large for the database is an error in its place."""
        data = _packed(self.lines)
        if len(data) <= MOST_BYTES:
            return Part("output", self.type, len(self.lines), data, sorted(self.referred)[:MOST_REFERRED])
        text = f"A file of {self.type} is too large: fetch what is missing by a search. {len(self.lines)} are left out."
        issue = {"severity": "error", "code": "too-long", "diagnostics": text}
        return Part(
            "error", "OperationOutcome", 1, _packed([encode({"resourceType": "OperationOutcome", "issue": [issue]})])
        )


def sweep(server: Server) -> None:
    """Has open exports worked on; takes away those whose files have had their time."""
    exports = Exports(server.store.database)
    for export in exports.open():
        server.enqueue(JOB, export.organization, export.id)
    for export in exports.past(server.now()):
        rewritten(server, export, {"status": "expired"}, ("completed",))
        exports.drop(export.organization, export.id)


def work(server: Server, organization: str, id: str) -> None:
    """The job: goes on with an export where the last part ended, for a turn; then others first. Where there is no room
    the sweep asks again.
    """
    if not ROOM.acquire(blocking=False):
        return
    try:
        _work(server, organization, id)
    finally:
        ROOM.release()


def _work(server: Server, organization: str, id: str) -> None:
    exports, owner = Exports(server.store.database), server.new_id()
    export = exports.get(organization, id)
    if export is None or export.until is not None:
        return
    if server.now() - export.facts["time"] > AT_MOST:
        _failed(server, exports, export, "It took longer than an export may: ask for less.")
        return
    name = f"{JOB}/{export.name}"
    if server.store.lease(name, owner, LEASE_SECONDS) is None:
        return
    try:
        _turn(server, exports, export, lambda: server.store.lease(name, owner, LEASE_SECONDS) is not None)
    except _Taken:
        return
    except Problem as refusal:
        if refusal.status >= 500:
            raise
        _failed(server, exports, export, str(refusal))
    except Exception:
        log.exception("an export stopped")
        if exports.fault(export) >= MOST_FAULTS:
            _failed(server, exports, export, "The server could not finish this export; ask its operator.")
    finally:
        server.store.release(name, owner)


def _turn(server: Server, exports: Exports, export: Export, held: Callable[[], bool]) -> None:
    """Writes parts until the export or the turn ends, or somebody else has the lease."""
    server.refresh()
    scope, end = scope_of(export), time.monotonic() + TURN_SECONDS
    rewritten(server, export, {"status": "in-progress"}, ("accepted",))
    for parts, position in _pieces(server, export, scope):
        access_of(server, export)  # raises where the caller may not have it any more
        if not exports.advance(export, _while(held, parts), position, server.now() + AT_MOST):
            return
        if time.monotonic() > end:
            server.enqueue(JOB, export.organization, export.id)
            return
    until = server.now() + FETCHED_WITHIN
    rewritten(server, export, _completed(server, export, until), OPEN)
    exports.end(export, until)  # also where the worker that has said so died before this


class _Taken(Exception):
    """Somebody else works on the export: what this one has made is not to count."""


def _while(held: Callable[[], bool], parts: Iterable[Part]) -> Iterator[Part]:
    """The parts, the lease taken anew behind each. Raises _Taken where somebody else has it."""
    for part in parts:
        yield part
        if not held():
            raise _Taken


def _pieces(server: Server, export: Export, scope: Scope) -> Iterator[tuple[Iterable[Part], Position]]:
    """Files with the position behind each: the step, and the id in it behind which to go on. The step after those of
    the types is for what is found at the end. A file is of one type, and of as many groups of members as it has room
    for.
    """
    access, criteria = access_of(server, export), Criteria()
    step, after = export.position
    filling = Filling("")
    while step < scope.length:
        type = scope.type(step)
        filling = filling if filling.type == type else Filling(type)
        for line in lines(server, access, scope, step, after, criteria):
            filling.add(line)
            if filling.full or filling.old:
                yield [filling.part()], (step, line.id)
                filling = Filling(type)
        step, after = step + 1, ""
        if filling.old or type != scope.type(step):
            yield [filling.part()] if filling.lines else [], (step, "")
            filling = Filling(type)
    if step == scope.length:  # these are made as they are written: all together they may be more than memory holds
        yield chain(_wider(server, access, scope, export), _deleted(server, access, scope)), (step + 1, "")


def _wider(server: Server, access: Access, scope: Scope, export: Export) -> Iterator[Part]:
    """The files of what is referred to outside the compartment: they are written together, at the end."""
    referred = Exports(server.store.database).referred(export) if scope.wider else ()
    open: dict[str, Filling] = {}
    for line in wider(server, access, scope, referred):
        filling = open.setdefault(line.type, Filling(line.type))
        filling.add(line)
        if filling.full:
            yield open.pop(line.type).part()
    for type in sorted(open):
        yield open[type].part()


def _deleted(server: Server, access: Access, scope: Scope) -> Iterator[Part]:
    """The files of what was deleted since: for who may see all of a type, as a deletion has nothing to be judged by."""
    since = scope.wanted.since
    if since is None or scope.level != "system":
        return
    for type in scope.types:
        if access.clauses(type, "s") != () or (scope.wanted.filters or {}).get(type):
            continue
        ids = deleted(server.store, access.organization, type, since, scope.time)
        bundles = [ids[start : start + BUNDLE_ENTRIES] for start in range(0, len(ids), BUNDLE_ENTRIES)]
        if bundles:
            yield Part("deleted", "Bundle", len(bundles), _packed([encode(_deletions(type, some)) for some in bundles]))


def _deletions(type: str, ids: list[str]) -> dict[str, Any]:
    entries = [{"request": {"method": "DELETE", "url": f"{type}/{id}"}} for id in ids]
    return {"resourceType": "Bundle", "type": "transaction", "entry": entries}


def _packed(lines: list[bytes]) -> bytes:
    return gzip.compress(b"\n".join((*lines, b"")), compresslevel=1, mtime=0)


def _completed(server: Server, export: Export, until: Any) -> dict[str, Any]:
    output = [{"kind": each["kind"], "type": each["type"], "count": each["count"]} for each in export.listed]
    ended = {"completed": instant_text(server.now()), "expires": instant_text(until)}
    return {"status": "completed", **ended, **({"output": output} if output else {})}


def _failed(server: Server, exports: Exports, export: Export, reason: str) -> None:
    until = server.now() + FETCHED_WITHIN
    rewritten(server, export, {"status": "failed", "statusReason": reason}, OPEN)
    exports.end(export, until)


_SAME = ("kind", "id", "client", "client_since", "user_since")
"""What makes a caller the same: an id may have been given away and registered again since."""


def asked_by(export: Export, principal: Principal) -> bool:
    """Whether it was this caller who asked for the export."""
    who = export.facts["who"]
    return all(who[name] == getattr(principal, name) for name in _SAME)


def may(server: Server, access: Access) -> list[Any]:
    """What decides over what the caller may read, beside the token: where it changes, files may hold more than that."""
    principal = access.principal
    client = principal.id if principal.kind == "client" else principal.client
    found = server.store.deciding("ClientApplication", client) if client else None
    granted = (
        server.store.deciding("ClientAuthorization", authorization_id(client, access.organization)) if client else None
    )
    scopes = [str(each.resource().get("scope", "")) if each else "" for each in (found, granted)]
    return [
        *scopes,
        principal.roles.get(access.organization, ""),
        server.definitions.generation if access.policies else 0,
    ]


def access_of(server: Server, export: Export) -> Access:
    """What the caller may have now. Raises Problem: login, forbidden."""
    facts: Mapping[str, Any] = export.facts
    asks = facts["who"]
    principal = Principal(**{**asks, "audience": tuple(asks["audience"])})
    if principal.kind == "user":
        found = server.store.live(everything(REGISTRY), "User", principal.id)
        user = {} if found is None else found.resource()
        if not user or user.get("active") is False:
            raise problem("forbidden", "The user who asked for this export is not active any more.")
        principal = replace(principal, roles=roles(user), operator=operator(user))
    access = server.access(server, principal, export.organization)
    return access.about(lambda: {**facts["told"], "time": instant_text(server.now())})


def scope_of(export: Export) -> Scope:
    """Of what the export is, out of the facts that were kept."""
    facts = export.facts
    wanted: Asked = again(facts["asked"])
    return Scope(
        facts["level"],
        tuple(facts["types"]),
        frozenset(facts["wider"]),
        tuple(facts["patients"]),
        facts["time"],
        wanted,
    )
