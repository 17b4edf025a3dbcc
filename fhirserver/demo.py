"""The whole story, played through HTTP and MLLP on a fresh data folder: register, authorize, subscribe, receive,
notify.

Each step prints what it saw and how long it took; the first that does not behave ends the demo with an error. The
tokens of people come from beside the database, as `fhirserver token --user` gives them; everything else goes through
the doors that outsiders use.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import requests

from fhirserver import local, supervisor
from fhirserver.embedded import free_port
from fhirserver.hl7v2.framing import frame
from fhirserver.hl7v2.message import Message
from fhirserver.hl7v2.senders import endpoint_resource
from fhirserver.rules.model import CANONICAL
from fhirserver.rules.organization import kind_concept
from fhirserver.settings import Settings, bare_environ, folder

SCOPE = "system/Patient.rs system/Encounter.rs system/Provenance.rs system/Subscription.cruds"
SECRET = f"{CANONICAL}/StructureDefinition/subscription-signing-secret"
READY_SECONDS, ARRIVAL_SECONDS, SILENCE_SECONDS = 60.0, 15.0, 2.0


class Wrong(Exception):
    """A step did not behave; the text says what was expected and what was seen."""


def play(settings: Settings, keep: bool) -> int:
    """Plays the story and answers the exit code; with `keep` the installation goes on until Ctrl-C."""
    data = Path(tempfile.mkdtemp(prefix="fhirserver-demo-"))
    receiver = Receiver()
    try:
        with _installation(data) as running:
            story = Story(running, receiver)
            code = _told(story)
            if keep and not code:
                _say(f"\nStill running on {running.public_url}, data in {data}. Ctrl-C ends it.")
                _wait_for_ctrl_c()
            return code
    finally:
        receiver.close()
        shutil.rmtree(data, ignore_errors=True)


def _told(story: Story) -> int:
    for number, step in enumerate(story.steps(), 1):
        begin = time.monotonic()
        try:
            said = step()
        except (Wrong, requests.RequestException, OSError) as error:
            _say(f"{number:>3}  FAILED  {step.__doc__}\n     {error}")
            return 1
        _say(f"{number:>3}  {time.monotonic() - begin:6.2f} s  {step.__doc__}")
        for line in said:
            _say(f"               {line}")
    _say("\nThe whole story behaved.")
    return 0


@dataclass
class Story:
    """The steps, in order; each is a method whose docstring is its title and which answers the lines to print."""

    settings: Settings
    receiver: Receiver
    facts: dict[str, Any] = field(default_factory=dict)

    def steps(self) -> tuple[Callable[[], list[str]], ...]:
        return (
            self.organizations,
            self.registration,
            self.token,
            self.refused,
            self.request,
            self.approval,
            self.permitted,
            self.subscription,
            self.activation,
            self.messages,
            self.notifications,
            self.patient,
            self.bad_messages,
            self.disabled,
            self.enabled,
        )

    def organizations(self) -> list[str]:
        """the operator creates an application provider, a provider organization and their administrators"""
        operator = local.user_token(self.settings, local.FIRST_OPERATOR)
        lines = []
        for kind, name in (("application", "Acme Apps"), ("provider", "Lakeside Hospital")):
            organization = {"resourceType": "Organization", "active": True, "name": name, "type": [kind_concept(kind)]}
            id = self._post("Organization", organization, operator, 201)["id"]
            email = f"admin@{kind}.example"
            user = {"email": email, "role": "admin", "organization": {"reference": f"Organization/{id}"}}
            self._post("User", {"resourceType": "User", **user}, operator, 201)
            self.facts[kind] = id
            self.facts[f"{kind} admin"] = local.user_token(self.settings, email)
            lines.append(f"{name} ({kind}) is Organization/{id}, administered by {email}")
        endpoint = endpoint_resource(self.facts["provider"], "", "LAKESIDE", False)
        self._post("Endpoint", endpoint, self.facts["provider admin"], 201)
        return [*lines, "the senders of its facility LAKESIDE are registered as an Endpoint"]

    def registration(self) -> list[str]:
        """the application provider registers a production client and sees its secret, once"""
        client = {
            "resourceType": "ClientApplication",
            "name": "Ward Board",
            "description": "Shows who was admitted",
            "kind": "production",
            "grantType": ["client_credentials"],
            "responseTypes": "token",
            "scope": SCOPE,
        }
        made = self._post("ClientApplication", client, self.facts["application admin"], 201)
        self.facts["client"], self.facts["secret"] = made["id"], made["secret"]
        again = self._get(f"ClientApplication/{made['id']}", self.facts["application admin"], 200)
        _expect("secret" not in again, "a later read does not show the secret")
        return [f"ClientApplication/{made['id']}, secret {made['secret'][:6]}… ({len(made['secret'])} characters)"]

    def token(self) -> list[str]:
        """the client gets an access token (client_credentials)"""
        form = {"grant_type": "client_credentials", "scope": SCOPE}
        credentials = (self.facts["client"], self.facts["secret"])
        answer = requests.post(f"{self.settings.public_url}/oauth2/token", form, auth=credentials, timeout=10)
        _expect(answer.status_code == 200, f"200 from the token endpoint, not {answer.status_code} {answer.text}")
        self.facts["token"] = answer.json()["access_token"]
        return [f"{answer.json()['token_type']} for {answer.json()['expires_in']} s: {answer.json()['scope']}"]

    def refused(self) -> list[str]:
        """its first FHIR call is refused, with the reason"""
        return [self._diagnostics(self._get("Patient", self.facts["token"], 403, organization=True))]

    def request(self) -> list[str]:
        """it asks the hospital for access, with a reason"""
        parameters = _parameters(
            {"name": "organization", "valueReference": {"reference": f"Organization/{self.facts['provider']}"}},
            {"name": "reason", "valueString": "The ward board shows admissions as they happen."},
        )
        path = f"ClientApplication/{self.facts['client']}/$request-authorization"
        made = self._post(path, parameters, self.facts["application admin"], 200)
        self.facts["authorization"] = made["id"]
        return [f"ClientAuthorization/{made['id']} is {made['status']}"]

    def approval(self) -> list[str]:
        """the hospital approves"""
        return [f"ClientAuthorization is {self._decide('approve')['status']}"]

    def permitted(self) -> list[str]:
        """the same call is answered"""
        found = self._get("Patient", self.facts["token"], 200, organization=True)
        return [f"200, a {found['type']} with {found.get('total', 0)} patients"]

    def subscription(self) -> list[str]:
        """the client subscribes to new patients: requested"""
        subscription = {
            "resourceType": "Subscription",
            "status": "requested",
            "reason": "Show new patients on the ward board",
            "criteria": "create.patient",
            "channel": {
                "type": "rest-hook",
                "endpoint": self.receiver.url,
                "payload": "application/fhir+json",
                "header": ["X-Ward: 7"],
            },
        }
        made = self._post("Subscription", subscription, self.facts["token"], 201, organization=True)
        _expect(made["status"] == "requested", f"status requested, not {made['status']}")
        self.facts["subscription"] = made["id"]
        self.receiver.secret = next(
            extension["valueString"] for extension in made["channel"]["extension"] if extension["url"] == SECRET
        )
        return [f"Subscription/{made['id']} is requested; its signing secret was shown once"]

    def activation(self) -> list[str]:
        """the hospital approves the subscription: active"""
        path = f"Subscription/{self.facts['subscription']}/$approve"
        made = self._post(path, _parameters(), self.facts["provider admin"], 200, organization=True)
        _expect(made["status"] == "active", f"status active, not {made['status']}")
        return ["Subscription is active"]

    def messages(self) -> list[str]:
        """the hospital's system sends real ADT messages over MLLP"""
        files = sorted((folder("examples") / "hl7v2").glob("[0-9]*.hl7"))
        _expect(len(files) >= 12, f"a dozen messages in examples/hl7v2, not {len(files)}")
        lines = []
        for path in files:
            raw = path.read_bytes()
            answer = self._send(raw)
            # A sender that asks for enhanced mode (MSH-15, MSH-16) gets the accept acknowledgment CA instead of AA.
            _expect(answer in ("AA", "CA"), f"AA or CA for {path.name}, not {answer}")
            lines.append(f"{answer}  {path.name}")
        self.facts["sent"] = files
        return lines

    def notifications(self) -> list[str]:
        """the webhook receives signed Bundles"""
        patients = {_patient(path.read_bytes()) for path in self.facts["sent"]}
        lines = []
        for _ in patients:
            bundle = self.receiver.next()
            lines.append(f"verified: {_summary(bundle)}")
        return [f"{len(lines)} new patients in {len(self.facts['sent'])} messages", *lines]

    def patient(self) -> list[str]:
        """the patient is found by identifier, was updated by the A08, and its Provenance names the message"""
        updates = [path for path in self.facts["sent"] if Message.parse(path.read_bytes())["MSH-9.2"] == "A08"]
        known = [_patient(path.read_bytes()) for path in self.facts["sent"]]
        identifier = next(
            _patient(path.read_bytes()) for path in updates if known.count(_patient(path.read_bytes())) > 1
        )
        found = self._get(f"Patient?identifier={identifier}", self.facts["token"], 200, organization=True)
        _expect(len(found.get("entry", [])) == 1, f"one Patient with identifier {identifier}")
        patient = found["entry"][0]["resource"]
        history = self._get(f"Patient/{patient['id']}/_history", self.facts["token"], 200, organization=True)
        versions = [entry["resource"]["meta"]["versionId"] for entry in history["entry"]]
        _expect(len(versions) >= 2, f"several versions, not {versions}")
        whence = self._get(f"Provenance?target=Patient/{patient['id']}", self.facts["token"], 200, organization=True)
        sources = [
            each["resource"]["entity"][0]["what"]["reference"]
            for each in whence["entry"]
            if "entity" in each["resource"]
        ]
        _expect(
            any(text.startswith("InboundMessage/") for text in sources), f"Provenance naming the message, not {sources}"
        )
        return [f"Patient/{patient['id']} has versions {', '.join(versions)}; it comes from {', '.join(sources)}"]

    def bad_messages(self) -> list[str]:
        """a malformed message gets AE with an ERR segment, an unknown sender AR, and nothing is lost"""
        malformed = b"MSH|^~\\&|ADT1|LAKESIDE|X|Y|20260101120000||ADT^A01|BAD1|P|2.5\rEVN|A01|20260101120000\rPV1|1|I\r"
        ack = self._send(malformed)
        _expect(ack.startswith("AE") and "ERR" in ack, f"AE with ERR, not {ack}")
        stranger = b"MSH|^~\\&|NOBODY|NOWHERE|X|Y|20260101120000||ADT^A01|BAD2|P|2.5\rEVN|A01\rPID|1||1^^^H\rPV1|1|I\r"
        refusal = self._send(stranger)
        _expect(refusal.startswith("AR"), f"AR, not {refusal}")
        kept = self._get("InboundMessage?control-id=BAD1", self.facts["provider admin"], 200, organization=True)
        operator = local.user_token(self.settings, local.FIRST_OPERATOR)
        quarantined = self._get("InboundMessage?control-id=BAD2", operator, 200)
        _expect(bool(kept.get("entry")) and bool(quarantined.get("entry")), "both messages kept as InboundMessages")
        return [ack, refusal, "both are kept as InboundMessages, the stranger's in quarantine"]

    def disabled(self) -> list[str]:
        """the hospital disables the client: its very next call is refused, the next message is not delivered"""
        status = self._decide("disable")["status"]
        said = self._diagnostics(self._get("Patient", self.facts["token"], 403, organization=True))
        _expect(self._send(_admission("NEW1")).startswith("AA"), "AA for a new patient")
        self.receiver.silent(SILENCE_SECONDS)
        return [f"ClientAuthorization is {status}", said, f"nothing arrived within {SILENCE_SECONDS:g} s"]

    def enabled(self) -> list[str]:
        """enabled again: delivered"""
        self._decide("enable")
        self._get("Patient", self.facts["token"], 200, organization=True)
        return [f"verified: {_summary(self.receiver.next())}"]

    def _decide(self, action: str) -> dict[str, Any]:
        path = f"ClientAuthorization/{self.facts['authorization']}/${action}"
        note = _parameters({"name": "note", "valueString": f"The demo takes the step {action}."})
        return self._post(path, note, self.facts["provider admin"], 200)

    def _base(self, organization: bool) -> str:
        base = f"{self.settings.public_url}/1/health"
        return f"{base}/organizations/{self.facts['provider']}/fhir/4" if organization else f"{base}/fhir/4"

    def _post(
        self, path: str, body: dict[str, Any], token: str, status: int, *, organization: bool = False
    ) -> dict[str, Any]:
        url = f"{self._base(organization)}/{path}"
        return self._answer(requests.post(url, json=body, headers=_headers(token), timeout=30), status)

    def _get(self, path: str, token: str, status: int, *, organization: bool = False) -> dict[str, Any]:
        return self._answer(
            requests.get(f"{self._base(organization)}/{path}", headers=_headers(token), timeout=30), status
        )

    def _answer(self, answer: requests.Response, status: int) -> dict[str, Any]:
        request = f"{answer.request.method} {answer.request.path_url}"
        _expect(answer.status_code == status, f"{status} for {request}, not {answer.status_code} {answer.text[:500]}")
        found: dict[str, Any] = answer.json()
        return found

    def _diagnostics(self, outcome: dict[str, Any]) -> str:
        return f"403: {outcome['issue'][0]['diagnostics']}"

    def _send(self, raw: bytes) -> str:
        """Sends one message on a connection of its own and answers `MSA-1 MSA-3`, with ERR where there is one."""
        with socket.create_connection((self.settings.mllp_host, self.settings.mllp_port), timeout=10) as connection:
            connection.sendall(frame(raw))
            answer = b""
            while not answer.endswith(b"\x1c\r"):
                part = connection.recv(65536)
                _expect(bool(part), "an acknowledgment before the connection ends")
                answer += part
        segments = {line[:3]: line for line in answer.strip(b"\x0b\x1c\r").decode("latin-1").split("\r")}
        return " ".join([segments["MSA"].split("|")[1], *(["with ERR"] if "ERR" in segments else [])])


class Receiver:
    """A webhook that verifies what it gets as Standard Webhooks 1.0.0 says."""

    def __init__(self) -> None:
        self.secret = ""
        self._seen: set[str] = set()
        self._arrived: queue.Queue[dict[str, Any] | Wrong] = queue.Queue()
        receiver = self

        class Hook(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver._take({name.lower(): value for name, value in self.headers.items()}, body)
                self.send_response(204)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Silent: the story prints what matters."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Hook)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def _take(self, headers: dict[str, str], body: bytes) -> None:
        key = base64.b64decode(self.secret.removeprefix("whsec_"))
        id = headers.get("webhook-id", "")
        signed = f"{id}.{headers.get('webhook-timestamp', '')}.".encode() + body
        expected = "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
        good = any(hmac.compare_digest(expected, each) for each in headers.get("webhook-signature", "").split())
        if id in self._seen:
            return  # delivery is at least once; the id tells a repetition
        self._seen.add(id)
        if not good or headers.get("x-ward") != "7":
            self._arrived.put(
                Wrong(f"a notification with a wrong signature or without the channel's header: {headers}")
            )
        else:
            self._arrived.put(json.loads(body))

    def next(self) -> dict[str, Any]:
        """The next verified Bundle. Raises Wrong when none arrives in time, or a forged one does."""
        try:
            arrived = self._arrived.get(timeout=ARRIVAL_SECONDS)
        except queue.Empty:
            raise Wrong(f"no notification within {ARRIVAL_SECONDS:g} s") from None
        if isinstance(arrived, Wrong):
            raise arrived
        return arrived

    def silent(self, seconds: float) -> None:
        """Raises Wrong when something arrives within that time."""
        try:
            arrived = self._arrived.get(timeout=seconds)
        except queue.Empty:
            return
        raise Wrong(f"expected silence, but this arrived: {str(arrived)[:300]}")

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _installation:
    """`fhirserver up` on a data folder and free ports, for the length of a `with`."""

    def __init__(self, data: Path) -> None:
        self._data = data

    def __enter__(self) -> Settings:
        environ = {
            **bare_environ(),
            "FHIRSERVER_DATA": str(self._data),
            "FHIRSERVER_PORT": str(free_port()),
            "FHIRSERVER_MLLP_PORT": str(free_port()),
            "FHIRSERVER_QUEUE_WORKERS": "1",  # enough for a dozen messages, and up sooner
            "FHIRSERVER_WEBHOOK_ALLOW": "127.0.0.0/8",
            "FHIRSERVER_LOG_LEVEL": "error",
            "FHIRSERVER_LOG_FORMAT": "text",
        }
        begin = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fhirserver", "up"], env=environ, stdout=subprocess.PIPE, text=True
        )
        deadline = begin + READY_SECONDS
        for line in self._process.stdout or ():
            if "Ctrl-C" in line or time.monotonic() > deadline:
                break
        running = supervisor.running(self._data)
        if running is None:
            self.__exit__()
            raise SystemExit("fhirserver up did not get ready; its log above says why")
        _say(f"  0  {time.monotonic() - begin:6.2f} s  everything is up on {running.public_url}")
        return supervisor.with_master_key(running, make=False)

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(timeout=60)


def _wait_for_ctrl_c() -> None:
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        _say("")


def _patient(raw: bytes) -> str:
    """The patient identifier of a message as FHIR search wants it: the value of PID-3's first repetition."""
    return Message.parse(raw)["PID-3.1"]


def _admission(id: str) -> bytes:
    return (
        f"MSH|^~\\&|ADT1|LAKESIDE|X|Y|20260101120000||ADT^A01|CTRL{id}|P|2.5\rEVN|A01|20260101120000\r"
        f"PID|1||{id}^^^LAKESIDE^MR||Late^Comer||19700101|F\rPV1|1|I|W7^1^1||||||||||||||||V{id}^^^LAKESIDE\r"
    ).encode()


def _summary(bundle: dict[str, Any]) -> str:
    types = [entry["resource"]["resourceType"] for entry in bundle["entry"]]
    event = bundle["entry"][0]["resource"].get("eventCoding", {}).get("code")
    return f"{bundle['type']} Bundle, event {event}, {', '.join(types[1:])}"


def _parameters(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"resourceType": "Parameters", **({"parameter": list(parts)} if parts else {})}


def _headers(token: str) -> dict[str, str]:
    return {
        "Authorization": f"Bearer {token}",
        "Content-Type": "application/fhir+json",
        "Accept": "application/fhir+json",
    }


def _expect(true: bool, what: str) -> None:
    if not true:
        raise Wrong(f"expected {what}")


def _say(text: str) -> None:
    print(text, flush=True)
