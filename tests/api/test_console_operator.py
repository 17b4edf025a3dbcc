"""The operator's screens over HTTP: what is shown once, what is refused and where it is said, and what changes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html import unescape
from typing import Any

import pytest

from fhirserver.auth.principal import Principal
from fhirserver.fhir.instants import instant_text
from fhirserver.rules.user import user_id
from fhirserver.subscriptions import delivery
from tests.api.browser import Visitor
from tests.api.exchange import PASSWORD, REGISTRY, Exchange, exchange_of
from tests.api.hospital import Hospital


@pytest.fixture(scope="module")
def exchange(mongo_url: str) -> Iterator[Exchange]:
    with exchange_of(mongo_url, "api-console-operator") as made:
        user = {"resourceType": "User", "email": "olga@example.org", "role": "operator", "password": PASSWORD}
        assert made.call("POST", f"{REGISTRY}/User", made.operator(), user).status_code == 201
        made.people["olga"] = made.installation.tokens.issue(Principal("user", user_id("olga@example.org")))
        yield made


class Operator:
    """Somebody who operates the platform, in the console without scripts."""

    def __init__(self, exchange: Exchange) -> None:
        self.visitor = Visitor(exchange)
        assert self.visitor.sign_in("olga").status_code == 303
        self.csrf = self.visitor.token()

    def get(self, path: str, status: int = 200) -> str:
        answer = self.visitor.get(f"/console/operator{path}")
        assert answer.status_code == status, answer.text
        return answer.text

    def post(self, path: str, expected: int = 303, **form: Any) -> str:
        answer = self.visitor.post(f"/console/operator{path}", {"csrf": self.csrf, **form})
        assert answer.status_code == expected, answer.text
        return answer.text if expected != 303 else str(answer.headers["Location"]).removeprefix("/console/operator")


@pytest.fixture(scope="module")
def olga(exchange: Exchange) -> Operator:
    return Operator(exchange)


def test_a_secret_that_the_editor_makes_is_shown_once_and_then_never(exchange: Exchange, olga: Operator) -> None:
    client = {
        "resourceType": "ClientApplication", "name": "By hand", "kind": "production", "scope": "system/Patient.rs",
        "grantType": ["client_credentials"], "responseTypes": "token",
        "managingOrganization": {"reference": f"Organization/{exchange.acme}"},
    }  # fmt: skip
    page = olga.post("/new/registry/ClientApplication", 200, resource=json.dumps(client), do="save")
    secret = re.search(r'<code id="secret">([^<]+)<', page)
    id = re.search(r'<code id="id">([^<]+)<', page)
    assert secret
    assert id
    token = exchange.token({"id": id[1], "secret": unescape(secret[1])})

    assert token.status_code == 200
    for path in ("/resources/registry/ClientApplication", f"/resources/registry/ClientApplication/{id[1]}"):
        assert secret[1] not in olga.get(path)


def test_validating_stores_nothing_and_saving_what_is_wrong_neither(olga: Operator) -> None:
    policy = {"resourceType": "AccessPolicy", "name": "Tried", "engine": "allow"}
    assert "No faults were found" in olga.post(
        "/new/registry/AccessPolicy", 200, resource=json.dumps(policy), do="validate"
    )
    wrong = {**policy, "engine": "magic"}
    page = olga.post("/new/registry/AccessPolicy", 422, resource=json.dumps(wrong), do="save")

    assert "AccessPolicy.engine" in page
    assert "magic" in page  # what was written is still there
    assert "Tried" not in olga.get("/policies")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"resourceType": "Patient"}', "[" * 5_000])
def test_what_is_no_resource_of_the_type_is_refused_beside_the_field(olga: Operator, text: str) -> None:
    assert 'id="resource-wrong"' in olga.post("/new/registry/AccessPolicy", 400, resource=text, do="save")


def test_a_version_that_somebody_else_has_replaced_is_not_overwritten(exchange: Exchange, olga: Operator) -> None:
    policy = {"resourceType": "AccessPolicy", "name": "Twice", "engine": "allow", "active": False}
    address = olga.post("/new/registry/AccessPolicy", resource=json.dumps(policy), do="save")
    page = olga.get(address.replace("/resources/", "/edit/"))
    shown = re.search(r"<textarea[^>]*>(.*?)</textarea>", page, re.S)
    assert shown
    text, edit = unescape(shown[1]), address.replace("/resources/", "/edit/")
    olga.post(edit, resource=text.replace("Twice", "Once more"), do="save", version="1")
    olga.post(edit, 412, resource=text.replace("Twice", "Too late"), do="save", version="1")

    assert "Once more" in olga.get(address)
    assert "3 →" not in olga.get(address.replace("/resources/", "/history/"))


def test_deleting_takes_the_word(olga: Operator) -> None:
    policy = {"resourceType": "AccessPolicy", "name": "Goes", "engine": "allow", "active": False}
    address = olga.post("/new/registry/AccessPolicy", resource=json.dumps(policy), do="save")
    remove = address.replace("/resources/", "/remove/")
    assert 'id="confirmed-wrong"' in olga.post(remove, 400, confirmed="delete")
    olga.get(address)
    olga.post(remove, confirmed="DELETE")

    olga.get(address, 410)


def test_an_organization_without_an_administrator_is_not_left_behind(exchange: Exchange, olga: Operator) -> None:
    given = {"kind": "provider", "name": "Halfway House", "email": "hospital@example.org"}
    assert 'role="alert"' in olga.post("/organizations/new", 409, **given)
    assert "Halfway House" not in olga.get("/organizations")


def test_a_link_for_a_password_is_shown_once_and_one_who_is_locked_gets_none(
    exchange: Exchange, olga: Operator
) -> None:
    given = {"email": "new@example.org", "name": "New", "role": "member", "organization": exchange.acme}
    page = olga.post("/users/new", 200, **given)
    link = re.search(r'<code id="link">([^<]+)<', page)
    assert link
    path = f"/users/of/{user_id('new@example.org')}"
    assert link[1] not in olga.get(path)
    olga.post(path, do="lock")
    assert "is not active" in olga.post(path, 422, do="link")
    olga.post(path, do="unlock")
    assert 'id="link"' in olga.post(path, 200, do="link")


def test_nobody_locks_himself_out(olga: Operator) -> None:
    assert 'role="alert"' in olga.post(f"/users/of/{user_id('olga@example.org')}", 422, do="lock")


def test_dead_letters_of_an_organization_are_sent_again_and_none_of_them_is_shown(
    exchange: Exchange, olga: Operator
) -> None:
    hospital, server = Hospital(exchange), exchange.installation.server
    client, authorization = hospital.asked()
    exchange.step(authorization, "approve")
    subscription, now = hospital.subscribed(client), server.now()
    written = {"type": "Patient", "id": "seen-by-nobody", "version": 1, "action": "create"}
    event = {"id": "1", "t": now, "changes": [written]}
    made = delivery.new(subscription, client["id"], 1, event, ["Patient/seen-by-nobody"], code="x", lane="x")
    made |= {"queued": instant_text(now), "nextAttempt": instant_text(now)}
    dead = delivery.finished(made, "dead-letter", "gone")
    server.store.commit([delivery.change(server, exchange.hospital, dead, None, now)])
    page = olga.get("/queues")
    assert "Dead letter" in page
    assert "seen-by-nobody" not in page
    assert "1 dead letter is sent again" in olga.get(olga.post("/queues", organization=exchange.hospital))

    assert hospital.api("GET", f"NotificationDelivery/{dead['id']}")["status"] == "queued"
    assert olga.visitor.get(f"/console/operator/resources/{exchange.hospital}/NotificationDelivery").status_code == 403


def test_the_decision_tester_says_who_refuses(exchange: Exchange, olga: Operator) -> None:
    client = exchange.register()
    asked = f"who={client['id']}&organization={exchange.hospital}&type=Patient&interaction=read"
    assert "is not authorized by organization" in olga.get(f"/policies/decision?kind=client&{asked}")
    nobody = olga.get("/policies/decision?kind=user&who=hospital@example.org&type=Patient&interaction=devour", 400)
    assert "Give a resource type and an interaction" in nobody


def test_revoking_the_keys_takes_the_word(olga: Operator) -> None:
    assert 'id="confirmed-wrong"' in olga.post("/signing-keys", 400, how="revoke", confirmed="yes")
    olga.post("/signing-keys", how="published")
    assert olga.get("/signing-keys").count("Signs now") == 1


def test_settings_show_no_secret(olga: Operator) -> None:
    page = olga.get("/settings")
    assert "********" in page
    assert "m" * 40 not in page
