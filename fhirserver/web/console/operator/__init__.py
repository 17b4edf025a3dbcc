"""The screens of platform operators: every resource, organizations and users, policies, queues, packages, settings."""

from __future__ import annotations

from fhirserver.web.console.screen import Area, Screen, Waiting

SCREENS: tuple[Screen, ...] = ()
WAITING: tuple[Waiting, ...] = (
    Waiting("operator.waiting.organizations", "Organization", (), "operator.home"),
    Waiting("operator.waiting.users", "User", (), "operator.home"),
    Waiting("operator.waiting.clients", "ClientApplication", (("active", "true"),), "operator.home"),
)
AREA = Area(SCREENS, WAITING)
