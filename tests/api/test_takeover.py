"""Ways to become somebody else, or to go on being somebody: ids given away, links kept, accounts of others."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from email.parser import BytesParser
from email.policy import default
from typing import Any

import pytest

from fhirserver.auth.principal import Principal
from fhirserver.auth.sandbox import sandbox_of
from fhirserver.fhir.problem import Problem
from fhirserver.interactions.model import Server
from fhirserver.notices.mail import letter
from fhirserver.rules.organization import kind_concept
from fhirserver.rules.user import normal_email
from fhirserver.web.sessions import COOKIE
from tests.api.browser import CALLBACK, OTHER, SCOPE, alive, follow, link_for, operate, person, portal_of, signed_in
from tests.api.exchange import PASSWORD, REGISTRY, Exchange, exchange_of


@pytest.fixture(scope="module")
def exchange(mongo_url: str) -> Iterator[Exchange]:
    with exchange_of(mongo_url, "test_takeover") as made:
        made.people["rival"] = _rival(made)
        yield made


def _rival(exchange: Exchange) -> str:
    """Another application provider; answers a token of its administrator."""
    organization = {"resourceType": "Organization", "name": "Rival", "type": [kind_concept("application")]}
    made = exchange.call("POST", f"{REGISTRY}/Organization", exchange.operator(), organization)
    place = f"Organization/{dict(made.json or {})['id']}"
    user = {"resourceType": "User", "email": "rival@example.org", "role": "admin", "organization": {"reference": place}}
    added = exchange.call("POST", f"{REGISTRY}/User", exchange.operator(), user)
    return exchange.installation.tokens.issue(Principal("user", dict(added.json or {})["id"]))


@pytest.fixture
def server(exchange: Exchange) -> Server:
    return exchange.installation.server


@pytest.fixture(scope="module")
def portal(exchange: Exchange) -> dict[str, Any]:
    return portal_of(exchange)


def in_the_same_second(exchange: Exchange, token: str, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has everything from here on happen at the end of the second in which the token was issued."""
    issued = int(exchange.installation.tokens.claims(token)["iat"])
    at = datetime.fromtimestamp(issued, UTC).replace(microsecond=999_000)
    monkeypatch.setattr(server, "now", lambda: at)


def of_client(client: dict[str, Any]) -> dict[str, Any]:
    """What registers the same client again."""
    return {name: value for name, value in client.items() if name not in ("meta", "secret", "registered")}


# An id that is registered again


def test_a_token_of_a_client_that_was_deleted_and_registered_again_in_its_second_counts_no_more(
    exchange: Exchange, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = exchange.register()
    path, owner = f"{REGISTRY}/ClientApplication/{client['id']}", exchange.people["acme"]
    token = dict(exchange.token(client).json or {})["access_token"]
    assert exchange.call("GET", path, token).status_code == 200
    in_the_same_second(exchange, token, server, monkeypatch)
    assert exchange.call("DELETE", path, owner).status_code == 200
    again = exchange.call("PUT", path, owner, of_client(client))
    assert again.status_code == 201, again.text
    assert exchange.call("GET", path, token).status_code == 401
    asked = {"token": token, "client_id": client["id"], "client_secret": dict(again.json or {})["secret"]}
    assert exchange.http.post("/oauth2/introspect", data=asked).json == {"active": False}


def test_what_a_user_had_open_ends_with_the_account_also_where_it_is_made_again_in_the_same_second(
    exchange: Exchange,
    portal: dict[str, Any],
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    user = exchange.add("rival")
    hospital = {"reference": f"Organization/{exchange.hospital}"}
    path = f"{REGISTRY}/User/{user['id']}"
    browser = signed_in(exchange, portal, user)
    cookie = browser.http.get_cookie(COOKIE, domain="exchange.example")
    assert cookie is not None
    kept = server.store.kept
    in_the_same_second(exchange, person(exchange, user), server, monkeypatch)
    assert exchange.call("DELETE", path, exchange.people["rival"]).status_code == 200
    monkeypatch.undo()
    value = next(each for each in kept.of_group(f"sessions/{user['id']}", server.now()))
    at = datetime.fromtimestamp(value["signed_in"], UTC).replace(microsecond=999_000)
    monkeypatch.setattr(server, "now", lambda: at)
    exchange.add(email=user["email"], organization=hospital)
    assert not alive(browser)


def test_a_link_to_set_a_password_is_for_the_account_that_it_was_made_for(
    exchange: Exchange, portal: dict[str, Any]
) -> None:
    before = exchange.add("rival")
    link = link_for(exchange, before, "rival")
    assert exchange.call("DELETE", f"{REGISTRY}/User/{before['id']}", exchange.people["rival"]).status_code == 200
    user = exchange.add()  # another one: the link is somebody else's
    assert follow(exchange, link, OTHER).status_code == 400
    victim = exchange.add(email=before["email"])
    assert victim["id"] == before["id"]
    assert follow(exchange, link, OTHER).status_code == 400
    assert not alive(signed_in(exchange, portal, victim, OTHER))
    mine = link_for(exchange, user)
    assert (
        operate(
            exchange, person(exchange, user), user["id"], "change-password", current=PASSWORD, password=OTHER
        ).status_code
        == 204
    )
    assert follow(exchange, mine, PASSWORD).status_code == 400, "who knows the password has no use for a link"


def test_the_id_of_a_deleted_client_is_for_the_organization_that_had_it(exchange: Exchange) -> None:
    client = exchange.register()
    path = f"{REGISTRY}/ClientApplication/{client['id']}"
    assert exchange.call("DELETE", path, exchange.people["acme"]).status_code == 200
    theirs = {name: value for name, value in of_client(client).items() if name != "managingOrganization"}
    for token in (exchange.people["rival"], exchange.people["hospital"]):
        refused = exchange.call("PUT", path, token, theirs)
        assert refused.status_code == 422, refused.text
        assert "choose another" in refused.text
    assert exchange.call("PUT", path, exchange.people["acme"], theirs).status_code == 201


# Accounts of others


def test_an_operators_account_is_for_operators_whatever_organization_it_names(exchange: Exchange) -> None:
    user = exchange.add()
    path = f"{REGISTRY}/User/{user['id']}"
    made = exchange.call("PUT", path, exchange.operator(), {**user, "role": "operator"})
    assert made.status_code == 200, made.text
    assert "organization" not in dict(made.json or {})
    named = {**dict(made.json or {}), "organization": {"reference": f"Organization/{exchange.hospital}"}}
    exchange.call("PUT", path, exchange.operator(), named)
    admin = exchange.people["hospital"]
    assert operate(exchange, admin, user["id"], "reset-password").status_code in (403, 404)
    taken = {**named, "role": "member", "password": OTHER}
    assert exchange.call("PUT", path, admin, taken).status_code == 403
    exchange.call("DELETE", path, admin)
    assert exchange.call("GET", path, exchange.operator()).status_code == 200


def test_nobody_sets_the_own_password_without_the_present_one(exchange: Exchange) -> None:
    user = exchange.add(role="admin")
    path = f"{REGISTRY}/User/{user['id']}"
    refused = exchange.call("PUT", path, person(exchange, user), {**user, "password": OTHER})
    assert refused.status_code == 422
    assert "$change-password" in refused.text


def test_a_password_that_an_administrator_sets_ends_what_was_open(exchange: Exchange, portal: dict[str, Any]) -> None:
    user = exchange.add()
    browser = signed_in(exchange, portal, user)
    path = f"{REGISTRY}/User/{user['id']}"
    tokens = dict(browser.token(browser.allow(browser.begin(prompt="consent"))["code"]).json or {})
    done = exchange.call("PUT", path, exchange.people["hospital"], {**user, "password": OTHER})
    assert done.status_code == 200, done.text
    assert not alive(browser)
    assert exchange.call("GET", f"{exchange.base}/Patient", tokens["access_token"]).status_code == 401
    assert browser.refresh(tokens["refresh_token"]).status_code == 400
    assert alive(signed_in(exchange, portal, user, OTHER))


# What is told of a token


@pytest.mark.parametrize("gone", ["client", "user"])
def test_userinfo_and_introspection_know_who_has_been_switched_off(exchange: Exchange, gone: str) -> None:
    client = exchange.register(
        grantType=["authorization_code", "client_credentials"],
        redirectUri=[CALLBACK],
        scope=f"{SCOPE} profile email system/*.rs",
    )
    exchange.authorize(client)
    user = exchange.add()
    browser = signed_in(exchange, client, user)
    code = browser.allow(browser.begin(prompt="consent"))["code"]
    token = dict(browser.token(code, client_secret=client["secret"]).json or {})["access_token"]
    assert exchange.call("GET", "/oauth2/userinfo", token).status_code == 200
    type, id, by = ("ClientApplication", client["id"], "acme") if gone == "client" else ("User", user["id"], "hospital")
    path = f"{REGISTRY}/{type}/{id}"
    whole = {k: v for k, v in (client if gone == "client" else user).items() if k != "secret"}
    assert exchange.call("PUT", path, exchange.people[by], {**whole, "active": False}).status_code == 200
    assert exchange.call("GET", "/oauth2/userinfo", token).status_code == 401
    asked = {"token": token, "client_id": client["id"], "client_secret": client["secret"]}
    said = exchange.http.post("/oauth2/introspect", data=asked)
    if gone == "user":
        assert said.json == {"active": False}
    else:
        assert said.status_code == 401


# A sandbox


def test_a_patient_of_a_sandbox_is_chosen_by_the_people_of_its_client(exchange: Exchange) -> None:
    scope = "launch/patient patient/*.rs openid"
    client = exchange.register(kind="test", grantType=["authorization_code"], redirectUri=[CALLBACK], scope=scope)
    asked = exchange.call("POST", f"{REGISTRY}/ClientApplication/{client['id']}/$sandbox", exchange.people["acme"])
    assert asked.status_code == 200, asked.text
    base = f"/1/health/organizations/{sandbox_of(client['id'])}/fhir/4"
    user = exchange.add("acme")
    found = exchange.call("GET", f"{base}/Patient?_count=1", person(exchange, user))
    patient = dict(found.json or {})["entry"][0]["resource"]["id"]
    accounts = exchange.installation.tokens.patients
    assert accounts is not None
    roles = {exchange.acme: "member"}
    principal = Principal("user", user["id"], roles=roles, organization=exchange.acme)
    assert [id for id, _ in accounts(principal, sandbox_of(client["id"]), patient)] == [patient]
    outsider = Principal("user", "somebody", roles={exchange.hospital: "admin"}, organization=exchange.hospital)
    assert accounts(outsider, sandbox_of(client["id"]), patient) == []


# E-mail


@pytest.mark.parametrize(
    "name",
    [
        "x =?utf-8?q?y=0D=0ABcc:_evil=40example.org=0D=0A=0D=0AClick_here?= z",
        "=?utf-8?b?SGkNCkJjYzogZXZpbEBleGFtcGxlLm9yZw0KDQpDbGljaw==?=",
        "x\r\nBcc: evil@example.org\r\n\r\nClick here",
        "x\x00\x0b\x1c\x85\u2028Bcc: evil@example.org",
    ],
)
def test_a_name_adds_nothing_to_an_e_mail(name: str) -> None:
    message = letter(f"“A” asks to let {name} in.", "Text.\n", "id", "ida@example.org", "us@example.org")
    read = BytesParser(policy=default).parsebytes(message.as_bytes())
    assert sorted(read.keys()) == sorted(
        ["From", "To", "Subject", "Message-ID", "Auto-Submitted", "Content-Type", "Content-Transfer-Encoding",
         "MIME-Version"]
    )  # fmt: skip
    assert read.get_content().strip() == "Text."
    assert not read.defects
    plain = "".join(character if ord(character) < 128 else "" for character in f"A asks to let {name} in.")
    alone = letter(plain, "Text.\n", "id", "ida@example.org", "us@example.org").as_bytes()
    assert BytesParser(policy=default).parsebytes(alone).keys() == read.keys()


@pytest.mark.parametrize("address", ["=??q??=@example.org", "=?utf-8?q?a=0AB?=@example.org", "a\x00b@example.org"])
def test_an_address_that_would_be_read_as_something_else_is_none(address: str) -> None:
    with pytest.raises(Problem):
        normal_email(address)
