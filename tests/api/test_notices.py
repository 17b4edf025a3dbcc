"""Each step is told to the other side, once: as a Communication that its people read, and by e-mail to its admins."""

from __future__ import annotations

import smtplib
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from fhirserver.auth.access import everything
from fhirserver.auth.principal import Principal
from fhirserver.embedded import free_port
from fhirserver.fhir.validation import validate
from fhirserver.notices.mail import Mailer, Waiting, smtp_of
from fhirserver.notices.telling import Teller
from fhirserver.store.kept import Kept
from fhirserver.subscriptions import delivery
from tests.api.browser import Visitor
from tests.api.exchange import PASSWORD, REGISTRY, Exchange, exchange_of
from tests.api.relaying import relay_events

REASON = "To show results of Ida Adler to her doctor"


@pytest.fixture(scope="module")
def exchange(mongo_url: str) -> Iterator[Exchange]:
    with exchange_of(mongo_url, "test_notices") as made:
        yield made


@pytest.fixture(scope="module")
def waiting(exchange: Exchange) -> Waiting:
    return Waiting(Kept(exchange.installation.server.store.database))


@pytest.fixture(scope="module")
def relay(exchange: Exchange, waiting: Waiting) -> Callable[[], None]:
    """Does what the relay does with pending events, as far as notices go."""
    server = exchange.installation.server
    teller = Teller(server, waiting)

    def work() -> None:
        relay_events(server, teller.tell)

    work()
    return work


@pytest.fixture
def client(exchange: Exchange, relay: Callable[[], None]) -> dict[str, Any]:
    made = exchange.register(scope="system/Patient.rs system/Subscription.cruds system/NotificationDelivery.rs")
    relay()
    return made


def notices(exchange: Exchange, who: str, about: str, query: str = "") -> list[dict[str, Any]]:
    """What somebody finds about something, the oldest first."""
    token = exchange.people.get(who, who)
    found = exchange.call("GET", f"{REGISTRY}/Communication?about={about}&_sort=sent&_count=100{query}", token)
    assert found.status_code == 200, found.text
    return [entry["resource"] for entry in dict(found.json or {}).get("entry", ())]


def codes(found: list[dict[str, Any]]) -> list[str]:
    return [each["category"][0]["coding"][0]["code"] for each in found]


def request(exchange: Exchange, client: dict[str, Any], reason: str = REASON) -> str:
    hospital = {"name": "organization", "valueReference": {"reference": f"Organization/{exchange.hospital}"}}
    body = {"resourceType": "Parameters", "parameter": [hospital, {"name": "reason", "valueString": reason}]}
    path = f"{REGISTRY}/ClientApplication/{client['id']}/$request-authorization"
    answer = exchange.call("POST", path, exchange.people["acme"], body)
    assert answer.status_code == 200, answer.text
    return str(dict(answer.json or {})["id"])


def mailer_to(exchange: Exchange, waiting: Waiting, host: str) -> Mailer:
    """Sends by the mail server at a host, `user:password@` before it where it asks for that."""
    installation = exchange.installation
    smtp = smtp_of(f"smtp://{host}", "exchange@example.org")
    return Mailer(installation.server, waiting, smtp, installation.vault.decrypt)


def test_each_step_is_told_to_the_other_side(
    exchange: Exchange, relay: Callable[[], None], client: dict[str, Any]
) -> None:
    id = request(exchange, client)
    assert exchange.step(id, "withdraw", "acme").status_code == 200
    request(exchange, client)
    for action in ("reject",):
        assert exchange.step(id, action, note="Which results?").status_code == 200
    request(exchange, client)
    for action in ("approve", "disable", "enable"):
        assert exchange.step(id, action).status_code == 200
    relay()
    relay()
    about = f"ClientAuthorization/{id}"
    told = notices(exchange, "hospital", about)
    assert codes(told) == [
        "authorization-requested",
        "authorization-withdrawn",
        "authorization-requested",
        "authorization-requested",
    ]
    assert told[0]["recipient"] == [{"reference": f"Organization/{exchange.hospital}"}]
    assert told[0]["sender"] == {"reference": f"Organization/{exchange.acme}"}
    assert told[0]["payload"] == [
        {"contentString": "Application asks Provider to approve “Results”."},
        {"contentString": REASON},
    ]
    back = notices(exchange, "acme", about)
    assert codes(back) == [f"authorization-{each}" for each in ("rejected", "approved", "disabled", "enabled")]
    assert back[0]["payload"][1] == {"contentString": "Which results?"}
    assert back[0]["sent"] >= told[0]["sent"]
    server = exchange.installation.server
    for each in (*told, *back):
        assert [i for i in validate(server.definitions, each) if i.severity in ("error", "fatal")] == []


def test_a_notice_leads_to_the_screen_of_what_it_is_about(
    exchange: Exchange, relay: Callable[[], None], client: dict[str, Any]
) -> None:
    asked, _ = subscribe(exchange, client)
    query = f"{REGISTRY}/ClientAuthorization?client=ClientApplication/{client['id']}"
    found = dict(exchange.call("GET", query, exchange.people["hospital"]).json or {})
    id = found["entry"][0]["resource"]["id"]
    body = {"resourceType": "Parameters"}
    path = f"{exchange.base}/Subscription/{asked}/$approve"
    assert exchange.call("POST", path, exchange.people["hospital"], body).status_code == 200
    relay()
    for who, area, place, screen in (
        ("hospital", "hospital", exchange.hospital, f"clients/{id}"),
        ("hospital", "hospital", exchange.hospital, f"subscriptions/{asked}"),
        ("acme", "application", exchange.acme, f"authorizations/{id}"),
        ("acme", "application", exchange.acme, f"subscriptions/{exchange.hospital}/{asked}"),
    ):
        person = Visitor(exchange)
        assert person.sign_in(who).status_code == 303
        start = f"/console/{area}/{place}"
        assert f'href="{start}/{screen}"' in person.get(f"{start}/notifications").text
        assert person.get(f"{start}/{screen}").status_code == 200


def test_a_client_reads_what_is_about_itself_and_strangers_read_nothing(
    exchange: Exchange, relay: Callable[[], None], client: dict[str, Any]
) -> None:
    other = exchange.register()
    exchange.authorize(client)
    exchange.authorize(other)
    relay()
    token = str(dict(exchange.token(client).json or {})["access_token"])
    found = exchange.call("GET", f"{REGISTRY}/Communication", token)
    assert codes([entry["resource"] for entry in dict(found.json or {})["entry"]]) == ["authorization-approved"]
    assert notices(exchange, token, f"ClientApplication/{other['id']}") == []
    assert exchange.call("GET", f"{REGISTRY}/Communication", "").status_code == 401


def test_other_scopes_of_an_approved_client_are_told_and_the_end_of_one_as_well(
    exchange: Exchange, relay: Callable[[], None], client: dict[str, Any]
) -> None:
    id = exchange.authorize(client)
    relay()
    path = f"{REGISTRY}/ClientApplication/{client['id']}"
    whole = dict(exchange.call("GET", path, exchange.people["acme"]).json or {})
    more = {**whole, "scope": whole["scope"] + " system/Observation.rs"}
    assert exchange.call("PUT", path, exchange.people["acme"], more).status_code == 200
    if "pendingScope" not in dict(
        exchange.call("GET", f"{REGISTRY}/ClientAuthorization/{id}", exchange.people["acme"]).json or {}
    ):
        request(exchange, client)
    assert exchange.step(id, "approve").status_code == 200
    relay()
    assert codes(notices(exchange, "hospital", f"ClientAuthorization/{id}"))[1:] == ["scope-requested"]
    assert codes(notices(exchange, "acme", f"ClientAuthorization/{id}"))[1:] == ["scope-approved"]


def test_a_notice_is_written_by_the_server_alone(
    exchange: Exchange, relay: Callable[[], None], client: dict[str, Any]
) -> None:
    id = exchange.authorize(client)
    relay()
    made = notices(exchange, "acme", f"ClientAuthorization/{id}")[0]
    for who in (exchange.people["acme"], exchange.people["hospital"], exchange.operator()):
        assert exchange.call("POST", f"{REGISTRY}/Communication", who, made).status_code in (403, 405)
        assert exchange.call("PUT", f"{REGISTRY}/Communication/{made['id']}", who, made).status_code in (403, 405)
        assert exchange.call("DELETE", f"{REGISTRY}/Communication/{made['id']}", who).status_code in (
            403,
            404,
            405,
            200,
        )
    assert notices(exchange, "acme", f"ClientAuthorization/{id}") == [made]


def test_everybody_has_a_mark_of_their_own(
    exchange: Exchange, relay: Callable[[], None], client: dict[str, Any]
) -> None:
    user = {
        "resourceType": "User",
        "email": "second@example.org",
        "organization": {"reference": f"Organization/{exchange.acme}"},
    }
    member = dict(exchange.call("POST", f"{REGISTRY}/User", exchange.people["acme"], user).json or {})["id"]
    first = exchange.installation.tokens.claims(exchange.people["acme"])["sub"]
    second = exchange.installation.tokens.issue(Principal("user", member))
    id = exchange.authorize(client)
    relay()
    about = f"ClientAuthorization/{id}"
    unread = f"&read-by:not={first}"
    made = notices(exchange, "acme", about, unread)[0]
    assert "received" not in made
    marked = exchange.call("POST", f"{REGISTRY}/Communication/{made['id']}/$mark-read", exchange.people["acme"])
    assert marked.status_code == 200, marked.text
    assert "received" in dict(marked.json or {})
    assert notices(exchange, "acme", about, unread) == []
    assert len(notices(exchange, second, about, f"&read-by:not={member}")) == 1
    assert exchange.call("POST", f"{REGISTRY}/Communication/$mark-read", second).status_code == 200
    assert notices(exchange, second, about, f"&read-by:not={member}") == []
    assert len(notices(exchange, second, about, f"&read-by={first}")) == 1
    path = f"{REGISTRY}/Communication/{made['id']}/$mark-read"
    assert exchange.call("POST", path, exchange.people["hospital"]).status_code == 404
    assert exchange.call("POST", path, exchange.people["acme"]).status_code == 200
    kept = exchange.installation.server.store.read(everything("registry"), "Communication", made["id"])
    assert kept is not None
    assert kept.version == 3, "a second mark of the same reader changes nothing"


def subscribe(exchange: Exchange, client: dict[str, Any]) -> tuple[str, str]:
    """A Subscription that the client asks for: its id and the client's token."""
    exchange.authorize(client)
    token = str(dict(exchange.token(client).json or {})["access_token"])
    body = {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "To show new patients",
        "criteria": "create.patient",
        "channel": {"type": "rest-hook", "endpoint": "https://93.184.216.34/hook", "payload": "application/fhir+json"},
    }
    answer = exchange.call("POST", f"{exchange.base}/Subscription", token, body)
    assert answer.status_code == 201, answer.text
    return str(dict(answer.json or {})["id"]), token


def turned(exchange: Exchange, id: str, status: str, error: str = "") -> None:
    """What the deliverer does with a subscription's status."""
    from fhirserver.subscriptions.deliver import turn

    server = exchange.installation.server
    version = server.store.read(everything(exchange.hospital), "Subscription", id)
    assert version is not None
    turn(server, version, status, error)


def test_a_subscription_is_told_about_from_its_request_to_its_dead_letters(
    exchange: Exchange, relay: Callable[[], None], client: dict[str, Any]
) -> None:
    id, token = subscribe(exchange, client)
    note = {"resourceType": "Parameters", "parameter": [{"name": "note", "valueString": "Welcome"}]}
    path = f"{exchange.base}/Subscription/{id}"
    assert exchange.call("POST", f"{path}/$approve", exchange.people["hospital"], note).status_code == 200
    turned(exchange, id, "error", "The endpoint has failed since yesterday: it answered 500.")
    whole = dict(exchange.call("GET", path, token).json or {})
    assert exchange.call("PUT", path, token, {**whole, "status": "active"}).status_code == 200
    relay()
    about = f"https://exchange.example{path}"
    assert codes(notices(exchange, "hospital", about)) == [
        "subscription-requested",
        "subscription-error",
        "subscription-recovered",
    ]
    told = notices(exchange, "acme", about)
    assert codes(told) == ["subscription-approved", "subscription-error", "subscription-recovered"]
    assert told[0]["payload"][1] == {"contentString": "Welcome"}
    assert "answered 500" in told[1]["payload"][1]["contentString"]
    assert codes(notices(exchange, token, f"ClientApplication/{client['id']}"))[-3:] == codes(told)
    server = exchange.installation.server
    event = {"id": "e1", "t": server.now(), "changes": []}
    teller = Teller(server)
    for number in (1, 2):
        lost = delivery.finished(delivery.new(id, client["id"], number, event, []), "dead-letter", "It answered 500.")
        changes = teller.gave_up(exchange.hospital, [lost])
        server.store.commit([*changes, delivery.change(server, exchange.hospital, lost, None, server.now())])
    dead = [each for each in notices(exchange, "acme", about) if codes([each]) == ["dead-letters"]]
    assert len(dead) == 1, "one notice an hour"
    assert dead[0]["payload"][1] == {"contentString": "It answered 500."}


@dataclass
class Inbox:
    """A mail server on loopback: what it took, and how it is told to answer."""

    taken: list[EmailMessage] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self.answers:
            return self.answers[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        message = BytesParser(policy=default).parsebytes(bytes(envelope.content or b""))
        assert isinstance(message, EmailMessage)
        assert message["To"] == envelope.rcpt_tos[0]
        self.taken.append(message)
        return "250 OK"


@pytest.fixture
def inbox() -> Iterator[tuple[Inbox, int]]:
    box, port = Inbox(), free_port()
    controller = Controller(box, hostname="127.0.0.1", port=port)
    controller.start()
    yield box, port
    controller.stop()


def sent(exchange: Exchange, waiting: Waiting, mailer: Mailer) -> int:
    """Runs the jobs that are due; how many there were."""
    jobs: list[tuple[str, ...]] = []
    mailer.sweep(lambda name, ids: jobs.extend((name, *each) for each in ids))
    for name, notice in jobs:
        assert name == "mail"
        mailer.send(notice)
    return len(jobs)


def test_administrators_get_an_e_mail_each_without_what_people_wrote(
    exchange: Exchange,
    relay: Callable[[], None],
    waiting: Waiting,
    client: dict[str, Any],
    inbox: tuple[Inbox, int],
) -> None:
    box, port = inbox
    relay()
    mailer = mailer_to(exchange, waiting, f"127.0.0.1:{port}")
    sent(exchange, waiting, mailer)
    box.taken.clear()
    for name, role, active in (("chief", "admin", True), ("nurse", "member", True), ("gone", "admin", False)):
        user = {
            "resourceType": "User",
            "email": f"{name}@hospital.example",
            "role": role,
            "active": active,
            "password": PASSWORD,
            "organization": {"reference": f"Organization/{exchange.hospital}"},
        }
        assert exchange.call("POST", f"{REGISTRY}/User", exchange.people["hospital"], user).status_code == 201
    box.answers["hospital@example.org"] = "550 No such user"
    request(exchange, client)
    relay()
    assert sent(exchange, waiting, mailer) == 1
    assert [message["To"] for message in box.taken] == ["chief@hospital.example"]
    message = box.taken[0]
    assert message["Subject"] == "Application asks Provider to approve “Results”."
    assert message["Auto-Submitted"] == "auto-generated"
    assert "https://exchange.example" in message.get_content()
    assert "Ida Adler" not in message.as_string()
    assert sent(exchange, waiting, mailer) == 0, "an address that is refused for good is not tried again"


def test_what_the_mail_server_did_not_take_is_sent_later_and_to_nobody_twice(
    exchange: Exchange,
    relay: Callable[[], None],
    waiting: Waiting,
    client: dict[str, Any],
    inbox: tuple[Inbox, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    box, port = inbox
    server = exchange.installation.server
    away = mailer_to(exchange, waiting, f"127.0.0.1:{free_port()}")
    request(exchange, client)
    relay()
    assert sent(exchange, waiting, away) == 1
    mailer = mailer_to(exchange, waiting, f"127.0.0.1:{port}")
    assert sent(exchange, waiting, mailer) == 0, "it waits before it tries again"
    now = server.now
    box.answers["chief@hospital.example"] = "451 Come back later"
    monkeypatch.setattr(server, "now", lambda: now() + timedelta(minutes=1))
    assert sent(exchange, waiting, mailer) == 1
    first = [str(message["To"]) for message in box.taken]
    box.answers.clear()
    monkeypatch.setattr(server, "now", lambda: now() + timedelta(minutes=5))
    assert sent(exchange, waiting, mailer) == 1
    monkeypatch.setattr(server, "now", lambda: now() + timedelta(hours=5))
    assert sent(exchange, waiting, mailer) == 0
    assert sorted(str(message["To"]) for message in box.taken) == ["chief@hospital.example", "hospital@example.org"]
    assert len(first) < 2


@pytest.fixture
def guarded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Inbox, int, list[LoginPassword]]]:
    """A mail server that takes mail after STARTTLS and a login only, and what it was logged in with."""
    authority, box, port, given = trustme.CA(), Inbox(), free_port(), list[LoginPassword]()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    def known(server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: LoginPassword) -> AuthResult:
        given.append(data)
        return AuthResult(success=data == LoginPassword(b"robot", b"s@cret"))

    controller = Controller(
        box, hostname="127.0.0.1", port=port, tls_context=context, require_starttls=True, auth_required=True,
        authenticator=known,
    )  # fmt: skip
    controller.start()
    yield box, port, given
    controller.stop()


def test_mail_goes_through_tls_and_after_a_login(
    exchange: Exchange,
    relay: Callable[[], None],
    waiting: Waiting,
    client: dict[str, Any],
    guarded: tuple[Inbox, int, list[LoginPassword]],
) -> None:
    box, port, given = guarded
    mailer = mailer_to(exchange, waiting, f"robot:s%40cret@127.0.0.1:{port}")
    request(exchange, client)
    relay()
    assert sent(exchange, waiting, mailer) >= 1
    assert box.taken
    assert set(given) == {LoginPassword(b"robot", b"s@cret")}


def test_a_link_to_set_a_password_is_sent_to_the_one_it_is_for_and_shown_to_nobody(
    exchange: Exchange,
    relay: Callable[[], None],
    waiting: Waiting,
    inbox: tuple[Inbox, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    box, port = inbox
    server = exchange.installation.server
    mailer = mailer_to(exchange, waiting, f"127.0.0.1:{port}")
    sent(exchange, waiting, mailer)
    box.taken.clear()
    user = {
        "resourceType": "User",
        "email": "new@hospital.example",
        "organization": {"reference": f"Organization/{exchange.hospital}"},
    }
    made = dict(exchange.call("POST", f"{REGISTRY}/User", exchange.people["hospital"], user).json or {})
    path = f"{REGISTRY}/User/{made['id']}/$reset-password"
    body = {"resourceType": "Parameters", "parameter": [{"name": "mail", "valueBoolean": True}]}
    assert exchange.call("POST", path, exchange.people["hospital"], body).status_code == 400, "there is no mail server"
    monkeypatch.setattr(server, "mails", True)
    answer = exchange.call("POST", path, exchange.people["hospital"], body)
    assert answer.status_code == 200, answer.text
    assert "oauth2/password" not in answer.text
    assert "oauth2/password" not in str(list(server.store.database.collection("kept").find()))
    assert sent(exchange, waiting, mailer) == 1
    assert [message["To"] for message in box.taken] == ["new@hospital.example"]
    assert "https://exchange.example/oauth2/password?link=" in box.taken[0].get_content()
    assert sent(exchange, waiting, mailer) == 0


def test_a_password_is_not_given_to_a_mail_server_without_tls(inbox: tuple[Inbox, int]) -> None:
    _, port = inbox
    far = smtp_of(
        f"smtp://robot:secret@0.0.0.0:{port}", "exchange@example.org"
    )  # reaches this machine, but not by name
    with pytest.raises(smtplib.SMTPException, match="no TLS"):
        far.connect()
    smtp_of(f"smtp://0.0.0.0:{port}", "exchange@example.org").connect().quit()


def test_the_url_of_a_mail_server_says_all_of_it() -> None:
    smtp = smtp_of("smtp://robot:s%40cret@mail.example.org:2525", "exchange@example.org")
    assert (smtp.host, smtp.port, smtp.user, smtp.password, smtp.tls) == (
        "mail.example.org",
        2525,
        "robot",
        "s@cret",
        False,
    )
    assert smtp_of("smtps://mail.example.org", "exchange@example.org").port == 465
