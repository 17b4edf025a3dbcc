"""The console's cookies beside the sign-in session's: one that binds the sign-in form to the browser, one that
carries a message to the page after a redirect, and how this browser wants pages: colours and time zone.
"""

from __future__ import annotations

import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from datetime import UTC, timedelta, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

from flask import Response as HttpResponse

from fhirserver.web.sessions import set_cookie

FORM, SAID = "fhirserver_console_form", "fhirserver_console_said"
THEME, ZONE = "fhirserver_console_theme", "fhirserver_console_zone"
"""ZONE is written by console.js: a browser tells its time zone to nobody else."""
THEMES = ("light", "dark")
PATH = "/console"
FORM_LIFETIME = timedelta(hours=1)
SAID_LIFETIME = timedelta(minutes=2)
THEME_LIFETIME = timedelta(days=365)
MOST_SAID = 600
"""Characters of a message that is carried over a redirect."""


def bind(answer: HttpResponse, cookie: str, secure: bool) -> None:
    """Gives a browser in which nobody is signed in the cookie that its forms belong to."""
    set_cookie(answer, FORM, cookie, FORM_LIFETIME, path=PATH, secure=secure)


def say(answer: HttpResponse, cookie: str, tone: str, text: str, secure: bool) -> None:
    """Has the next page of this session say something. Never a secret: it travels in a cookie."""
    told = urlsafe_b64encode(json.dumps([tone, text[:MOST_SAID]]).encode()).decode()
    set_cookie(answer, SAID, f"{_mac(cookie, told)}.{told}", SAID_LIFETIME, path=PATH, secure=secure)


def hush(answer: HttpResponse, secure: bool) -> None:
    """Forgets what was to be said."""
    set_cookie(answer, SAID, "", timedelta(0), path=PATH, secure=secure)


def said(cookie: str, value: str) -> tuple[str, str] | None:
    """What is to be said, as tone and text; None for nothing, or what was not said to this session."""
    mac, _, told = value.partition(".")
    if not told or not hmac.compare_digest(mac.encode(), _mac(cookie, told).encode()):
        return None
    tone, text = json.loads(urlsafe_b64decode(told))
    return str(tone), str(text)


def _mac(cookie: str, told: str) -> str:
    return hmac.digest(f"said {cookie}".encode(), told.encode(), "sha256").hex()


def choose_theme(answer: HttpResponse, theme: str, secure: bool) -> None:
    """Keeps the colours that somebody chose; anything but light or dark is those of the system."""
    lifetime = THEME_LIFETIME if theme in THEMES else timedelta(0)
    set_cookie(answer, THEME, theme if theme in THEMES else "", lifetime, path=PATH, secure=secure)


def theme(cookies: Mapping[str, str]) -> str:
    """The colours that were chosen, "" for those of the system."""
    found = cookies.get(THEME, "")
    return found if found in THEMES else ""


def zone(cookies: Mapping[str, str]) -> tzinfo:
    """The time zone that the browser has told, UTC where it has not."""
    return _zone(cookies.get(ZONE, "")[:64].replace("%2F", "/"))


@lru_cache(maxsize=1_000)
def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name) if name and name[0].isalpha() else UTC
    except (ValueError, OSError, KeyError):
        return UTC
