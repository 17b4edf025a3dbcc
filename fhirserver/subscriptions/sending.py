"""What one POST carries: the Bundle of one delivery, or of several where the subscription takes several at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256

from fhirserver.fhir import Resource
from fhirserver.interactions.model import Server
from fhirserver.subscriptions import notification
from fhirserver.subscriptions.delivery import Delivery
from fhirserver.subscriptions.gate import Channel, Gate
from fhirserver.subscriptions.notification import Part

Readable = Sequence[tuple[Delivery, tuple[Part, ...]]]
"""Deliveries with what may be told of them."""


def portions(lane: Sequence[Delivery], most: int) -> Iterator[Sequence[Delivery]]:
    """The deliveries of a lane, as many at a time as one POST takes."""
    return (lane[start : start + most] for start in range(0, len(lane), most))


def message_id(deliveries: Sequence[Delivery]) -> str:
    """The webhook-id: the delivery's own id; of several one that is made of all of theirs, so that it is the same
    whenever the same ones are sent together again, and never the same for others.
    """
    ids = [one.version.id for one in deliveries]
    return ids[0] if len(ids) == 1 else sha256(" ".join(ids).encode()).hexdigest()[:40]


def bundle(server: Server, opened: Gate, channel: Channel, readable: Readable) -> Resource:
    """The Bundle that tells of the deliveries, under their `message_id`."""
    assert opened.access
    base, id = server.base(opened.access.organization), message_id([one for one, _ in readable])
    last, _ = readable[-1]
    about = notification.About(base, opened.resource["id"], "active", last.number, opened.topic, channel.content)
    events = [notification.Notified(one.number, one.resource["occurred"], parts) for one, parts in readable]
    if channel.content:
        return notification.history("event-notification", about, events, last.resource["occurred"], id)
    software = f"fhirserver {server.software}"
    return notification.message(id, about, events[0], channel.endpoint, last.resource["code"], software)
