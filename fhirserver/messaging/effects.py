"""What a message does beside saying what is: patients merged and un-merged, numbers, accounts and visits moved.

HL7 v2.8.2 chapter 3. Here the effects of one message are held against its parts; what they mean for everything else is
`merge` and `moving`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from fhirserver.fhir import Resource
from fhirserver.fhir.problem import problem
from fhirserver.interactions.model import Request, Server
from fhirserver.messaging import merge, moving
from fhirserver.messaging.merge import Rest
from fhirserver.messaging.parts import Content, Done, Part, stored_tokens
from fhirserver.store.model import Stored


def survivors(content: Content, parts: Iterable[Part]) -> dict[str, list[str]]:
    """What tells the survivor of each merge: not a number of the prior one, though senders list it as the survivor's.

    Raises Problem(business-rule) where a merge has but one patient.
    """
    by_url = {part.full_url: part.resource for part in parts}
    found: dict[str, list[str]] = {}
    for kind, one, other in content.effects:
        if kind == "merge":
            ended = {moving.number(each) for each in by_url[one].get("identifier", ())}
            own = [each for each in content.match.get(other) or () if moving.number(each) not in ended]
            if not own and content.match.get(other):
                raise problem("business-rule", merge.ITSELF, "MRG")
            found[other] = stored_tokens(own)
        elif kind == moving.MOVE and by_url[one]["resourceType"] == "Patient":
            found[other] = stored_tokens(moving.owner(content.match.get(other) or (), by_url[one]))
    return found


def kinds_of(parts: Iterable[Part], content: Content) -> set[str]:
    """The types of what the effects of a message are about."""
    concerned = {url for _, *urls in content.effects for url in urls}
    kinds = {part.resource["resourceType"] for part in parts if part.full_url in concerned}
    return kinds | ({"Encounter"} if "Account" in kinds else set())


def told_apart(content: Content) -> frozenset[str]:
    """The fullUrls of those that a merge or un-merge means themselves, not what they have become."""
    return frozenset(
        url for kind, one, other in content.effects for url in ((one,) if kind == "merge" else (one, other))
    )


def affect(server: Server, request: Request, content: Content, parts: Sequence[Part]) -> None:
    """Holds the effects of a message against what is stored: what is to be linked, and what is to be taken apart."""
    by_url = {part.full_url: part for part in parts}
    for kind, one, other in content.effects:
        prior, survivor = by_url[one], by_url[other]
        if kind == "unmerge":
            for each, its in ((prior, survivor), (survivor, prior)):
                each.parted = its.name
                if each.previous and merge.replaced_by(each.previous.resource()) == its.name:
                    records = merge.recorded(server, request, each.name, its.name)
                    each.undone = records[0].private["merge"] if records else {"active": True}
        elif kind == moving.MOVE:
            prior.without = moving.taken(prior.resource) if prior.resource["resourceType"] == "Patient" else frozenset()
            if prior.id == survivor.id:
                raise problem("business-rule", moving.ITSELF, "MRG")
        else:
            before = merge.replaced_by(prior.previous.resource()) if prior.previous else ""
            if merge.check(server, request, prior.previous, prior.name, survivor.name):
                prior.joined = not before
            else:
                for each in (prior, survivor):
                    each.resource = {name: value for name, value in each.resource.items() if name != "link"}


def applied(after: Resource, part: Part) -> None:
    """Makes of a part, in place, what the effects make of it."""
    if part.parted:
        _take_apart(after, part)
    if part.without:
        _give_away(after, part)


def _take_apart(after: Resource, part: Part) -> None:
    """Takes the link to the other of an un-merge away; the one that had ended is again what it was."""
    links = [each for each in after.get("link", []) if each.get("other", {}).get("reference") != part.parted]
    after.pop("link", None)
    if links:
        after["link"] = links
    if part.undone is not None:
        after.pop("active", None)
        if part.undone.get("active") is not None:
            after["active"] = part.undone["active"]


def _give_away(after: Resource, part: Part) -> None:
    """Takes away the numbers that are another's now."""
    kept = [each for each in after.pop("identifier", []) if moving.number(each) not in part.without]
    if kept:
        after["identifier"] = kept


def begin(
    server: Server, request: Request, content: Content, parts: Sequence[Part], inbound: Stored, done: list[Done]
) -> list[Rest]:
    """Begins with what merging means for other resources; adds what was done, answers what is left."""
    assert request.unit
    request.unit.flush()
    by_url = {part.full_url: part for part in parts}
    room, rests = merge.MOST_MOVED, list[Rest]()
    for kind, one, other in content.effects:
        prior, survivor = by_url[one], by_url[other]
        if kind == "unmerge":
            prior, survivor = (prior, survivor) if prior.undone else (survivor, prior)
            if not prior.undone:
                continue
        rest = Rest(kind, prior.name, survivor.name, f"InboundMessage/{inbound.id}")
        if kind == moving.MOVE:
            source = moving.origin(prior.previous, prior.name, prior.resource, survivor.name)
            if not source:
                continue
            of = () if source == prior.name else moving.within(server, request, prior.name)
            rest = replace(rest, prior=source, within=of)
        first = _as_it_was(prior) if kind == "merge" and prior.joined else None
        step = merge.step(server, request, rest, first, content.policy, room)
        room -= len(step.moved)
        done += [Done(m.type, m.id, m.version, "update") for m in step.moved]
        rests += [] if step.finished else [rest]
    return rests


def _as_it_was(prior: Part) -> dict[str, Any]:
    """What undoing a merge needs to know of the prior resource: a new one would have been active."""
    before = prior.previous.resource() if prior.previous else {"active": True}
    return {"active": before.get("active")}
