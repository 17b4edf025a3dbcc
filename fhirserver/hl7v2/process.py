"""Processing what was taken in: one lane after the other, each message mapped and stored once, whatever happens in
between.

A lane is one patient (or order, or sender). A job drains it under a lease; a message that must have a second lane to
itself (a merge) takes that lease too. What cannot be mapped stays, with its reason, until a person or `$reprocess`
takes it up.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from fhirserver.auth.access import everything
from fhirserver.fhir import Resource
from fhirserver.fhir.instants import instant_text
from fhirserver.fhir.problem import Issue, Problem, problem
from fhirserver.hl7v2 import codes
from fhirserver.hl7v2.effective import Effective
from fhirserver.hl7v2.inbound import issue_element
from fhirserver.hl7v2.ingest import FRESH_SECONDS, JOB, Intake
from fhirserver.hl7v2.kept import content_of, found, rewrite
from fhirserver.hl7v2.late import narrowed
from fhirserver.hl7v2.mapping import Context, Result, to_bundle
from fhirserver.hl7v2.mapping.overlay import Overlay
from fhirserver.hl7v2.message import Message
from fhirserver.hl7v2.senders import Sender, sender
from fhirserver.interactions.model import Server
from fhirserver.messaging import process_message
from fhirserver.messaging.content import accept, resume, unfinished
from fhirserver.messaging.merge import POLICIES, REPOINT
from fhirserver.messaging.parts import Content, Done
from fhirserver.rules.model import target
from fhirserver.store import lanes
from fhirserver.store.database import Session
from fhirserver.store.holding import Held, Holding
from fhirserver.store.model import REGISTRY, Stored

log = logging.getLogger(__name__)

BATCH = 20
ATTEMPTS = 4
STALE_SECONDS = 5.0
MOST_ORGANIZATIONS = 10_000
MOST_LANES = 1_000
MOST_RESULTS = 200
MOST_LATER = 100
"""Messages of a patient that are asked what they have said, when one comes late."""
MERGE_POLICY = "https://fhirserver.example/fhir/StructureDefinition/organization-merge-references"

# What will pass if it is tried again: the message stays `received`.
PASSING = frozenset({"transient", "conflict", "lock-error", "no-store", "timeout", "throttled"})


def process(intake: Intake, organization: str, lane: str) -> int:
    """Drains one lane; answers how many messages it took on. Answers 0 where another process is draining it.

    Raises Problem where the store is away or a message conflicts again and again: the sweep comes back to it.
    """
    with intake.server.store.session() as session:
        return _drain(intake, organization, lane, _Hand(intake.server.new_id(), session))


@dataclass(frozen=True, slots=True)
class _Hand:
    """Who drains a lane: its name as a holder of leases, and the session that it writes with."""

    owner: str
    session: Session


def _drain(intake: Intake, organization: str, lane: str, hand: _Hand) -> int:
    server, taken = intake.server, 0
    while waiting := _waiting(server, organization, lane):
        with _leased(intake.holding, [lease_of(organization, lane)], hand) as held:
            for version in waiting if held else ():
                if held.lost:
                    return taken
                server.refresh()
                try:
                    taken += _one(intake, organization, lane, version, hand)
                except Problem as fault:
                    if fault.issues[0].code != "lock-error":
                        raise
                    return taken  # its other lane is at work, and comes to it
            if not held:
                return taken
    return taken


def sweep(intake: Intake) -> int:
    """Wakes the lanes in which a message has waited for some seconds: its job was lost. Answers how many."""
    server, woken = intake.server, 0
    before = server.now() - timedelta(seconds=STALE_SECONDS)
    for organization in _organizations(server):
        codes.settle(server, intake.overlays, organization)
        stale = lanes.stale(server.store.database, organization, before, MOST_LANES)
        intake.wake_lanes([(organization, lane) for lane in stale])
        woken += len(stale)
    return woken


def convert(
    intake: Intake,
    raw: bytes,
    organization: str,
    sender: Sender | None,
    *,
    trace: bool = False,
    message: Stored | None = None,
    instead: Resource | None = None,
) -> Result:
    """What a message would become (or became: `message` is its InboundMessage): nothing is stored.
    Without a sender it is the one that the message names. `instead` is an overlay to try. Raises Problem where the
    message cannot be read or mapped.
    """
    parsed = _parsed(raw, sender)
    if sender is None and message is None:
        applications, facilities = (parsed["MSH-3.1"], parsed["MSH-3.2"]), (parsed["MSH-4.1"], parsed["MSH-4.2"])
        sender = intake.senders(FRESH_SECONDS).of(organization).find(applications, facilities)
    effective = intake.overlays.effective(organization, sender, parsed, instead)
    parsed = effective.read(raw, parsed, sender.charset if sender else "")
    context = _context(intake.server, organization, effective, message)
    return to_bundle(effective.maps, parsed, context, trace=trace)


def _one(intake: Intake, organization: str, lane: str, waiting: Stored, hand: _Hand) -> int:
    """Processes one message. What conflicts again and again would hold up its lane for ever: it is set aside."""
    for attempt in range(ATTEMPTS):
        try:
            return _attempt(intake, organization, lane, waiting, hand, again=attempt > 0)
        except Problem as fault:
            if fault.issues[0].code != "conflict":
                raise
    text = f"What the message changes was changed by others each of the {ATTEMPTS} times it was tried. Reprocess it."
    _fail(intake.server, waiting, waiting.resource(), problem("conflict", text))
    return 1


def _attempt(intake: Intake, organization: str, lane: str, waiting: Stored, hand: _Hand, *, again: bool) -> int:
    """Processes one message, in its other lanes too. One that another job finished meanwhile conflicts, and is passed
    over when it is tried `again`.
    """
    server, current = intake.server, waiting
    if again:
        now = server.store.live(everything(organization), "InboundMessage", waiting.id)
        if now is None or now.version != waiting.version:
            return 0
        current = now
    resource = current.resource()
    sender = sender_of(server, resource)
    try:
        if resource["content"]["contentType"] == process_message.CONTENT_TYPE:
            process_message.again(server, organization, current)
            return 1
        _whole(intake, organization, lane, current, sender, hand)
    except Problem as fault:
        if fault.issues[0].code in PASSING:
            raise
        _fail(server, current, resource, fault)
    except Exception:
        log.exception("InboundMessage/%s failed", current.id)
        text = "The message could not be processed because of a fault of the server; the log has it under this id."
        _fail(server, current, resource, problem("exception", text))
    return 1


def _whole(intake: Intake, organization: str, lane: str, current: Stored, sender: Sender | None, hand: _Hand) -> None:
    """Applies one HL7v2 message, holding all its lanes, when it is its turn in each."""
    server, resource = intake.server, current.resource()
    message = parsed_of(resource, sender)
    others = [each for each in lanes_of(resource) if each != lane]
    with _leased(intake.holding, [lease_of(organization, each) for each in others], hand) as held:
        if not held:
            raise problem("lock-error", "Another message of this patient is being processed.")
        for other in others:
            _in_turn(server, organization, other, current)
        if not unfinished(current):
            current = _apply(intake, organization, current, message, sender, hand.session)
        while unfinished(current) and not held.lost:
            current = resume(server, organization, current, {"message": current.id}, hand.session)
    for other in others:
        server.enqueue(JOB, organization, other)


def lanes_of(resource: Mapping[str, Any]) -> list[str]:
    """The lanes in which a message has its place: those that it was taken in with."""
    return list(dict.fromkeys([resource["lane"], *resource.get("otherLane", ())]))


def _in_turn(server: Server, organization: str, lane: str, current: Stored) -> None:
    """Raises Problem(lock-error) where an earlier message waits in another lane of this one; that lane is woken."""
    waiting = _waiting(server, organization, lane, 1)
    if waiting and waiting[0].resource()["sequence"] < current.resource()["sequence"]:
        server.enqueue(JOB, organization, lane)
        raise problem("lock-error", "An earlier message of another patient of this one waits.")


def _apply(
    intake: Intake, organization: str, current: Stored, message: Message, sender: Sender | None, session: Session
) -> Stored:
    """Stores what a message says; answers the InboundMessage as it is then, `unfinished` where a merge has more to do
    than one transaction bears.
    """
    server = intake.server
    effective, result = mapped(intake, organization, current, message, sender)
    unmapped = codes.noted(server, organization, current, sender, result.unmapped)
    if any(each.needed or each.table in effective.required for each in result.unmapped):
        waits = codes.held(current.resource(), unmapped)
        rewrite(server, current, waits)
        server.meter.count("messages_processed", str(waits["status"]))
        return current
    content = said(result)
    if current.version > 1:  # it is not the first time that it is looked at: others may have come first
        elements, deletes = narrowed(result, _later(intake, organization, current))
        content = replace(content, elements=elements, deletes=deletes)
    if result.effects:
        content = replace(content, policy=_policy(server, organization, sender))

    def finish(done: Sequence[Done]) -> Resource:
        return ended(server, current.resource(), result, done, effective, unmapped)

    stored = accept(server, organization, content, current, finish, {"message": current.id}, session)
    server.meter.count("messages_processed", status_of(result))
    return stored


def mapped(
    intake: Intake,
    organization: str,
    current: Stored,
    message: Message,
    sender: Sender | None,
    overlays: Sequence[Overlay] | None = None,
) -> tuple[Effective, Result]:
    """What a message becomes, and the maps that say it; `overlays`: those of its organization, where they were just
    read. Raises Problem where it cannot be mapped.
    """
    effective = intake.overlays.effective(organization, sender, message, stored=overlays)
    if effective.charset:
        message = effective.read(content_of(current), message, sender.charset if sender else "")
    return effective, to_bundle(effective.maps, message, _context(intake.server, organization, effective, current))


def said(result: Result) -> Content:
    """What a mapped message says, ready to be stored."""
    return Content(
        bundle=result.bundle,
        event=result.event,
        names=result.aliases,
        match=result.match,
        elements=result.elements,
        deletes=result.deletes,
        effects=result.effects,
    )


def _later(intake: Intake, organization: str, current: Stored) -> Iterator[Result]:
    """What the messages of the same lanes became that came after this one and were processed: the newest MOST_LATER."""
    server, own = intake.server, ",".join(lanes_of(current.resource()))
    pairs = [("lane", own), ("status", "processed,warning"), ("_sort", "-sequence")]
    for each in found(server, everything(organization), "InboundMessage", pairs, MOST_LATER):
        resource = each.resource()
        if resource["sequence"] <= current.resource()["sequence"]:
            return
        if "mapping" not in resource:  # a FHIR message, or one that was resolved by hand
            continue
        with suppress(Problem):  # it cannot be mapped any more
            yield convert(intake, content_of(each), organization, sender_of(server, resource), message=each)


def _policy(server: Server, organization: str, sender: Sender | None) -> str:
    """What becomes of references to a merged patient: the Endpoint says it, else the Organization."""
    if sender and sender.merge:
        return sender.merge
    stored = server.store.live(everything(REGISTRY), "Organization", organization)
    said = stored.resource().get("extension") if stored else None
    codes = [each.get("valueCode") for each in said or () if each.get("url") == MERGE_POLICY]
    return codes[0] if codes and codes[0] in POLICIES else REPOINT


def ended(
    server: Server,
    resource: Resource,
    result: Result,
    done: Sequence[Done],
    effective: Effective,
    unmapped: Sequence[Mapping[str, Any]],
) -> Resource:
    """The InboundMessage as it is once its content is stored."""
    finished = {
        name: value for name, value in resource.items() if name not in ("reason", "issue", "unmapped", "result")
    }
    patient = next((each for each in done if each.type == "Patient"), None)
    if patient:
        finished["patient"] = {**finished.get("patient", {}), "reference": f"Patient/{patient.id}"}
    return finished | _without_empty(
        {
            "status": status_of(result),
            "attempts": resource.get("attempts", 0) + 1,
            "processed": instant_text(server.now()),
            "mapping": effective.maps.name,
            "result": [{"reference": f"{d.type}/{d.id}/_history/{d.version}"} for d in done[:MOST_RESULTS]],
            "issue": [issue_element(Issue("value", text, (), "warning")) for text in result.warnings[:20]],
            "unmapped": list(unmapped),
        }
    )


def status_of(result: Result) -> str:
    """The status of the message that became this, once it is stored."""
    return "warning" if result.warnings or result.unmapped else "processed"


def _fail(server: Server, current: Stored, resource: Resource, fault: Problem) -> None:
    """Keeps the message with what is wrong with it."""
    code = fault.issues[0].code
    status = "failed" if code == "exception" else "mapping-error"
    reason = {"exception": "internal", "not-supported": "unmapped", "required": "unmapped"}.get(code, "rejected")
    failed = resource | {
        "status": status,
        "reason": reason,
        "attempts": resource.get("attempts", 0) + 1,
        "issue": [issue_element(issue) for issue in fault.issues[:20]],
    }
    rewrite(server, current, failed)
    server.meter.count("messages_processed", status)


def parsed_of(resource: Mapping[str, Any], sender: Sender | None) -> Message:
    """The message of an InboundMessage, read as its Endpoint says. Raises Problem where it cannot be read."""
    return _parsed(base64.b64decode(resource["content"]["data"]), sender)


def _parsed(raw: bytes, sender: Sender | None) -> Message:
    return Message.parse(raw, sender.charset) if sender and sender.charset else Message.parse(raw)


def sender_of(server: Server, resource: Mapping[str, Any]) -> Sender | None:
    """The Endpoint that the message came by, as it is now."""
    id = target(resource.get("endpoint"), "Endpoint")
    stored = server.store.live(everything(REGISTRY), "Endpoint", id) if id else None
    return sender(stored.resource()) if stored else None


def _context(server: Server, organization: str, effective: Effective, current: Stored | None) -> Context:
    return Context(
        organization=organization,
        namespace=f"{server.base(organization).removesuffix('/fhir/4')}/namespace/",
        received=datetime.fromisoformat(current.resource()["received"]) if current else server.now(),
        timezone=effective.timezone,
        message=f"InboundMessage/{current.id}" if current else "",
        authorities=effective.authorities,
        software=f"fhirserver {server.software}",
    )


def _waiting(server: Server, organization: str, lane: str, most: int = BATCH) -> list[Stored]:
    return lanes.waiting(server.store.database, organization, [lane], most)


def _organizations(server: Server) -> list[str]:
    return [version.id for version in found(server, everything(REGISTRY), "Organization", [], MOST_ORGANIZATIONS)]


def lease_of(organization: str, lane: str) -> str:
    """The name of a lane's lease."""
    return f"inbound/{organization}/{lane}"


@dataclass(frozen=True, slots=True)
class _Leases:
    """The leases that a message needs: true where all of them are held."""

    held: Sequence[Held]
    whole: bool

    def __bool__(self) -> bool:
        return self.whole

    @property
    def lost(self) -> bool:
        """Whether another process may hold one of them by now."""
        return any(each.lost for each in self.held)


@contextmanager
def _leased(holding: Holding, names: Sequence[str], hand: _Hand) -> Iterator[_Leases]:
    """Holds the leases of these names, or says that it could not get them all."""
    with ExitStack() as stack:
        held: list[Held] = []
        for name in sorted(names):
            one = stack.enter_context(holding.lease(name, hand.owner, hand.session))
            if one is None:
                break
            held.append(one)
        yield _Leases(held, len(held) == len(names))


def _without_empty(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in ([], None, "")}
