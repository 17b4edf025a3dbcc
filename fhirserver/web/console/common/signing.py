"""Signing in and out, and the way to the first page of whoever is signed in."""

from __future__ import annotations

import json
from urllib.parse import urlsplit

from flask import Response as HttpResponse
from flask import request as http

from fhirserver.fhir.problem import Problem
from fhirserver.rules.user import user_id
from fhirserver.web.console.cookies import choose_theme
from fhirserver.web.console.here import Here
from fhirserver.web.console.pages import HEADERS, NO_STORE


def gate(here: Here) -> HttpResponse:
    """Leads to the first page that this user has; says so where there is none."""
    if here.places:
        first = here.places[0]
        return here.go(here.url(f"{first.audience}.home", organization=first.id))
    if here.principal.operator:
        return here.go(here.url("operator.home"))
    return here.page("common/no_place.html")


def sign_in(here: Here) -> HttpResponse:
    """The form with e-mail address and password; a new session, and the page that was asked for."""
    wanted = _local(here.asked.get("next", ""))
    if not here.posted:
        return here.page("common/sign_in.html", wanted=wanted, email="", wrong=False)
    email = here.form.get("email", "")[:320]
    try:
        made = here.sessions.sign_in(email, here.form.get("password", ""), http.remote_addr or "")
    except Problem as refusal:
        _record(here, email, refusal.status)
        raise
    if made is None:
        _record(here, email, 401)
        return here.page("common/sign_in.html", status=401, wanted=wanted, email=email, wrong=True)
    if here.user:
        here.sessions.end(here.cookie)
    _record(here, email, 303)
    answer = here.go(wanted or here.url("common.gate"))
    here.sessions.remember(answer, made.cookie)
    return answer


def sign_out(here: Here) -> HttpResponse:
    """Ends the session."""
    here.sessions.end(here.cookie)
    here.server.record(
        "logout", status=303, address=http.remote_addr or "", who={"kind": "user", "id": here.principal.id}
    )
    answer = here.go(here.url("common.sign-in"))
    here.sessions.remember(answer, "")
    return answer


def alive(here: Here) -> HttpResponse:
    """Whether the session still is there, for pages that were open long: who it is, and what forms carry now."""
    told = {"user": here.principal.id if here.user else "", "csrf": here.csrf if here.user else ""}
    return HttpResponse(json.dumps(told), headers=HEADERS | NO_STORE, mimetype="application/json")


def theme(here: Here) -> HttpResponse:
    """Keeps the colours that were chosen, and comes back to the page."""
    answer = here.go(_local(here.form.get("back", "")) or here.url("common.gate"))
    choose_theme(answer, here.form.get("theme", ""), here.secure)
    return answer


def _local(address: str) -> str:
    """The address where it is one of the console's, else "": nobody is led away by a link."""
    try:
        parts = urlsplit(address) if "\\" not in address and len(address) <= 2000 else None
    except ValueError:  # brackets that are no address
        return ""
    if parts is None or parts.scheme or parts.netloc or ".." in parts.path or not address.isprintable():
        return ""
    return address if parts.path.startswith("/console/") else ""


def _record(here: Here, email: str, status: int) -> None:
    try:
        who = {"kind": "user", "id": user_id(email)}
    except Problem:
        who = {}
    why = {401: "login", 429: "throttled"}.get(status, "")
    here.server.record("login", status=status, why=why, address=http.remote_addr or "", who=who)
