"""What is told to whom, in which words: tables from a step to a notice. Pure. FHIR R4: communication.

A notice names applications, organizations and what people gave as their reasons; nothing about patients.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fhirserver.fhir import Resource
from fhirserver.rules.authorization import APPROVED
from fhirserver.rules.model import CANONICAL, reference, target
from fhirserver.rules.subscription import approved, decision

CATEGORY = f"{CANONICAL}/CodeSystem/notice"
APPLICATION, PROVIDER = "application", "provider"


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of notice: its code, whom it is for, and its sentence over {client}, {provider} and {organization}."""

    code: str
    to: tuple[str, ...]
    text: str


def _kind(code: str, to: str, text: str) -> Kind:
    return Kind(code, tuple(to.split()), text)


STEPS: Mapping[str, Kind] = {
    "request": _kind("authorization-requested", PROVIDER, "{provider} asks {organization} to let {client} in."),
    "approve": _kind("authorization-approved", APPLICATION, "{organization} has approved {client}: it may call now."),
    "reject": _kind("authorization-rejected", APPLICATION, "{organization} has rejected the request of {client}."),
    "withdraw": _kind("authorization-withdrawn", PROVIDER, "{provider} has withdrawn the request of {client}."),
    "disable": _kind("authorization-disabled", APPLICATION, "{organization} has disabled {client}: its calls fail."),
    "enable": _kind("authorization-enabled", APPLICATION, "{organization} has enabled {client} again."),
    "remove": _kind("authorization-removed", PROVIDER, "{client} does not exist any more; its approval has ended."),
}
"""By the step that was taken on a ClientAuthorization."""

MORE: Mapping[str, Kind] = {
    "request": _kind("scope-requested", PROVIDER, "{client} asks {organization} for other scopes than were approved."),
    "approve": _kind("scope-approved", APPLICATION, "{organization} has approved the new scopes of {client}."),
    "reject": _kind("scope-rejected", APPLICATION, "{organization} has rejected the new scopes of {client}."),
}
"""By the step, where it is about the scopes of a client that stays approved."""

BOTH = f"{APPLICATION} {PROVIDER}"
IN_ERROR = _kind("subscription-error", BOTH, "A subscription of {client} with {organization} is in error: its endpoint"
                 " does not take notifications. Set its status to active when it works again.")  # fmt: skip
RECOVERED = _kind("subscription-recovered", BOTH, "A subscription of {client} with {organization} is active again.")
CHANGES: Mapping[tuple[str, str], Kind] = {
    ("", "requested"): _kind("subscription-requested", PROVIDER, "{client} asks {organization} for a subscription."),
    ("off", "requested"): _kind("subscription-requested", PROVIDER, "{client} asks {organization} for a subscription."),
    ("active", "error"): IN_ERROR,
    ("requested", "error"): IN_ERROR,
    ("error", "requested"): _kind("subscription-reactivation", PROVIDER, "{client} asks that its subscription with"
                                  " {organization} goes on after an error; it does when its endpoint answers."),
    ("error", "active"): RECOVERED,
}  # fmt: skip
"""By the status of a Subscription before and after."""

DECISIONS: Mapping[str, Kind] = {
    "approve": _kind("subscription-approved", APPLICATION, "{organization} has approved a subscription of {client}:"
                     " notifications begin."),
    "reject": _kind("subscription-rejected", APPLICATION, "{organization} has rejected a subscription of {client}."),
}  # fmt: skip
"""By what the organization decided about a Subscription."""

TURNED_OFF = _kind("subscription-off", BOTH, "A subscription of {client} with {organization} was switched off: it has"
                   " ended, or its endpoint said that it is gone.")  # fmt: skip
DEAD_LETTERS = _kind("dead-letters", APPLICATION, "Notifications of a subscription of {client} with {organization}"
                     " could not be delivered and were given up. Search NotificationDelivery?status=dead-letter;"
                     " $redeliver sends them again.")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Parties:
    """Who is concerned: client id, the organization of each side ("" where there is none), and their names."""

    client: str
    sides: Mapping[str, str]
    names: Mapping[str, str] = field(default_factory=dict)


def of_authorization(resource: Resource, previous: Resource | None) -> tuple[Kind, str] | None:
    """What a version of a ClientAuthorization says to the other side, and the note; None where no step was taken."""
    before = previous or {}
    taken = (resource.get("decision") or [{}])[-1]
    if taken and taken != (before.get("decision") or [{}])[-1]:
        kinds = MORE if before.get("status") == APPROVED == resource["status"] else STEPS
        kind = kinds.get(taken["action"])
        return (kind, str(taken.get("note", ""))) if kind else None
    wanted = resource.get("pendingScope")
    return (MORE["request"], "") if wanted and wanted != before.get("pendingScope") else None


def of_subscription(resource: Resource, previous: Resource | None) -> tuple[Kind, str] | None:
    """What a version of a Subscription says, and the note or error; None where its status says nothing new."""
    earlier: Resource = previous or {}
    before, after = str(earlier.get("status", "")), str(resource.get("status", ""))
    made, error = decision(resource), str(resource.get("error", ""))
    if made and made != decision(earlier):
        return DECISIONS[made["action"]], made.get("note", "")
    if before != after == "off" and error and error != earlier.get("error"):
        return TURNED_OFF, error
    if (before, after) == ("requested", "active"):  # its endpoint has answered the handshake
        return (RECOVERED, "") if earlier.get("error") else None
    kind = None if (before, after) == ("off", "requested") and approved(resource) else CHANGES.get((before, after))
    return (kind, error if after == "error" else "") if kind else None


def parties_of(authorization: Resource) -> Parties:
    """The parties of a ClientAuthorization."""
    sides = {
        APPLICATION: target(authorization.get("provider"), "Organization"),
        PROVIDER: target(authorization.get("organization"), "Organization"),
    }
    names = {
        "client": str(authorization.get("clientName") or ""),
        "provider": str(authorization.get("providerName") or ""),
        "organization": str(authorization.get("organizationName") or ""),
    }
    return Parties(target(authorization.get("client"), "ClientApplication"), sides, names)


def notices(kind: Kind, parties: Parties, about: str, sent: str, note: str = "") -> Iterator[tuple[str, Resource]]:
    """The Communications of one kind, each with the side that it is for. `about` is what it is about, as a reference
    from the registry; `sent` a FHIR instant.
    """
    named = {name: parties.names.get(name) or f"({name})" for name in ("client", "provider", "organization")}
    named["client"], text = f"“{named['client']}”", kind.text
    for side in kind.to:
        other = parties.sides.get(PROVIDER if side == APPLICATION else APPLICATION, "")
        payload = [text.format(**named), *([note.strip()] if note.strip() else [])]
        client = [reference("ClientApplication", parties.client)] if side == APPLICATION and parties.client else []
        resource: dict[str, Any] = {
            "resourceType": "Communication",
            "status": "completed",
            "category": [{"coding": [{"system": CATEGORY, "code": kind.code}]}],
            "about": [{"reference": about}, *client],
            "sent": sent,
            "recipient": [reference("Organization", parties.sides[side])] if parties.sides.get(side) else None,
            "sender": reference("Organization", other) if other else None,
            "payload": [{"contentString": each} for each in payload],
        }
        yield side, {name: value for name, value in resource.items() if value is not None}
