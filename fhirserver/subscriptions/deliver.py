"""The job `deliver`: sends what waits of one subscription, in order per lane, several lanes at a time.

The job holds the subscription's lease, so that nobody else sends out of turn. In a lane, an event waits until the one
before it was accepted or given up; an endpoint that fails is tried with one delivery at a time and left alone in
between. What was sent is recorded after each round, so a crash repeats at most a round: at least once, and in order.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from fhirserver.auth.access import everything
from fhirserver.auth.principal import SYSTEM
from fhirserver.fhir import Resource
from fhirserver.fhir.instants import instant_text
from fhirserver.fhir.json import encode
from fhirserver.fhir.problem import Problem
from fhirserver.interactions.model import Request, Server
from fhirserver.interactions.versions import put
from fhirserver.rules.model import Prepared
from fhirserver.store.holding import Held, Holding
from fhirserver.store.model import Change, Stored
from fhirserver.subscriptions import delivery, notification, sending
from fhirserver.subscriptions.delivery import Delivery
from fhirserver.subscriptions.gate import GREET, HOLD, SEND, SKIP, Gate, gate
from fhirserver.subscriptions.lanes import Breaker, Lanes, Ready
from fhirserver.subscriptions.post import Answer, Endpoints
from fhirserver.subscriptions.schedule import Schedule, asked
from fhirserver.subscriptions.signature import signed
from fhirserver.subscriptions.versions import Parts

TURN_SECONDS = 20.0  # Then the job goes to the end of the queue, so that others get their turn.
ROUND_SECONDS = 1.0
FRESH_SECONDS = 0.05
ROUND = 64
IN_LANE = 16
LOOKED_AT = 1000
PARALLEL = 8  # POSTs at a time to one subscription's endpoint.
THREADS = 128
HOLD_SECONDS = 5.0
GONE = 410
BUSY = frozenset({429, 503})

GaveUp = Callable[[str, Sequence[Resource]], Sequence[Change]]
"""(organization, deliveries given up) -> what is to be written along with them: a notice."""


@dataclass(frozen=True, slots=True)
class Sent:
    """A delivery after its attempt: the resource as it is now to be stored, and what the endpoint said."""

    delivery: Delivery
    resource: Resource
    answer: Answer | None


@dataclass(slots=True)
class _Round:
    """One round: what may be sent, until when, and whether something in it says to stop."""

    gate: Gate
    parts: Parts
    held: Held
    ends: float
    asked: float
    stopped: threading.Event = field(default_factory=threading.Event)
    asking: threading.Lock = field(default_factory=threading.Lock)


class Deliverer:
    """Sends. `decrypt` opens what is encrypted in a Subscription's private part; `enqueue` puts a job; `chance` gives
    numbers from 0 to 1; `gave_up` says what else is written where deliveries are given up. Threads may
    share it; a child process must make its own.
    """

    def __init__(
        self,
        server: Server,
        endpoints: Endpoints,
        decrypt: Callable[[str], str],
        enqueue: Callable[..., object],
        chance: Callable[[], float],
        schedule: Schedule | None = None,
        gave_up: GaveUp | None = None,
    ) -> None:
        self._server = server
        self._store = server.store
        self._endpoints = endpoints
        self._decrypt = decrypt
        self._enqueue = enqueue
        self._chance = chance
        self._schedule = schedule or Schedule()
        self._gave_up = gave_up
        self._lanes = Lanes(server.store.database)
        self._holding = Holding(server.store)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="deliver")

    def deliver(self, organization: str, subscription: str) -> None:
        """Sends what is due of a subscription; what `jobs` runs under the name `deliver`."""
        self._server.refresh()
        lease, owner = f"deliver/{organization}/{subscription}", self._server.new_id()
        ends = time.monotonic() + TURN_SECONDS
        while True:
            with self._holding.lease(lease, owner) as held:
                if held is None:
                    return
                while not held.lost and time.monotonic() < ends and self._step(organization, subscription, held):
                    pass
            # What came in while the lease was held found it taken, and relies on this look after its end.
            ready = self._lanes.read(organization, subscription)
            if ready is None or ready.due > self._server.now():
                return
            if time.monotonic() >= ends:
                self._enqueue("deliver", organization, subscription)
                return

    def close(self) -> None:
        """Ends the threads and connections."""
        self._pool.shutdown()
        self._holding.close()
        self._endpoints.close()

    def _step(self, organization: str, subscription: str, held: Held) -> bool:
        """One round; whether there may be more to do at once."""
        ready = self._lanes.read(organization, subscription)
        if ready is None:
            return False
        now = self._server.now()
        opened = gate(self._server, self._decrypt, organization, subscription)
        if opened.action == SKIP:
            return self._skip(ready, opened)
        if opened.action == HOLD:
            self._beat_in_error(ready, opened)
            due = now + timedelta(seconds=HOLD_SECONDS) if self._hold(ready, opened) else None
            return not self._lanes.settle(ready, due, ready.breaker)
        if ready.breaker.until and ready.breaker.until > now:
            return not self._lanes.settle(ready, ready.breaker.until, ready.breaker)
        if not self._greeted(ready, opened):
            return True
        assert opened.channel
        tripped = ready.breaker.failures >= self._schedule.trips
        together = 1 if tripped else opened.channel.together
        picked, due = self._picked(ready, now, 1 if tripped else max(ROUND, together), max(IN_LANE, together))
        if not picked:
            return not self._lanes.settle(ready, due, ready.breaker)
        self._send(ready, opened, picked, held)
        return True

    def _picked(
        self, ready: Ready, now: datetime, most: int, in_lane: int
    ) -> tuple[dict[str, list[Delivery]], datetime | None]:
        """Lane -> what may be sent of it now, in order; and when the first of the others is due, None without."""
        lanes: dict[str, list[Delivery]] = {}
        blocked: dict[str, str] = {}
        count = 0
        for looked, waiting in enumerate(delivery.waiting(self._server, ready.organization, ready.subscription)):
            if count == most or looked == LOOKED_AT:
                break
            lane = waiting.lane
            if lane in blocked or len(lanes.get(lane, ())) == in_lane:
                continue
            if not waiting.due(now):
                blocked[lane] = waiting.resource["nextAttempt"]
                continue
            lanes.setdefault(lane, []).append(waiting)
            count += 1
        return lanes, datetime.fromisoformat(min(blocked.values())) if blocked else None

    # Sending

    def _send(self, ready: Ready, opened: Gate, lanes: Mapping[str, Sequence[Delivery]], held: Held) -> None:
        every = [one for lane in lanes.values() for one in lane]
        parts = Parts(self._server, ready.organization, [one.resource for one in every], encoded=True)
        began = time.monotonic()
        current = _Round(opened, parts, held, began + ROUND_SECONDS, began)
        assert opened.channel
        if opened.channel.together > 1:  # One line of POSTs, each over several lanes, which so keep their order.
            lanes = {"": sorted(every, key=lambda one: one.version.id)}
        groups = [list(lanes.values())[start::PARALLEL] for start in range(min(PARALLEL, len(lanes)))]
        others = [self._pool.submit(self._group, current, group) for group in groups[1:]]
        sent = self._group(current, groups[0])
        for other in others:
            sent += other.result()
        self._record(ready.organization, sent)
        self._judge(ready, opened, [one.answer for one in sent if one.answer])

    def _group(self, current: _Round, lanes: Sequence[Sequence[Delivery]]) -> list[Sent]:
        """Several lanes one after the other: a subscription gets a few threads, however many lanes it has."""
        return [one for lane in lanes for one in self._lane(current, lane)]

    def _lane(self, current: _Round, lane: Sequence[Delivery]) -> list[Sent]:
        sent: list[Sent] = []
        assert current.gate.channel
        for portion in sending.portions(lane, current.gate.channel.together):
            opened = self._still_open(current)
            if opened is None:
                break
            results, answer = self._attempt(opened, current.parts, portion)
            sent += results
            if answer and not _accepted(answer):
                if _of_endpoint(answer):
                    current.stopped.set()
                break
        return sent

    def _still_open(self, current: _Round) -> Gate | None:
        """The gate, if the next delivery of the round may go through it; asked again when it was asked a while ago."""
        if current.held.lost or time.monotonic() > current.ends:
            current.stopped.set()
        with current.asking:
            if time.monotonic() - current.asked > FRESH_SECONDS and not current.stopped.is_set():
                version = current.gate.version
                assert version
                current.gate = gate(self._server, self._decrypt, version.organization, version.id)
                current.asked = time.monotonic()
                if current.gate.action != SEND:
                    current.stopped.set()
            return None if current.stopped.is_set() else current.gate

    def _attempt(self, opened: Gate, parts: Parts, portion: Sequence[Delivery]) -> tuple[list[Sent], Answer | None]:
        """One POST of what the client may read of these; what became of each, and what the endpoint said."""
        channel, access = opened.channel, opened.access
        assert channel
        assert access
        told = [(one, parts.told(one.resource, access)) for one in portion]
        skipped = [
            Sent(one, delivery.finished(one.resource, "skipped", t.refused), None) for one, t in told if t.refused
        ]
        readable = [(one, t.parts) for one, t in told if not t.refused]
        if not readable:
            return skipped, None
        body = encode(sending.bundle(self._server, opened, channel, readable))
        now = self._server.now()
        answer = self._post(opened, sending.message_id([one for one, _ in readable]), body, now)
        sent = [
            Sent(one, self._after(one.resource, answer, now, channel.endpoint, channel.retry_hours), answer)
            for one, _ in readable
        ]
        return [*skipped, *sent], answer

    def _post(self, opened: Gate, id: str, body: bytes, now: datetime) -> Answer:
        channel = opened.channel
        assert channel
        headers = notification.headers(channel.payload, opened.resource["id"], channel.headers)
        headers |= signed(channel.secrets, id, int(now.timestamp()), body)
        return self._endpoints.post(channel.endpoint, headers, body, channel.seconds)

    def _after(
        self, resource: Resource, answer: Answer, sent: datetime, endpoint: str, hours: float | None
    ) -> Resource:
        """The delivery after an answer: delivered, to be tried again, or given up."""
        attempt = {
            "time": instant_text(sent),
            "endpoint": endpoint,
            **({"status": answer.status} if answer.status else {}),
            "latency": answer.milliseconds,
            **({"error": answer.error} if answer.error else {}),
            **({"answer": answer.excerpt.strip()} if answer.excerpt.strip() else {}),
        }
        tried = delivery.attempted(resource, attempt)
        now = self._server.now()
        if _accepted(answer):
            return {**delivery.finished(tried, "delivered"), "sent": instant_text(now)}
        why = answer.error or f"The endpoint answered {answer.status}."
        wait = max(self._schedule.wait(tried["attempts"], self._chance()), _asked(answer, now))
        until = now + timedelta(seconds=wait)
        if self._schedule.over(datetime.fromisoformat(resource["queued"]), until, hours):
            return delivery.finished(tried, "dead-letter", why)
        return delivery.postponed(tried, "retrying", until, why)

    def _record(self, organization: str, sent: Sequence[Sent]) -> None:
        now = self._server.now()
        changes = [delivery.change(self._server, organization, s.resource, s.delivery.version, now) for s in sent]
        given_up = [s.resource for s in sent if s.resource["status"] == "dead-letter"]
        if given_up and self._gave_up:
            changes += self._gave_up(organization, given_up)
        self._commit(changes)
        for one in sent:
            self._server.meter.count("delivery_attempts", one.resource["status"])
            if one.answer:
                self._server.meter.time(one.answer.milliseconds / 1000, "delivery_seconds")
                self._audit(organization, one.resource, one.answer)

    def _audit(self, organization: str, resource: Resource, answer: Answer) -> None:
        """One audit record per attempt: an attempt that failed may have shown what it carried."""
        client = str(resource.get("client", {}).get("identifier", {}).get("value", ""))
        self._server.record(
            "delivery",
            organization,
            who={"kind": "client", "id": client},
            address=resource["attempt"][-1]["endpoint"],
            type=delivery.TYPE,
            id=resource["id"],
            seen=[change["reference"]["reference"] for change in resource.get("change", ())],
            status=200 if _accepted(answer) else 504,
            why="" if _accepted(answer) else f"the endpoint answered {answer.status or 'nothing'}",
        )

    def _commit(self, changes: Sequence[Change]) -> None:
        """Writes all; where one was changed by another meanwhile ($redeliver), all but that one."""
        if not changes:
            return
        try:
            self._store.commit(changes)
        except Problem as trouble:
            if trouble.issues[0].code != "conflict" or len(changes) == 1:
                if trouble.issues[0].code == "conflict":
                    return
                raise
            for change in changes:
                self._commit([change])

    def _judge(self, ready: Ready, opened: Gate, answers: Sequence[Answer]) -> None:
        """What a round says about the endpoint: it works, it is gone, it fails, it asks for patience."""
        if any(answer.status == GONE for answer in answers):
            self._turn(opened, "off", "The endpoint answered 410 Gone.")
            return
        now = self._server.now()
        patience = max((_asked(answer, now) for answer in answers), default=0.0)
        failing = any(_of_endpoint(answer) for answer in answers)
        failures = ready.breaker.failures + 1 if failing else 0 if answers else ready.breaker.failures
        rest = max(patience, self._schedule.rest(failures, self._chance()))
        since = (ready.breaker.since or now) if failures else None
        if since and now - since > timedelta(hours=self._schedule.error_hours):
            self._lanes.trip(ready, Breaker())
            last = next(a for a in answers if _of_endpoint(a))
            why = last.error or f"it answered {last.status}"
            self._turn(opened, "error", f"The endpoint has failed since {instant_text(since)}: {why}.")
            return
        breaker = Breaker(failures, since, now + timedelta(seconds=rest) if rest else None)
        if breaker != ready.breaker:
            self._lanes.trip(ready, breaker)

    # Notifications without an event

    def _greeted(self, ready: Ready, opened: Gate) -> bool:
        """Whether the endpoint has had what comes before events: the handshake of the Backport, a heartbeat asked for.

        A handshake that fails is tried again like a delivery; after some failures the subscription is in error.
        """
        assert opened.version
        assert opened.channel
        if not opened.channel.content:
            return True
        if opened.action == GREET or not opened.version.private.get("handshake"):
            answer = self._tell(ready.organization, opened, "handshake")
            if _accepted(answer):
                told = {**opened.version.private, "handshake": instant_text(self._server.now())}
                active = {name: value for name, value in opened.resource.items() if name != "error"}
                write_subscription(self._server, opened.version, {**active, "status": "active"}, told)
            else:
                self._missed(ready, opened, answer)
            return False
        if ready.beat:
            self._lanes.beaten(ready)
            answer = self._tell(ready.organization, opened, "heartbeat")
            self._judge(ready, opened, [answer])
            return False
        return True

    def _tell(self, organization: str, opened: Gate, kind: str) -> Answer:
        channel, id = opened.channel, opened.resource["id"]
        assert channel
        count = 0 if kind == "handshake" else delivery.last_number(self._server, organization, id)
        status = "requested" if kind == "handshake" else opened.resource["status"]
        error = str(opened.resource.get("error", "")) if status == "error" else ""
        base = self._server.base(organization)
        about = notification.About(base, id, status, count, opened.topic, channel.content, error)
        now, message = self._server.now(), self._server.new_id()
        return self._post(
            opened, message, encode(notification.history(kind, about, [], instant_text(now), message)), now
        )

    def _missed(self, ready: Ready, opened: Gate, answer: Answer) -> None:
        failures = ready.breaker.failures + 1
        reason = f"The handshake failed: {answer.error or f'the endpoint answered {answer.status}'}."
        if failures >= self._schedule.trips:
            self._lanes.trip(ready, Breaker())
            self._turn(opened, "error", reason)
            return
        now = self._server.now()
        until = now + timedelta(seconds=self._schedule.wait(failures, self._chance()))
        self._lanes.trip(ready, Breaker(failures, ready.breaker.since or now, until))

    def _beat_in_error(self, ready: Ready, opened: Gate) -> None:
        """A heartbeat that is due says that the subscription is in error; whatever the answer, it stays in error."""
        if not (ready.beat and opened.channel and opened.version and opened.channel.content):
            return
        self._lanes.beaten(ready)
        if opened.version.private.get("greeted"):  # else the endpoint never was one that wanted any of this
            self._tell(ready.organization, opened, "heartbeat")

    # Not sending

    def _skip(self, ready: Ready, opened: Gate) -> bool:
        """Passes over what waits; whether there is more."""
        changes = []
        now = self._server.now()
        for one in delivery.waiting(self._server, ready.organization, ready.subscription):
            resource = delivery.finished(one.resource, "skipped", opened.reason)
            changes.append(delivery.change(self._server, ready.organization, resource, one.version, now))
            if len(changes) == ROUND:
                break
        self._commit(changes)
        return bool(changes) or not self._lanes.settle(ready, None, Breaker())

    def _hold(self, ready: Ready, opened: Gate) -> bool:
        """Says in each waiting delivery why it waits; whether any does."""
        now = self._server.now()
        changes, looked = [], 0
        for one in delivery.waiting(self._server, ready.organization, ready.subscription):
            looked += 1
            if one.resource["status"] != "held":
                held = {**one.resource, "status": "held", "statusReason": opened.reason}
                changes.append(delivery.change(self._server, ready.organization, held, one.version, now))
            if looked == LOOKED_AT:
                break
        self._commit(changes)
        return looked > 0

    def _turn(self, opened: Gate, status: str, reason: str) -> None:
        assert opened.version
        turn(self._server, opened.version, status, reason)


def turn(server: Server, version: Stored, status: str, reason: str) -> None:
    """Gives a Subscription a status of the server's own, with the reason in its `error`. In error, a handshake is due
    again."""
    private = dict(version.private)
    if status == "error" and "handshake" in private:
        private["greeted"] = private.pop("handshake")
    write_subscription(server, version, {**version.resource(), "status": status, "error": reason}, private)


def write_subscription(server: Server, version: Stored, resource: Resource, private: dict[str, object]) -> None:
    """Writes the next version of a Subscription for the server itself; where another wrote it first, nothing."""
    organization, reference = version.organization, f"Subscription/{version.id}"
    base, whole = server.base(organization), everything(organization)
    request = Request("update", organization, base, SYSTEM, type="Subscription", id=version.id)
    try:
        put(server, request, whole, Prepared(resource, private), version, reference, "PUT")
    except Problem as trouble:
        if trouble.issues[0].code != "conflict":
            raise


def _accepted(answer: Answer) -> bool:
    return 200 <= answer.status < 300


def _of_endpoint(answer: Answer) -> bool:
    """Whether a failure says something about the endpoint and not only about this one delivery."""
    return answer.status == 0 or answer.status >= 500 or answer.status in BUSY or answer.status in (401, 403, 404, GONE)


def _asked(answer: Answer, now: datetime) -> float:
    return asked(answer.retry_after, now) if answer.status in BUSY else 0.0
