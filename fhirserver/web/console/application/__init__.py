"""The screens of application providers: clients, their authorizations and subscriptions, what concerns them."""

from __future__ import annotations

from fhirserver.web.console.screen import Area, Screen, Waiting

SCREENS: tuple[Screen, ...] = ()
WAITING: tuple[Waiting, ...] = (
    Waiting(
        "common.notifications.unread",
        "Communication",
        (("recipient", "Organization/{organization}"), ("read-by:not", "{user}")),
        "application.notifications",
    ),
    Waiting(
        "application.waiting.clients",
        "ClientApplication",
        (("managing-organization", "Organization/{organization}"),),
        "application.home",
    ),
    Waiting(
        "application.waiting.requests",
        "ClientAuthorization",
        (("provider", "Organization/{organization}"), ("status", "waiting-for-approval")),
        "application.home",
        tone="warn",
    ),
    Waiting(
        "application.waiting.disabled",
        "ClientAuthorization",
        (("provider", "Organization/{organization}"), ("status", "disabled,rejected")),
        "application.home",
        tone="bad",
    ),
)
AREA = Area(SCREENS, WAITING)
