"""The console over HTTP, without a browser: who gets in, what every answer carries, whose addresses are whose."""

from __future__ import annotations

import re
from collections.abc import Iterator
from zoneinfo import ZoneInfo

import pytest

from fhirserver.web.console.days import first_instant, last_instant
from fhirserver.web.console.listing import Filter
from fhirserver.web.console.pages import instant
from tests.api.browser import Visitor
from tests.api.exchange import PASSWORD, Exchange, exchange_of


@pytest.fixture(scope="module")
def exchange(mongo_url: str) -> Iterator[Exchange]:
    with exchange_of(mongo_url, "api-console") as made:
        yield made


@pytest.fixture
def visitor(exchange: Exchange) -> Visitor:
    return Visitor(exchange)


@pytest.fixture
def hospital(exchange: Exchange) -> Visitor:
    made = Visitor(exchange)
    assert made.sign_in("hospital").status_code == 303
    return made


def test_every_first_page_opens(exchange: Exchange, hospital: Visitor) -> None:
    acme = Visitor(exchange)
    acme.sign_in("acme")
    for visitor, path in (
        (hospital, f"/console/hospital/{exchange.hospital}"),
        (acme, f"/console/application/{exchange.acme}"),
        (acme, "/console/account"),
    ):
        assert visitor.get(path).status_code == 200, path


def test_who_types_the_host_alone_is_led_to_the_console(visitor: Visitor) -> None:
    answer = visitor.get("/")

    assert (answer.status_code, answer.headers["Location"]) == (302, "/console")


def test_nobody_gets_in_without_signing_in_and_a_link_is_kept(exchange: Exchange, visitor: Visitor) -> None:
    answer = visitor.get(f"/console/hospital/{exchange.hospital}/notifications?q=a")

    assert answer.status_code == 303
    assert answer.headers["Location"] == (
        f"/console/sign-in?next=%2Fconsole%2Fhospital%2F{exchange.hospital}%2Fnotifications%3Fq%3Da"
    )


def test_htmx_is_led_to_the_sign_in_page_as_a_whole(exchange: Exchange, visitor: Visitor) -> None:
    answer = visitor.get(f"/console/hospital/{exchange.hospital}", **{"HX-Request": "true", "HX-Target": "cards"})

    assert (answer.status_code, answer.headers["HX-Redirect"]) == (204, "/console/sign-in")


@pytest.mark.parametrize(
    "to",
    [
        "//evil.example/console/",
        "https://evil.example/console/",
        "/console/\\evil",
        "/\\evil.example/console/",
        "/oauth2/logout",
        "javascript:alert(1)",
        "/console/../oauth2/logout",
    ],
)
def test_a_link_leads_nowhere_but_into_the_console(visitor: Visitor, to: str) -> None:
    answer = visitor.sign_in("hospital", to=f"?next={to}")

    assert answer.status_code == 303
    assert answer.headers["Location"] == "/console"


def test_signing_in_gives_a_session_of_its_own_whatever_the_browser_had(exchange: Exchange, visitor: Visitor) -> None:
    visitor.http.set_cookie("fhirserver_session", "planted", domain="exchange.example")
    answer = visitor.sign_in("hospital")
    cookies = [each for each in answer.headers.getlist("Set-Cookie") if each.startswith("fhirserver_session=")]

    assert len(cookies) == 1
    assert "planted" not in cookies[0]
    assert {"HttpOnly", "Secure", "SameSite=Lax"} <= {part.strip() for part in cookies[0].split(";")}


def test_a_wrong_password_and_an_unknown_address_are_answered_alike(visitor: Visitor) -> None:
    wrong, unknown = visitor.sign_in("hospital", "wrong-password-12"), visitor.sign_in("nobody")

    assert (wrong.status_code, unknown.status_code) == (401, 401)
    shown = [re.sub(r'(csrf" value|value)="[^"]*"', "", answer.text) for answer in (wrong, unknown)]
    assert shown[0] == shown[1]


def test_too_many_wrong_passwords_are_answered_with_when_to_try_again(exchange: Exchange) -> None:
    visitor = Visitor(exchange)
    answers = [visitor.sign_in("guessed", "wrong-password-12") for _ in range(12)]

    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["Retry-After"]) > 0


@pytest.mark.parametrize("path", ["/console/sign-in", "/console/account", "/console/nothing", "/console/operator"])
def test_every_page_forbids_foreign_scripts_frames_and_caches(hospital: Visitor, path: str) -> None:
    headers = hospital.get(path).headers
    policy = headers["Content-Security-Policy"]

    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Request-Id"]


@pytest.mark.parametrize(
    ("csrf", "headers"),
    [
        ("", {}),
        ("0" * 64, {}),
        ("é", {}),
        ("own", {"Sec-Fetch-Site": "cross-site"}),
        ("own", {"Sec-Fetch-Site": "same-site"}),
    ],
)
def test_a_form_that_no_page_of_ours_sent_is_refused(hospital: Visitor, csrf: str, headers: dict[str, str]) -> None:
    given = hospital.token() if csrf == "own" else csrf
    answer = hospital.post("/console/sign-out", {"csrf": given}, **headers)

    assert answer.status_code == 403
    assert hospital.get("/console/account").status_code == 200


def test_a_form_token_of_another_session_is_refused(exchange: Exchange, hospital: Visitor) -> None:
    acme = Visitor(exchange)
    acme.sign_in("acme")

    assert hospital.post("/console/sign-out", {"csrf": acme.token()}).status_code == 403


def test_the_addresses_of_another_organization_are_not_there(exchange: Exchange, hospital: Visitor) -> None:
    for path in (
        f"/console/application/{exchange.acme}",
        f"/console/application/{exchange.acme}/notifications",
        f"/console/hospital/{exchange.acme}",
        f"/console/application/{exchange.hospital}",
        "/console/hospital/nobody",
    ):
        assert hospital.get(path).status_code == 404, path
    assert hospital.get("/console/operator").status_code == 403


def test_a_method_that_a_screen_does_not_take_is_refused_in_words(hospital: Visitor) -> None:
    answer = hospital.get("/console/sign-out")

    assert answer.status_code == 405
    assert "<h1>This did not work</h1>" in answer.text


def test_htmx_gets_the_block_it_asks_for_and_a_refusal_as_a_message(exchange: Exchange, hospital: Visitor) -> None:
    whole = {"HX-Request": "true"}
    cards = hospital.get(f"/console/hospital/{exchange.hospital}", **whole, **{"HX-Target": "cards"})
    refused = hospital.get(f"/console/application/{exchange.acme}", **whole)

    assert cards.text.strip().startswith('<ul id="cards"')
    assert (refused.status_code, refused.headers["HX-Retarget"]) == (404, "#said")
    assert refused.text.strip().startswith('<div class="note bad" role="alert"')


def test_what_a_user_typed_is_shown_as_text(visitor: Visitor) -> None:
    given = {"csrf": visitor.token("/console/sign-in"), "email": '"><script>alert(1)</script>', "password": "x"}
    answer = visitor.post("/console/sign-in", given)

    assert "<script>alert" not in answer.text
    assert "&lt;script&gt;" in answer.text


def test_signing_out_ends_the_session_on_the_server(hospital: Visitor) -> None:
    cookie = hospital.http.get_cookie("fhirserver_session", "exchange.example")
    assert cookie
    hospital.post("/console/sign-out", {"csrf": hospital.token()})
    hospital.http.set_cookie("fhirserver_session", cookie.value, domain="exchange.example")

    assert hospital.get("/console/account").status_code == 303


def test_a_message_for_the_next_page_cannot_be_forged(hospital: Visitor) -> None:
    forged = "0" * 64 + ".WyJnb29kIiwgIllvdSB3b24iXQ=="
    hospital.http.set_cookie("fhirserver_console_said", forged, domain="exchange.example", path="/console")

    assert "You won" not in hospital.get("/console/account").text


def test_what_a_user_allowed_an_application_can_be_withdrawn(exchange: Exchange, hospital: Visitor) -> None:
    client = exchange.register(name="<b>Results</b>")
    kept, now = exchange.installation.tokens.kept, exchange.installation.tokens.now()
    assert kept
    user = exchange.installation.tokens.principal(
        exchange.installation.tokens.claims(exchange.people["hospital"]), "/1/health/fhir/4"
    ).id
    value = {"client": client["id"], "organization": exchange.hospital, "scope": "user/Patient.r"}
    key = f"grant/{user}/{client['id']}/{exchange.hospital}"
    kept.put(key, value, now.replace(year=now.year + 1), f"grants/{user}")
    assert "&lt;b&gt;Results&lt;/b&gt;" in hospital.get("/console/account").text

    given = {"csrf": hospital.token(), "client": client["id"], "organization": exchange.hospital}
    assert hospital.post("/console/account/withdraw", given).status_code == 303
    page = hospital.get("/console/account").text

    assert "Withdrawn. The application has to ask you again." in page
    assert "Results" not in page
    assert kept.get(key, now) is None


def test_a_new_password_needs_the_present_one_and_ends_every_other_session(exchange: Exchange) -> None:
    here, elsewhere = Visitor(exchange), Visitor(exchange)
    assert here.sign_in("acme").status_code == elsewhere.sign_in("acme").status_code == 303
    given = {"csrf": here.token(), "current": PASSWORD, "password": f"{PASSWORD}-new", "again": f"{PASSWORD}-new"}
    wrong = here.post("/console/account", given | {"current": "wrong-password-12"})
    differs = here.post("/console/account", given | {"again": "another-password-9"})
    weak = here.post("/console/account", given | {"password": "short", "again": "short"})

    assert 'id="current-wrong" class="wrong">The present password is wrong.' in wrong.text
    assert 'id="again-wrong" class="wrong">The two new passwords differ.' in differs.text
    assert 'id="password-wrong" class="wrong">The password must have 16' in weak.text
    assert "short" not in re.sub(r"<small[^>]*>[^<]*", "", weak.text)
    assert here.post("/console/account", given).status_code == 303
    assert "Your password is changed." in here.get("/console/account").text
    assert elsewhere.get("/console/account").status_code == 303
    assert Visitor(exchange).sign_in("acme").status_code == 401


def test_files_that_pages_load_are_ours_and_may_be_kept_for_long(visitor: Visitor) -> None:
    page = visitor.get("/console/sign-in").text
    files = re.findall(r'(?:src|href)="(/console/static/[^"]+)"', page)

    assert len(files) >= 6
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page)
    for file in files:
        answer = visitor.get(file)
        assert answer.status_code == 200, file
        assert "immutable" in answer.headers["Cache-Control"]
    assert visitor.get("/console/static/../blueprint.py").status_code in (303, 404)
    assert visitor.get("/console/static/texts/en/common.yaml").status_code == 404


def test_a_page_that_was_open_long_hears_who_is_signed_in_and_nobody_else_does(
    exchange: Exchange, hospital: Visitor, visitor: Visitor
) -> None:
    told, nothing = hospital.get("/console/alive"), visitor.get("/console/alive")

    assert told.json["user"] != ""  # type: ignore[index]
    assert told.json["csrf"] == hospital.token()  # type: ignore[index]
    assert told.headers["Cache-Control"] == "no-store"
    assert "Access-Control-Allow-Origin" not in told.headers
    assert nothing.json == {"user": "", "csrf": ""}


def test_a_form_sent_after_the_session_has_ended_leads_back_to_its_page(exchange: Exchange, visitor: Visitor) -> None:
    path = f"/console/hospital/{exchange.hospital}/members/new"
    answer = visitor.post(path, {"email": "x@y.example", "csrf": "0" * 64})

    assert answer.status_code == 303
    assert answer.headers["Location"].startswith("/console/sign-in?next=%2Fconsole%2Fhospital%2F")
    assert "Your session had ended, so nothing was done." in visitor.get(answer.headers["Location"]).text


@pytest.mark.parametrize("to", ["//evil.example/console/", "https://evil.example/console/", "/oauth2/logout", ""])
def test_whoever_chooses_colours_stays_in_the_console(hospital: Visitor, to: str) -> None:
    chosen = hospital.post("/console/theme", {"csrf": hospital.token(), "theme": "dark", "back": to})

    assert (chosen.status_code, chosen.headers["Location"]) == (303, "/console")
    assert 'data-theme="dark"' in hospital.get("/console/account").text
    hospital.post("/console/theme", {"csrf": hospital.token(), "theme": '"><script>', "back": to})
    assert "data-theme=" not in hospital.get("/console/account").text


@pytest.mark.parametrize(
    ("zone", "shown"),
    [("Asia/Tokyo", "09:30 JST"), ("Asia%2FTokyo", "09:30 JST"), ("../../etc/passwd", "00:30 UTC"), ("", "00:30 UTC")],
)
def test_times_are_shown_in_the_zone_that_the_browser_has_told(exchange: Exchange, zone: str, shown: str) -> None:
    visitor = Visitor(exchange)
    with visitor.http.application.test_request_context(headers={"Cookie": f"fhirserver_console_zone={zone}"}):
        assert instant("2026-03-04T00:30:00Z") == f"2026-03-04 {shown}"


def test_a_day_begins_and_ends_where_the_viewer_lives() -> None:
    zone = ZoneInfo("Europe/Amsterdam")

    assert first_instant("2026-03-29", zone) == "2026-03-28T23:00:00.000Z"
    assert last_instant("2026-03-29", zone) == "2026-03-29T21:59:59.999Z"
    assert Filter("to", "date", (), "", typed="date", prefix="le").sought("2026-03-29", zone) == (
        "le2026-03-29T21:59:59.999Z"
    )
    assert Filter("to", "date", (), "", typed="date", prefix="le").sought("soon", zone) == "lesoon"
