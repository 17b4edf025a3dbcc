"""What is taken out of messages and notifications that are done, once they are older than an operator wants to keep it.

Nothing is dropped: the resource stays with what it is, when it came, its control id, hash, status, acknowledgment and
results, so that the same message again is known and has no second effect. What waits, failed or was given up is not
touched, however old. Every batch is an audit record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from fhirserver.fhir import Resource
from fhirserver.fhir.instants import instant_text
from fhirserver.fhir.problem import Problem
from fhirserver.interactions.model import Server
from fhirserver.interactions.versions import next_instant, version_of
from fhirserver.store import aged
from fhirserver.store.model import Change, Stored

BATCH = 200


@dataclass(frozen=True, slots=True)
class Row:
    """The statuses in which a resource of a type is done, and what is taken out of it."""

    statuses: tuple[str, ...]
    without: Callable[[Resource], Resource]


def _message(resource: Resource) -> Resource:
    """Without the bytes that came, and what they said of the patient and of faults."""
    kept = {name: value for name, value in resource.items() if name not in ("issue", "unmapped", "patient")}
    kept["content"] = {name: value for name, value in resource["content"].items() if name != "data"}
    reference = resource.get("patient", {}).get("reference")
    return {**kept, **({"patient": {"reference": reference}} if reference else {})}


def _delivery(resource: Resource) -> Resource:
    """Without what it told of, and what the endpoint answered."""
    return {name: value for name, value in resource.items() if name not in ("change", "attempt", "why")}


TABLE: Mapping[str, Row] = {
    "InboundMessage": Row(("processed", "warning"), _message),
    "NotificationDelivery": Row(("delivered", "skipped"), _delivery),
}


def purge(server: Server, type: str, days: int, stop: Callable[[], bool] = lambda: False) -> int:
    """Takes out of the resources of a type that have been done for so many days; how many there were. It may be
    stopped at any point, and goes on there.
    """
    before = server.now() - timedelta(days=days)
    total = 0
    for organization in aged.bases(server.store.database):
        while not stop():
            found = aged.older(server.store.database, type, organization, before, BATCH)
            if not found:
                break
            purged = [change.id for change in _written(server, list(_changes(server, type, found)))]
            aged.passed(server.store.database, type, organization, found)
            if purged:
                total += len(purged)
                server.meter.count("purged", type, by=len(purged))
                seen = [f"{type}/{id}" for id in purged]
                who = {"kind": "system", "name": "the retention set by the operator"}
                server.record("purge", organization, who=who, type=type, seen=seen)
    return total


def _changes(server: Server, type: str, found: Sequence[Stored]) -> Iterator[Change]:
    row = TABLE[type]
    for version in found:
        resource = version.resource()
        if resource["status"] in row.statuses and "purged" not in resource:
            instant = next_instant(server, version)
            purged = {**row.without(resource), "purged": instant_text(server.now())}
            yield version_of(
                server,
                version.organization,
                purged,
                version,
                instant,
                private=version.private,
                keep_previous=False,
            )


def _written(server: Server, changes: Sequence[Change]) -> list[Change]:
    """Those that were written: one that somebody else writes at the same time is young again."""
    if not changes:
        return []
    try:
        server.store.commit(changes)
    except Problem as fault:
        if fault.issues[0].code != "conflict":
            raise
        return [] if len(changes) == 1 else [one for each in changes for one in _written(server, [each])]
    return list(changes)
