"""Records of tokens, credentials, messages, decisions and notifications. IHE IUA ITI-71; nothing secret is in them."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask

from fhirserver import app
from fhirserver.auditing.recording import ship
from fhirserver.auth.access import everything
from fhirserver.auth.principal import Principal
from fhirserver.store.search import compile_search, find
from tests.api.browser import CALLBACK, Browser
from tests.api.client import Api
from tests.api.exchange import Exchange, exchange_of

ADT = (
    b"MSH|^~\\&|LAB|GOODHEALTH|HIE|RX|20260101120000||ADT^A04^ADT_A01|%s|P|2.5.1\r"
    b"EVN||20260101120000\rPID|1||777^^^GH^MR||Secret^Person\rPV1|1|O\r"
)


@pytest.fixture
def client(registry: Api) -> dict[str, Any]:
    given = {
        "resourceType": "ClientApplication",
        "name": "Recorded",
        "kind": "production",
        "grantType": ["client_credentials"],
        "scope": "system/Patient.rs",
    }
    return registry.create(given)


def events(api: Api, search: str) -> list[dict[str, Any]]:
    return api.get(f"AuditEvent?{search}&_sort=_lastUpdated&_count=50").resources


def ask(flask_app: Flask, **form: str) -> tuple[int, dict[str, Any]]:
    answer = flask_app.test_client().post("/oauth2/token", data={"grant_type": "client_credentials", **form})
    return answer.status_code, answer.get_json()


def test_a_token_issued_is_recorded_with_its_id_and_without_the_secret(
    flask_app: Flask, registry: Api, client: dict[str, Any], recorded: Callable[[], None]
) -> None:
    status, token = ask(flask_app, client_id=client["id"], client_secret=client["secret"], scope="system/Patient.r")
    assert status == 200
    recorded()
    (event,) = events(registry, f"subtype=ITI-71&agent:identifier=ClientApplication/{client['id']}")
    assert event["meta"]["profile"][0].endswith("/IHE.IUA.71")
    assert event["type"]["code"] == "110114"
    assert [agent["type"]["coding"][0]["code"] for agent in event["agent"]] == ["110150", "AuthzOauthService"]
    query = next(b64decode(entity["query"]).decode() for entity in event["entity"] if "query" in entity)
    assert query == f"grant_type=client_credentials&client_id={client['id']}&scope=system%2FPatient.r"
    jti = json.loads(b64decode(token["access_token"].split(".")[1] + "=="))["jti"]
    (named,) = (entity["what"]["identifier"]["value"] for entity in event["entity"] if "what" in entity)
    assert named == f"urn:ietf:params:oauth:jti:{jti}"
    text = json.dumps(event)
    assert client["secret"] not in text
    assert token["access_token"] not in text


def test_a_token_refused_is_recorded(
    flask_app: Flask, registry: Api, client: dict[str, Any], recorded: Callable[[], None]
) -> None:
    assert ask(flask_app, client_id=client["id"], client_secret="wrong-but-secret")[0] == 401
    recorded()
    (event,) = events(registry, f"subtype=ITI-71&agent:identifier=ClientApplication/{client['id']}")
    assert (event["outcome"], event["outcomeDesc"]) == ("4", "refused with 401: invalid_client")
    assert "wrong-but-secret" not in json.dumps(event)


def test_credentials_refused_on_a_base_are_recorded_there(api: Api, recorded: Callable[[], None]) -> None:
    stranger = Api(api.app, api.base, "not.a.token")
    assert stranger.get("Patient").status == 401
    recorded()
    (event,) = events(api, "subtype=110126")
    assert (event["outcome"], event["agent"][0]["network"]["address"]) == ("4", "127.0.0.1")


def test_every_step_of_an_authorization_is_recorded_with_its_name_and_who_took_it(
    registry: Api, new_base: Callable[..., Api], token: Callable[[Principal], str], client: dict[str, Any],
    recorded: Callable[[], None],
) -> None:  # fmt: skip
    organization = new_base().organization
    body = {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "organization", "valueReference": {"reference": f"Organization/{organization}"}},
            {"name": "reason", "valueString": "a reason"},
        ],
    }
    asked = registry.post(f"ClientApplication/{client['id']}/$request-authorization", body).json
    decider = Principal("operator", "op", organization, operator=True, scopes="system/*.cruds", name="Decider")
    admin = Api(registry.app, registry.base, token(decider))
    assert admin.post(f"ClientAuthorization/{asked['id']}/$approve").status == 200
    recorded()
    found = events(registry, f"entity=ClientAuthorization/{asked['id']}")
    told = {(e["action"], e["subtype"][-1]["code"], e["agent"][0]["who"]["display"]) for e in found}
    assert {("C", "$request-authorization", "tests"), ("U", "$approve", "Decider")} <= told
    assert events(registry, f"entity=ClientAuthorization/{asked['id']}&subtype=$approve&action=U")


def test_each_message_is_recorded_before_it_is_acknowledged(api: Api, recorded: Callable[[], None]) -> None:
    path = f"/1/health/organizations/{api.organization}/hl7v2"
    headers = {"Authorization": f"Bearer {api.token}", "Content-Type": "application/hl7-v2"}
    with api.app.test_client() as http:
        for control in (b"M1", b"M2", b"M1"):
            assert b"MSA|" in http.post(path, data=ADT % control, headers=headers).data
    recorded()
    found = events(api, "type=110107")
    assert len(found) == 3
    assert {e["subtype"][0]["code"] for e in found} == {"A04"}
    assert {e["agent"][0]["who"]["display"] for e in found} == {"LAB of GOODHEALTH"}
    assert sum(e.get("outcomeDesc") == "sent again" for e in found) == 1
    messages = {entity["what"]["reference"] for e in found for entity in e["entity"]}
    assert messages == {f"InboundMessage/{id}" for id in api.get("InboundMessage").ids}
    assert "Secret" not in json.dumps(found)


@pytest.fixture(scope="module")
def exchange(mongo_url: str) -> Iterator[Exchange]:
    with exchange_of(mongo_url, "test_security_records") as made:
        yield made


def test_sign_ins_and_the_tokens_that_come_of_them_are_recorded(exchange: Exchange) -> None:
    portal = exchange.register(
        grantType=["authorization_code"], responseTypes="code", redirectUri=[CALLBACK], scope="openid user/*.rs"
    )
    exchange.authorize(portal)
    browser = Browser(exchange, portal, scope="openid user/Patient.rs")
    shown = browser.begin()
    wrong = browser.post("/oauth2/sign-in", shown, email="hospital@example.org", password="my-secret-pass-word-1")
    assert wrong.status_code == 401
    assert browser.token(browser.code()).status_code == 200
    installation = exchange.installation
    while ship(installation.server, installation.settings.data / app.SPOOL):
        pass
    records = [version.resource() for version in _stored(installation, "registry", exchange.hospital)]
    logins = [each for each in records if each["subtype"][0]["code"] == "110122"]
    assert sorted(each["outcome"] for each in logins) == ["0", "4"]
    who = {each["agent"][0]["who"]["display"] for each in logins}
    assert len(who) == 1
    (issued,) = (each for each in records if each["subtype"][0]["code"] == "ITI-71")
    assert issued["outcome"] == "0"
    assert "code_verifier" not in str(_query(issued))
    assert any(each["subtype"][0]["code"] == "110136" for each in records)
    assert "my-secret" not in json.dumps(records)
    assert "hospital@example.org" not in json.dumps(records)


def _query(event: dict[str, Any]) -> str:
    return next(b64decode(entity["query"]).decode() for entity in event["entity"] if "query" in entity)


def _stored(installation: app.Installation, *organizations: str) -> Iterator[Any]:
    for organization in organizations:
        search = compile_search(installation.server.store, everything(organization), "AuditEvent", (), None)
        if search:
            yield from find(installation.server.store, search, (), 100).matches
