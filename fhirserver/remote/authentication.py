"""How a call shows who makes it: HTTP Basic, a bearer token, or one obtained with the client credentials grant.

SMART App Launch 2.2: backend services (private_key_jwt, client_secret_basic); RFC 6749 section 4.4, RFC 7523.
"""

from __future__ import annotations

import json
import time
import uuid
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus, urlencode, urlsplit

import click

from fhirserver.remote.profiles import Profile, cached_token, remember_token
from fhirserver.remote.wire import Answer, Wire, same_server

if TYPE_CHECKING:
    from joserfc.jwk import ECKey, RSAKey

ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
EARLY = 30
"""Seconds before its end from which a token is not used any more."""
LIFE = 240
"""Seconds for which an assertion is good: SMART allows five minutes."""


def authorization(profile: Profile, wire: Wire, fresh: bool = False) -> dict[str, str]:
    """The Authorization header for a profile's server; `fresh` asks for a new token instead of the one kept."""
    if profile.auth == "none":
        return {}
    if profile.auth == "basic":
        return {"Authorization": _basic(profile.user, profile.secret)}
    if profile.auth == "bearer":
        return {"Authorization": f"Bearer {profile.secret}"}
    now = time.time()
    token = "" if fresh else cached_token(profile, now)
    if not token:
        token, lasts = _obtained(profile, wire)
        remember_token(profile, token if lasts > EARLY else "", now + lasts - EARLY, now)
    return {"Authorization": f"Bearer {token}"}


def renewable(profile: Profile) -> bool:
    """Whether a call that was refused for its token is worth another with a new one."""
    return profile.auth == "client_credentials"


def _obtained(profile: Profile, wire: Wire) -> tuple[str, float]:
    url = profile.token_url or _token_url(profile, wire)
    form = {"grant_type": "client_credentials"} | ({"scope": profile.scope} if profile.scope else {})
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
    if profile.key_file:
        form |= {"client_assertion_type": ASSERTION, "client_assertion": _assertion(profile, url)}
    else:
        headers["Authorization"] = _basic(quote_plus(profile.user), quote_plus(profile.secret))
    answer = wire.send("POST", url, headers, urlencode(form).encode())
    said = _object(answer)
    token = said.get("access_token")
    if answer.status != 200 or not isinstance(token, str):
        why = said.get("error_description") or said.get("error") or "no access_token in the answer"
        raise click.ClickException(f"{url} gave no token: {answer.status}: {plain(str(why))}")
    lasts = said.get("expires_in")
    return token, float(lasts) if isinstance(lasts, int | float) else 0.0


def _token_url(profile: Profile, wire: Wire) -> str:
    """What the server itself says; never a plainer connection than to the server, since a secret goes there."""
    where = f"{profile.base_url}/.well-known/smart-configuration"
    url = _object(wire.send("GET", where, {"Accept": "application/json"})).get("token_endpoint")
    if not isinstance(url, str) or not urlsplit(url).hostname:
        raise click.ClickException(f"{where} names no token_endpoint: give it with --token-url.")
    if urlsplit(url).scheme != "https" and not same_server(url, profile.base_url):
        raise click.ClickException(f"{where} names {plain(url)}, which is not https: if it is right, use --token-url.")
    return url


def _assertion(profile: Profile, audience: str) -> str:
    from joserfc import jwt

    key, algorithm = _key(profile.key_file)
    now = int(time.time())
    header = {"alg": algorithm, "typ": "JWT", "kid": profile.key_id or key.kid or key.thumbprint()}
    claims = {"iss": profile.user, "sub": profile.user, "aud": audience, "iat": now, "exp": now + LIFE}
    return jwt.encode(header, {**claims, "jti": str(uuid.uuid4())}, key, algorithms=[algorithm])


def _key(file: str) -> tuple[RSAKey | ECKey, str]:
    """A private key and its algorithm. Raises ClickException for what is none."""
    from joserfc.errors import JoseError
    from joserfc.jwk import ECKey, RSAKey

    try:
        text = Path(file).read_text()
        given: Any = json.loads(text) if text.lstrip().startswith("{") else text
        for kind in (RSAKey, ECKey):
            try:
                key = kind.import_key(given)
            except (JoseError, TypeError, ValueError, KeyError):
                continue
            if key.is_private:
                algorithm = "RS384" if isinstance(key, RSAKey) else {"P-384": "ES384"}.get(key.curve_name, "ES256")
                return key, algorithm
    except (OSError, ValueError) as error:
        raise click.ClickException(f"{file} cannot be read: {error}") from None
    raise click.ClickException(f"{file} is not a private RSA or EC key in PEM or as a JWK.")


def plain(text: str) -> str:
    """A text of a server's as a terminal may show it: nothing in it moves the cursor."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:2_000]).strip()


def _basic(user: str, secret: str) -> str:
    return "Basic " + b64encode(f"{user}:{secret}".encode()).decode()


def _object(answer: Answer) -> dict[str, Any]:
    try:
        found = json.loads(answer.body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
