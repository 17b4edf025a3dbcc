"""What is sent: a message Bundle, or the history Bundle of the Backport, by what the Subscription asks for.

FHIR R4: messaging, messageheader; Subscriptions R5 Backport: notifications, SubscriptionStatus. Pure: the same delivery
makes the same bytes whenever it is tried again, so that a receiver can tell a repeat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid5

from fhirserver.fhir import Resource
from fhirserver.rules.subscription import CONTENT, content_of
from fhirserver.subscriptions.topics import event_coding

BACKPORT = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition"
HEARTBEAT = f"{BACKPORT}/backport-heartbeat-period"
TIMEOUT = f"{BACKPORT}/backport-timeout"
MAX_COUNT = f"{BACKPORT}/backport-max-count"
STATUS_PROFILE = f"{BACKPORT}/backport-subscription-status-r4"
CONTENTS = ("empty", "id-only", "full-resource")

__all__ = ["BACKPORT", "CONTENT", "About", "Notified", "Part", "content_of", "headers", "history", "message", "status"]

_NAMESPACE = UUID("5b1f6f0c-6c6f-5d5b-9f0e-3f1a6f4a2d10")
_METHODS = {"create": ("POST", "201"), "update": ("PUT", "200"), "delete": ("DELETE", "204"), "include": ("GET", "200")}


@dataclass(frozen=True, slots=True)
class Part:
    """One change as it is told. `resource`: the version it made, None for a deletion or what is not to be sent."""

    type: str
    id: str
    action: str
    resource: Resource | None = None
    focus: bool = True

    @property
    def reference(self) -> str:
        """`Patient/1`."""
        return f"{self.type}/{self.id}"


@dataclass(frozen=True, slots=True)
class Notified:
    """One event as a subscription is told of it: its number there, the instant of the change, what changed."""

    number: int
    instant: str
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class About:
    """What a Bundle says of its subscription. base: the organization's FHIR base; topic: canonical URL, "" for none;
    error: why the subscription is in error.
    """

    base: str
    subscription: str
    status: str
    count: int
    topic: str = ""
    content: str = "id-only"
    error: str = ""

    @property
    def url(self) -> str:
        """The absolute URL of the Subscription."""
        return f"{self.base}/Subscription/{self.subscription}"


def channel_number(subscription: Resource, url: str) -> int | None:
    """The number in an extension of the channel: heartbeat period and timeout in seconds, max count."""
    for extension in (subscription.get("channel") or {}).get("extension", ()):
        if extension.get("url") == url:
            value = extension.get("valueUnsignedInt", extension.get("valuePositiveInt"))
            return value if isinstance(value, int) else None
    return None


def message(id: str, about: About, event: Notified, endpoint: str, code: str, software: str) -> Resource:
    """The message Bundle of one event: its MessageHeader first, then the resources.

    `id` is the delivery's and becomes the Bundle's; `code` is the trigger (ADT_A01) or the name (create.patient) of
    what happened; `software` names us. Every resource is under its URL here, so that references between them resolve.
    """
    header = str(uuid5(_NAMESPACE, id))
    entries = [
        {"fullUrl": f"{about.base}/{part.reference}", "resource": part.resource}
        for part in event.parts
        if part.resource
    ]
    return {
        "resourceType": "Bundle",
        "id": id,
        "type": "message",
        "timestamp": event.instant,
        "entry": [
            {
                "fullUrl": f"urn:uuid:{header}",
                "resource": {
                    "resourceType": "MessageHeader",
                    "id": header,
                    "eventCoding": event_coding(code),
                    "destination": [{"endpoint": endpoint}],
                    "source": {"name": software, "endpoint": about.base},
                    "reason": {"text": f"Subscription/{about.subscription} event {event.number}"},
                    "focus": [{"reference": f"{about.base}/{part.reference}"} for part in event.parts if part.focus],
                },
            },
            *entries,
        ],
    }


def history(kind: str, about: About, events: Sequence[Notified], instant: str, id: str) -> Resource:
    """The history Bundle of the Backport: the SubscriptionStatus first, then what changed, as `about.content` wants it.

    `kind` is handshake, heartbeat, event-notification, query-event. `instant` is the Bundle's timestamp, `id` its id.
    """
    told = [_entry(about, part) for event in events for part in event.parts] if about.content != "empty" else []
    unique = {(entry["fullUrl"], entry["request"]["method"]): entry for entry in told}
    return {
        "resourceType": "Bundle",
        "id": id,
        "type": "history",
        "timestamp": instant,
        "entry": [
            {
                "fullUrl": f"urn:uuid:{uuid5(_NAMESPACE, id)}",
                "resource": status(kind, about, events, str(uuid5(_NAMESPACE, id))),
                "request": {"method": "GET", "url": f"{about.url}/$status"},
                "response": {"status": "200"},
            },
            *unique.values(),
        ],
    }


def status(kind: str, about: About, events: Sequence[Notified] = (), id: str = "") -> Resource:
    """The SubscriptionStatus as Parameters. `kind` also query-status."""
    topic = [{"name": "topic", "valueCanonical": about.topic}] if about.topic and _tells_topic(kind, about) else []
    return {
        "resourceType": "Parameters",
        **({"id": id} if id else {}),
        "meta": {"profile": [STATUS_PROFILE]},
        "parameter": [
            {"name": "subscription", "valueReference": {"reference": about.url}},
            *topic,
            {"name": "status", "valueCode": about.status},
            {"name": "type", "valueCode": kind},
            {"name": "events-since-subscription-start", "valueString": str(about.count)},
            *(_event(about, event) for event in events),
            *([{"name": "error", "valueCodeableConcept": {"text": about.error}}] if about.error else []),
        ],
    }


def _tells_topic(kind: str, about: About) -> bool:
    return about.content != "empty" or kind not in ("event-notification", "query-event")


def _event(about: About, event: Notified) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [
        {"name": "event-number", "valueString": str(event.number)},
        {"name": "timestamp", "valueInstant": event.instant},
    ]
    if about.content != "empty":
        told = sorted(event.parts, key=lambda part: not part.focus)
        for part in told:
            name = "focus" if part.focus else "additional-context"
            parts.append({"name": name, "valueReference": {"reference": f"{about.base}/{part.reference}"}})
    return {"name": "notification-event", "part": parts}


def _entry(about: About, part: Part) -> dict[str, Any]:
    method, code = _METHODS[part.action]
    url = part.type if part.action == "create" else part.reference
    entry: dict[str, Any] = {"fullUrl": f"{about.base}/{part.reference}"}
    if about.content == "full-resource" and part.resource:
        entry["resource"] = part.resource
    return {**entry, "request": {"method": method, "url": url}, "response": {"status": code}}


def headers(payload: str, subscription: str, channel: Mapping[str, str]) -> dict[str, str]:
    """The headers of a POST beside the signature: the channel's own, verbatim, after what every delivery has."""
    return {"Content-Type": payload, "X-Subscription-Id": subscription, **channel}
