"""The attacks on an authorization server that are known by name, in one table: each is tried, and must come to nothing.

RFC 9700, RFC 6819, RFC 8725, OWASP. What fetches a client's jwksUri is tried in its own tests.
"""

from __future__ import annotations

import hmac
import json
import re
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc import jwt
from joserfc.jwk import RSAKey

from fhirserver.auth import assertions, secrets
from fhirserver.auth.keys import new_key
from fhirserver.auth.tokens import issue
from fhirserver.web.codes import challenge_of
from tests.api.browser import CALLBACK, SCOPE, Browser, back
from tests.api.exchange import ISSUER, PASSWORD, REGISTRY, Exchange, exchange_of

KEY = RSAKey.generate_key(2048, {"kid": "k1"})
JWKS = json.dumps({"keys": [KEY.as_dict(private=False)]})


@dataclass
class Ground:
    """An exchange with a public client that people sign in to, and a confidential one with a secret."""

    exchange: Exchange
    portal: dict[str, Any]
    robot: dict[str, Any]

    @property
    def patients(self) -> str:
        return f"{self.exchange.base}/Patient"

    def browser(self, **more: Any) -> Browser:
        return Browser(self.exchange, self.portal, **more)

    def opens(self, token: str) -> bool:
        """Whether a token opens the hospital's data."""
        return self.exchange.call("GET", self.patients, token).status_code == 200

    def claims(self, **changes: Any) -> dict[str, Any]:
        """The claims of the robot's good token, with changes."""
        good = self.exchange.installation.tokens.claims(token_of(self))
        return {name: value for name, value in {**good, **changes}.items() if value is not None}

    def signed(self, **changes: Any) -> str:
        """A token of these claims that our own key has signed."""
        return issue(self.exchange.installation.tokens.keys()[0], self.claims(**changes))


def token_of(ground: Ground) -> str:
    return str(dict(ground.exchange.token(ground.robot).json or {})["access_token"])


def error_of(answer: Any) -> str:
    assert answer.status_code in (400, 401), answer.text
    return str(dict(answer.json or {})["error"])


@pytest.fixture(scope="module")
def ground(mongo_url: str) -> Iterator[Ground]:
    with exchange_of(mongo_url, "test_oauth_attacks") as exchange:
        portal = exchange.register(
            grantType=["authorization_code", "refresh_token"], responseTypes="code", redirectUri=[CALLBACK], scope=SCOPE
        )
        robot = exchange.register()
        exchange.authorize(portal)
        exchange.authorize(robot)
        yield Ground(exchange, portal, robot)


def code_injection(ground: Ground) -> None:
    """A stolen code is pasted into the attacker's own sign-in at the same client."""
    victim, attacker = ground.browser(), ground.browser()
    assert error_of(attacker.token(victim.code())) == "invalid_grant"


def code_of_another_client(ground: Ground) -> None:
    thief = ground.exchange.register(grantType=["authorization_code"], redirectUri=[CALLBACK], scope=SCOPE)
    victim = ground.browser()
    assert error_of(victim.token(victim.code(), client_id=thief["id"])) == "invalid_grant"


def code_reuse(ground: Ground) -> None:
    browser = ground.browser()
    code = browser.code()
    tokens = dict(browser.token(code).json or {})
    assert ground.opens(tokens["access_token"])
    assert error_of(browser.token(code)) == "invalid_grant"
    assert not ground.opens(tokens["access_token"])
    assert error_of(browser.refresh(tokens["refresh_token"])) == "invalid_grant"


def pkce_downgrade(ground: Ground) -> None:
    """Neither no challenge, nor `plain`, nor a code that is exchanged without its verifier."""
    browser = ground.browser()
    for changes in (
        {"code_challenge": "", "code_challenge_method": ""},
        {"code_challenge_method": "plain"},
        {"code_challenge_method": ""},
        {"code_challenge": browser.verifier, "code_challenge_method": "plain"},
    ):
        assert back(browser.begin(**changes))["error"] == "invalid_request"
    code = browser.code()
    assert error_of(browser.token(code, code_verifier="")) == "invalid_request"
    assert error_of(browser.token(code, code_verifier=challenge_of(browser.verifier))) == "invalid_grant"


def redirect_confusion(ground: Ground) -> None:
    """Nothing that only resembles the registered redirect URI is ever led to, not even with an error."""
    for uri in (
        "https://portal.example.com.evil.example/callback",
        "https://portal.example.com@evil.example/callback",
        "https://portal.example.com/callback/../evil",
        "https://portal.example.com/callback%2f",
        "https://portal.example.com/callback#x",
        "https://portal.example.com:443/callback",
        "https://PORTAL.example.com/callback",
        "http://portal.example.com/callback",
        "//portal.example.com/callback",
        "https://portal.example.com/callback\n",
        "javascript:alert(1)",
        f"{CALLBACK}?next=https://evil.example",
    ):
        for more in ({}, {"scope": "nonsense"}, {"response_type": "token"}):
            answer = ground.browser().begin(redirect_uri=uri, **more)
            assert answer.status_code == 400, uri
            assert "Location" not in answer.headers
    browser = ground.browser()
    query = f"client_id={ground.portal['id']}&redirect_uri={CALLBACK}&redirect_uri=https://evil.example"
    assert browser.get(f"/oauth2/authorize?{query}").status_code == 400
    assert error_of(browser.token(browser.code(), redirect_uri="https://evil.example")) == "invalid_grant"


def mix_up(ground: Ground) -> None:
    """An application of several servers learns from every answer whose it is (RFC 9207)."""
    browser = ground.browser()
    assert browser.allow(browser.sign_in())["iss"] == ISSUER
    assert back(browser.begin(scope="nonsense"))["iss"] == ISSUER
    found = dict(ground.exchange.http.get("/.well-known/oauth-authorization-server").json or {})
    assert found["authorization_response_iss_parameter_supported"] is True
    assert found["issuer"] == ISSUER


def asserted(ground: Ground, text: str) -> Any:
    form = {"grant_type": "client_credentials", "client_assertion_type": assertions.TYPE, "client_assertion": text}
    return ground.exchange.http.post("/oauth2/token", data=form)


def assertion(id_: str, key: Any = KEY, alg: str = "RS384", **claims: Any) -> str:
    now = int(time.time())
    made = {"iss": id_, "sub": id_, "aud": f"{ISSUER}/oauth2/token", "exp": now + 60, "jti": str(time.time_ns())}
    return jwt.encode({"alg": alg, "kid": "k1"}, {**made, **claims}, key, algorithms=[alg])


def assertion_replay(ground: Ground) -> None:
    keyed = ground.exchange.register(jwks=JWKS)
    text = assertion(keyed["id"])
    assert asserted(ground, text).status_code == 200
    assert error_of(asserted(ground, text)) == "invalid_client"
    for claims in (
        {"aud": "https://elsewhere.example/token"},
        {"aud": ISSUER.replace("exchange", "other")},
        {"exp": int(time.time()) - 10},
        {"exp": int(time.time()) + 3600},
        {"iss": "somebody"},
        {"jti": None},
    ):
        assert error_of(asserted(ground, assertion(keyed["id"], **claims))) == "invalid_client"
    stranger = RSAKey.generate_key(2048, {"kid": "k1"})
    assert error_of(asserted(ground, assertion(keyed["id"], stranger))) == "invalid_client"
    public = KEY.raw_value.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    now = int(time.time())
    claims = {"iss": keyed["id"], "sub": keyed["id"], "aud": f"{ISSUER}/oauth2/token", "exp": now + 60, "jti": "hs"}
    assert error_of(asserted(ground, hs256(public, {"kid": "k1"}, claims))) == "invalid_client"
    unsigned = f"{part({'alg': 'none', 'kid': 'k1'})}.{part(claims)}."
    assert error_of(asserted(ground, unsigned)) == "invalid_client"


def part(value: Any) -> str:
    """A part of a JWT."""
    return urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def hs256(key: bytes, header: dict[str, Any], claims: dict[str, Any]) -> str:
    """A token signed by HMAC with these bytes, which no library would do with a public key."""
    signed = f"{part({'alg': 'HS256', **header})}.{part(claims)}"
    return f"{signed}.{urlsafe_b64encode(hmac.digest(key, signed.encode(), 'sha256')).rstrip(b'=').decode()}"


def algorithm_none(ground: Ground) -> None:
    """A token without a signature, however that is spelt."""
    good = token_of(ground)
    _, claims, signature = good.split(".")
    for alg in ("none", "None", "NONE", "nOnE", ""):
        head = part({"alg": alg, "typ": "at+jwt", "kid": kid(ground)})
        for last in ("", signature):
            assert not ground.opens(f"{head}.{claims}.{last}")


def kid(ground: Ground) -> str:
    return ground.exchange.installation.tokens.keys()[0].kid


def algorithm_hs_with_the_public_key(ground: Ground) -> None:
    """The public key is no secret: whoever signs with it by HMAC is refused."""
    key = ground.exchange.installation.tokens.keys()[0]
    public = key.pair.raw_value.public_key()
    forms = [
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        json.dumps(key.public()).encode(),
    ]
    for form in forms:
        assert not ground.opens(hs256(form, {"typ": "at+jwt", "kid": key.kid}, ground.claims()))


def key_of_ones_own(ground: Ground) -> None:
    """A token that brings the key it was signed with, or names another's."""
    mine = new_key()
    header = {"alg": "RS256", "kid": mine.kid, "typ": "at+jwt", "jwk": mine.public()}
    assert not ground.opens(jwt.encode(header, ground.claims(), mine.pair, algorithms=["RS256"], default_type=None))
    for named in (kid(ground), "../../../dev/null", "' OR 1=1 --"):
        assert not ground.opens(
            jwt.encode({**header, "kid": named}, ground.claims(), mine.pair, algorithms=["RS256"], default_type=None)
        )
    header["jku"] = "https://evil.example/jwks"
    assert not ground.opens(jwt.encode(header, ground.claims(), mine.pair, algorithms=["RS256"], default_type=None))


def expired_or_not_yet_valid(ground: Ground) -> None:
    now = int(time.time())
    assert ground.opens(ground.signed())
    for changes in ({"exp": now - 1}, {"exp": None}, {"exp": "never"}, {"nbf": now + 60}, {"iat": now + 60}):
        assert not ground.opens(ground.signed(**changes)), changes


def wrong_audience_or_issuer(ground: Ground) -> None:
    other = f"{ISSUER}/1/health/organizations/other/fhir/4"
    for changes in (
        {"iss": "https://elsewhere.example"},
        {"iss": None},
        {"aud": "https://elsewhere.example"},
        {"aud": other},
        {"aud": [other, "https://elsewhere.example"]},
        {"aud": f"{ISSUER}{ground.exchange.base}x"},
        {"aud": None},
    ):
        assert not ground.opens(ground.signed(**changes)), changes
    browser = ground.browser()
    tokens = dict(browser.token(browser.code()).json or {})
    assert not ground.opens(tokens["id_token"]), "an id token is no access token"
    assert ground.exchange.call("GET", f"{REGISTRY}/Organization", tokens["access_token"]).status_code == 401


def refresh_reuse(ground: Ground) -> None:
    browser = ground.browser()
    first = dict(browser.token(browser.code()).json or {})
    second = dict(browser.refresh(first["refresh_token"]).json or {})
    assert error_of(browser.refresh(first["refresh_token"])) == "invalid_grant"
    assert error_of(browser.refresh(second["refresh_token"])) == "invalid_grant"
    assert not ground.opens(second["access_token"])


def refresh_token_of_another_client(ground: Ground) -> None:
    thief = ground.exchange.register(
        grantType=["authorization_code", "refresh_token"], redirectUri=[CALLBACK], scope=SCOPE
    )
    browser = ground.browser()
    tokens = dict(browser.token(browser.code()).json or {})
    assert error_of(browser.refresh(tokens["refresh_token"], client_id=thief["id"])) == "invalid_grant"


def scope_escalation_at_refresh(ground: Ground) -> None:
    browser = ground.browser()
    shown = browser.sign_in()
    code = browser.allow(shown, "offline_access", "user/Patient.rs")["code"]
    token = dict(browser.token(code).json or {})["refresh_token"]
    for scope in ("user/Observation.rs", "user/*.rs", "user/Patient.cruds", "system/Patient.rs", "openid"):
        assert error_of(browser.refresh(token, scope=scope)) == "invalid_scope"
    refreshed = dict(browser.refresh(token).json or {})
    assert refreshed["scope"] == "offline_access user/Patient.rs"


def scope_escalation_at_consent(ground: Ground) -> None:
    """Boxes that the page did not offer are not ticked by adding them to the form."""
    browser = ground.browser(scope="openid user/Patient.rs")
    given = browser.allow(browser.sign_in(), "openid", "user/Patient.rs", "user/*.cruds", "user/Observation.rs")
    assert dict(browser.token(given["code"]).json or {})["scope"] == "openid user/Patient.rs"


def introspection_by_strangers(ground: Ground) -> None:
    http, token = ground.exchange.http, token_of(ground)
    assert http.post("/oauth2/introspect", data={"token": token}).status_code == 401
    assert http.post("/oauth2/introspect", data={"token": token, "client_id": ground.portal["id"]}).status_code == 400
    stranger = ground.exchange.register()
    form = {"token": token, "client_id": stranger["id"], "client_secret": stranger["secret"]}
    assert http.post("/oauth2/introspect", data=form).json == {"active": False}
    assert http.post("/oauth2/revoke", data=form).status_code == 200
    assert ground.opens(token)


def timing_of_the_comparison(ground: Ground) -> None:
    """How much of a secret was guessed makes no difference: hashes are compared, whole, for known and unknown ids."""
    compared: list[tuple[Any, Any]] = []
    real = hmac.compare_digest

    def watched(one: Any, two: Any) -> bool:
        compared.append((one, two))
        return real(one, two)

    secret = ground.robot["secret"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(secrets.hmac, "compare_digest", watched)
        for guess in ("", "x" * 43, secret[:20] + "x" * 23, secret[:-1] + "x"):
            compared.clear()
            answer = ground.exchange.token({**ground.robot, "secret": guess or "x"})
            assert error_of(answer) == "invalid_client"
            assert compared
            assert {len(one) for one, _ in compared} == {43}
            assert not any(secret[:20] in str(pair) or "xxxx" in str(pair) for pair in compared)
    hashed = [secrets.check_password(PASSWORD, None), secrets.check_password("x", None)]
    assert hashed == [False, False], "without a user the same hash is worked out"


def forgery_of_consent(ground: Ground) -> None:
    """Another site posts our forms (CSRF): the forms need what only the page shows, for this very browser."""
    victim, attacker = ground.browser(), ground.browser()
    shown, mine = victim.sign_in(), attacker.sign_in("acme")
    form = {"decision": "allow", "scope": ["openid"]}
    assert victim.post("/oauth2/consent", None, **form).status_code == 400
    assert victim.post("/oauth2/consent", mine, **form).status_code == 400
    assert attacker.post("/oauth2/consent", shown, **form).status_code == 400
    got = victim.http.get("/oauth2/consent", query_string={"decision": "allow"}, base_url=ISSUER)
    assert got.status_code == 200, "a GET decides nothing"
    cookie = victim.begin().headers["Set-Cookie"]
    assert "SameSite=Lax" in cookie


def forged_sign_in(ground: Ground) -> None:
    """Login CSRF and session fixation: nobody is signed in as another, and a planted cookie gets no session."""
    victim = ground.browser()
    victim.begin(prompt="consent")
    given = {"email": "acme@example.org", "password": PASSWORD}
    assert victim.post("/oauth2/sign-in", None, **given).status_code == 400
    planted = ground.browser()
    planted.http.set_cookie("fhirserver_session", "planted", domain="exchange.example")
    shown = planted.begin(prompt="consent")
    assert "Sign in" in shown.text
    done = planted.post("/oauth2/sign-in", shown, email="hospital@example.org", password=PASSWORD)
    assert "fhirserver_session=planted" not in str(done.headers)
    other = ground.browser()
    other.http.set_cookie("fhirserver_session", "planted", domain="exchange.example")
    assert "Sign in" in other.begin(prompt="consent").text


def clickjacking(ground: Ground) -> None:
    browser = ground.browser()
    for shown in (browser.begin(prompt="consent"), browser.sign_in(), browser.get("/oauth2/logout")):
        assert shown.headers["X-Frame-Options"] == "DENY"
        policy = shown.headers["Content-Security-Policy"]
        assert "frame-ancestors 'none'" in policy
        assert "script-src" not in policy
        assert "default-src 'none'" in policy


def open_redirect_on_logout(ground: Ground) -> None:
    browser = ground.browser()
    browser.sign_in()
    for to in ("https://evil.example", f"{CALLBACK}.evil.example", "//evil.example", f"{CALLBACK}?x=1", "javascript:x"):
        given = {"client_id": ground.portal["id"], "post_logout_redirect_uri": to}
        shown = browser.http.get("/oauth2/logout", query_string=given, base_url=ISSUER)
        assert "Location" not in shown.headers
        assert "evil" not in shown.text
        fresh = ground.browser()
        done = fresh.http.post("/oauth2/logout", data=given, base_url=ISSUER)
        assert "Location" not in done.headers
    nobodys = {"post_logout_redirect_uri": CALLBACK}
    assert "Location" not in ground.browser().http.get("/oauth2/logout", query_string=nobodys, base_url=ISSUER).headers


def brute_force(ground: Ground) -> None:
    """Of a person's password, of a client's secret, of a code: each is slowed down or worthless."""
    shown = ground.browser().begin(prompt="consent")
    guesser = ground.browser()
    shown = guesser.begin(prompt="consent")
    found = re.search(r'name="csrf" value="([0-9a-f]+)"', shown.text)
    form = {"csrf": found[1] if found else "", "email": "acme@example.org"}
    environ = {"REMOTE_ADDR": "203.0.113.77"}

    def guess(password: str) -> int:
        given = {**form, "password": password}
        return guesser.http.post("/oauth2/sign-in", data=given, base_url=ISSUER, environ_base=environ).status_code

    assert [guess(f"guess {number}") for number in range(11)] == [401] * 10 + [429]
    assert guess(PASSWORD) == 429, "not even the right one is taken meanwhile"
    given = {"grant_type": "client_credentials", "client_id": ground.robot["id"]}
    statuses = [
        ground.exchange.http.post(
            "/oauth2/token", data={**given, "client_secret": str(number)}, environ_base={"REMOTE_ADDR": "203.0.113.78"}
        ).status_code
        for number in range(11)
    ]
    assert statuses == [401] * 10 + [429]


def parameters_twice_or_in_the_url(ground: Ground) -> None:
    http = ground.exchange.http
    good = {
        "grant_type": "client_credentials",
        "client_id": ground.robot["id"],
        "client_secret": ground.robot["secret"],
    }
    assert (
        http.post("/oauth2/token", data={**good, "scope": ["system/Patient.rs", "system/*.cruds"]}).status_code == 400
    )
    assert http.post("/oauth2/token?scope=system/Patient.rs", data=good).status_code == 400
    assert http.get("/oauth2/token", query_string=good).status_code == 405
    token = token_of(ground)
    assert http.get(ground.patients, query_string={"access_token": token}).status_code == 401
    led = back(ground.browser().begin(request="eyJhbGciOiJub25lIn0.e30."))
    assert led["error"] == "request_not_supported"
    assert back(ground.browser().begin(request_uri="https://evil.example"))["error"] == "request_uri_not_supported"
    assert back(ground.browser().begin(response_mode="fragment"))["error"] == "invalid_request"


def referrer_and_caches(ground: Ground) -> None:
    """Neither code nor token gets out by a Referer or a cache."""
    browser = ground.browser()
    shown = browser.sign_in()
    done = browser.post("/oauth2/consent", shown, decision="allow", scope=["openid"])
    assert done.headers["Referrer-Policy"] == "no-referrer"
    assert done.headers["Cache-Control"] == "no-store"
    code = parse_qs(urlsplit(done.headers["Location"]).query)["code"][0]
    assert browser.token(code).headers["Cache-Control"] == "no-store"


ATTACKS: tuple[Callable[[Ground], None], ...] = (
    code_injection,
    code_of_another_client,
    code_reuse,
    pkce_downgrade,
    redirect_confusion,
    mix_up,
    assertion_replay,
    algorithm_none,
    algorithm_hs_with_the_public_key,
    key_of_ones_own,
    expired_or_not_yet_valid,
    wrong_audience_or_issuer,
    refresh_reuse,
    refresh_token_of_another_client,
    scope_escalation_at_refresh,
    scope_escalation_at_consent,
    introspection_by_strangers,
    timing_of_the_comparison,
    forgery_of_consent,
    forged_sign_in,
    clickjacking,
    open_redirect_on_logout,
    parameters_twice_or_in_the_url,
    referrer_and_caches,
    brute_force,
)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_an_attack_comes_to_nothing(ground: Ground, attack: Callable[[Ground], None]) -> None:
    # Failures of one attack must not slow down the next.
    ground.exchange.installation.server.store.database.collection("attempts").delete_many({})
    attack(ground)
