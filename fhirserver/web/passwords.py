"""The page behind a link that an administrator made: its holder sets a password, once. OWASP ASVS 2.5.

The link is the credential, so the form needs no other; the address it lies in is not passed on to any other page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from flask import Response as HttpResponse
from flask import request as http

from fhirserver.fhir.problem import Problem
from fhirserver.web.pages import page

MOST_LINK = 100
NO_GOOD = "This link is no good any more: ask an administrator of your organization for another one."

SetPassword = Callable[[str, str, Mapping[str, Any]], bool]


def password_page(set_password: SetPassword) -> HttpResponse:
    """Shows the form, or takes it: answers with the form again where the password breaks the rules."""
    link = http.values.get("link", "")[:MOST_LINK]
    if http.method == "GET":
        return _form(link)
    password = http.form.get("password", "")
    if password != http.form.get("again", ""):
        return _form(link, "The two passwords differ.")
    try:
        done = set_password(link, password, {"address": http.remote_addr or ""})
    except Problem as refusal:
        return _form(link, refusal.issues[0].diagnostics or "", refusal.status)
    return page("password-set", "Your password is set") if done else _form("", NO_GOOD)


def _form(link: str, fault: str = "", status: int = 400) -> HttpResponse:
    return page("password", "Set your password", status=status if fault else 200, values={"link": link, "fault": fault})
