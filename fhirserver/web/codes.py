"""What a user's consent turns into: authorization codes and refresh tokens, each good once. RFC 6749 4.1, 6; RFC 7636;
RFC 9700.

Everything that comes of one consent is a family; using a code or a refresh token a second time ends the whole family.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from base64 import urlsafe_b64encode
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta

from fhirserver.store.kept import Kept, of_client, of_user, session_key
from fhirserver.web.sessions import digest

CODE_LIFETIME = timedelta(seconds=120)
REFRESH_LIFETIME = timedelta(days=30)
CHALLENGE = re.compile(r"[A-Za-z0-9_-]{43}")
VERIFIER = re.compile(r"[A-Za-z0-9._~-]{43,128}")


@dataclass(frozen=True, slots=True)
class Consent:
    """What a user let an application do: on which base, with which scopes, for which patient; and how the code is
    bound.
    """

    client: str
    user: str
    scope: str
    audience: str
    patient: str = ""
    redirect_uri: str = ""
    challenge: str = ""
    nonce: str = ""
    signed_in: int = 0
    session: str = ""
    family: str = ""
    client_since: str = ""
    user_since: str = ""


class Spent(Exception):
    """The code or refresh token is unknown, over, of somebody else, or was used before."""


def new_code(kept: Kept, consent: Consent, now: datetime) -> str:
    """A code for a consent, which becomes a family of its own."""
    code = secrets.token_urlsafe(32)
    made = replace(consent, family=secrets.token_urlsafe(16))
    kept.put(f"code/{digest(code)}", asdict(made), now + CODE_LIFETIME, *_groups(consent))
    return code


def redeem(kept: Kept, code: str, client: str, redirect_uri: str, verifier: str, now: datetime) -> Consent:
    """The consent a code stands for. Raises Spent where client, redirect URI or verifier differ, or it was used
    before.
    """
    consent = _spend(kept, f"code/{digest(code)}", client, now)
    same = hmac.compare_digest(consent.redirect_uri, redirect_uri) & hmac.compare_digest(
        consent.challenge, challenge_of(verifier) if VERIFIER.fullmatch(verifier) else ""
    )
    if not same:
        raise Spent("redirect_uri or code_verifier is not that of the authorization request")
    return consent


def challenge_of(verifier: str) -> str:
    """The S256 challenge of a verifier."""
    return urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def new_refresh(kept: Kept, consent: Consent, now: datetime, lifetime: timedelta = REFRESH_LIFETIME) -> str:
    """A refresh token for a consent, good once."""
    token = secrets.token_urlsafe(32)
    kept.put(f"refresh/{digest(token)}", asdict(consent), now + lifetime, f"family/{consent.family}", *_groups(consent))
    return token


def note(kept: Kept, consent: Consent, until: datetime) -> None:
    """Remembers that there are access tokens of a consent until then, so that they can be ended with it."""
    kept.replace(f"consent/{consent.family}", asdict(consent), until, *_groups(consent))


def _groups(consent: Consent) -> tuple[str, str]:
    return of_client(consent.client), of_user(consent.user)


def refresh(kept: Kept, token: str, client: str, now: datetime) -> Consent:
    """The consent a refresh token stands for; it is spent by this. Raises Spent, also where its sign-in session has
    ended.
    """
    consent = _spend(kept, f"refresh/{digest(token)}", client, now)
    if consent.session and kept.get(session_key(consent.session), now) is None:
        raise Spent("the user has signed out")
    return consent


def held(kept: Kept, token: str, now: datetime) -> Consent | None:
    """The consent of a refresh token that is in force, without spending it."""
    value = kept.get(f"refresh/{digest(token)}", now)
    return None if value is None else Consent(**value)


def end_family(kept: Kept, family: str, now: datetime) -> None:
    """Ends every token that came of one consent."""
    kept.end_families([family], now)


def _spend(kept: Kept, key: str, client: str, now: datetime) -> Consent:
    found = kept.spend(key, now)
    if found is None:
        raise Spent("it is unknown or has expired")
    consent = Consent(**found[0])
    if consent.client != client:
        raise Spent("it was issued to another client")
    if not found[1] or kept.ended(consent.family):
        end_family(kept, consent.family, now)
        raise Spent("it has been used before, so everything that came of it has been revoked")
    return consent
