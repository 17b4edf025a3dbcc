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
    """One kind of notice: its code, whom it is for, its sentence over {client}, {provider} and {organization}, and what
    that means for whoever reads it, "" where it says all.
    """

    code: str
    to: tuple[str, ...]
    text: str
    more: str = ""


def _kind(code: str, to: str, text: str, more: str = "") -> Kind:
    return Kind(code, tuple(to.split()), text, more)


# fmt: off
STEPS: Mapping[str, Kind] = {
    "request": _kind("authorization-requested", PROVIDER, "{provider} asks {organization} to approve {client}."),
    "approve": _kind("authorization-approved", APPLICATION, "{organization} has approved {client}.",
                     "It may be used there from now on."),
    "reject": _kind("authorization-rejected", APPLICATION, "{organization} has rejected the request of {client}."),
    "withdraw": _kind("authorization-withdrawn", PROVIDER, "{provider} has withdrawn the request of {client}.",
                      "There is nothing left to decide."),
    "disable": _kind("authorization-disabled", APPLICATION, "{organization} has disabled {client}.",
                     "Its calls there are refused until they enable it again."),
    "enable": _kind("authorization-enabled", APPLICATION, "{organization} has enabled {client} again."),
    "remove": _kind("authorization-removed", PROVIDER, "{provider} has deleted {client}.",
                    "Its approval by {organization} has ended."),
}
"""By the step that was taken on a ClientAuthorization."""

MORE: Mapping[str, Kind] = {
    "request": _kind("scope-requested", PROVIDER, "{client} asks {organization} for other permissions.",
                     "Until you decide it goes on with those that were approved."),
    "approve": _kind("scope-approved", APPLICATION, "{organization} has approved the new permissions of {client}."),
    "reject": _kind("scope-rejected", APPLICATION, "{organization} has rejected the new permissions of {client}.",
                    "It goes on with those it had."),
}
"""By the step, where it is about the scopes of a client that stays approved."""

BOTH = f"{APPLICATION} {PROVIDER}"
IN_ERROR = _kind("subscription-error", BOTH, "A subscription of {client} at {organization} has stopped.",
                 "Its endpoint does not accept notifications. What happens meanwhile is kept, and sent when the"
                 " subscription is active again.")
RECOVERED = _kind("subscription-recovered", BOTH, "A subscription of {client} at {organization} works again.")
ASKED = _kind("subscription-requested", PROVIDER, "{client} asks {organization} to approve a subscription.")
CHANGES: Mapping[tuple[str, str], Kind] = {
    ("", "requested"): ASKED,
    ("off", "requested"): ASKED,
    ("active", "error"): IN_ERROR,
    ("requested", "error"): IN_ERROR,
    ("error", "requested"): _kind("subscription-reactivation", PROVIDER, "{client} has restarted its subscription at"
                                  " {organization}.", "It goes on as soon as its endpoint answers."),
    ("error", "active"): RECOVERED,
}
"""By the status of a Subscription before and after."""

DECISIONS: Mapping[str, Kind] = {
    "approve": _kind("subscription-approved", APPLICATION, "{organization} has approved a subscription of {client}.",
                     "Notifications begin now."),
    "reject": _kind("subscription-rejected", APPLICATION, "{organization} has rejected a subscription of {client}."),
}
"""By what the organization decided about a Subscription."""

TURNED_OFF = _kind("subscription-off", BOTH, "A subscription of {client} at {organization} was switched off.",
                   "It has come to its end, or its endpoint said that it is gone for good.")
DEAD_LETTERS = _kind("dead-letters", APPLICATION, "Notifications to {client} from {organization} could not be"
                     " delivered.", "They are not tried any more. When the endpoint works again, send them once more"
                     " from the subscription's page.")
# fmt: on


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
    named["client"] = f"“{named['client']}”"
    said = (kind.text.format(**named), note.strip(), kind.more.format(**named))
    for side in kind.to:
        other = parties.sides.get(PROVIDER if side == APPLICATION else APPLICATION, "")
        client = [reference("ClientApplication", parties.client)] if side == APPLICATION and parties.client else []
        resource: dict[str, Any] = {
            "resourceType": "Communication",
            "status": "completed",
            "category": [{"coding": [{"system": CATEGORY, "code": kind.code}]}],
            "about": [{"reference": about}, *client],
            "sent": sent,
            "recipient": [reference("Organization", parties.sides[side])] if parties.sides.get(side) else None,
            "sender": reference("Organization", other) if other else None,
            "payload": [{"contentString": each} for each in said if each],
        }
        yield side, {name: value for name, value in resource.items() if value is not None}
