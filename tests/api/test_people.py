"""People: their own password, what they allowed applications, members of an organization, links to set a password."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fhirserver.app import SPOOL
from fhirserver.auditing.recording import ship
from fhirserver.auth.principal import Principal
from fhirserver.web.sessions import COOKIE, digest
from tests.api.browser import (
    OTHER,
    SCOPE,
    Browser,
    alive,
    follow,
    link_for,
    operate,
    person,
    portal_of,
    session_of,
    signed_in,
)
from tests.api.exchange import PASSWORD, REGISTRY, Exchange, exchange_of


@pytest.fixture(scope="module")
def exchange(mongo_url: str) -> Iterator[Exchange]:
    with exchange_of(mongo_url, "test_people") as made:
        yield made


@pytest.fixture(scope="module")
def portal(exchange: Exchange) -> dict[str, Any]:
    return portal_of(exchange)


def test_a_password_is_changed_with_the_present_one_and_other_sessions_end(
    exchange: Exchange, portal: dict[str, Any]
) -> None:
    user = exchange.add()
    here, there = signed_in(exchange, portal, user), signed_in(exchange, portal, user)
    assert alive(here)
    assert alive(there)
    mine = exchange.installation.tokens.issue(Principal("user", user["id"], token=digest(session_of(here))))
    id = user["id"]
    assert operate(exchange, mine, id, "change-password", current="wrong", password=OTHER).status_code == 403
    weak = operate(exchange, mine, id, "change-password", current=PASSWORD, password="aaab")
    assert weak.status_code == 400
    for words in ("16", "digit", "special character", "twice in a row"):
        assert words in weak.text
    assert operate(exchange, mine, id, "change-password", current=PASSWORD, password=PASSWORD).status_code == 400
    done = operate(exchange, mine, id, "change-password", current=PASSWORD, password=OTHER)
    assert done.status_code == 204, done.text
    assert not alive(there)
    assert not alive(signed_in(exchange, portal, user))
    assert alive(signed_in(exchange, portal, user, OTHER))
    whole = exchange.call("GET", f"{REGISTRY}/User/{id}/_history", exchange.people["hospital"]).text
    assert "argon2" not in whole
    assert OTHER not in whole


def test_the_session_that_changes_the_password_stays(exchange: Exchange, portal: dict[str, Any]) -> None:
    user = exchange.add()
    here = signed_in(exchange, portal, user)
    from fhirserver.interactions.dispatch import dispatch
    from fhirserver.interactions.model import Request
    from fhirserver.web.sessions import Sessions

    sessions = Sessions(exchange.installation.tokens)
    found = sessions.of({COOKIE: session_of(here)})
    assert found is not None
    server = exchange.installation.server
    values = {"current": PASSWORD, "password": OTHER}
    body = {
        "resourceType": "Parameters",
        "parameter": [{"name": name, "valueString": value} for name, value in values.items()],
    }
    request = Request(
        "operation", "registry", server.base("registry"), found.principal, type="User", id=user["id"], body=body,
        operation="change-password",
    )  # fmt: skip
    assert dispatch(server, request).status == 204
    assert alive(here)


def test_nobody_changes_the_password_of_others_and_guessing_the_present_one_is_slowed_down(exchange: Exchange) -> None:
    user = exchange.add()
    asked = {"current": PASSWORD, "password": OTHER}
    assert operate(exchange, exchange.people["hospital"], user["id"], "change-password", **asked).status_code == 403
    assert operate(exchange, exchange.people["acme"], user["id"], "change-password", **asked).status_code in (403, 404)
    mine = person(exchange, user)
    statuses = [
        operate(exchange, mine, user["id"], "change-password", current=str(number), password=OTHER).status_code
        for number in range(11)
    ]
    assert statuses == [403] * 10 + [429]
    assert operate(exchange, mine, user["id"], "change-password", **asked).status_code == 429


def test_a_grant_is_shown_and_withdrawn_with_all_tokens_that_came_of_it(
    exchange: Exchange, portal: dict[str, Any]
) -> None:
    user = exchange.add()
    mine = person(exchange, user)
    browser = Browser(exchange, portal)
    shown = browser.begin(prompt="consent")
    browser.post("/oauth2/sign-in", shown, email=user["email"], password=PASSWORD)
    tokens = dict(browser.token(browser.allow(browser.get("/oauth2/consent"))["code"]).json or {})
    code = browser.allow(browser.begin(prompt="consent"))["code"]
    path = f"{exchange.base}/Patient"
    assert exchange.call("GET", path, tokens["access_token"]).status_code == 200
    listed = exchange.call("GET", f"{REGISTRY}/User/{user['id']}/$grants", mine)
    parts = {part["name"]: part for part in dict(listed.json or {})["parameter"][0]["part"]}
    assert parts["client"]["valueReference"] == {
        "reference": f"ClientApplication/{portal['id']}",
        "display": "Results",
    }
    assert parts["organization"]["valueReference"]["reference"] == f"Organization/{exchange.hospital}"
    assert parts["scope"]["valueString"] == SCOPE
    assert exchange.call("GET", f"{REGISTRY}/User/{user['id']}/$grants", exchange.people["hospital"]).status_code == 403
    given = {"client": f"ClientApplication/{portal['id']}", "organization": f"Organization/{exchange.hospital}"}
    done = operate(exchange, mine, user["id"], "withdraw-grant", **given)
    assert done.status_code == 204, done.text
    assert exchange.call("GET", path, tokens["access_token"]).status_code == 401
    assert dict(browser.refresh(tokens["refresh_token"]).json or {})["error"] == "invalid_grant"
    assert dict(browser.token(code).json or {})["error"] == "invalid_grant"
    assert "parameter" not in dict(exchange.call("GET", f"{REGISTRY}/User/{user['id']}/$grants", mine).json or {})
    assert "Allow access?" in browser.begin().text


def test_a_member_is_added_without_a_password_and_let_in_by_a_link_that_is_good_once(
    exchange: Exchange, portal: dict[str, Any]
) -> None:
    user = exchange.add(password="")
    assert not alive(signed_in(exchange, portal, user))
    first = link_for(exchange, user)
    link = link_for(exchange, user)
    assert follow(exchange, first, OTHER).status_code == 400, "a newer link has replaced it"
    assert "differ" in follow(exchange, link, OTHER, "something else").text
    assert "digit" in follow(exchange, link, "too simple").text
    done = follow(exchange, link, OTHER)
    assert "Your password is set" in done.text
    for name, value in (("X-Frame-Options", "DENY"), ("Referrer-Policy", "no-referrer"), ("Cache-Control", "no-store")):
        assert done.headers[name] == value
    assert alive(signed_in(exchange, portal, user, OTHER))
    assert follow(exchange, link, PASSWORD).status_code == 400, "a link is good once"
    assert not alive(signed_in(exchange, portal, user))
    kept = str(list(exchange.installation.server.store.database.collection("kept").find()))
    assert link.partition("link=")[2] not in kept


def test_setting_a_password_by_a_link_ends_what_was_open(exchange: Exchange, portal: dict[str, Any]) -> None:
    user = exchange.add()
    browser = signed_in(exchange, portal, user)
    tokens = dict(browser.token(browser.allow(browser.begin(prompt="consent"))["code"]).json or {})
    link = link_for(exchange, user)
    assert alive(browser), "the link alone changes nothing"
    assert follow(exchange, link, OTHER).status_code == 200
    assert not alive(browser)
    assert exchange.call("GET", f"{exchange.base}/Patient", tokens["access_token"]).status_code == 401
    assert browser.refresh(tokens["refresh_token"]).status_code == 400


def test_only_the_organizations_own_administrators_and_operators_make_links(exchange: Exchange) -> None:
    user, colleague = exchange.add(), exchange.add()
    for token, status in (
        (person(exchange, colleague), 403),
        (exchange.people["acme"], 404),
        (person(exchange, user), 403),
    ):
        assert operate(exchange, token, user["id"], "reset-password").status_code == status
    link_for(exchange, user, exchange.operator())
    path = f"{REGISTRY}/User/{user['id']}"
    assert exchange.call("PUT", path, exchange.people["hospital"], {**user, "active": False}).status_code == 200
    assert operate(exchange, exchange.people["hospital"], user["id"], "reset-password").status_code == 422


def test_a_members_role_is_changed_and_a_member_removed_but_never_by_oneself(
    exchange: Exchange, portal: dict[str, Any]
) -> None:
    user = exchange.add()
    mine = person(exchange, user)
    path = f"{REGISTRY}/User/{user['id']}"
    assert exchange.call("PUT", path, mine, {**user, "role": "admin"}).status_code == 403
    assert exchange.call("PUT", path, exchange.people["acme"], {**user, "role": "admin"}).status_code in (403, 404)
    changed = exchange.call("PUT", path, exchange.people["hospital"], {**user, "role": "admin"})
    assert changed.status_code == 200, changed.text
    whole = dict(changed.json or {})
    for lost in ({"role": "member"}, {"active": False}):
        assert exchange.call("PUT", path, mine, {**whole, **lost}).status_code == 422
    assert exchange.call("DELETE", path, mine).status_code == 422
    moved = {**whole, "organization": {"reference": f"Organization/{exchange.acme}"}}
    assert exchange.call("PUT", path, mine, moved).status_code == 403
    operator = {**whole, "role": "operator"}
    assert exchange.call("PUT", path, exchange.people["hospital"], operator).status_code == 403
    browser = signed_in(exchange, portal, user)
    assert alive(browser)
    assert exchange.call("DELETE", path, exchange.people["hospital"]).status_code == 200
    assert not alive(browser)
    assert exchange.call("GET", path, mine).status_code == 401


def test_who_is_added_again_under_the_same_address_inherits_nothing(
    exchange: Exchange, portal: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from datetime import timedelta

    user = exchange.add()
    browser, mine = signed_in(exchange, portal, user), person(exchange, user)
    tokens = dict(browser.token(browser.allow(browser.begin(prompt="consent"))["code"]).json or {})
    path = f"{REGISTRY}/User/{user['id']}"
    assert exchange.call("DELETE", path, exchange.people["hospital"]).status_code == 200
    server = exchange.installation.server
    now = server.now
    monkeypatch.setattr(server, "now", lambda: now() + timedelta(seconds=2))
    again = exchange.add(email=user["email"])
    assert again["id"] == user["id"]
    assert again["registered"] > user["registered"]
    assert exchange.call("GET", path, mine).status_code == 401
    assert not alive(browser)
    assert exchange.call("GET", f"{exchange.base}/Patient", tokens["access_token"]).status_code == 401
    assert browser.refresh(tokens["refresh_token"]).status_code == 400
    forged = {**again, "registered": "2000-01-01T00:00:00Z"}
    kept = exchange.call("PUT", path, exchange.people["hospital"], forged)
    assert dict(kept.json or {})["registered"] == again["registered"]


def test_who_is_activated_again_signs_in_again(
    exchange: Exchange, portal: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from datetime import timedelta

    user = exchange.add()
    browser, mine = signed_in(exchange, portal, user), person(exchange, user)
    path, admin = f"{REGISTRY}/User/{user['id']}", exchange.people["hospital"]
    off = exchange.call("PUT", path, admin, {**user, "active": False})
    assert not alive(browser)
    server = exchange.installation.server
    now = server.now
    monkeypatch.setattr(server, "now", lambda: now() + timedelta(seconds=2))
    assert exchange.call("PUT", path, admin, {**dict(off.json or {}), "active": True}).status_code == 200
    assert not alive(browser)
    assert exchange.call("GET", path, mine).status_code == 401


def test_each_of_it_is_recorded_without_what_was_typed(exchange: Exchange) -> None:
    user = exchange.add()
    mine = person(exchange, user)
    assert operate(exchange, mine, user["id"], "change-password", current=PASSWORD, password=OTHER).status_code == 204
    link = link_for(exchange, user)
    assert follow(exchange, link, PASSWORD).status_code == 200
    server = exchange.installation.server
    while ship(server, exchange.installation.settings.data / SPOOL):
        pass
    query = f"entity=User/{user['id']}&_count=100"
    found = exchange.call("GET", f"{REGISTRY}/AuditEvent?{query}", exchange.operator())
    text = found.text
    for name in ("change-password", "reset-password"):
        assert name in text
    for secret in (OTHER, PASSWORD, link.partition("link=")[2]):
        assert secret not in text
