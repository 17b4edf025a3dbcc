"""What operators ask of the installation itself: $health, $queues, $settings, $signing-keys and their rotation,
$load-package.

System-level operations of the registry, for platform operators alone. They tell counts, times and names of
organizations, never anything of a patient, and no secret.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from fhirserver.auth.access import Access, everything
from fhirserver.exchange.installing import load_package
from fhirserver.fhir import Resource
from fhirserver.fhir.instants import instant_text
from fhirserver.fhir.parameters import parameters_of
from fhirserver.fhir.problem import Problem, problem
from fhirserver.interactions.model import OperationRow, Request, Response, Server
from fhirserver.interactions.operations import parameters
from fhirserver.jobs.queue import Queue
from fhirserver.rules.model import CANONICAL, REGISTRY, reference
from fhirserver.search.parse import parse
from fhirserver.store import standing
from fhirserver.store.keyring import Held, Keyring
from fhirserver.store.search import compile_search, find, total
from fhirserver.store.spool import unshipped

LATE_SECONDS, VERY_LATE_SECONDS = 10.0, 120.0
"""From when on something that waits is a warning, and an error."""
MOST_COUNTED = 1_000
MOST_ORGANIZATIONS = 500
MOST_INDEXING = 100
MUCH_SPOOLED = 64 * 1024 * 1024
OPEN = {
    "InboundMessage": ("received", "deferred", "code-mapping-error", "parse-error", "mapping-error", "failed"),
    "NotificationDelivery": ("queued", "retrying", "held", "dead-letter"),
}
"""The statuses of what is not done: it waits for the server, or for a person."""
Part = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Instruments:
    """What the composition root knows and the operations look at: the queue, the folder of the audit spool, the signing
    keys, and the settings as variable, value in force (secrets masked) and meaning.
    """

    queue: Queue | None
    spool: Path
    keyring: Callable[[], Keyring]
    settings: Callable[[], Sequence[tuple[str, str, str]]]


def operations(instruments: Instruments) -> tuple[OperationRow, ...]:
    """The rows of the operations table."""
    return (
        _row("health", lambda server, request: _health(server, instruments)),
        _row("queues", lambda server, request: _queues(server, instruments)),
        _row("settings", lambda server, request: _settings(instruments)),
        _row("signing-keys", lambda server, request: _keys(instruments.keyring().held(), server.now())),
        _row("rotate-signing-key", lambda server, request: _rotate(server, request, instruments), affects_state=True),
        _row("load-package", load_package, affects_state=True),
    )


def require_operator(request: Request) -> None:
    """Raises Problem(forbidden) for anybody but a platform operator."""
    if not (request.principal.operator or request.principal.kind == "operator"):
        raise problem("forbidden", f"${request.operation} is for platform operators.")


def _row(name: str, answer: Callable[[Server, Request], list[Part]], *, affects_state: bool = False) -> OperationRow:
    def run(server: Server, request: Request, access: Access) -> Response:
        require_operator(request)
        if not affects_state:
            parameters(request)
        parts = answer(server, request)
        return Response(200, resource=parameters_of(parts))

    definition = f"{CANONICAL}/OperationDefinition/{name}"
    return OperationRow(name, (), ("system",), "", run, affects_state, (REGISTRY,), definition)


# Health


def _health(server: Server, instruments: Instruments) -> list[Part]:
    looks = (
        ("database", lambda: _database(server)),
        ("queue", lambda: _queue(instruments)),
        ("workers", lambda: _workers(server, instruments)),
        ("relay", lambda: _relay(server)),
        ("outbox", lambda: _late(standing.outbox(server.store.database), server.now())),
        ("audit-spool", lambda: _spool(instruments.spool)),
        ("seals", lambda: _seals(server)),
        ("mail", lambda: _component("ok" if server.mails else "off")),
    )
    parts = [part("version", server.software), part("now", server.now())]
    return [*parts, *({"name": "component", "part": [_code("name", name), *_looked(look)]} for name, look in looks)]


def _looked(look: Callable[[], list[Part]]) -> list[Part]:
    try:
        return look()
    except Problem as trouble:
        return _component("error", part("detail", trouble.issues[0].diagnostics))


def _database(server: Server) -> list[Part]:
    took, version, size = standing.reach(server.store.database)
    return _component("ok", part("milliseconds", round(took)), part("version", version), part("megabytes", size >> 20))


def _queue(instruments: Instruments) -> list[Part]:
    depth = instruments.queue.depth() if instruments.queue else None
    return _component("error") if depth is None else _component("ok", part("count", depth))


def _workers(server: Server, instruments: Instruments) -> list[Part]:
    found = instruments.queue.workers() if instruments.queue else []
    beat = max((beat for _, beat in found if beat), default=None)
    return _component("ok" if found else "error", part("count", len(found)), *([part("last", beat)] if beat else []))


def _relay(server: Server) -> list[Part]:
    return _component("ok" if standing.held(server.store.database, "relay") else "error")


def _seals(server: Server) -> list[Part]:
    database = server.store.database
    last = standing.last_seal(database)
    parts = _late(standing.unsealed(database), server.now())
    return parts if last is None else [*parts, part("last", last.through), part("number", last.number)]


def _late(waiting: standing.Waiting, now: datetime) -> list[Part]:
    seconds = max(0.0, (now - waiting.oldest).total_seconds()) if waiting.oldest else 0.0
    status = "error" if seconds > VERY_LATE_SECONDS else "warning" if seconds > LATE_SECONDS else "ok"
    return _component(status, part("count", waiting.count), part("seconds", round(seconds)))


def _spool(folder: Path) -> list[Part]:
    waiting = unshipped(folder)
    return _component("warning" if waiting > MUCH_SPOOLED else "ok", part("kilobytes", -(-waiting // 1024)))


def _component(status: str, *figures: Part) -> list[Part]:
    return [_code("status", status), *figures]


# Queues


def _queues(server: Server, instruments: Instruments) -> list[Part]:
    database, queue = server.store.database, instruments.queue
    depth = queue.depth() if queue else None
    parts = [] if depth is None else [part("jobs", depth)]
    workers = queue.workers() if queue else []
    parts += [_named("worker", part("name", name), *([part("seen", beat)] if beat else [])) for name, beat in workers]
    waiting = standing.outbox(database)
    parts.append(part("outbox", waiting.count))
    parts += [part("outboxOldest", waiting.oldest)] if waiting.oldest else []
    parts.append(part("errands", standing.kept(database, "errands")))
    parts += [
        _named("indexing", _code("type", type), part("parameter", code), part("done", done), part("total", there))
        for type, code, done, there in standing.indexing(database, MOST_INDEXING)
    ]
    return [*parts, *_organizations(server)]


def _organizations(server: Server) -> Iterator[Part]:
    """Of each organization for which something waits: how many of what, by status. At most MOST_COUNTED are counted."""
    for id, name in [(REGISTRY, ""), *_providers(server)]:
        counts = [_counts(server, id, type, statuses) for type, statuses in OPEN.items()]
        if any(counts):
            who = [] if id == REGISTRY else [_reference("organization", reference("Organization", id, name))]
            yield _named("base", *who, *(each for found in counts for each in found))


def _providers(server: Server) -> list[tuple[str, str]]:
    """The provider organizations, the newest first; at most MOST_ORGANIZATIONS."""
    pairs = [("type", f"{CANONICAL}/CodeSystem/organization-kind|provider"), ("_sort", "-_lastUpdated")]
    query = parse(server.definitions, "Organization", pairs, strict=True)
    search = compile_search(server.store, everything(REGISTRY), "Organization", query.clauses, None)
    found = find(server.store, search, query.sort, MOST_ORGANIZATIONS).matches if search else ()
    return [(each.id, str(each.resource().get("name", ""))) for each in found]


def _counts(server: Server, organization: str, type: str, statuses: Sequence[str]) -> list[Part]:
    """All at once first: mostly there is nothing."""
    if not _count(server, organization, type, ",".join(statuses)):
        return []
    counted = [(status, _count(server, organization, type, status)) for status in statuses]
    return [
        _named("waiting", _code("type", type), _code("status", status), part("count", count))
        for status, count in counted
        if count
    ]


def _count(server: Server, organization: str, type: str, status: str) -> int:
    clauses = parse(server.definitions, type, [("status", status)], strict=True).clauses
    search = compile_search(server.store, everything(organization), type, clauses, None)
    return total(server.store, search, MOST_COUNTED).count if search else 0


# Settings and keys


def _settings(instruments: Instruments) -> list[Part]:
    return [
        _named("setting", part("name", name), *([part("value", value)] if value else []), part("meaning", meaning))
        for name, value, meaning in instruments.settings()
    ]


def _keys(held: Sequence[Held], now: datetime) -> list[Part]:
    signing = next((each.key.kid for each in held if each.since <= now), "")
    return [
        _named(
            "key",
            part("kid", each.key.kid),
            part("signs", each.key.kid == signing),
            part("since", each.since),
            *([part("until", each.until)] if each.until else []),
        )
        for each in held
    ]


def _rotate(server: Server, request: Request, instruments: Instruments) -> list[Part]:
    """$rotate-signing-key: a new key; it signs when others can have fetched it, or with `at-once` within seconds. With
    `revoke` the others are good no more as soon as it signs, and every token that they signed with them.
    """
    given = parameters(request, "at-once", "revoke")
    at_once, revoke = (str(given.get(name, "false")).lower() == "true" for name in ("at-once", "revoke"))
    ring = instruments.keyring()
    ring.rotate(at_once=at_once, revoke=revoke)
    return _keys(ring.held(), server.now())


# Parameters


def part(name: str, value: bool | int | str | datetime) -> Part:
    """A parameter, or a part of one, with a value of the type that it has."""
    if isinstance(value, datetime):
        return {"name": name, "valueInstant": instant_text(value)}
    kind = "valueBoolean" if isinstance(value, bool) else "valueInteger" if isinstance(value, int) else "valueString"
    return {"name": name, kind: value}


def _code(name: str, code: str) -> Part:
    return {"name": name, "valueCode": code}


def _reference(name: str, value: Resource) -> Part:
    return {"name": name, "valueReference": value}


def _named(name: str, *parts: Part) -> Part:
    return {"name": name, "part": list(parts)}
