"""May this subscription be notified now? Asked before every round of deliveries, of the database as it is then."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from fhirserver.auth.access import Access, everything
from fhirserver.auth.principal import Principal
from fhirserver.fhir import Resource
from fhirserver.fhir.instants import instant_text
from fhirserver.fhir.problem import Problem
from fhirserver.interactions.model import Server
from fhirserver.rules.subscription import approved, owner
from fhirserver.store.model import REGISTRY, Stored
from fhirserver.subscriptions.notification import MAX_COUNT, TIMEOUT, channel_number, content_of
from fhirserver.subscriptions.topics import CANONICAL

WHILE_STOPPED = f"{CANONICAL}/StructureDefinition/subscription-while-stopped"
RETRY_HOURS = f"{CANONICAL}/StructureDefinition/subscription-retry-hours"
SECONDS = 10.0
MOST_SECONDS = 30
MOST_TOGETHER = 100
OVERLAP = 24
"""Hours for which a signing secret that was replaced goes on signing."""

SEND, HOLD, SKIP, GREET = "send", "hold", "skip", "greet"

# What becomes of waiting deliveries by the status of their Subscription, where it is not active.
BY_STATUS: Mapping[str, tuple[str, str]] = {
    "requested": (HOLD, "The subscription waits for approval."),
    "error": (HOLD, "The subscription is in status error; its owner can set it to active again."),
    "off": (SKIP, "The subscription is off."),
}


@dataclass(frozen=True, slots=True)
class Channel:
    """Where and how a subscription is told. seconds: the time for one POST; retry_hours: None for the usual; together:
    how many events one POST may tell of.
    """

    endpoint: str
    headers: Mapping[str, str]
    secrets: tuple[str, ...]
    payload: str
    seconds: float
    retry_hours: float | None
    content: str
    together: int = 1


@dataclass(frozen=True, slots=True)
class Gate:
    """What may be done now: send, hold, skip, or greet (a handshake, and nothing else before it is answered); and why
    it is not send. One that is in error has its channel too: a heartbeat may say so.
    """

    action: str
    reason: str = ""
    version: Stored | None = None
    resource: Resource = field(default_factory=dict)
    access: Access | None = None
    channel: Channel | None = None

    @property
    def topic(self) -> str:
        """The canonical URL of the topic subscribed to, "" where the criteria are none."""
        criteria = str(self.resource.get("criteria", ""))
        return criteria if criteria.startswith(("http:", "https:", "urn:")) else ""


def gate(server: Server, decrypt: Callable[[str], str], organization: str, id: str) -> Gate:
    """The gate of a subscription."""
    found = server.store.live(everything(organization), "Subscription", id)
    if found is None:
        return Gate(SKIP, "The subscription was deleted.")
    resource = found.resource()
    action, reason = _by_status(resource)
    if action not in (SEND, GREET) and resource["status"] != "error":
        return Gate(action, reason, found, resource)
    try:
        access = client_access(server, organization, resource)
    except Problem as refusal:
        if refusal.status >= 500:
            raise
        stopped = _code(resource, WHILE_STOPPED)
        return Gate(SKIP if stopped == "skip" else HOLD, str(refusal), found, resource)
    try:
        channel = channel_of(resource, found.private, decrypt, server.now())
    except ValueError:
        return Gate(
            HOLD, "The subscription's secrets cannot be decrypted with the present master key.", found, resource
        )
    return Gate(action, reason, found, resource, access, channel)


def _by_status(resource: Resource) -> tuple[str, str]:
    status = resource["status"]
    if status == "active":
        return SEND, ""
    if status == "requested" and approved(resource):
        return GREET, "The endpoint has not answered the handshake."
    return BY_STATUS.get(status, (HOLD, f"The subscription is {status}."))


def client_access(server: Server, organization: str, resource: Resource) -> Access:
    """What the client of a Subscription may read now, with all that it registered for; the organization's own
    subscriptions may all. Raises Problem where it may not be there now.
    """
    client = owner(resource)
    if not client:
        return everything(organization)
    found = server.store.live(everything(REGISTRY), "ClientApplication", client)
    scopes = "" if found is None else str(found.resource().get("scope", ""))
    access = server.access(server, Principal("client", id=client, scopes=scopes), organization)
    # Policies see a notification as what it is: a POST of ours to the host of the endpoint.
    told = {"interaction": "notification", "method": "POST", "address": _host(resource["channel"].get("endpoint", ""))}
    return access.about(lambda: {**told, "time": instant_text(server.now())})


def _host(endpoint: str) -> str:
    try:
        return urlsplit(endpoint).hostname or ""
    except ValueError:
        return ""


def channel_of(resource: Resource, private: Mapping[str, Any], decrypt: Callable[[str], str], now: datetime) -> Channel:
    """The channel with its secrets opened. Raises ValueError where they cannot be."""
    channel, content = resource["channel"], content_of(resource)
    asked, together = channel_number(resource, TIMEOUT), channel_number(resource, MAX_COUNT) or 1
    return Channel(
        endpoint=channel["endpoint"],
        headers={entry["name"]: decrypt(entry["value"]) for entry in private.get("headers", ())},
        secrets=tuple(decrypt(envelope) for envelope in _signing(private, now)),
        payload=channel.get("payload", "application/fhir+json"),
        seconds=float(min(max(asked, 1), MOST_SECONDS)) if asked else SECONDS,
        retry_hours=channel_number(resource, RETRY_HOURS),
        content=content,
        together=min(max(together, 1), MOST_TOGETHER) if content else 1,
    )


def _signing(private: Mapping[str, Any], now: datetime) -> Iterable[str]:
    """The present secret and, while it is being replaced, the one before."""
    if private.get("signing"):
        yield private["signing"]
    if private.get("retiring") and datetime.fromisoformat(private["retiringUntil"]) > now:
        yield private["retiring"]


def _code(resource: Resource, url: str) -> str:
    extensions = (resource.get("channel") or {}).get("extension", ())
    return next((str(e.get("valueCode", "")) for e in extensions if e.get("url") == url), "")
