"""The console's routes: who is signed in, may they see this screen, has the form a token; then the screen's function.

What goes wrong becomes a page in words, or, where htmx asked for a part of one, a message on the page that is open.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from flask import Blueprint
from flask import Response as HttpResponse
from flask import request as http
from werkzeug.exceptions import HTTPException

from fhirserver.fhir.problem import Issue, Problem, problem
from fhirserver.interactions.model import Server
from fhirserver.rules.organization import kind
from fhirserver.web.console.application import AREA as APPLICATION
from fhirserver.web.console.common import AREA as COMMON
from fhirserver.web.console.cookies import FORM, SAID, bind, said
from fhirserver.web.console.here import Crumb, Here, Place
from fhirserver.web.console.home import home
from fhirserver.web.console.hospital import AREA as HOSPITAL
from fhirserver.web.console.operator import AREA as OPERATOR
from fhirserver.web.console.pages import HEADERS, MISSING, Pages
from fhirserver.web.console.screen import ROOT, Area, Screen
from fhirserver.web.console.texts import Catalogue
from fhirserver.web.door import from_http
from fhirserver.web.http import request_id
from fhirserver.web.sessions import Sessions, ours
from fhirserver.web.tokens import Tokens

log = logging.getLogger(__name__)
AREAS: Mapping[str, Area] = {"common": COMMON, "application": APPLICATION, "hospital": HOSPITAL, "operator": OPERATOR}
AUDIENCES = {"application": "application", "provider": "hospital"}
"""Kind of an organization -> the audience of its screens."""


def _homes() -> Iterator[Screen]:
    for audience in ("application", "hospital", "operator"):
        yield Screen(f"{audience}.home", "", home(AREAS[audience].waiting), audience, nav=True)


SCREENS: Mapping[str, Screen] = {
    screen.name: screen for screen in (*_homes(), *(screen for area in AREAS.values() for screen in area.screens))
}


class Console:
    """The console over a server, at /console."""

    def __init__(self, server: Server, tokens: Tokens) -> None:
        assert tokens.kept is not None
        self._server, self._tokens = server, tokens
        self._sessions = Sessions(tokens)
        self._texts = Catalogue()
        self._pages = Pages(self._texts, address)
        if self._pages.missing:
            log.warning("the console's style sheets and scripts are not installed")

    def blueprint(self) -> Blueprint:
        """The blueprint with every screen."""
        made = Blueprint("console", __name__)
        made.add_url_rule(f"{ROOT}/static/<path:name>", "static", self._pages.file)
        for screen in SCREENS.values():
            made.add_url_rule(screen.rule, screen.name.replace(".", "-"), self._view(screen), methods=["GET", "POST"])
        made.add_url_rule(f"{ROOT}/", "nowhere-at-all", self._nowhere, methods=["GET", "POST"])
        made.add_url_rule(f"{ROOT}/<path:path>", "nowhere", self._nowhere, methods=["GET", "POST"])
        return made

    def _nowhere(self, path: str = "") -> HttpResponse:
        """Every address that no screen has."""

        def missing(here: Here) -> HttpResponse:
            if not path:
                return here.go(ROOT)
            raise problem("not-found", here.t("common.error.no_page"))

        return self._answer(Screen("common.nowhere", "", missing, "user"), {})

    def _view(self, screen: Screen) -> Callable[..., HttpResponse]:
        return lambda **values: self._answer(screen, values)

    def _answer(self, screen: Screen, values: Mapping[str, str]) -> HttpResponse:
        id = request_id(http.headers.get("X-Request-Id"), self._server.new_id())
        if self._pages.missing:
            answer = HttpResponse(MISSING, 503, HEADERS, mimetype="text/plain")
        else:
            here = self._here(id)
            try:
                answer = self._shown(here, screen, values)
            except Problem as refusal:
                answer = self._refusal(here, refusal)
            except HTTPException as error:
                answer = self._refusal(here, from_http(error))
            except Exception:  # the edge of the process: nobody sees a stack trace
                log.exception("request failed", extra={"request_id": id})
                text = here.t("common.error.ours", id=id)
                answer = self._refusal(here, Problem((Issue("exception", text, (), "fatal"),), status=500))
        answer.headers["X-Request-Id"] = id
        return answer

    def _here(self, id: str) -> Here:
        """Who is signed in, where somebody is."""
        here = Here(self._server, self._tokens, self._sessions, self._pages, self._texts, address, id)
        signed_in = self._sessions.of(http.cookies)
        if signed_in is None:
            here.cookie = http.cookies.get(FORM, "")
        else:
            here.cookie, here.user, here.principal = signed_in.cookie, signed_in.user, signed_in.principal
            here.places = tuple(self._places(here.principal.roles))
        here.told = said(here.cookie, http.cookies.get(SAID, ""))
        return here

    def _shown(self, here: Here, screen: Screen, values: Mapping[str, str]) -> HttpResponse:
        here.name, here.audience, here.values = screen.name, screen.audience, values
        if screen.audience != "anybody" and here.user is None:
            return self._to_sign_in(here, "GET" in screen.methods)
        if http.method == "POST":
            _check_form(here)
        if http.method not in (*screen.methods, "HEAD"):
            raise problem("not-supported", here.t("common.error.method"), status=405)
        _admit(here)
        here.menu, here.trail = _menu(here), _trail(here, screen)
        if here.cookie:
            return screen.show(here)
        here.cookie = secrets.token_urlsafe(32)
        answer = screen.show(here)
        bind(answer, here.cookie, here.secure)
        return answer

    def _places(self, roles: Mapping[str, str]) -> Iterator[Place]:
        assert self._tokens.organization is not None
        for id, role in roles.items():
            found = self._tokens.organization(id)
            if found is not None and kind(found) in AUDIENCES:
                yield Place(id, str(found.get("name", id)), AUDIENCES[kind(found)], role)

    def _to_sign_in(self, here: Here, has_page: bool = True) -> HttpResponse:
        """Asks who it is, and comes back to where they wanted to go, or to the page of the form that they sent."""
        sent = http.method == "POST"
        wanted = "" if here.part or (sent and not has_page) else http.path if sent else http.full_path.rstrip("?")
        to = address("common.sign-in", next="" if wanted == ROOT else wanted)
        if http.headers.get("HX-Request"):
            return HttpResponse(status=204, headers={"HX-Redirect": to, "Cache-Control": "no-store"})
        return here.go(to, said="common.sign-in.expired", tone="warn") if sent else here.go(to)

    def _refusal(self, here: Here, refusal: Problem) -> HttpResponse:
        """The page that says why not; for htmx the message alone, put where messages are."""
        if refusal.status == 401 and here.user is not None:
            self._sessions.end(here.cookie)
            return self._to_sign_in(here)
        here.refused, here.trail = refusal, ()
        here.menu = here.menu if here.place or here.principal.operator else ()
        known = str(refusal.status) if refusal.status in (403, 404, 500) else "other"
        partial = bool(http.headers.get("HX-Request"))
        template = "common/refusal.html" if partial else "common/error.html"
        title = self._texts.text(f"common.error.title_{known}")
        answer = self._pages.render(template, status=refusal.status, here=here, title=title)
        if partial:
            answer.headers.update({"HX-Retarget": "#said", "HX-Reswap": "innerHTML"})
        answer.headers.update(refusal.headers)
        return answer


def address(name: str, here: str = "", /, **values: Any) -> str:
    """The address of a screen, of the organization `here` unless another is given. Raises KeyError for a screen that is
    not there.
    """
    return SCREENS[name].address(here, **values)


def _check_form(here: Here) -> None:
    """Raises Problem(forbidden) for a form that was not on a page of ours, opened by the browser that sent it."""
    given = http.form.get("csrf", "") or http.headers.get("X-CSRF-Token", "")
    foreign = http.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none")
    if foreign or not ours(given, here.cookie):
        raise problem("forbidden", here.t("common.error.form"))


def _admit(here: Here) -> None:
    """Raises Problem: not-found for an organization the user has no role in, forbidden for the operator's screens."""
    if here.audience == "operator" and not here.principal.operator:
        raise problem("forbidden", here.t("common.error.operator"))
    if here.audience in AUDIENCES.values():
        wanted = here.values.get("organization", "")
        found = [place for place in here.places if place.id == wanted and place.audience == here.audience]
        if not found:
            raise problem("not-found", here.t("common.error.no_page"))
        here.place = found[0]
    elif here.audience == "user" and here.places:
        here.place = here.places[0]


def _menu(here: Here) -> list[Crumb]:
    """The navigation: that of the organization, or of the operator."""
    audience = "operator" if here.principal.operator and not here.place else here.place.audience if here.place else ""
    shown = [screen for screen in SCREENS.values() if screen.nav and screen.audience == audience]
    return [Crumb(here.t(f"{screen.name}.title"), here.url(screen.name)) for screen in shown]


def _trail(here: Here, screen: Screen) -> list[Crumb]:
    """The way to the screen, itself last."""
    above = _trail(here, SCREENS[screen.parent]) if screen.parent else []
    values = {name: value for name, value in here.values.items() if f"<{name}>" in screen.rule}
    return [*above, Crumb(here.t(f"{screen.name}.title"), screen.address(**values))]
