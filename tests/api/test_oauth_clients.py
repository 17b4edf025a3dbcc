"""Somebody else's OAuth client over a socket: authlib's session, with every way to authenticate and every grant."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import requests
from authlib.integrations.requests_client import OAuth2Session
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from joserfc.jwk import RSAKey
from werkzeug.serving import make_server

from fhirserver import app, embedded
from tests.api.exchange import PASSWORD, Exchange, exchange_of

KEY = RSAKey.generate_key(2048, {"kid": "k1"})
JWKS = json.dumps({"keys": [KEY.as_dict(private=False)]})
CALLBACK = "http://127.0.0.1:9/callback"


@dataclass
class Served:
    """An exchange that listens, and where its authorization server says it can be found."""

    exchange: Exchange
    found: dict[str, Any]


@pytest.fixture(scope="module")
def served(mongo_url: str) -> Iterator[Served]:
    port = embedded.free_port()
    issuer = f"http://127.0.0.1:{port}"
    with exchange_of(mongo_url, "test_oauth_clients", issuer) as exchange:
        server = make_server("127.0.0.1", port, app.create_app(exchange.installation), threaded=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        base = issuer + exchange.base
        yield Served(
            exchange, requests.get(f"{base}/.well-known/smart-configuration", timeout=10).json() | {"fhir": base}
        )
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("way", ["client_secret_basic", "client_secret_post"])
def test_a_session_with_a_secret_reads_patients(served: Served, way: str) -> None:
    client = served.exchange.register()
    served.exchange.authorize(client)
    with OAuth2Session(
        client["id"], client["secret"], token_endpoint_auth_method=way, scope="system/Patient.read"
    ) as session:
        token = session.fetch_token(served.found["token_endpoint"], grant_type="client_credentials")
        assert token["scope"] == "system/Patient.read"
        assert session.get(f"{served.found['fhir']}/Patient").json()["resourceType"] == "Bundle"


def test_a_session_with_a_key_reads_patients(served: Served) -> None:
    client = served.exchange.register(jwks=JWKS)
    served.exchange.authorize(client)
    with OAuth2Session(client["id"], KEY, token_endpoint_auth_method="private_key_jwt") as session:
        way = PrivateKeyJWT(served.found["token_endpoint"], {"exp": int(time.time()) + 120}, {"kid": "k1"}, alg="RS384")
        session.register_client_auth_method(way)
        session.fetch_token(served.found["token_endpoint"], grant_type="client_credentials")
        assert session.get(f"{served.found['fhir']}/Patient").status_code == 200


def test_a_session_of_a_user_signs_in_refreshes_asks_and_revokes(served: Served) -> None:
    client = served.exchange.register(
        grantType=["authorization_code", "refresh_token"],
        redirectUri=[CALLBACK],
        scope="openid offline_access user/Patient.rs",
    )
    served.exchange.authorize(client)
    found, verifier = served.found, "v" * 64
    with OAuth2Session(
        client["id"],
        redirect_uri=CALLBACK,
        scope="openid offline_access user/Patient.rs",
        code_challenge_method="S256",
        token_endpoint_auth_method="none",
    ) as session:
        url, state = session.create_authorization_url(
            found["authorization_endpoint"], code_verifier=verifier, aud=found["fhir"]
        )
        token = session.fetch_token(
            found["token_endpoint"], authorization_response=_consented(url), code_verifier=verifier, state=state
        )
        patients = f"{found['fhir']}/Patient"
        assert session.get(patients).status_code == 200
        before = token["access_token"]
        token = session.refresh_token(found["token_endpoint"], token["refresh_token"])
        assert token["access_token"] != before
        assert session.get(patients).status_code == 200
        body = {"token": token["refresh_token"], "client_id": client["id"]}
        assert requests.post(found["revocation_endpoint"], data=body, timeout=10).status_code == 200
        assert session.get(patients).status_code == 401


def _consented(url: str) -> str:
    """What a person does in a browser: sign in, allow; answers where the browser is led."""
    with requests.Session() as browser:
        shown = browser.get(url, timeout=10)
        done = _posted(browser, shown, "sign-in", email="hospital@example.org", password=PASSWORD)
        assert "Allow access?" in done.text, done.text
        scopes = re.findall(r'name="scope" value="([^"]+)"', done.text)
        led = _posted(browser, done, "consent", follow=False, decision="allow", scope=scopes)
        return led.headers["Location"]


def _posted(
    browser: requests.Session, shown: requests.Response, path: str, *, follow: bool = True, **form: Any
) -> requests.Response:
    csrf = re.search(r'name="csrf" value="([0-9a-f]+)"', shown.text)
    assert csrf
    url = shown.url.split("/oauth2/")[0] + f"/oauth2/{path}"
    return browser.post(url, data={"csrf": csrf[1], **form}, timeout=10, allow_redirects=follow)
