"""The console of application providers over HTTP: its screens, what they do through the API, what they keep apart."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from collections.abc import Iterator
from html import unescape
from typing import Any

import pytest
from werkzeug.test import TestResponse

from fhirserver import app
from fhirserver.auditing.recording import ship
from tests.api.exchange import REGISTRY, Exchange, exchange_of
from tests.api.provider import ORGANIZATION, Console, add

EVIL = "<script>alert('x')</script>"


@pytest.fixture(scope="module")
def exchange(mongo_url: str) -> Iterator[Exchange]:
    with exchange_of(mongo_url, "test_console_application") as made:
        other = {"resourceType": "Organization", "name": "Other Apps", "type": ORGANIZATION}
        id = made.call("POST", f"{REGISTRY}/Organization", made.operator(), other).json["id"]  # type: ignore[index]
        add(made, "rival", id, "admin")
        add(made, "member", made.acme, "member")
        made.call(
            "POST", f"{made.base}/Patient", made.people["hospital"], {"resourceType": "Patient", "gender": "male"}
        )
        yield made


@pytest.fixture(scope="module")
def acme(exchange: Exchange) -> Console:
    return Console(exchange)


@pytest.fixture(scope="module")
def member(exchange: Exchange) -> Console:
    return Console(exchange, "member")


@pytest.fixture(scope="module")
def client(exchange: Exchange) -> dict[str, Any]:
    """A client that the hospital approved, with calls, one of them refused, and a subscription."""
    made = exchange.register(name=f"Ward {EVIL}", description=f"Beds {EVIL}", scope="system/Patient.rs")
    made["authorization"] = exchange.authorize(made)
    token = exchange.token(made).json["access_token"]  # type: ignore[index]
    exchange.call("GET", f"{exchange.base}/Patient", token)
    exchange.call("GET", f"{exchange.base}/Observation", token)
    while ship(exchange.installation.server, exchange.installation.settings.data / app.SPOOL):
        pass
    return made


def field(page: str, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', page)
    assert found, name
    return unescape(found[1])


# Every screen


SCREENS = (
    "", "/clients", "/clients?kind=production", "/clients?q=Ward", "/clients/new", "/clients/{client}",
    "/clients/{client}/scopes", "/clients/{client}/scopes/change", "/clients/{client}/credentials",
    "/clients/{client}/activity", "/clients/{client}/subscriptions", "/clients/{client}/subscriptions/new",
    "/clients/{client}/subscriptions/new?by=search", "/clients/{client}/subscriptions/new?by=fhirpath",
    "/clients/{client}/settings", "/clients/{client}/authorize", "/clients/{client}/why", "/authorizations",
    "/authorizations?status=approved&q=ward", "/authorizations/{authorization}", "/subscriptions/{hospital}", "/audit",
    "/audit?action=R", "/members",
)  # fmt: skip


@pytest.mark.parametrize("path", SCREENS)
def test_a_screen_opens_and_shows_what_others_wrote_as_text(
    path: str, exchange: Exchange, client: dict[str, Any], acme: Console
) -> None:
    names = {"client": client["id"], "authorization": client["authorization"], "hospital": exchange.hospital}
    page = acme.see(path.format_map(names))

    assert EVIL not in page
    if "{client}" in path and "why" not in path:
        assert "&lt;script&gt;" in page


@pytest.mark.parametrize("path", SCREENS)
def test_a_screen_of_another_organizations_things_is_not_there(
    path: str, exchange: Exchange, client: dict[str, Any]
) -> None:
    names = {"client": client["id"], "authorization": client["authorization"], "hospital": exchange.hospital}
    rival = Console(exchange, "rival", organization_of(exchange, "rival"))
    rival.home = f"/console/application/{exchange.acme}"
    rival.see(path.format_map(names), 404)
    rival.home = f"/console/application/{organization_of(exchange, 'rival')}"
    if "{" in path:
        assert rival.get(rival.home + path.format_map(names)).status_code in (403, 404)


def organization_of(exchange: Exchange, who: str) -> str:
    found = exchange.call("GET", f"{REGISTRY}/User?email={who}@example.org", exchange.people[who]).json
    reference: str = found["entry"][0]["resource"]["organization"]["reference"]  # type: ignore[index]
    return reference.rpartition("/")[2]


@pytest.mark.parametrize("path", [
    "/clients/new", "/clients/{client}/delete", "/clients/{client}/credentials/rotate", "/clients/{client}/switch",
    "/clients/{client}/authorize", "/clients/{client}/subscriptions/new", "/members",
    "/authorizations/{authorization}/withdraw",
])  # fmt: skip
def test_a_form_without_its_token_does_nothing(path: str, client: dict[str, Any], acme: Console) -> None:
    answer = acme.post(acme.home + path.format_map(client | {"client": client["id"]}), {"confirmed": "DELETE"})

    assert answer.status_code == 403
    acme.see(f"/clients/{client['id']}")


# Clients


def test_a_client_is_created_step_by_step_and_its_secret_is_shown_once(exchange: Exchange, acme: Console) -> None:
    answer: dict[str, Any] = {"kind": "production"}
    page = acme.send("/clients/new", 200, at="kind", do="next", **answer).text
    assert 'name="keys" value="none" checked' in page, "something is chosen, so the form can be sent"
    answer |= {"id": field(page, "id"), "name": f"Results {EVIL}", "description": "Shows results"}
    answer |= {"grantType": ["client_credentials"], "keys": "none", "email": "help@acme.example"}
    page = acme.send("/clients/new", 200, at="facts", do="next", **answer).text
    assert "PDQm: look people up" in page
    answer |= {
        "profile": ["pdqm-consumer"],
        "type-0": "Observation",
        "level-0": "system",
        "action-0": ["read", "search"],
    }
    page = acme.send("/clients/new", 200, at="scopes", do="next", **answer).text
    assert "Observation" in page
    assert "PDQm: look people up" in page
    made = acme.send("/clients/new", 200, at="review", do="create", **answer)
    secret = re.search(r'id="client-secret">([^<]+)<', made.text)
    assert secret
    assert made.headers["Cache-Control"] == "no-store"
    file = re.search(r'href="data:application/json;base64,([^"]+)"', made.text)
    assert file
    assert json.loads(b64decode(file[1]))["client_secret"] == secret[1]

    again = acme.send("/clients/new", 303, at="review", do="create", **answer)
    shown = acme.get(again.headers["Location"]).text
    assert "shown once" in shown
    assert secret[1] not in shown
    stored = exchange.call("GET", f"{REGISTRY}/ClientApplication/{answer['id']}", exchange.people["acme"]).json
    assert stored["iheProfile"] == ["pdqm-consumer"]  # type: ignore[index]
    assert stored["scope"] == "system/Observation.rs system/Patient.rs"  # type: ignore[index]
    assert exchange.token({"id": answer["id"], "secret": secret[1]}).status_code == 200


OWN = {"kind": "test", "name": "A", "grantType": "client_credentials"}
CODE = {"kind": "test", "name": "A", "grantType": "authorization_code"}


@pytest.mark.parametrize(
    ("answers", "at", "says", "step"),
    [
        ({}, "kind", "Choose a production or a test client.", "kind"),
        ({"kind": "test", "grantType": "client_credentials"}, "facts", "Give the client a name.", "facts"),
        ({"kind": "test", "name": "A"}, "facts", "Choose at least one way", "facts"),
        ({**CODE, "redirectUri": "http://evil.example/"}, "review", "A redirect URI is absolute", "facts"),
        (CODE, "review", "needs a redirectUri", "facts"),
        ({**OWN, "keys": "jwks", "jwks": "{}"}, "review", "must be the JSON text of a JWK Set", "facts"),
        ({**OWN, "scopes": "system/Nonsense.rs"}, "scopes", "not a resource type", "scopes"),
    ],
)  # fmt: skip
def test_what_is_refused_is_said_on_the_step_where_it_is_mended(
    answers: dict[str, Any], at: str, says: str, step: str, acme: Console
) -> None:
    do = "create" if at == "review" else "next"
    answer = acme.send("/clients/new", 400, at=at, do=do, **answers)

    assert says in unescape(answer.text)
    assert field(answer.text, "at") == step


def test_a_step_back_keeps_what_was_said(acme: Console) -> None:
    given = {"kind": "test", "name": "Kept", "grantType": ["authorization_code"], "redirectUri": "https://a.example/cb"}
    page = acme.send("/clients/new", 200, at="scopes", do="back", **given, profile=["pdqm-consumer"]).text

    assert 'value="Kept"' in page
    assert 'value="authorization_code" checked' in page
    assert field(page, "profile") == "pdqm-consumer"


def test_a_row_more_is_offered_without_losing_the_others(acme: Console) -> None:
    given = {"kind": "test", "name": "Rows", "type-0": "Patient", "level-0": "system", "action-0": "read"}
    page = acme.send("/clients/new", 200, at="scopes", do="add", **given).text

    assert 'id="type-1"' in page
    assert '<option value="Patient" selected>' in page


def test_the_scopes_of_a_client_change_after_a_review(exchange: Exchange, acme: Console) -> None:
    made = exchange.register(
        name="Changing", kind="test", scope="openid system/Patient.rs system/Observation.rs?status=final"
    )
    path = f"/clients/{made['id']}/scopes/change"
    page = acme.see(path)
    assert "system/Observation.rs?status=final" in page
    chosen = {"type-0": "Encounter", "level-0": "user", "action-0": ["search", "create"], "launch": ["openid"]}
    review = acme.send(path, 200, do="next", **chosen).text
    assert "Encounter" in review
    acme.send(path, 303, do="save", version=field(review, "version"), **chosen)
    stored = exchange.call("GET", f"{REGISTRY}/ClientApplication/{made['id']}", exchange.people["acme"]).json
    assert stored["scope"] == "openid user/Encounter.cs"  # type: ignore[index]
    stale = acme.send(path, 412, do="save", version="1", **chosen)
    assert "alert" in stale.text


def test_production_scopes_that_grew_are_asked_for_again(exchange: Exchange, acme: Console) -> None:
    made = exchange.register(name="Growing", scope="system/Patient.rs")
    authorization = exchange.authorize(made)
    path = f"/clients/{made['id']}"
    more = {"type-0": "Patient", "level-0": "system", "action-0": ["read", "search", "create"]}
    acme.send(f"{path}/scopes/change", 303, do="save", **more)
    assert "approved earlier scopes" in acme.see(f"{path}/scopes")
    asked = {"organization": exchange.hospital, "reason": "We write now"}
    assert "approved earlier scopes" in acme.send(f"{path}/authorize", 200, do="review", **asked).text
    acme.send(f"{path}/authorize", 303, do="send", **asked)

    page = acme.see(f"/authorizations/{authorization}")
    assert "Asks for more" in page
    assert "Asked for and not yet decided on" in page


def test_authorization_is_requested_reviewed_withdrawn_and_requested_again(exchange: Exchange, acme: Console) -> None:
    made = exchange.register(name="Asking", scope="system/Patient.rs")
    path = f"/clients/{made['id']}/authorize"
    assert "Choose Provider" in acme.see(f"{path}?q=prov")
    asked = {"organization": exchange.hospital, "reason": f"To help {EVIL}"}
    review = acme.send(path, 200, do="review", **asked).text
    assert EVIL not in review
    assert "Send request" in review
    sent = acme.send(path, 303, do="send", **asked)
    page = acme.get(sent.headers["Location"]).text
    assert "Waiting for approval" in page
    assert EVIL not in page
    again = acme.send(path, 409, do="send", **asked)
    assert "waiting" in again.text
    id = sent.headers["Location"].rpartition("/")[2]
    acme.send(f"/authorizations/{id}/withdraw", 303, note="Changed our mind")
    page = acme.see(f"/authorizations/{id}")
    assert "Withdrawn" in page
    assert "Request again" in page
    acme.send(path, 303, do="send", **asked)
    assert "Waiting for approval" in acme.see("/authorizations?status=waiting-for-approval")


def test_a_secret_is_rotated_and_shown_once(exchange: Exchange, acme: Console) -> None:
    made = exchange.register(name="Rotating", scope="system/Patient.rs")
    path = f"/clients/{made['id']}/credentials"
    assert "Never" in acme.see(path)
    page = acme.send(f"{path}/rotate", 200, overlap="3600").text
    secret = re.search(r'id="client-secret">([^<]+)<', page)
    assert secret
    assert exchange.token({**made, "secret": secret[1]}).status_code == exchange.token(made).status_code == 200
    after = acme.see(path)
    assert secret[1] not in after
    assert "Present" in after


def test_a_client_is_switched_off_and_on_saved_and_deleted_by_the_word(exchange: Exchange, acme: Console) -> None:
    made = exchange.register(name="Ending", scope="system/Patient.rs")
    path = f"/clients/{made['id']}"
    acme.send(f"{path}/switch", 303, active="false")
    assert exchange.token(made).status_code in (400, 401)
    acme.send(f"{path}/switch", 303, active="true")
    version = field(acme.see(f"{path}/settings"), "version")
    facts = {"name": "Renamed", "grantType": ["client_credentials"], "keys": "none", "email": "a@b.example"}
    acme.send(f"{path}/settings", 303, version=version, **facts)
    assert "Renamed" in acme.see(path)
    assert exchange.token(made).status_code == 200
    refused = acme.send(f"{path}/delete", 400, confirmed="delete")
    assert "Type DELETE in capitals" in refused.text
    acme.send(f"{path}/delete", 303, confirmed="DELETE")
    assert acme.get(acme.home + path).status_code in (404, 410)


def test_a_test_client_gets_its_sandbox(exchange: Exchange, acme: Console) -> None:
    made = exchange.register(name="Trying", kind="test", scope="system/Patient.rs")
    path = f"/clients/{made['id']}"
    assert "Make the sandbox now" in acme.see(path)
    acme.send(f"{path}/sandbox", 303)
    page = acme.see(path)
    assert "/1/health/organizations/sandbox-" in page
    assert "Request Authorization" not in page


def test_the_activity_shows_calls_refusals_with_the_reason_and_what_is_unused(
    exchange: Exchange, client: dict[str, Any], acme: Console
) -> None:
    page = acme.see(f"/clients/{client['id']}/activity")
    assert "refused with 403" in page
    link = re.search(r'href="([^"]*/why\?[^"]*)"', page)
    assert link
    why = acme.get(unescape(link[1])).text
    assert "does not permit" in why
    unused = page.partition('id="unused"')[2]
    assert "Patient: Read" in re.sub(r"\s+", " ", unused)


# Subscriptions


def ask(exchange: Exchange, acme: Console, client: dict[str, Any], **more: Any) -> TestResponse:
    given = {"organization": exchange.hospital, "endpoint": "https://8.8.8.8/hook", "reason": f"Board {EVIL}", **more}
    return acme.post(
        f"{acme.home}/clients/{client['id']}/subscriptions/new?by={more.pop('by', 'search')}",
        {"csrf": acme.csrf, **given},
    )


def test_a_subscription_is_tried_asked_for_and_its_secret_shown_once(
    exchange: Exchange, client: dict[str, Any], acme: Console
) -> None:
    tried = ask(exchange, acme, client, criteria="Patient?gender=male", do="check")
    assert "Of the latest change that the client may see it matches 1." in tried.text
    wrong = ask(exchange, acme, client, criteria="Patient?colour=red", do="check")
    assert wrong.status_code == 400
    assert "colour" in wrong.text
    url = "https://fhirserver.example/fhir/SubscriptionTopic/create.patient"
    assert f'<option value="{url}">Creation of Patient (create.patient)' in acme.see(
        f"/clients/{client['id']}/subscriptions/new"
    )
    assert "This is understood." in ask(exchange, acme, client, by="topic", criteria=url, do="check").text
    page = acme.see(f"/clients/{client['id']}/subscriptions/new?by=search")
    given = {
        "criteria": "Patient?gender=male",
        "id": field(page, "id"),
        "header": "X-Key: s3cret",
        "content": "id-only",
    }
    made = ask(exchange, acme, client, **given)
    secret = re.search(r'id="signing-secret">(whsec_[^<]+)<', made.text)
    assert secret, made.text
    again = ask(exchange, acme, client, **given)
    assert again.status_code == 303
    shown = acme.get(again.headers["Location"]).text
    assert secret[1] not in shown
    assert "s3cret" not in shown
    assert EVIL not in shown
    assert "Waiting for approval by Provider" in shown


def test_the_part_that_is_tried_while_one_writes_is_answered_alone(
    exchange: Exchange, client: dict[str, Any], acme: Console
) -> None:
    given = {
        "csrf": acme.csrf,
        "organization": exchange.hospital,
        "criteria": "Patient",
        "condition": "%current.gender =",
    }
    given["endpoint"] = "https://8.8.8.8/hook"
    live = {"HX-Request": "true", "HX-Target": "check"}
    answer = acme.post(f"{acme.home}/clients/{client['id']}/subscriptions/new?by=fhirpath", given, **live)
    assert answer.text.strip().startswith('<div id="check"')
    assert 'class="note warn"' in answer.text
    given["condition"] = "%current.gender = 'male'"
    answer = acme.post(f"{acme.home}/clients/{client['id']}/subscriptions/new?by=fhirpath", given, **live)
    assert "This is understood." in answer.text


def test_a_subscription_is_paused_resumed_and_deleted_by_the_word(
    exchange: Exchange, client: dict[str, Any], acme: Console, member: Console
) -> None:
    id = field(acme.see(f"/clients/{client['id']}/subscriptions/new"), "id")
    ask(exchange, acme, client, criteria="create.encounter", id=id)
    stored = f"{exchange.base}/Subscription/{id}"
    exchange.call("POST", f"{stored}/$approve", exchange.people["hospital"], {"resourceType": "Parameters"})
    path = f"/subscriptions/{exchange.hospital}/{id}"
    assert "Pause" in acme.see(path)
    assert "Pause" not in member.see(path)
    assert "matches 0" in acme.send(f"{path}/act", 200, do="preview").text
    patient = exchange.call("GET", f"{exchange.base}/Patient", exchange.people["hospital"]).json["entry"][0]["resource"]  # type: ignore[index]
    why = acme.send(f"{path}/act", 200, do="why", reference=f"Patient/{patient['id']}").text
    assert "It does not match." in why
    assert "before the approval" in why
    acme.send(f"{path}/act", 303, do="pause")
    assert exchange.call("GET", stored, exchange.people["hospital"]).json["status"] == "off"  # type: ignore[index]
    acme.send(f"{path}/act", 303, do="resume")
    acme.send(f"{path}/act", 303, do="redeliver")
    assert "whsec_" in acme.send(f"{path}/rotate", 200).text
    assert member.send(f"{path}/act", 403, do="pause")
    acme.send(f"{path}/delete", 400, confirmed="yes")
    acme.send(f"{path}/delete", 303, confirmed="DELETE")
    assert acme.get(acme.home + path).status_code in (404, 410)


def test_a_test_client_subscribes_in_its_sandbox_and_its_own_people_approve(exchange: Exchange, acme: Console) -> None:
    made = exchange.register(name="Trying it", kind="test", scope="system/Patient.rs")
    acme.send(f"/clients/{made['id']}/sandbox", 303)
    page = acme.see(f"/clients/{made['id']}/subscriptions/new?by=search")
    at = re.search(r'<option value="(sandbox-[^"]+)"', page)
    assert at
    id = field(page, "id")
    given = {
        "organization": at[1],
        "endpoint": "https://8.8.8.8/hook",
        "reason": "Try",
        "criteria": "Patient",
        "id": id,
    }
    assert "whsec_" in acme.send(f"/clients/{made['id']}/subscriptions/new?by=search", 200, **given).text
    path = f"/subscriptions/{at[1]}/{id}"
    assert "Trying it" in acme.see(path)
    acme.send(f"{path}/act", 303, do="approve")
    assert "Pause" in acme.see(path)
    assert path in acme.see(f"/clients/{made['id']}/subscriptions")


@pytest.mark.parametrize(
    ("path", "says", "leads"),
    [
        ("/clients", "You have no clients yet", "/clients/new"),
        ("/authorizations", "None of your clients has asked an organization yet", "/clients?kind=production"),
        ("/subscriptions", "No organization knows a client of yours yet", "/clients"),
        ("/audit", "Your clients have not called anything yet", ""),
        ("/clients?q=nothing", "Nothing matches", "/clients"),
    ],
)
def test_an_empty_list_says_what_to_do_next(path: str, says: str, leads: str, exchange: Exchange) -> None:
    made = {"resourceType": "Organization", "name": "New Apps", "type": ORGANIZATION}
    id = exchange.call("POST", f"{REGISTRY}/Organization", exchange.operator(), made).json["id"]  # type: ignore[index]
    name = f"new-{abs(hash(path))}"
    add(exchange, name, id, "admin")
    page = Console(exchange, name, id).see(path).partition("<main")[2]

    assert says in page
    assert not leads or f'/console/application/{id}{leads}"' in page


# Members


def test_a_member_is_let_in_by_a_link_shown_once_changed_and_removed(exchange: Exchange, acme: Console) -> None:
    page = acme.send("/members", 200, email="new@example.org", name=f"New {EVIL}", role="member").text
    link = re.search(r'id="link">([^<]+)<', page)
    assert link
    assert EVIL not in page
    found = re.search(r'href="([^"]*/members/[^"]+)">New ', acme.see("/members?q=New"))
    assert found
    path = found[1].removeprefix(acme.home)
    assert link[1] not in acme.see(path)
    acme.send(f"{path}/change", 303, do="save", name="New Person", role="admin")
    assert "Administrator" in acme.see(path)
    acme.send(f"{path}/change", 303, do="off")
    assert "Inactive" in acme.see(path)
    acme.send(f"{path}/change", 303, do="on")
    assert "oauth2/password" in acme.send(f"{path}/change", 200, do="link").text
    acme.send(f"{path}/remove", 400, confirmed="")
    acme.send(f"{path}/remove", 303, confirmed="DELETE")
    assert "New Person" not in acme.see("/members").partition("<main")[2].partition('id="list"')[2]


def test_a_bad_address_is_said_beside_its_field(acme: Console) -> None:
    answer = acme.send("/members", 400, email="nobody", name="N", role="member")
    assert 'id="email-wrong"' in answer.text


def test_a_member_looks_and_changes_nothing(exchange: Exchange, client: dict[str, Any], member: Console) -> None:
    page = member.see(f"/clients/{client['id']}/settings")
    assert "Only administrators" in page
    member.send(f"/clients/{client['id']}/switch", 403, active="false")
    member.send(f"/clients/{client['id']}/delete", 403, confirmed="DELETE")
    member.send("/members", 403, email="x@example.org", role="admin")
    assert "Add a member" not in member.see("/members")


# Audit


def test_the_audit_records_are_searched_and_one_is_shown_whole(
    exchange: Exchange, client: dict[str, Any], acme: Console
) -> None:
    page = acme.see(f"/audit?client=ClientApplication/{client['id']}&outcome=4")
    assert "refused with 403" in page
    assert "Provider" in page
    link = re.search(r'href="([^"]*/audit/[^"]+)"', page)
    assert link
    whole = acme.get(link[1]).text
    assert "AuditEvent" in whole
    assert EVIL not in whole
