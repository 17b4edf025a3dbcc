"""AuditEvents into the store: from the spool of reads and refusals, and from the pending events of writes. Run by
the relay.

Each record has an id made of where it comes from, so that recording twice is storing once. AuditEvents are written here
and by POST (ITI-20), never changed: they carry no event and have no history.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from fhirserver.auditing.security import security_event
from fhirserver.auth.access import everything
from fhirserver.fhir import Resource
from fhirserver.fhir.json import decode, encode
from fhirserver.fhir.problem import Problem
from fhirserver.interactions.audit import event, facts_of_change
from fhirserver.interactions.indexing import entry_of
from fhirserver.interactions.model import Server
from fhirserver.interactions.write import instant_text, stamped
from fhirserver.search.index import Entry, searchable
from fhirserver.store import spool
from fhirserver.store.database import Session
from fhirserver.store.model import REGISTRY, Change, Pending
from fhirserver.store.search import index_values

TYPE = "AuditEvent"
BATCH = 500
ALIKE = frozenset({"type", "subtype", "action", "outcome", "agent", "source"})
"""The elements that are the same in many records: what one caller does again and again."""
MOST_ALIKE = 2_000
Facts = Mapping[str, Any]


def ship(server: Server, folder: Path) -> int:
    """Stores what the spool files in a folder hold and answers how many records that were."""
    total = 0
    for batch in spool.batches(folder, BATCH):
        records = [(id, found) for id, line in batch.records if (found := _decoded(line)) is not None]
        for organization in dict.fromkeys(found["o"] for _, found in records):
            of_one = [each for each in records if each[1]["o"] == organization]
            _insert(server, _home(server, organization), of_one)
        spool.shipped(batch)
        total += len(records)
    return total


def _insert(server: Server, organization: str, records: Sequence[tuple[str, Facts]]) -> None:
    """Stores records; one that cannot be stored is stored without what a caller has put into it, and holds up no
    other.
    """
    try:
        server.store.insert_messages(_changes(server, organization, records))
    except Problem as trouble:
        if trouble.status == 503:
            raise
        if len(records) == 1:
            id, found = records[0]
            bare = {name: found[name] for name in ("t", "o", "i", "s", "who") if name in found}
            server.store.insert_messages(_changes(server, organization, [(id, bare)]))
            return
        for each in records:
            _insert(server, organization, [each])


def _home(server: Server, organization: str) -> str:
    """Whose record it is: the registry's, where a caller has made the organization up."""
    if organization == REGISTRY or server.store.read(everything(REGISTRY), "Organization", organization):
        return organization
    return REGISTRY


def record(server: Server, pending: Pending, session: Session) -> None:
    """Stores the records of a pending event's changes, in the transaction that takes it off its document."""
    changes = pending.event.get("changes", ())
    records = []
    for number, change in enumerate(changes):
        id = sha256(f"{pending.event['id']} {number}".encode()).hexdigest()[:32]
        records.append((id, facts_of_change(pending.event, change, pending.organization)))
    if records:
        server.store.commit(_changes(server, pending.organization, records), session)


def _decoded(line: bytes) -> Facts | None:
    try:
        found: Facts = decode(line)
    except Problem:
        return None  # A line torn by a crash of the machine: there is nothing in it to record.
    return found


def _changes(server: Server, organization: str, records: Sequence[tuple[str, Facts]]) -> list[Change]:
    concerned = _patients(server, organization, [found for _, found in records])
    base = server.base(organization)
    changes = []
    for id, found in records:
        instant = found["t"] if isinstance(found["t"], datetime) else datetime.fromisoformat(found["t"])
        instant = instant.astimezone(UTC).replace(microsecond=instant.microsecond // 1000 * 1000)
        patients = list(dict.fromkeys(patient for name in _names(found) for patient in concerned.get(name, ())))
        made = security_event if found.get("sec") else event
        resource = stamped(made(found, patients, server.public_url, instant_text(instant)), id, 1, instant)
        changes.append(
            Change(
                organization=organization,
                type=TYPE,
                id=id,
                version=1,
                instant=instant,
                method="POST",
                text=encode(resource).decode(),
                entry=entry(server, resource, base),
                private=_of_client(found),
            )
        )
    return changes


def entry(server: Server, resource: Resource, base: str) -> Entry:
    """The index entry of a record: its larger half is computed once for all that are alike."""
    alike = {name: resource[name] for name in resource if name in ALIKE}
    entries = _alike(server)
    if entries is None:
        return entry_of(server, resource, base)
    key = encode(alike)
    known = entries.get((base, key))
    if known is None:
        if len(entries) >= MOST_ALIKE:
            entries.clear()
        known = entries[base, key] = entry_of(server, {"resourceType": TYPE, **alike}, base)
    own = entry_of(server, {name: value for name, value in resource.items() if name not in ALIKE}, base)
    if not known.search.keys().isdisjoint(own.search):
        return entry_of(server, resource, base)
    return Entry({**known.search, **own.search}, {**known.sort, **own.sort})


def _alike(server: Server) -> dict[tuple[str, bytes], Entry] | None:
    """The halves known so far; None where an added search parameter may look at both halves together."""
    if "audit" not in server.caches:
        parameters = server.definitions.search_parameters(TYPE)
        apart = all(
            compiled.first is not None and "%" not in (parameters[code].expression or "")
            for code, (_, compiled) in searchable(server.definitions, TYPE).items()
        )
        server.caches["audit"] = {} if apart else None
    found: dict[tuple[str, bytes], Entry] | None = server.caches["audit"]
    return found


def _of_client(found: Facts) -> dict[str, str]:
    """The client whose doing it was, for its own side's eyes: see `own_events`."""
    asked = found.get("who", {})
    client = asked.get("client") or (asked.get("id") if asked.get("kind") == "client" else "")
    return {"client": client} if client else {}


def _names(found: Facts) -> Iterable[str]:
    """What a record is about, as Type/id. A refusal showed nothing; a notification that failed may have."""
    if found.get("s", 200) >= 400 and found.get("sec") != "delivery":
        return
    if found.get("k") and found.get("r"):
        yield f"{found['k']}/{found['r']}"
    yield from found.get("seen", ())


def _patients(server: Server, organization: str, records: Sequence[Facts]) -> dict[str, list[str]]:
    """Type/id -> the patients whose compartment it is in, by the index values it has now."""
    codes_of = server.definitions.compartments.get("Patient", {})
    names = dict.fromkeys(name for found in records for name in _names(found))
    concerned = {name: [name] for name in names if name.startswith("Patient/")}
    by_type: dict[str, list[str]] = {}
    for name in names:
        type, _, id = name.partition("/")
        if type in codes_of and type != "Patient":
            by_type.setdefault(type, []).append(id)
    for type, ids in by_type.items():
        codes = [code for code in codes_of[type] if not code.startswith("{")]
        known = index_values(server.store, organization, type, ids, codes)
        for id in ids:
            values = known.get(id) or _last_values(server, organization, type, id)
            found = [text for code in codes for text in values.get(code, ()) if str(text).startswith("Patient/")]
            concerned[f"{type}/{id}"] = found
    return concerned


def _last_values(server: Server, organization: str, type: str, id: str) -> Mapping[str, Any]:
    """The index values of what a resource was before it was deleted; none for one that never was."""
    whole = everything(organization)
    current = server.store.read(whole, type, id)
    if current is None or not current.deleted:
        return {}
    before = server.store.vread(whole, type, id, current.version - 1)
    return {} if before is None or before.deleted else entry_of(server, before.resource(), "").search
