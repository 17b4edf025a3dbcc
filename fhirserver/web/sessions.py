"""Sign-in sessions of people in browsers: begun with a password, kept by the hash of their cookie, one for all of our
pages (the authorization server's and the console's).

OpenID Connect Core 1.0 (the session at the provider). The cookie is a random text; whoever reads the database cannot
use what is kept of it.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from flask import Response as HttpResponse

from fhirserver.auth.principal import Principal
from fhirserver.auth.secrets import check_password
from fhirserver.fhir import Resource
from fhirserver.fhir.problem import Problem
from fhirserver.rules.user import older, user_id
from fhirserver.store.kept import Kept, session_key, sessions_of
from fhirserver.web.tokens import Tokens, person

COOKIE = "fhirserver_session"
LIFETIME = timedelta(hours=8)


def digest(text: str) -> str:
    """The hash under which something handed out is kept."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Somebody in a browser: the User, the session's cookie, when the password was given (seconds)."""

    user: Resource
    cookie: str
    since: int

    @property
    def principal(self) -> Principal:
        """Who this is without any application between: what the person may do is what the role permits. `token` is the
        digest of the session.
        """
        return Principal("user", self.user["id"], token=digest(self.cookie), **person(self.user))


class Sessions:
    """The sign-in sessions over the users of an installation."""

    def __init__(self, tokens: Tokens) -> None:
        assert tokens.kept is not None
        self._tokens = tokens
        self._kept: Kept = tokens.kept

    def sign_in(self, email: str, password: str, address: str) -> SignedIn | None:
        """A new session, None for a wrong address or password, after the same time for either.

        Raises Problem(throttled) with Retry-After where there were too many wrong ones.
        """
        self._tokens.refuse_throttled(address, email, person=True)
        try:
            account = self._tokens.account(user_id(email)) if self._tokens.account else None
        except Problem:
            account = None
        hashed = account[1].get("password") if account and account[0].get("active") is not False else None
        if not check_password(password, hashed) or account is None:
            self._tokens.failed(address, email, person=True)
            return None
        cookie, now = secrets.token_urlsafe(32), self._tokens.now()
        made = SignedIn(account[0], cookie, int(now.timestamp()))
        value = {"user": made.user["id"], "signed_in": made.since, "user_since": made.user.get("registered", "")}
        self._kept.put(session_key(digest(cookie)), value, now + LIFETIME, sessions_of(made.user["id"]))
        return made

    def of(self, cookies: Mapping[str, str]) -> SignedIn | None:
        """The session of a browser with these cookies, None without one or where the user is not active any more."""
        cookie = cookies.get(COOKIE, "")
        value = self._kept.get(session_key(digest(cookie)), self._tokens.now()) if cookie else None
        user = self._tokens.user(value["user"]) if value else None
        if value is None or user is None or user.get("active") is False:
            return None
        if older(value["signed_in"], user, value.get("user_since", "")):
            return None
        return SignedIn(user, cookie, int(value["signed_in"]))

    def end(self, cookie: str) -> None:
        """Ends a session."""
        self._kept.drop(session_key(digest(cookie)))

    def remember(self, answer: HttpResponse, cookie: str) -> None:
        """Gives the browser the session's cookie; an empty one takes it away."""
        lifetime = LIFETIME if cookie else timedelta(0)
        set_cookie(answer, COOKIE, cookie, lifetime, path="/", secure=self._tokens.issuer.startswith("https"))


def set_cookie(answer: HttpResponse, name: str, value: str, lifetime: timedelta, *, path: str, secure: bool) -> None:
    """A cookie that no script reads and no other site sends with a form; the answer is then nobody's to keep."""
    seconds = int(lifetime.total_seconds())
    answer.set_cookie(name, value, max_age=seconds, path=path, secure=secure, httponly=True, samesite="Lax")
    answer.headers["Cache-Control"] = "no-store"
    answer.headers["Referrer-Policy"] = "no-referrer"


def csrf(cookie: str) -> str:
    """What the forms of a browser with this cookie carry: nobody who cannot read the cookie can make it."""
    return hashlib.sha256(f"csrf {cookie}".encode()).hexdigest()


def ours(given: str, cookie: str) -> bool:
    """Whether a form's `csrf` field is the one for this cookie; compared in constant time."""
    return bool(cookie) and hmac.compare_digest(given.encode(), csrf(cookie).encode())
