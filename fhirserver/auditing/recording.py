"""AuditEvents into the store: from the spool of reads and refusals, and from the pending events of writes. Run by
the relay.

Each record has an id made of where it comes from, so that recording twice is storing once. AuditEvents are written here
and by POST (ITI-20), never changed: they carry no event and have no history.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from fhirserver.auditing import owners, security
from fhirserver.auth.access import everything
from fhirserver.fhir import Resource
from fhirserver.fhir.instants import instant_text
from fhirserver.fhir.json import decode, encode, verbatim
from fhirserver.fhir.problem import Problem
from fhirserver.interactions import audit
from fhirserver.interactions.indexing import entry_of
from fhirserver.interactions.model import Server
from fhirserver.search.index import Entry, plain
from fhirserver.store import spool
from fhirserver.store.database import Session
from fhirserver.store.model import REGISTRY, Change, Pending
from fhirserver.store.seal import Seals
from fhirserver.store.search import index_values

TYPE = "AuditEvent"
BATCH = 500
LEAST_SEALED = 50
"""So many records of an organization, stored together, are sealed at once; fewer would make very many seals."""
MOST_COMMON = 2_000
_KIND = ("type", "role")
"""The elements of an entity that are the same in many records."""
Facts = Mapping[str, Any]
_Says = tuple[
    frozenset[str],
    Callable[[Facts, bool, str], Resource],
    Callable[[Facts, Sequence[str]], Iterable[dict[str, Any]]],
]
"""How facts are said: which of them are a record's own, the elements it has in common with others, its entities."""


@dataclass(frozen=True, slots=True)
class _Common:
    """What many records have in common - what one caller does again and again: elements, most of them as JSON text, and
    what search finds by them.
    """

    meta: Mapping[str, Any]
    elements: Mapping[str, Any]
    entry: Entry


def ship(server: Server, folder: Path, seals: Seals | None = None, pause: Callable[[], object] = lambda: None) -> int:
    """Stores what the spool files in a folder hold and answers how many records that were. Many at once are sealed as
    they are stored, where the `seals` are given. `pause` is called between one batch and the next.
    """
    total = 0
    for group in spool.gathered(folder, BATCH):
        lines = [line for batch in group for line in batch.records]
        records = [(id, found) for id, line in lines if (found := _decoded(line)) is not None]
        for organization in dict.fromkeys(found["o"] for _, found in records):
            of_one = [each for each in records if each[1]["o"] == organization]
            _insert(server, seals, _home(server, organization), of_one)
        for batch in group:
            spool.shipped(batch)
        total += len(records)
        pause()
    return total


def _insert(server: Server, seals: Seals | None, organization: str, records: Sequence[tuple[str, Facts]]) -> None:
    """Stores records; one that cannot be stored is stored without what a caller has put into it, and holds up no
    other.
    """
    try:
        changes = _changes(server, organization, records)
        sealed = seals is not None and len(changes) >= LEAST_SEALED and seals.insert(organization, changes)
        if not sealed:
            server.store.insert_messages(changes)
    except Problem as trouble:
        if trouble.status == 503:
            raise
        if len(records) == 1:
            id, found = records[0]
            bare = {name: found[name] for name in ("t", "o", "i", "s", "who") if name in found}
            server.store.insert_messages(_changes(server, organization, [(id, bare)]))
            return
        for each in records:
            _insert(server, None, organization, [each])


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
        records.append((id, audit.facts_of_change(pending.event, change, pending.organization)))
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
    owner_of = owners.of_clients(server, {_client(found) for _, found in records})
    base = server.base(organization)
    changes = []
    for id, found in records:
        instant = found["t"] if isinstance(found["t"], datetime) else datetime.fromisoformat(found["t"])
        instant = instant.astimezone(UTC).replace(microsecond=instant.microsecond // 1000 * 1000)
        patients = list(dict.fromkeys(patient for name in _names(found) for patient in concerned.get(name, ())))
        text, entry = _event(server, id, found, patients, instant, base)
        changes.append(
            Change(
                organization=organization,
                type=TYPE,
                id=id,
                version=1,
                instant=instant,
                method="POST",
                text=text,
                entry=entry,
                private=_whose(_client(found), owner_of),
            )
        )
    return changes


def _event(
    server: Server, id: str, found: Facts, patients: Sequence[str], instant: datetime, base: str
) -> tuple[str, Entry]:
    """The AuditEvent of facts, as JSON text, and its index entry. Their larger halves are made once for all records
    that have them in common.
    """
    entities = list(_says(found)[2](found, patients))
    common = _common(server, found, _kinds(entities), bool(patients), base)
    recorded = instant_text(instant)
    meta = {**common.meta, "versionId": "1", "lastUpdated": recorded}
    resource: Resource = {"resourceType": TYPE, "id": id, "meta": meta, "recorded": recorded, **common.elements}
    if entities:
        resource["entity"] = entities
    text = encode(resource).decode()
    abouts = [{name: value for name, value in each.items() if name not in _KIND} for each in entities]
    own = entry_of(server, {"resourceType": TYPE, "recorded": recorded, "entity": abouts}, base)
    if not plain(server.definitions, TYPE) or not common.entry.search.keys().isdisjoint(own.search):
        return text, entry_of(server, decode(text), base)
    return text, Entry({**common.entry.search, **own.search}, {**common.entry.sort, **own.sort})


def _says(found: Facts) -> _Says:
    return (
        (security.OWN, security.common, security.entities)
        if found.get("sec")
        else (audit.OWN, audit.common, audit.entities)
    )


def _kinds(entities: Iterable[Mapping[str, Any]]) -> list[Resource]:
    """What the entities are, those that share their type and role once: a search shows many of one kind."""
    alone = {(id(each.get("type")), id(each.get("role"))): each for each in entities}
    return [{name: each[name] for name in _KIND if name in each} for each in alone.values()]


def _common(server: Server, found: Facts, kinds: Sequence[Resource], concerned: bool, base: str) -> _Common:
    """The elements and index values that do not depend on what is a record's own; remembered."""
    own, of, _ = _says(found)
    known: dict[bytes, _Common] = server.caches.setdefault("audit", {})
    key = encode([base, concerned, kinds, {name: value for name, value in found.items() if name not in own}])
    common = known.get(key)
    if common is None:
        elements = of(found, concerned, server.public_url)
        entry = entry_of(server, {"resourceType": TYPE, **elements, "entity": list(kinds)}, base)
        meta = elements.pop("meta", {})
        texts = {name: verbatim(encode(value).decode()) for name, value in elements.items()}
        if len(known) >= MOST_COMMON:
            known.clear()
        common = known[key] = _Common(meta, texts, entry)
    return common


def _whose(client: str, owner_of: Mapping[str, str]) -> dict[str, str]:
    """The private part of a record: its client and that one's owner, for their own side's eyes. See `own_events`."""
    named = {"client": client, "owner": owner_of.get(client, "")}
    return {name: value for name, value in named.items() if value}


def _client(found: Facts) -> str:
    """The client whose doing it was, "" for none."""
    asked = found.get("who", {})
    return str(asked.get("client") or (asked.get("id") if asked.get("kind") == "client" else "") or "")


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
