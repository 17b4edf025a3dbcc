"""A user lets an application in: sign-in, consent, code, tokens - and every attack on the way that is known by name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from tests.api.browser import CALLBACK, SCOPE, Browser, back
from tests.api.exchange import ISSUER, PASSWORD, REGISTRY, Exchange, exchange_of


@pytest.fixture(scope="module")
def exchange(mongo_url: str) -> Iterator[Exchange]:
    with exchange_of(mongo_url, "test_authorization_code") as made:
        yield made


@pytest.fixture(scope="module")
def portal(exchange: Exchange) -> dict[str, Any]:
    """A public client that the hospital approved."""
    client = exchange.register(
        grantType=["authorization_code", "refresh_token"],
        responseTypes="code",
        redirectUri=[CALLBACK, "https://portal.example.com/other"],
        scope=SCOPE + " launch/patient patient/*.rs online_access",
    )
    exchange.authorize(client)
    return client


@pytest.fixture
def browser(exchange: Exchange, portal: dict[str, Any]) -> Browser:
    return Browser(exchange, portal)


def test_a_user_signs_in_consents_and_the_application_gets_its_tokens(exchange: Exchange, browser: Browser) -> None:
    shown = browser.sign_in()
    assert shown.status_code == 200
    for words in ("Results", "Application", "Provider", "Read Patient, Search Patient", "Know who you are"):
        assert words in shown.text
    led = browser.allow(shown)
    assert (led["state"], led["iss"]) == ("s-1", ISSUER)
    answer = browser.token(led["code"])
    assert answer.status_code == 200, answer.text
    tokens = dict(answer.json or {})
    assert set(tokens) == {"access_token", "token_type", "expires_in", "scope", "refresh_token", "id_token"}
    assert tokens["scope"] == SCOPE
    assert exchange.call("GET", f"{exchange.base}/Patient", tokens["access_token"]).status_code == 200
    assert exchange.call("GET", f"{exchange.base}/Encounter", tokens["access_token"]).status_code == 403
    keys = KeySet.import_key_set(exchange.http.get("/oauth2/jwks").json)
    claims = jwt.decode(tokens["id_token"], keys, algorithms=["RS256"]).claims
    assert claims["aud"] == browser.client["id"]
    assert claims["nonce"] == "n-1"
    assert claims["fhirUser"] == f"{ISSUER}{REGISTRY}/User/{claims['sub']}"
    assert claims["email"] == "hospital@example.org"
    info = exchange.call("GET", "/oauth2/userinfo", tokens["access_token"])
    assert info.json == {name: claims[name] for name in ("sub", "fhirUser", "profile", "name", "email")}
    assert exchange.call("GET", f"{exchange.base}/Patient", tokens["id_token"]).status_code == 401


def test_a_token_is_good_for_the_base_it_was_asked_for_only(exchange: Exchange, browser: Browser) -> None:
    token = browser.token(browser.code()).json["access_token"]  # type: ignore[index]
    refused = exchange.call("GET", f"{REGISTRY}/Organization", token)
    assert refused.status_code == 401
    assert "another base" in refused.text


def test_the_user_may_drop_scopes_and_say_no(exchange: Exchange, browser: Browser) -> None:
    led = browser.allow(browser.sign_in(), "openid", "user/Patient.rs")
    tokens = dict(browser.token(led["code"]).json or {})
    assert tokens["scope"] == "openid user/Patient.rs"
    assert "refresh_token" not in tokens
    assert exchange.call("GET", f"{exchange.base}/Observation", tokens["access_token"]).status_code == 403
    again = Browser(exchange, browser.client)
    refusal = back(again.post("/oauth2/consent", again.sign_in(), decision="deny"))
    assert refusal["error"] == "access_denied"
    assert "code" not in refusal


def test_what_was_allowed_is_remembered_and_more_is_asked_for(exchange: Exchange, browser: Browser) -> None:
    browser.allow(browser.sign_in(), "openid", "user/Patient.rs")
    browser.scope = "user/Patient.r"
    assert "code" in back(browser.begin())
    assert "Allow access?" in browser.begin(prompt="consent").text
    browser.scope = SCOPE
    assert "Allow access?" in browser.begin().text
    assert back(browser.begin(prompt="none"))["error"] == "consent_required"
    assert back(Browser(exchange, browser.client).begin(prompt="none"))["error"] == "login_required"
    assert "Sign in" in browser.begin(prompt="login").text


@pytest.mark.parametrize(
    "changes",
    [
        {"client_id": "nobody"},
        {"client_id": ""},
        {"redirect_uri": "https://evil.example/callback"},
        {"redirect_uri": CALLBACK + "/"},
        {"redirect_uri": CALLBACK + "?x=1"},
        {"redirect_uri": CALLBACK.upper()},
        {"redirect_uri": ""},
        {"state": "x" * 9000},
    ],
)
def test_a_request_that_cannot_be_trusted_is_never_redirected(browser: Browser, changes: dict[str, str]) -> None:
    answer = browser.begin(**changes)
    assert answer.status_code == 400
    assert "Location" not in answer.headers


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"response_type": "token"}, "unsupported_response_type"),
        ({"response_type": ""}, "unsupported_response_type"),
        ({"code_challenge": ""}, "invalid_request"),
        ({"code_challenge_method": "plain"}, "invalid_request"),
        ({"code_challenge_method": ""}, "invalid_request"),
        ({"code_challenge": "short"}, "invalid_request"),
        ({"aud": ""}, "invalid_request"),
        ({"aud": "https://elsewhere.example/fhir"}, "invalid_request"),
        ({"aud": f"{ISSUER}/1/health/organizations/nobody/fhir/4"}, "invalid_request"),
        ({"scope": "nonsense"}, "invalid_scope"),
        ({"scope": "system/*.cruds"}, "invalid_scope"),
        ({"scope": "user/Encounter.r"}, "invalid_scope"),
    ],
)
def test_a_request_that_may_not_be_granted_leads_back_with_its_error(
    browser: Browser, changes: dict[str, str], error: str
) -> None:
    led = back(browser.begin(**changes))
    assert (led["error"], led["state"], led["iss"]) == (error, "s-1", ISSUER)


def test_a_wrong_password_says_the_same_as_an_unknown_address_and_is_slowed_down(browser: Browser) -> None:
    shown = browser.begin()
    texts = set()
    for email, password in (("hospital@example.org", "wrong"), ("nobody@example.org", PASSWORD), ("x", "y"), ("", "")):
        answer = browser.post("/oauth2/sign-in", shown, email=email, password=password)
        assert answer.status_code == 401
        texts.add(re.sub(r'nonce-?="?[^"]*"', "", answer.text))
    assert len(texts) == 1
    environ = {"REMOTE_ADDR": "203.0.113.9"}
    csrf = re.search(r'name="csrf" value="([0-9a-f]+)"', shown.text)
    form = {"csrf": csrf[1] if csrf else "", "email": "hospital@example.org", "password": "wrong"}
    statuses = [
        browser.http.post("/oauth2/sign-in", data=form, base_url=ISSUER, environ_base=environ).status_code
        for _ in range(12)
    ]
    assert statuses[-1] == 429


def test_the_pages_cannot_be_framed_scripted_or_posted_to_from_elsewhere(exchange: Exchange, browser: Browser) -> None:
    shown = browser.begin()
    policy = shown.headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in policy
    assert "default-src 'none'" in policy
    assert shown.headers["X-Frame-Options"] == "DENY"
    cookie = shown.headers["Set-Cookie"]
    assert all(word in cookie for word in ("Secure", "HttpOnly", "SameSite=Lax"))
    forged = browser.post("/oauth2/sign-in", None, email="hospital@example.org", password=PASSWORD)
    assert forged.status_code == 400
    consent = browser.sign_in()
    assert browser.post("/oauth2/consent", None, decision="allow", scope=["openid"]).status_code == 400
    victim = Browser(exchange, browser.client)
    assert victim.post("/oauth2/consent", consent, decision="allow", scope=["openid"]).status_code == 400


def test_a_name_cannot_inject_markup(exchange: Exchange) -> None:
    named = exchange.register(
        name="<script>alert(1)</script>", grantType=["authorization_code"], redirectUri=[CALLBACK], scope=SCOPE
    )
    shown = Browser(exchange, named).begin()
    assert "<script>" not in shown.text
    assert "&lt;script&gt;" in shown.text


@pytest.mark.parametrize(
    "changes",
    [
        {"code_verifier": "x" * 43},
        {"code_verifier": "short"},
        {"redirect_uri": "https://portal.example.com/other"},
        {"redirect_uri": ""},
        {"code": "guess"},
    ],
)
def test_a_code_is_bound_to_its_request(browser: Browser, changes: dict[str, str]) -> None:
    answer = browser.token(**({"code": browser.code()} | changes))
    assert answer.status_code == 400
    assert answer.json["error"] == "invalid_grant"  # type: ignore[index]


def test_a_code_is_bound_to_its_client(exchange: Exchange, browser: Browser) -> None:
    thief = exchange.register(grantType=["authorization_code"], redirectUri=[CALLBACK], scope=SCOPE)
    answer = browser.token(browser.code(), client_id=thief["id"])
    assert answer.json["error"] == "invalid_grant"  # type: ignore[index]


def test_a_code_used_twice_ends_what_came_of_it(exchange: Exchange, browser: Browser) -> None:
    code = browser.code()
    tokens = dict(browser.token(code).json or {})
    assert exchange.call("GET", f"{exchange.base}/Patient", tokens["access_token"]).status_code == 200
    assert browser.token(code).json["error"] == "invalid_grant"  # type: ignore[index]
    assert exchange.call("GET", f"{exchange.base}/Patient", tokens["access_token"]).status_code == 401
    assert browser.refresh(tokens["refresh_token"]).json["error"] == "invalid_grant"  # type: ignore[index]


def test_a_refresh_token_rotates_and_its_reuse_ends_the_family(exchange: Exchange, browser: Browser) -> None:
    first = dict(browser.token(browser.code()).json or {})
    second = dict(browser.refresh(first["refresh_token"]).json or {})
    assert second["refresh_token"] != first["refresh_token"]
    assert second["scope"] == SCOPE
    assert exchange.call("GET", f"{exchange.base}/Patient", second["access_token"]).status_code == 200
    assert browser.refresh(first["refresh_token"]).json["error"] == "invalid_grant"  # type: ignore[index]
    assert browser.refresh(second["refresh_token"]).json["error"] == "invalid_grant"  # type: ignore[index]
    assert exchange.call("GET", f"{exchange.base}/Patient", second["access_token"]).status_code == 401


def test_refreshing_gives_less_but_never_more(browser: Browser) -> None:
    first = dict(browser.token(browser.code()).json or {})
    more = browser.refresh(first["refresh_token"], scope="user/*.cruds")
    assert more.json["error"] == "invalid_scope"  # type: ignore[index]
    less = dict(browser.refresh(first["refresh_token"], scope="user/Patient.r").json or {})
    assert less["scope"] == "user/Patient.r"
    whole = dict(browser.refresh(less["refresh_token"]).json or {})
    assert whole["scope"] == SCOPE


def test_online_access_ends_with_the_session(exchange: Exchange, portal: dict[str, Any]) -> None:
    browser = Browser(exchange, portal, scope="openid online_access user/Patient.rs")
    tokens = dict(browser.token(browser.allow(browser.sign_in())["code"]).json or {})
    again = dict(browser.refresh(tokens["refresh_token"]).json or {})
    shown = browser.get("/oauth2/logout")
    assert browser.post("/oauth2/logout", shown).status_code == 200
    assert browser.refresh(again["refresh_token"]).json["error"] == "invalid_grant"  # type: ignore[index]


def test_signing_out_leads_nowhere_but_to_a_registered_address(exchange: Exchange, browser: Browser) -> None:
    browser.sign_in()
    evil = f"client_id={browser.client['id']}&post_logout_redirect_uri=https://evil.example"
    assert browser.get(f"/oauth2/logout?{evil}").headers.get("Location") is None
    shown = browser.get(f"/oauth2/logout?client_id={browser.client['id']}&post_logout_redirect_uri={CALLBACK}")
    given = {"client_id": browser.client["id"], "post_logout_redirect_uri": CALLBACK}
    assert browser.post("/oauth2/logout", None, **given).status_code == 400
    done = browser.post("/oauth2/logout", shown, **given)
    assert done.headers["Location"] == CALLBACK
    assert "Sign in" in browser.begin().text


def test_signing_out_knows_the_application_by_its_id_token_and_gives_its_state_back(
    exchange: Exchange, browser: Browser
) -> None:
    tokens = dict(browser.token(browser.code()).json or {})
    given = {"id_token_hint": tokens["id_token"], "post_logout_redirect_uri": CALLBACK, "state": "bye&x=1"}
    shown = browser.http.get("/oauth2/logout", query_string=given, base_url=ISSUER)
    hidden = dict(re.findall(r'name="([a-z_]+)" value="([^"]*)"', shown.text))
    assert "csrf" in hidden
    done = browser.post("/oauth2/logout", shown, **given)
    assert done.headers["Location"] == f"{CALLBACK}?state=bye%26x%3D1"
    for hint in ("garbage", tokens["access_token"] + "x"):
        stranger = {"id_token_hint": hint, "post_logout_redirect_uri": CALLBACK}
        fresh = Browser(exchange, browser.client)
        assert "Location" not in fresh.http.get("/oauth2/logout", query_string=stranger, base_url=ISSUER).headers


def test_an_application_may_want_the_password_again(exchange: Exchange, browser: Browser) -> None:
    browser.sign_in()
    assert "Allow access?" in browser.begin(prompt="consent", max_age="3600").text
    for again in ({"prompt": "login"}, {"prompt": "login consent"}, {"prompt": "select_account"}):
        shown = browser.begin(**again)
        assert "Sign in" in shown.text
        done = browser.post("/oauth2/sign-in", shown, email="hospital@example.org", password=PASSWORD)
        assert "Sign in to" not in browser.get(done.headers["Location"]).text
    assert back(browser.begin(prompt="none login"))["error"] == "invalid_request"
    assert back(browser.begin(prompt="sing"))["error"] == "invalid_request"
    assert back(browser.begin(max_age="soon"))["error"] == "invalid_request"
    assert back(Browser(exchange, browser.client).begin(prompt="none"))["error"] == "login_required"


def test_granular_scopes_are_told_in_words_and_granted_as_they_are(exchange: Exchange) -> None:
    scope = "user/Observation.rs?category=laboratory patient/Condition.r launch/patient"
    client = exchange.register(grantType=["authorization_code"], redirectUri=[CALLBACK], scope=scope)
    exchange.authorize(client)
    patient = {"resourceType": "Patient", "name": [{"family": "Curie"}]}
    made = exchange.call("POST", f"{exchange.base}/Patient", exchange.people["hospital"], patient)
    browser = Browser(exchange, client, scope=scope)
    browser.sign_in()
    shown = browser.get("/oauth2/consent?find=Curie")
    chosen = browser.post("/oauth2/patient", shown, patient=dict(made.json or {})["id"])
    page = browser.get(chosen.headers["Location"])
    assert "Read Observation (category is laboratory), Search Observation (category is laboratory)" in page.text
    assert "Read Condition of the chosen patient" in page.text
    only = "user/Observation.rs?category=laboratory"
    tokens = dict(browser.token(browser.allow(page, only)["code"]).json or {})
    assert tokens["scope"] == only
    assert "patient" not in tokens
    for text in ("laboratory", "exam"):
        coding = {"system": "http://terminology.hl7.org/CodeSystem/observation-category", "code": text}
        seen = {"resourceType": "Observation", "status": "final", "code": {"text": "x"}}
        seen["category"] = [{"coding": [coding]}]
        assert (
            exchange.call("POST", f"{exchange.base}/Observation", exchange.people["hospital"], seen).status_code == 201
        )
    found = dict(exchange.call("GET", f"{exchange.base}/Observation", tokens["access_token"]).json or {})
    codes = {entry["resource"]["category"][0]["coding"][0]["code"] for entry in found["entry"]}
    assert codes == {"laboratory"}


def test_fhir_user_names_who_the_user_is_in_the_organization(exchange: Exchange, portal: dict[str, Any]) -> None:
    admin = exchange.people["hospital"]
    user = {
        "resourceType": "User",
        "email": "curie@example.org",
        "password": PASSWORD,
        "organization": {"reference": f"Organization/{exchange.hospital}"},
        "person": {"reference": "Practitioner/curie"},
    }
    assert exchange.call("POST", f"{REGISTRY}/User", admin, user).status_code == 201
    for wrong in ("Organization/x", "https://evil.example/Practitioner/1", "Practitioner/../x"):
        other = {**user, "email": "other@example.org", "person": {"reference": wrong}}
        assert exchange.call("POST", f"{REGISTRY}/User", admin, other).status_code == 400
    browser = Browser(exchange, portal)
    tokens = dict(browser.token(browser.allow(browser.sign_in("curie"))["code"]).json or {})
    info = dict(exchange.call("GET", "/oauth2/userinfo", tokens["access_token"]).json or {})
    assert info["fhirUser"] == f"{ISSUER}{exchange.base}/Practitioner/curie"


def test_userinfo_challenges_as_rfc_6750_says(exchange: Exchange, browser: Browser) -> None:
    http = exchange.http
    for headers in ({}, {"Authorization": "Digest x"}):
        answer = http.get("/oauth2/userinfo", headers=headers)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, 'Bearer realm="fhir"')
    wrong = http.get("/oauth2/userinfo", headers={"Authorization": "Bearer x"})
    assert 'error="invalid_token"' in wrong.headers["WWW-Authenticate"]
    token = dict(browser.token(browser.allow(browser.sign_in(), "user/Patient.rs")["code"]).json or {})["access_token"]
    less = http.get("/oauth2/userinfo", headers={"Authorization": f"Bearer {token}"})
    assert less.status_code == 403
    assert 'error="insufficient_scope"' in less.headers["WWW-Authenticate"]
    basic = http.post(
        "/oauth2/token", data={"grant_type": "client_credentials"}, headers={"Authorization": "Basic eDp5"}
    )
    assert basic.status_code == 401
    assert basic.headers["WWW-Authenticate"].startswith('Basic realm="oauth2"')


def test_a_patient_is_chosen_and_the_token_is_confined_to_it(exchange: Exchange, portal: dict[str, Any]) -> None:
    admin = exchange.people["hospital"]
    ids = []
    for family in ("Ångström", "Berg"):
        patient = {"resourceType": "Patient", "name": [{"family": family, "given": ["Ada"]}], "birthDate": "1970-01-01"}
        made = exchange.call("POST", f"{exchange.base}/Patient", admin, patient)
        ids.append(str((made.json or {})["id"]))
    browser = Browser(exchange, portal, scope="launch/patient patient/*.rs")
    assert "Choose a patient" in browser.sign_in().text
    assert "Nobody found" in browser.get("/oauth2/consent?find=nobody").text
    found = browser.get("/oauth2/consent?find=angstrom")
    assert "Ada Ångström, 1970-01-01" in found.text
    assert ids[1] not in found.text
    assert browser.post("/oauth2/patient", found, patient="nobody").status_code == 200
    chosen = browser.post("/oauth2/patient", found, patient=ids[0])
    tokens = dict(browser.token(browser.allow(browser.get(chosen.headers["Location"]))["code"]).json or {})
    assert tokens["patient"] == ids[0]
    token = tokens["access_token"]
    assert exchange.call("GET", f"{exchange.base}/Patient/{ids[0]}", token).status_code == 200
    assert exchange.call("GET", f"{exchange.base}/Patient/{ids[1]}", token).status_code == 404
    listed = exchange.call("GET", f"{exchange.base}/Patient", token).json or {}
    assert [entry["resource"]["id"] for entry in listed["entry"]] == [ids[0]]


def test_a_user_without_a_role_in_the_organization_gets_no_code(browser: Browser) -> None:
    shown = browser.begin()
    done = browser.post("/oauth2/sign-in", shown, email="acme@example.org", password=PASSWORD)
    assert back(browser.get(done.headers["Location"]))["error"] == "access_denied"


def test_a_public_client_has_no_other_grant(exchange: Exchange, portal: dict[str, Any]) -> None:
    form = {"grant_type": "client_credentials", "client_id": portal["id"]}
    assert exchange.http.post("/oauth2/token", data=form).status_code in (400, 401)


def test_discovery_now_lists_signing_in(exchange: Exchange) -> None:
    found = exchange.http.get(f"{exchange.base}/.well-known/smart-configuration").json or {}
    assert found["code_challenge_methods_supported"] == ["S256"]
    assert {"launch-standalone", "client-public", "context-standalone-patient"} <= set(found["capabilities"])
    for name in ("authorization_endpoint", "introspection_endpoint", "revocation_endpoint"):
        assert found[name].startswith(ISSUER)
    assert "none" not in found["introspection_endpoint_auth_methods_supported"]
    assert found["response_modes_supported"] == ["query"]
    openid = exchange.http.get(f"{exchange.base}/.well-known/openid-configuration").json or {}
    assert openid["request_parameter_supported"] is openid["request_uri_parameter_supported"] is False


def test_an_applications_own_people_sign_in_at_its_sandbox_and_nobody_else(exchange: Exchange) -> None:
    trial = exchange.register(
        kind="test",
        grantType=["authorization_code"],
        redirectUri=[CALLBACK],
        scope="openid user/Patient.rs patient/Observation.rs launch/patient",
    )
    made = exchange.call("POST", f"/1/health/fhir/4/ClientApplication/{trial['id']}/$sandbox", exchange.people["acme"])
    base = made.json["parameter"][1]["valueUrl"]  # type: ignore[index]
    browser = Browser(exchange, trial, scope="user/Patient.rs")
    shown = browser.begin(aud=base)
    done = browser.post("/oauth2/sign-in", shown, email="acme@example.org", password=PASSWORD)
    page = browser.get(done.headers["Location"])
    token = dict(browser.token(browser.allow(page)["code"]).json or {})["access_token"]
    path = base.removeprefix(ISSUER)
    assert len(exchange.call("GET", f"{path}/Patient", token).json["entry"]) == 8  # type: ignore[index]
    assert exchange.call("GET", f"{exchange.base}/Patient", token).status_code in (401, 403)
    stranger = Browser(exchange, trial, scope="user/Patient.rs")
    shown = stranger.begin(aud=base)
    done = stranger.post("/oauth2/sign-in", shown, email="hospital@example.org", password=PASSWORD)
    assert back(stranger.get(done.headers["Location"]))["error"] == "access_denied"
