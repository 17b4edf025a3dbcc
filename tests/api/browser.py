"""People at their browsers: one in the middle of an authorization request, one at the console; links that are sent."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from fhirserver.auth.principal import Principal
from fhirserver.web.codes import challenge_of
from fhirserver.web.sessions import COOKIE
from tests.api.exchange import ISSUER, PASSWORD, REGISTRY, Exchange

CALLBACK = "https://portal.example.com/callback"
SCOPE = "openid fhirUser profile email offline_access user/Patient.rs user/Observation.rs"
OTHER = "a-new-horse-battery-7"


def portal_of(exchange: Exchange) -> dict[str, Any]:
    """A public client that the hospital approved."""
    client = exchange.register(
        grantType=["authorization_code", "refresh_token"], responseTypes="code", redirectUri=[CALLBACK], scope=SCOPE
    )
    exchange.authorize(client)
    return client


@dataclass
class Browser:
    """One user's browser with its cookies, in the middle of one authorization request."""

    exchange: Exchange
    client: dict[str, Any]
    scope: str = SCOPE
    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(48))
    state: str = "s-1"
    http: FlaskClient = field(init=False)

    def __post_init__(self) -> None:
        self.http = self.exchange.http.application.test_client()

    def begin(self, **changes: str) -> TestResponse:
        given = {
            "response_type": "code",
            "client_id": self.client["id"],
            "redirect_uri": CALLBACK,
            "scope": self.scope,
            "state": self.state,
            "code_challenge": challenge_of(self.verifier),
            "code_challenge_method": "S256",
            "aud": ISSUER + self.exchange.base,
            "nonce": "n-1",
        }
        query = {name: value for name, value in (given | changes).items() if value}
        return self.http.get("/oauth2/authorize", query_string=query, base_url=ISSUER)

    def post(self, path: str, shown: TestResponse | None, **form: Any) -> TestResponse:
        csrf = re.search(r'name="csrf" value="([0-9a-f]+)"', shown.text) if shown else None
        return self.http.post(path, data={"csrf": csrf[1] if csrf else "", **form}, base_url=ISSUER)

    def get(self, path: str) -> TestResponse:
        return self.http.get(path, base_url=ISSUER)

    def sign_in(self, who: str = "hospital", password: str = PASSWORD) -> TestResponse:
        """Begins and signs in; answers the page that follows: consent is asked for even where it is remembered."""
        shown = self.begin(prompt="consent")
        done = self.post("/oauth2/sign-in", shown, email=f"{who}@example.org", password=password)
        return self.get(done.headers["Location"]) if done.status_code == 303 else done

    def allow(self, shown: TestResponse, *scopes: str) -> dict[str, str]:
        """Consents to some scopes (default all); answers the parameters at the redirect URI."""
        offered = re.findall(r'name="scope" value="([^"]+)"', shown.text)
        return back(self.post("/oauth2/consent", shown, decision="allow", scope=list(scopes) or offered))

    def code(self) -> str:
        return self.allow(self.sign_in())["code"]

    def token(self, code: str, **changes: str) -> TestResponse:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": CALLBACK,
            "client_id": self.client["id"],
            "code_verifier": self.verifier,
        }
        return self.http.post("/oauth2/token", data=form | changes)

    def refresh(self, token: str, **more: str) -> TestResponse:
        form = {"grant_type": "refresh_token", "refresh_token": token, "client_id": self.client["id"], **more}
        return self.http.post("/oauth2/token", data=form)


def back(answer: TestResponse) -> dict[str, str]:
    """The parameters with which the browser was led back to the application."""
    assert answer.status_code == 303, answer.text
    location = urlsplit(answer.headers["Location"])
    assert f"{location.scheme}://{location.netloc}{location.path}" == CALLBACK
    return {name: values[0] for name, values in parse_qs(location.query).items()}


class Visitor:
    """A browser without scripts."""

    def __init__(self, exchange: Exchange) -> None:
        self.http: FlaskClient = exchange.http.application.test_client()
        self.base = {"base_url": "https://exchange.example"}

    def get(self, path: str, **headers: str) -> TestResponse:
        return self.http.get(path, headers=headers, **self.base)

    def token(self, path: str = "/console/account") -> str:
        found = re.search(r'name="csrf" value="([^"]+)"', self.get(path).text)
        assert found
        return found[1]

    def post(self, path: str, data: dict[str, Any], **headers: str) -> TestResponse:
        return self.http.post(path, data=data, headers=headers, **self.base)

    def sign_in(self, who: str, password: str = PASSWORD, to: str = "") -> TestResponse:
        given = {"csrf": self.token("/console/sign-in"), "email": f"{who}@example.org", "password": password}
        return self.post(f"/console/sign-in{to}", given)


def person(exchange: Exchange, user: dict[str, Any]) -> str:
    """A token of a user's own, through no application."""
    return exchange.installation.tokens.issue(Principal("user", user["id"]))


def operate(exchange: Exchange, token: str, id: str, name: str, **values: str) -> TestResponse:
    parts = [
        {
            "name": key,
            **(
                {"valueReference": {"reference": value}}
                if "/" in value and key != "password"
                else {"valueString": value}
            ),
        }
        for key, value in values.items()
    ]
    body = {"resourceType": "Parameters", "parameter": parts}
    return exchange.call("POST", f"{REGISTRY}/User/{id}/${name}", token, body)


def signed_in(exchange: Exchange, portal: dict[str, Any], user: dict[str, Any], password: str = PASSWORD) -> Browser:
    """A browser with a session of this user's, if the password is right."""
    browser = Browser(exchange, portal)
    shown = browser.begin()
    browser.post("/oauth2/sign-in", shown, email=user["email"], password=password)
    return browser


def session_of(browser: Browser) -> str:
    cookie = browser.http.get_cookie(COOKIE, domain="exchange.example")
    return cookie.value if cookie else ""


def alive(browser: Browser) -> bool:
    """Whether the browser's session lasts: then it is asked to consent, not to sign in."""
    return "Allow access?" in browser.begin(prompt="consent").text


def link_for(exchange: Exchange, user: dict[str, Any], by: str = "hospital") -> str:
    answer = operate(exchange, exchange.people.get(by, by), user["id"], "reset-password")
    assert answer.status_code == 200, answer.text
    parts = {part["name"]: part for part in dict(answer.json or {})["parameter"]}
    link: str = parts["link"]["valueUri"]
    assert link.startswith(f"{ISSUER}/oauth2/password?link=")
    return link


def follow(exchange: Exchange, link: str, password: str, again: str = "") -> TestResponse:
    http: FlaskClient = exchange.http.application.test_client()
    shown = http.get(link.removeprefix(ISSUER), base_url=ISSUER)
    hidden = re.search(r'name="link" value="([^"]+)"', shown.text)
    form = {"link": hidden[1] if hidden else "", "password": password, "again": again or password}
    return http.post("/oauth2/password", data=form, base_url=ISSUER)
