"""The token endpoint over HTTP against real MongoDB: RFC 6749 to the letter, and what a token then opens."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import pytest

from tests.api.exchange import ISSUER, REGISTRY, Exchange, exchange_of


@pytest.fixture(scope="module")
def exchange(mongo_url: str) -> Iterator[Exchange]:
    with exchange_of(mongo_url, "test_token") as made:
        yield made


@pytest.fixture(scope="module")
def client(exchange: Exchange) -> dict[str, Any]:
    return exchange.register()


def basic(id: str, secret: str) -> dict[str, str]:
    return {"Authorization": "Basic " + b64encode(f"{id}:{secret}".encode()).decode()}


def test_the_secret_is_shown_once_and_never_again(exchange: Exchange, client: dict[str, Any]) -> None:
    assert len(client["secret"]) == 43
    path = f"{REGISTRY}/ClientApplication/{client['id']}"
    for where in (path, f"{path}/_history", f"{path}/_history/1", f"{REGISTRY}/ClientApplication?_id={client['id']}"):
        answer = exchange.call("GET", where, exchange.people["acme"])
        assert answer.status_code == 200, answer.text
        assert client["secret"] not in answer.text
        assert '"secret"' not in answer.text


def test_a_token_is_issued_for_the_secret_in_the_body(exchange: Exchange, client: dict[str, Any]) -> None:
    answer = exchange.token(client, scope="system/Patient.read")
    assert answer.status_code == 200, answer.text
    assert answer.json is not None
    assert answer.json["token_type"] == "Bearer"
    assert answer.json["scope"] == "system/Patient.read"
    assert answer.json["expires_in"] > 0
    assert set(answer.json) == {"access_token", "token_type", "expires_in", "scope"}
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Pragma"] == "no-cache"


def test_a_token_is_issued_for_the_secret_in_the_header(exchange: Exchange, client: dict[str, Any]) -> None:
    form = {"grant_type": "client_credentials"}
    answer = exchange.http.post("/oauth2/token", data=form, headers=basic(client["id"], client["secret"]))
    assert answer.status_code == 200, answer.text
    assert answer.json["scope"] == "system/*.cruds"  # type: ignore[index]


@pytest.mark.parametrize(
    ("form", "status", "error"),
    [
        ({"client_secret": "wrong"}, 401, "invalid_client"),
        ({"client_id": "nobody"}, 401, "invalid_client"),
        ({"client_id": ""}, 401, "invalid_client"),
        ({"client_secret": ""}, 401, "invalid_client"),
        ({"client_id": "a\x00b"}, 401, "invalid_client"),
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
        ({"grant_type": ""}, 400, "invalid_request"),
        ({"scope": "nonsense"}, 400, "invalid_scope"),
        ({"scope": "system/Patient.sr"}, 400, "invalid_scope"),
        ({"scope": "user/Patient.r"}, 400, "invalid_scope"),
        ({"scope": 'system/"\\x.r'}, 400, "invalid_scope"),
    ],
)
def test_every_wrong_request_gets_the_error_of_rfc_6749(
    exchange: Exchange, client: dict[str, Any], form: dict[str, str], status: int, error: str
) -> None:
    answer = exchange.token(client, **form)
    assert answer.status_code == status, answer.text
    assert answer.json["error"] == error  # type: ignore[index]
    assert answer.headers["Cache-Control"] == "no-store"
    assert client["secret"] not in answer.text
    if status == 401:
        assert answer.headers["WWW-Authenticate"].startswith("Basic")


def test_parameters_come_once_and_in_a_form_body(exchange: Exchange, client: dict[str, Any]) -> None:
    given = {"grant_type": "client_credentials", "client_id": client["id"], "client_secret": client["secret"]}
    for answer in (
        exchange.http.post("/oauth2/token", json=given),
        exchange.http.post("/oauth2/token", query_string=given),
        exchange.http.post("/oauth2/token", data={**given, "scope": ["system/*.r", "system/*.s"]}),
        exchange.http.post("/oauth2/token", data=given, headers=basic(client["id"], client["secret"])),
        exchange.http.post("/oauth2/token", data={**given, "x": "1"}, query_string={"client_secret": "x"}),
    ):
        assert answer.status_code == 400, answer.text
        assert answer.json["error"] == "invalid_request"  # type: ignore[index]
    assert exchange.http.get("/oauth2/token").status_code == 405


def test_a_client_gets_of_what_it_asks_for_only_what_it_registered(exchange: Exchange) -> None:
    narrow = exchange.register(scope="openid system/Patient.rs system/Observation.rs?category=lab")
    granted = exchange.token(narrow, scope="system/*.cruds").json["scope"]  # type: ignore[index]
    assert granted == "system/Patient.rs system/Observation.rs?category=lab"
    assert exchange.token(narrow).json["scope"] == granted  # type: ignore[index]
    assert exchange.token(narrow, scope="system/Encounter.r").json["error"] == "invalid_scope"  # type: ignore[index]


def test_a_client_without_the_grant_or_switched_off_gets_no_token(exchange: Exchange) -> None:
    other = exchange.register(grantType=["basic_auth"])
    assert exchange.token(other).json["error"] == "unauthorized_client"  # type: ignore[index]
    off = exchange.register(active=False)
    assert exchange.token(off).json["error"] == "invalid_client"  # type: ignore[index]


def test_the_seeds_examples_are_accepted_as_they_stand(exchange: Exchange) -> None:
    cli = {
        "resourceType": "ClientApplication",
        "id": "cli",
        "name": "CLI",
        "grantType": ["client_credentials"],
        "responseTypes": "token",
        "secret": "my-super-secret",
        "scope": "openid system/*.*",
    }
    answer = exchange.call("PUT", f"{REGISTRY}/ClientApplication/cli", exchange.people["acme"], cli)
    assert answer.status_code == 201, answer.text
    assert answer.json["kind"] == "test"  # type: ignore[index]
    assert exchange.token(cli).status_code == 200
    portal = {
        "resourceType": "ClientApplication",
        "id": "patient-portal",
        "name": "Patient Portal",
        "grantType": ["authorization_code", "refresh_token"],
        "responseTypes": "token",
        "redirectUri": ["https://portal.example.com/callback"],
        "scope": "openid profile email patient/*.read offline_access",
        "logoUri": "https://portal.example.com/logo.png",
    }
    answer = exchange.call("PUT", f"{REGISTRY}/ClientApplication/patient-portal", exchange.people["acme"], portal)
    assert answer.status_code == 201, answer.text
    assert "secret" not in answer.json  # type: ignore[operator]


def test_authorization_opens_and_disabling_closes_on_the_very_next_call(exchange: Exchange) -> None:
    client = exchange.register()
    token = exchange.token(client).json["access_token"]  # type: ignore[index]
    patients = f"{exchange.base}/Patient"
    refused = exchange.call("GET", patients, token)
    assert refused.status_code == 403
    assert "not authorized by organization" in refused.text
    id = exchange.authorize(client)
    assert exchange.call("GET", patients, token).status_code == 200
    assert exchange.step(id, "disable").status_code == 200
    closed = exchange.call("GET", patients, token)
    assert closed.status_code == 403
    assert "disabled" in closed.text
    assert exchange.step(id, "enable").status_code == 200
    assert exchange.call("GET", patients, token).status_code == 200
    wrong = exchange.step(id, "disable", who="acme")
    assert wrong.status_code == 403
    history = exchange.call("GET", f"{REGISTRY}/ClientAuthorization/{id}/_history", exchange.people["acme"])
    assert len(history.json["entry"]) == 4  # type: ignore[index]


def test_an_authorization_is_not_written_by_rest(exchange: Exchange) -> None:
    body = {"resourceType": "ClientAuthorization", "status": "approved"}
    path = f"{REGISTRY}/ClientAuthorization"
    for method, where in (("POST", path), ("PUT", f"{path}/x"), ("DELETE", f"{path}/x")):
        answer = exchange.call(method, where, exchange.people["hospital"], body)
        assert answer.status_code == 405, answer.text
        assert "$request-authorization" in answer.text


def test_nobody_and_bad_tokens_get_401_with_a_challenge(exchange: Exchange) -> None:
    path = f"{exchange.base}/Patient"
    nobody = exchange.http.get(path)
    assert nobody.status_code == 401
    assert nobody.headers["WWW-Authenticate"] == 'Bearer realm="fhir"'
    assert nobody.json["resourceType"] == "OperationOutcome"  # type: ignore[index]
    for header in ("Bearer x", "Bearer", "Digest x", "Basic x", "Bearer a.b.c"):
        answer = exchange.http.get(path, headers={"Authorization": header})
        assert answer.status_code == 401, header
        assert "WWW-Authenticate" in answer.headers


def test_a_missing_scope_is_403_with_the_scope_that_is_needed(exchange: Exchange) -> None:
    client = exchange.register()
    exchange.authorize(client)
    token = exchange.token(client, scope="system/Patient.rs").json["access_token"]  # type: ignore[index]
    answer = exchange.call("POST", f"{exchange.base}/Patient", token, {"resourceType": "Patient"})
    assert answer.status_code == 403
    assert 'error="insufficient_scope", scope="system/Patient.c"' in answer.headers["WWW-Authenticate"]


def test_a_client_registered_for_basic_may_send_its_secret_with_each_call(exchange: Exchange) -> None:
    client = exchange.register(grantType=["basic_auth"], scope="system/Patient.rs")
    exchange.authorize(client)
    path = f"{exchange.base}/Patient"
    assert exchange.http.get(path, headers=basic(client["id"], client["secret"])).status_code == 200
    assert exchange.http.get(path, headers=basic(client["id"], "wrong")).status_code == 401
    other = exchange.register()
    assert exchange.http.get(path, headers=basic(other["id"], other["secret"])).status_code == 401


def test_a_client_sees_itself_and_its_authorizations_on_the_registry(exchange: Exchange) -> None:
    client, other = exchange.register(scope="system/Patient.rs"), exchange.register()
    exchange.authorize(client)
    exchange.authorize(other)
    token = exchange.token(client).json["access_token"]  # type: ignore[index]
    found = exchange.call("GET", f"{REGISTRY}/ClientAuthorization", token).json
    assert [entry["resource"]["clientName"] for entry in found["entry"]] == ["Results"]  # type: ignore[index]
    assert exchange.call("GET", f"{REGISTRY}/ClientApplication/{client['id']}", token).status_code == 200
    assert exchange.call("GET", f"{REGISTRY}/ClientApplication/{other['id']}", token).status_code == 404
    assert exchange.call("GET", f"{REGISTRY}/User", token).status_code == 403


def test_guessing_is_slowed_down(exchange: Exchange) -> None:
    client = exchange.register()
    guesser = {"REMOTE_ADDR": "203.0.113.7"}
    given = {"grant_type": "client_credentials", "client_id": client["id"]}
    statuses = [
        exchange.http.post("/oauth2/token", data={**given, "client_secret": str(n)}, environ_base=guesser).status_code
        for n in range(12)
    ]
    assert statuses[:10] == [401] * 10
    assert statuses[-1] == 429
    right = {**given, "client_secret": client["secret"]}
    answer = exchange.http.post("/oauth2/token", data=right, environ_base=guesser)
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) > 0
    assert exchange.token(client).status_code == 200, "another address is not locked out"


def test_discovery_lists_what_works_at_the_root_and_below_every_base(exchange: Exchange) -> None:
    for base in ("", REGISTRY, exchange.base):
        for name in ("smart-configuration", "oauth-authorization-server", "openid-configuration"):
            answer = exchange.http.get(f"{base}/.well-known/{name}", headers={"Accept": "text/html"})
            assert answer.status_code == 200, (base, name)
            assert answer.mimetype == "application/json"
            assert answer.json is not None
            assert answer.json["issuer"] == ISSUER
            assert answer.json["token_endpoint"] == f"{ISSUER}/oauth2/token"
            assert "plain" not in answer.json["code_challenge_methods_supported"]
    keys = exchange.http.get("/oauth2/jwks").json["keys"]  # type: ignore[index]
    assert keys
    assert all(set(key) == {"kty", "n", "e", "kid", "use", "alg"} for key in keys)
