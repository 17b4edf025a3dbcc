"""The console's cookies beside the sign-in session's: one that binds the sign-in form to the browser, and one that
carries a message to the page after a redirect.
"""

from __future__ import annotations

import hmac
import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import timedelta

from flask import Response as HttpResponse

from fhirserver.web.sessions import set_cookie

FORM, SAID = "fhirserver_console_form", "fhirserver_console_said"
PATH = "/console"
FORM_LIFETIME = timedelta(hours=1)
SAID_LIFETIME = timedelta(minutes=2)
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
