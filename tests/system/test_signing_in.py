"""Applications that other people wrote let a person sign in at a running installation: authlib, requests-oauthlib,
`fhirclient`'s SMART launch, and a real browser. On the way the person is let in by a link, and e-mail tells both sides.
"""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.parser import BytesParser
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from authlib.integrations.requests_client import OAuth2Session
from fhirclient.client import FHIRClient
from fhirclient.models.patient import Patient
from requests_oauthlib import OAuth2Session as Oauthlib

from fhirserver.embedded import free_port
from tests.running import Running, wait_until

EMAIL, PASSWORD = "doctor@hospital.example", "correct-horse-battery-9"
CALLBACK = "http://127.0.0.1:9/callback"
USER_SCOPE = "openid fhirUser offline_access user/Patient.rs"
PATIENT_SCOPE = "launch/patient openid fhirUser offline_access patient/Patient.rs"
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


@dataclass
class Inbox:
    """A mail server's mail."""

    taken: list[EmailMessage] = field(default_factory=list)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        message = BytesParser(policy=default).parsebytes(bytes(envelope.content or b""))
        assert isinstance(message, EmailMessage)
        self.taken.append(message)
        return "250 OK"


@dataclass
class Place:
    """A running installation with a hospital, a patient, a doctor who can sign in, and an application provider."""

    running: Running
    inbox: Inbox
    hospital: str
    acme: str
    patient: str = ""
    found: dict[str, Any] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)

    @property
    def base(self) -> str:
        return f"{self.running.base_url}/1/health/organizations/{self.hospital}/fhir/4"

    def registry(self, method: str, path: str, who: str, body: Any = None) -> requests.Response:
        if who not in self.tokens:
            self.tokens[who] = self.running.cli("token", "--user", who)
        url = f"{self.running.base_url}/1/health/fhir/4/{path}"
        answer = requests.request(
            method, url, json=body, headers={"Authorization": f"Bearer {self.tokens[who]}"}, timeout=30
        )
        assert answer.ok, answer.text
        return answer

    def register(self, scope: str, callback: str = CALLBACK, name: str = "Ward Rounds") -> str:
        """A public client that the hospital has approved: its id."""
        client = {
            "resourceType": "ClientApplication",
            "name": name,
            "kind": "production",
            "grantType": ["authorization_code", "refresh_token"],
            "responseTypes": "code",
            "redirectUri": [callback],
            "scope": scope,
        }
        id = str(self.registry("POST", "ClientApplication", "boss@acme.example", client).json()["id"])
        hospital = {"name": "organization", "valueReference": {"reference": f"Organization/{self.hospital}"}}
        asked = {
            "resourceType": "Parameters",
            "parameter": [hospital, {"name": "reason", "valueString": "For ward rounds"}],
        }
        path = f"ClientApplication/{id}/$request-authorization"
        authorization = self.registry("POST", path, "boss@acme.example", asked).json()["id"]
        self.registry("POST", f"ClientAuthorization/{authorization}/$approve", EMAIL, {"resourceType": "Parameters"})
        return id


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    inbox, port = Inbox(), free_port()
    controller = Controller(inbox, hostname="127.0.0.1", port=port)
    controller.start()
    mail = {"FHIRSERVER_SMTP_URL": f"smtp://127.0.0.1:{port}", "FHIRSERVER_MAIL_FROM": "exchange@example.org"}
    running = Running(tmp_path_factory.mktemp("signing-in") / "data", env=mail).start()
    try:
        yield _furnished(Place(running, inbox, *_organizations(running)))
    finally:
        running.stop()
        controller.stop()


def _organizations(running: Running) -> tuple[str, str]:
    hospital = running.cli("organization", "create", "County Hospital")
    acme = running.cli("organization", "create", "Acme", "--kind", "application")
    running.cli("user", "create", EMAIL, "--organization", hospital, "--role", "admin")
    running.cli("user", "create", "boss@acme.example", "--organization", acme, "--role", "admin")
    return hospital, acme


def _furnished(place: Place) -> Place:
    """Lets the doctor set a password by a link, and puts a patient in."""
    follow(place.running.cli("user", "link", EMAIL))
    token = place.running.cli("token", "--organization", place.hospital)
    patient = {"resourceType": "Patient", "name": [{"family": "Adler", "given": ["Ida"]}], "birthDate": "1961-04-17"}
    headers = {"Authorization": f"Bearer {token}"}
    answer = requests.post(f"{place.base}/Patient", json=patient, headers=headers, timeout=30)
    place.patient = answer.json()["id"]
    place.found = requests.get(f"{place.base}/.well-known/smart-configuration", timeout=30).json()
    return place


def follow(link: str) -> None:
    """Sets the password by a link."""
    hidden = re.findall(r'name="link" value="([^"]+)"', requests.get(link, timeout=30).text)[0]
    form = {"link": hidden, "password": PASSWORD, "again": PASSWORD}
    done = requests.post(link.partition("?")[0], data=form, timeout=30)
    assert "Your password is set" in done.text


def signed_in(url: str, patient: str = "") -> str:
    """What a person does with the pages, without a browser; answers where the application is called back."""
    with requests.Session() as browser:
        shown = browser.get(url, timeout=30)
        shown = _send(browser, shown, "/oauth2/sign-in", email=EMAIL, password=PASSWORD)
        if patient:
            shown = browser.get(urlsplit(url)._replace(path="/oauth2/consent", query="find=Adler").geturl(), timeout=30)
            assert "Ida Adler, 1961-04-17" in shown.text
            shown = _send(browser, shown, "/oauth2/patient", patient=patient)
        scopes = re.findall(r'name="scope" value="([^"]+)"', shown.text)
        done = _send(browser, shown, "/oauth2/consent", follow=False, decision="allow", scope=scopes)
        return str(done.headers["Location"])


def _send(
    browser: requests.Session, shown: requests.Response, path: str, *, follow: bool = True, **form: Any
) -> requests.Response:
    form["csrf"] = re.findall(r'name="csrf" value="([^"]+)"', shown.text)[0]
    url = urlsplit(shown.url)._replace(path=path, query="").geturl()
    return browser.post(url, data=form, timeout=30, allow_redirects=follow)


def test_authlib_signs_a_person_in_and_refreshes(place: Place) -> None:
    verifier = "a" * 64
    with OAuth2Session(
        place.register(USER_SCOPE),
        redirect_uri=CALLBACK,
        scope=USER_SCOPE,
        code_challenge_method="S256",
        token_endpoint_auth_method="none",
    ) as session:
        url, state = session.create_authorization_url(
            place.found["authorization_endpoint"], code_verifier=verifier, aud=place.base
        )
        token = session.fetch_token(
            place.found["token_endpoint"], authorization_response=signed_in(url), code_verifier=verifier, state=state
        )
        assert session.get(f"{place.base}/Patient/{place.patient}").json()["birthDate"] == "1961-04-17"
        session.refresh_token(place.found["token_endpoint"], token["refresh_token"])
        assert session.get(place.found["userinfo_endpoint"]).json()["fhirUser"].startswith(place.running.base_url)


def test_requests_oauthlib_signs_a_person_in_and_refreshes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OAUTHLIB_INSECURE_TRANSPORT", "1")  # the installation is on loopback
    client = place.register(USER_SCOPE)
    with Oauthlib(client, redirect_uri=CALLBACK, scope=USER_SCOPE.split(), pkce="S256") as session:
        url, _ = session.authorization_url(place.found["authorization_endpoint"], aud=place.base)
        token = session.fetch_token(
            place.found["token_endpoint"], authorization_response=signed_in(url), include_client_id=True
        )
        assert set(token["scope"]) == set(USER_SCOPE.split())
        assert session.get(f"{place.base}/Patient").json()["total"] == 1
        before = token["access_token"]
        token = session.refresh_token(place.found["token_endpoint"], client_id=client)
        assert token["access_token"] != before
        assert session.get(f"{place.base}/Patient").status_code == 200


def test_fhirclient_launches_with_a_patient(place: Place) -> None:
    settings = {
        "app_id": place.register(PATIENT_SCOPE),
        "api_base": place.base,
        "redirect_uri": CALLBACK,
        "scope": PATIENT_SCOPE,
    }
    smart = FHIRClient(settings=settings)
    assert not smart.ready
    smart.handle_callback(signed_in(smart.authorize_url, place.patient))
    assert smart.ready
    assert smart.patient.id == place.patient
    assert smart.human_name(smart.patient.name[0]) == "Ida Adler"
    assert smart.reauthorize()
    assert Patient.read(place.patient, smart.server).birthDate.isostring == "1961-04-17"


def test_the_hospital_is_told_by_e_mail_what_happens(place: Place) -> None:
    place.register("user/Patient.rs", name="Night Shift")

    def told() -> list[tuple[str, str]]:
        taken = [(str(message["To"]), str(message["Subject"])) for message in place.inbox.taken]
        return sorted(each for each in taken if "Night Shift" in each[1])

    wait_until(lambda: len(told()) >= 2, 60)
    assert told() == [
        ("boss@acme.example", "County Hospital has approved “Night Shift”."),
        (EMAIL, "Acme asks County Hospital to approve “Night Shift”."),
    ]
    assert not any("For ward rounds" in message.as_string() for message in place.inbox.taken)


def test_a_member_is_let_in_by_a_link_that_comes_by_e_mail(place: Place) -> None:
    nurse = {
        "resourceType": "User",
        "email": "nurse@hospital.example",
        "organization": {"reference": f"Organization/{place.hospital}"},
    }
    id = place.registry("POST", "User", EMAIL, nurse).json()["id"]
    body = {"resourceType": "Parameters", "parameter": [{"name": "mail", "valueBoolean": True}]}
    assert "link" not in place.registry("POST", f"User/{id}/$reset-password", EMAIL, body).text

    def letters() -> list[EmailMessage]:
        return [message for message in place.inbox.taken if message["To"] == nurse["email"]]

    wait_until(letters, 60)
    follow(re.findall(r"http\S+", letters()[0].get_content())[0])


def test_a_rotated_key_signs_in_every_worker_without_a_restart(place: Place) -> None:
    before = {key["kid"] for key in requests.get(place.found["jwks_uri"], timeout=30).json()["keys"]}
    token = place.running.cli("token", "--organization", place.hospital)
    made = place.running.cli("keys", "rotate", "--at-once").split()[0]

    def kids() -> list[str]:
        return [key["kid"] for key in requests.get(place.found["jwks_uri"], timeout=30).json()["keys"]]

    wait_until(lambda: all(kids()[0] == made for _ in range(8)), 60)
    assert set(kids()) == before | {made}
    assert made in place.running.cli("keys", "list").splitlines()[0]
    fresh = place.running.cli("token", "--organization", place.hospital)
    for each in (token, fresh) * 4:
        answer = requests.get(f"{place.base}/Patient", headers={"Authorization": f"Bearer {each}"}, timeout=30)
        assert answer.status_code == 200, answer.text


@pytest.fixture
def called_back() -> Iterator[tuple[str, list[str]]]:
    """An application's redirect URI, and what it is called with."""
    taken: list[str] = []

    class Application(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            taken.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<title>Ward Rounds</title><h1>You are in</h1>")

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Application)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/callback", taken
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_person_signs_in_and_consents_in_a_browser(
    place: Place, called_back: tuple[str, list[str]], tmp_path: Path
) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs Playwright for Python: make setup")
    program = next((path for name in PROGRAMS if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    callback, taken = called_back
    client, verifier = place.register(PATIENT_SCOPE, callback), "b" * 64
    session = OAuth2Session(client, redirect_uri=callback, scope=PATIENT_SCOPE, code_challenge_method="S256")
    url, state = session.create_authorization_url(
        place.found["authorization_endpoint"], code_verifier=verifier, aud=place.base
    )
    session.close()
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        page = browser.new_page()
        faults: list[str] = []
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.goto(url)
        assert "Ward Rounds" in page.inner_text("main")
        page.get_by_label("E-mail address").fill(EMAIL)
        page.get_by_label("Password").fill("not the password 1!")
        page.get_by_role("button", name="Sign in").click()
        assert page.get_by_role("alert").inner_text() == "The e-mail address or the password is wrong."
        faults.clear()  # the 401 of the wrong password
        page.get_by_label("E-mail address").fill(EMAIL)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        page.get_by_label("Name or identifier").fill("Adler")
        page.get_by_role("button", name="Find").click()
        page.get_by_label("Ida Adler, 1961-04-17").check()
        page.get_by_role("button", name="Continue").click()
        assert "County Hospital" in page.inner_text("main")
        page.get_by_label("Go on when you have signed out").uncheck()
        page.get_by_role("button", name="Allow").click()
        page.wait_for_url(f"{callback}?*")
        assert page.title() == "Ward Rounds"
        assert all(cookie["httpOnly"] for cookie in page.context.cookies(place.running.base_url))
        assert faults == []
        browser.close()
    given = {name: values[0] for name, values in parse_qs(urlsplit(taken[0]).query).items()}
    assert given["state"] == state
    assert given["iss"] == place.running.base_url
    form = {
        "grant_type": "authorization_code",
        "code": given["code"],
        "redirect_uri": callback,
        "client_id": client,
        "code_verifier": verifier,
    }
    token = requests.post(place.found["token_endpoint"], data=form, timeout=30).json()
    assert token["patient"] == place.patient
    assert "refresh_token" not in token, "the person left that out"
    assert token["scope"] == "launch/patient openid fhirUser patient/Patient.rs"
