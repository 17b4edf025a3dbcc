"""The screens of provider organizations: requests of clients, subscriptions, messages, mappings, audit, members."""

from __future__ import annotations

from fhirserver.web.console.screen import Area, Screen, Waiting

SCREENS: tuple[Screen, ...] = ()
WAITING: tuple[Waiting, ...] = (
    Waiting(
        "common.notifications.unread",
        "Communication",
        (("recipient", "Organization/{organization}"), ("read-by:not", "{user}")),
        "hospital.notifications",
    ),
    Waiting(
        "hospital.waiting.clients",
        "ClientAuthorization",
        (("organization", "Organization/{organization}"), ("status", "waiting-for-approval")),
        "hospital.home",
        tone="warn",
    ),
    Waiting(
        "hospital.waiting.subscriptions",
        "Subscription",
        (("status", "requested"),),
        "hospital.home",
        own=True,
        tone="warn",
    ),
    Waiting(
        "hospital.waiting.messages",
        "InboundMessage",
        (("status", "failed"),),
        "hospital.home",
        own=True,
        tone="bad",
    ),
)
AREA = Area(SCREENS, WAITING)
