"""The screens of application providers: clients, their authorizations and subscriptions, what concerns them."""

from __future__ import annotations

from fhirserver.web.console.application import authorizations, clients, exports, members, subscriptions
from fhirserver.web.console.application.activity import activity, why
from fhirserver.web.console.application.audit import audit, record
from fhirserver.web.console.application.credentials import credentials, rotate
from fhirserver.web.console.application.registering import new
from fhirserver.web.console.application.subscribing import subscribe
from fhirserver.web.console.screen import Area, Screen, Waiting

_CLIENT, _AT = "/clients/<client>", "/subscriptions/<at>/<subscription>"
_POST, _BOTH = ("POST",), ("GET", "POST")
_APPLICATION = "application"

# fmt: off
# ruff: noqa: E501 - a table is read by its columns
SCREENS: tuple[Screen, ...] = (
    Screen("application.clients",              "/clients",                        clients.clients,         _APPLICATION, nav=True, parent="application.home"),
    Screen("application.client-new",           "/clients/new",                    new,                     _APPLICATION, _BOTH, parent="application.clients"),
    Screen("application.client",               _CLIENT,                           clients.client,          _APPLICATION, parent="application.clients"),
    Screen("application.client-scopes",        f"{_CLIENT}/scopes",               clients.scopes,          _APPLICATION, parent="application.client"),
    Screen("application.client-change",        f"{_CLIENT}/scopes/change",        clients.change,          _APPLICATION, _BOTH, parent="application.client-scopes"),
    Screen("application.client-credentials",   f"{_CLIENT}/credentials",          credentials,             _APPLICATION, parent="application.client"),
    Screen("application.client-rotate",        f"{_CLIENT}/credentials/rotate",   rotate,                  _APPLICATION, _POST, parent="application.client-credentials"),
    Screen("application.client-activity",      f"{_CLIENT}/activity",             activity,                _APPLICATION, parent="application.client"),
    Screen("application.client-why",           f"{_CLIENT}/why",                  why,                     _APPLICATION, parent="application.client-activity"),
    Screen("application.client-subscriptions", f"{_CLIENT}/subscriptions",        subscriptions.of_client, _APPLICATION, parent="application.client"),
    Screen("application.subscribe",            f"{_CLIENT}/subscriptions/new",    subscribe,               _APPLICATION, _BOTH, parent="application.client-subscriptions"),
    Screen("application.client-settings",      f"{_CLIENT}/settings",             clients.settings,        _APPLICATION, _BOTH, parent="application.client"),
    Screen("application.client-switch",        f"{_CLIENT}/switch",               clients.switch,          _APPLICATION, _POST, parent="application.client"),
    Screen("application.client-sandbox",       f"{_CLIENT}/sandbox",              clients.sandbox,         _APPLICATION, _POST, parent="application.client"),
    Screen("application.client-delete",        f"{_CLIENT}/delete",               clients.delete,          _APPLICATION, _POST, parent="application.client-settings"),
    Screen("application.request",              f"{_CLIENT}/authorize",            authorizations.request,  _APPLICATION, _BOTH, parent="application.client"),
    Screen("application.authorizations",       "/authorizations",                 authorizations.authorizations, _APPLICATION, nav=True, parent="application.home"),
    Screen("application.authorization",        "/authorizations/<authorization>", authorizations.authorization, _APPLICATION, parent="application.authorizations"),
    Screen("application.withdraw",             "/authorizations/<authorization>/withdraw", authorizations.withdraw, _APPLICATION, _POST, parent="application.authorization"),
    Screen("application.subscriptions",        "/subscriptions",                  subscriptions.subscriptions,    _APPLICATION, nav=True, parent="application.home"),
    Screen("application.subscriptions-at",     "/subscriptions/<at>",             subscriptions.subscriptions_at, _APPLICATION, parent="application.subscriptions"),
    Screen("application.subscription",         _AT,                               subscriptions.subscription,     _APPLICATION, parent="application.subscriptions-at"),
    Screen("application.subscription-act",     f"{_AT}/act",                      subscriptions.act,       _APPLICATION, _POST, parent="application.subscription"),
    Screen("application.subscription-rotate",  f"{_AT}/rotate",                   subscriptions.rotate,    _APPLICATION, _POST, parent="application.subscription"),
    Screen("application.subscription-delete",  f"{_AT}/delete",                   subscriptions.delete,    _APPLICATION, _POST, parent="application.subscription"),
    Screen("application.delivery",             f"{_AT}/deliveries/<delivery>",    subscriptions.delivery,  _APPLICATION, _BOTH, parent="application.subscription"),
    Screen("application.exports",              "/exports",                        exports.exports,         _APPLICATION, nav=True, parent="application.home"),
    Screen("application.exports-at",           "/exports/<at>",                   exports.exports_at,      _APPLICATION, parent="application.exports"),
    Screen("application.export",               "/exports/<at>/<export>",          exports.export,          _APPLICATION, parent="application.exports-at"),
    Screen("application.audit",                "/audit",                          audit,                   _APPLICATION, nav=True, parent="application.home"),
    Screen("application.record",               "/audit/<event>",                  record,                  _APPLICATION, parent="application.audit"),
    Screen("application.members",              "/members",                        members.members,         _APPLICATION, _BOTH, nav=True, parent="application.home"),
    Screen("application.member",               "/members/<member>",               members.member,          _APPLICATION, parent="application.members"),
    Screen("application.member-change",        "/members/<member>/change",        members.change,          _APPLICATION, _POST, parent="application.member"),
    Screen("application.member-remove",        "/members/<member>/remove",        members.remove,          _APPLICATION, _POST, parent="application.member"),
)
# fmt: on
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
        "application.clients",
    ),
    Waiting(
        "application.waiting.requests",
        "ClientAuthorization",
        (("provider", "Organization/{organization}"), ("status", "waiting-for-approval")),
        "application.authorizations",
        (("status", "waiting-for-approval"),),
        tone="warn",
    ),
    Waiting(
        "application.waiting.disabled",
        "ClientAuthorization",
        (("provider", "Organization/{organization}"), ("status", "disabled")),
        "application.authorizations",
        (("status", "disabled"),),
        tone="bad",
    ),
    Waiting(
        "application.waiting.rejected",
        "ClientAuthorization",
        (("provider", "Organization/{organization}"), ("status", "rejected")),
        "application.authorizations",
        (("status", "rejected"),),
        tone="bad",
    ),
)
AREA = Area(SCREENS, WAITING)
