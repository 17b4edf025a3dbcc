"""The screens that everybody has: signing in and out, the way home, notifications, the account."""

from __future__ import annotations

from fhirserver.web.console.common.account import account, withdraw
from fhirserver.web.console.common.notifications import notifications
from fhirserver.web.console.common.signing import alive, gate, sign_in, sign_out, theme
from fhirserver.web.console.screen import Area, Screen

# fmt: off
# ruff: noqa: E501 - a table is read by its columns
SCREENS: tuple[Screen, ...] = (
    Screen("common.gate",                      "",                 gate,          "user"),
    Screen("common.sign-in",                   "/sign-in",         sign_in,       "anybody", ("GET", "POST")),
    Screen("common.sign-out",                  "/sign-out",        sign_out,      "user",    ("POST",)),
    Screen("common.alive",                     "/alive",           alive,         "anybody"),
    Screen("common.theme",                     "/theme",           theme,         "user",    ("POST",)),
    Screen("common.account",                   "/account",         account,       "user",    ("GET", "POST")),
    Screen("common.withdraw",                  "/account/withdraw", withdraw,     "user",    ("POST",), parent="common.account"),
    Screen("application.notifications",        "/notifications",   notifications, "application", ("GET", "POST"), nav=True, parent="application.home"),
    Screen("hospital.notifications",           "/notifications",   notifications, "hospital",    ("GET", "POST"), nav=True, parent="hospital.home"),
)
# fmt: on
AREA = Area(SCREENS)
