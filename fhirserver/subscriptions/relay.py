"""The relay: pending events in, numbered deliveries and jobs out. One process leads, others stand by.

The change stream only says when to look. Each batch is one transaction: the events are read, matched, numbered per
subscription without gaps, written as NotificationDeliveries, and taken off their documents. A crash leaves all of it or
nothing, so no event is lost and none is told twice.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from fhirserver.auth.access import everything
from fhirserver.fhir import Resource
from fhirserver.fhir.instants import instant_text
from fhirserver.fhir.problem import Problem
from fhirserver.interactions.model import Server
from fhirserver.rules.model import target
from fhirserver.rules.subscription import NEVER_TOPICS, owner
from fhirserver.store.database import Session
from fhirserver.store.model import REGISTRY, Change, Pending, Stored
from fhirserver.subscriptions import delivery, notification
from fhirserver.subscriptions.deliver import turn
from fhirserver.subscriptions.lanes import Lanes
from fhirserver.subscriptions.match import Event, Match
from fhirserver.subscriptions.shape import shaped
from fhirserver.subscriptions.topics import CANONICAL, Catalogue
from fhirserver.subscriptions.watching import Watched, Watching, covers

log = logging.getLogger(__name__)

ORDER = f"{CANONICAL}/StructureDefinition/subscription-order"
BATCH = 100
LEASE_SECONDS = 5.0
SWEEP_SECONDS = 2.0
MOST_DUE = 1000
SURVEY_SECONDS = 30.0
POISON_SECONDS = 60.0

Put = Callable[[str, Iterable[Sequence[str]]], int]
"""(job name, ids of each job) -> how many were put: the queue's `enqueue_many`."""
Watcher = Callable[[Pending, Session], None]
"""What else is to happen with an event in the transaction that takes it off its document: its audit record."""


@dataclass(slots=True)
class _Batch:
    """What one transaction writes: matches per subscription in the order of the events, and the events themselves.

    wakes: what is to be looked at again once it has committed, (organization, subscription); "" for all of them.
    """

    matches: dict[tuple[str, str], list[tuple[Event, Match]]] = field(default_factory=dict)
    done: list[Pending] = field(default_factory=list)
    watched: dict[str, Watched] = field(default_factory=dict)
    wakes: set[tuple[str, str]] = field(default_factory=set)
    versions: Mapping[str, Stored] = field(default_factory=dict)


class Relay:
    """Turns pending events into deliveries. `put` enqueues jobs; `owner` names this process among those that stand by;
    `sweeps` are called every two seconds by the one that leads; `watcher` sees each event once.
    """

    def __init__(
        self,
        server: Server,
        catalogue: Catalogue,
        put: Put,
        owner: str,
        *,
        sweeps: Sequence[Callable[[], object]] = (),
        watcher: Watcher | None = None,
    ) -> None:
        self._server = server
        self._store = server.store
        self._put = put
        self._owner = owner
        self._sweeps = (self.round, self.sweep, *sweeps)
        self._watcher = watcher
        self._lanes = Lanes(server.store.database)
        self._watching = Watching(server, catalogue)
        self._poison: dict[str, float] = {}
        self._leads_until = 0.0
        self._surveyed = float("-inf")
        self._beating: list[tuple[str, Resource]] = []
        self._beats: dict[tuple[str, str], datetime] = {}

    def run(self, stop: threading.Event) -> None:
        """Relays until `stop` is set. Survives a database that goes away and comes back."""
        swept = 0.0
        for types in self._store.watch(stop.is_set):
            try:
                if not self._leading():
                    continue
                self.drain(types)
                if time.monotonic() - swept >= SWEEP_SECONDS:
                    swept = time.monotonic()
                    for sweep in self._sweeps:
                        sweep()
            except Problem as trouble:
                log.warning("relay: %s", trouble)
                stop.wait(0.5)
            except Exception:
                log.exception("relay")
                stop.wait(0.5)
        with suppress(Problem):  # of a database that is away; else it ends by itself
            self._store.release("relay", self._owner)

    def drain(self, types: Collection[str] | None = None) -> int:
        """Relays what is pending in these types (None: in all) and answers how many events that was."""
        self._server.refresh()
        self._lanes.prepare()
        self._watching.prepare()
        self._store.database.current(delivery.TYPE)
        total = 0
        while True:
            done = self._batch(types, BATCH)
            total += done
            if done < BATCH or not self._leading():
                return total

    def round(self) -> None:
        """Asks for the heartbeats that are due; every half minute looks at all subscriptions of all organizations."""
        if time.monotonic() - self._surveyed > SURVEY_SECONDS:
            self._surveyed = time.monotonic()
            self.survey()
        for organization, subscription in self._beating:
            self._beat(organization, subscription)

    def survey(self) -> None:
        """Switches off the subscriptions that have ended, and finds those that want heartbeats."""
        self._server.refresh()
        self._lanes.prepare()
        self._beating = []
        for resource in self._watching.every(REGISTRY, "Organization", ()):
            organization = resource["id"]
            watched = self._watching.watched(organization)
            self._beating += [(organization, watched.resources[id]) for id in watched.beats]
            for id in watched.ends:
                if not covers(watched.resources[id], self._server.now()):
                    self._end(organization, id)

    def _end(self, organization: str, id: str) -> None:
        found = self._store.live(everything(organization), "Subscription", id)
        if found and found.resource()["status"] in ("active", "error"):
            turn(self._server, found, "off", f"The subscription ended at {found.resource()['end']}.")

    def _beat(self, organization: str, subscription: Resource) -> None:
        """Asks for a heartbeat when its period is over; the first one comes a period after this process began."""
        period = notification.channel_number(subscription, notification.HEARTBEAT) or 0
        now, key = self._server.now(), (organization, subscription["id"])
        due = self._beats.setdefault(key, now + timedelta(seconds=period))
        if due <= now:
            self._beats[key] = now + timedelta(seconds=period)
            self._lanes.wake(*key, now, beat=True)

    def sweep(self) -> int:
        """Enqueues a job for every subscription that is due: the queue may have been emptied, a retry has its time."""
        return self._put("deliver", self._lanes.due(self._server.now(), MOST_DUE))

    # One batch

    def _batch(self, types: Collection[str] | None, limit: int) -> int:
        try:
            return self._relayed(types, limit, "")
        except Exception as error:
            if _passing(error):
                raise
            log.exception("a batch of events failed; they are tried one by one")
        done = 0
        for pending in self._pending(types, limit):
            id = pending.event["id"]
            try:
                done += self._relayed([pending.type], limit, id)
            except Exception as error:
                if _passing(error):
                    raise
                # Kept where it is, and tried again later: it must neither be lost nor hold up the others.
                log.exception("event %s cannot be relayed: %s %s", id, error, error.__cause__)
                self._poison[id] = time.monotonic() + POISON_SECONDS
        return done

    def _relayed(self, types: Collection[str] | None, limit: int, only: str) -> int:
        batch: _Batch = self._store.transaction(lambda session: self._write(session, types, limit, only))
        now = self._server.now()
        self._lanes.touch(batch.matches, now)
        for organization, subscription in batch.wakes:
            if subscription:
                self._lanes.wake(organization, subscription, now)
            else:
                self._lanes.wake_all(organization, now)
        if batch.matches:
            self._put("deliver", sorted(batch.matches))
        if batch.wakes:
            self.sweep()
        return len(batch.done)

    def _write(self, session: Session, types: Collection[str] | None, limit: int, only: str) -> _Batch:
        # Whoever relays at the same time writes this counter too, so one of the two begins anew; what is pending is
        # read in this transaction, so what is taken off here is what was seen here.
        self._store.next_number("relay", 1, session)
        batch = _Batch()
        found = [pending for pending in self._pending(types, limit, session) if only in ("", pending.event["id"])]
        batch.versions = self._watching.versions(found)
        for pending in found:
            self._take(batch, pending, session)
        now = self._server.now()
        changes = [change for key in batch.matches for change in self._numbered(batch, key, session, now)]
        if changes:
            self._store.commit(changes, session)
        self._store.clear_events(batch.done, session)
        return batch

    def _pending(self, types: Collection[str] | None, limit: int, session: Session | None = None) -> list[Pending]:
        now = time.monotonic()
        self._poison = {id: until for id, until in self._poison.items() if until > now}
        found = self._store.pending(limit + len(self._poison), types, session)
        return [pending for pending in found if pending.event["id"] not in self._poison][:limit]

    def _take(self, batch: _Batch, pending: Pending, session: Session) -> None:
        if self._watcher:
            self._watcher(pending, session)
        batch.done.append(pending)
        organization = pending.organization
        if organization == REGISTRY:
            batch.wakes |= self._concerned(pending)
            return
        types = {change["type"] for change in pending.event["changes"]}
        if "Subscription" in types:
            batch.wakes.add((organization, pending.id))
        if types and all(type.lower() in NEVER_TOPICS for type in types):
            return
        if organization not in batch.watched:
            batch.watched[organization] = self._watching.watched(organization)
        watched = batch.watched[organization]
        event = self._watching.event(organization, pending.event, batch.versions)
        for match in watched.subscriptions.matching(event):
            if covers(watched.resources[match.subscription], pending.event["t"]):
                batch.matches.setdefault((organization, match.subscription), []).append((event, match))

    def _concerned(self, pending: Pending) -> set[tuple[str, str]]:
        """A decision about a client may let held deliveries go: those of the organization look again at once."""
        if pending.type != "ClientAuthorization":
            return set()
        found = self._store.live(everything(REGISTRY), pending.type, pending.id)
        return {(target(found.resource().get("organization") if found else None, "Organization"), "")}

    def _numbered(self, batch: _Batch, key: tuple[str, str], session: Session, now: datetime) -> Iterable[Change]:
        organization, id = key
        told = batch.matches[key]
        subscription = batch.watched[organization].resources[id]
        first = self._store.next_number(delivery.counter(organization, id), len(told), session)
        topic = batch.watched[organization].subscriptions.compiler.topic(subscription)
        whole = any(e.get("url") == ORDER and e.get("valueCode") == "subscription" for e in _extensions(subscription))
        for number, (event, match) in enumerate(told, first):
            resource = delivery.new(
                id,
                owner(subscription),
                number,
                shaped(self._server, organization, topic, event, match),
                [change.reference for change in match.changes],
                code=_code(event.document, match),
                why=match.why[:1000],
                lane="subscription" if whole else self._lane(event, match),
                queued=instant_text(now),
                nextAttempt=instant_text(now),
            )
            yield delivery.change(self._server, organization, resource, None, now)

    def _lane(self, event: Event, match: Match) -> str:
        """The patient an event is about, or what it is about where no patient is."""
        changes = [*match.changes, *event.changes]
        for change in changes:
            if change.type == "Patient":
                return change.reference
        of_type = self._server.definitions.compartments.get("Patient", {})
        for change in changes:
            resource = change.current or change.previous
            entry = event.index(resource)
            for code in of_type.get(change.type, ()):
                found = [v for v in entry.search.get(code, ()) if isinstance(v, str) and v.startswith("Patient/")]
                if found:
                    return found[0]
        return changes[0].reference if changes else "event"

    def _leading(self) -> bool:
        if time.monotonic() < self._leads_until - LEASE_SECONDS / 2:
            return True
        led = time.monotonic() < self._leads_until
        taken = self._store.lease("relay", self._owner, LEASE_SECONDS) is not None
        if taken and not led:
            # Whoever led before may have ended between writing deliveries and saying that they wait.
            self._lanes.prepare()
            self._lanes.rebuild(delivery.TYPE, self._server.now())
        self._leads_until = time.monotonic() + LEASE_SECONDS if taken else 0.0
        return taken


def _code(event: Mapping[str, Any], match: Match) -> str:
    if event.get("trigger"):
        return str(event["trigger"])
    change = match.changes[0] if match.changes else None
    return f"{change.action}.{change.type.lower()}" if change else "event"


def _extensions(subscription: Resource) -> Iterable[Mapping[str, Any]]:
    channel: Mapping[str, Any] = subscription.get("channel") or {}
    return channel.get("extension") or ()


def _passing(error: Exception) -> bool:
    """Whether this is the database's trouble, which passes, and not the event's."""
    return isinstance(error, Problem) and error.status == 503
