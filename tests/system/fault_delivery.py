"""The fault run of deliveries: endpoints that misbehave, processes killed at random, a client disabled meanwhile; then
every promise is checked against the database and what the receiver saw.

    python -m tests.system.fault_delivery [EVENTS [ENDPOINTS]]

Prints one line: events, deliveries, lost, out of order, unauthorized, duplicates. The first three faults must be 0.
Each event is for one endpoint, each endpoint has a subscription, and each patient several versions, which must come in
order. The checker keeps a few words an event, and gives the run seconds in proportion to its events.
"""

from __future__ import annotations

import http.client
import http.server
import json
import random
import signal
import socket
import socketserver
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from fhirserver import embedded
from fhirserver.settings import Settings
from fhirserver.store.database import Database
from tests.running import Running, kill

REGISTRY = "/1/health/fhir/4"
SCOPE = "system/Patient.rs system/Subscription.cruds system/NotificationDelivery.rs"
UPDATES = 4  # Versions of each patient, so that there is an order to keep.
CLIENTS = 5
GRACE_SECONDS = 0.5  # A POST that was under way when the client was disabled.
PATIENCE_SECONDS, PATIENCE_FOR_EACH = 420.0, 0.01
PLAY_SECONDS = 60.0  # At least so long is written and killed.
GROUP = 25  # Patients in one transaction.
SHARE = "urn:fault"

TRANSACTION = {"resourceType": "Bundle", "type": "transaction"}

VICTIMS = ["worker-1", "worker-2", "relay", "redis", "mongod", "flush"]

# Of each twenty endpoints, how these behave until they are healed; the others behave well.
BEHAVIOUR = {3: "error", 6: "busy", 9: "slow", 12: "flapping", 15: "reset", 18: "down"}


@dataclass(slots=True)
class Arrival:
    """One POST that came in."""

    endpoint: int
    patient: str
    version: int
    time: float
    accepted: bool


@dataclass
class Receiver:
    """All the endpoints in one server, /in/<number>."""

    arrived: list[Arrival] = field(default_factory=list)
    healed: bool = False
    gone: int = -1
    port: int = 0
    down: int = 0
    heal: Callable[[], None] = lambda: None

    def url(self, endpoint: int) -> str:
        """Where an endpoint is; the port of one that is down does not listen until it is healed."""
        port = self.down if BEHAVIOUR.get(endpoint % 20) == "down" else self.port
        return f"http://127.0.0.1:{port}/in/{endpoint}"

    def status(self, endpoint: int) -> int:
        """What this endpoint answers now; 0 is a connection that is reset."""
        if endpoint == self.gone:
            return 410
        behaviour = "" if self.healed else BEHAVIOUR.get(endpoint % 20, "")
        if behaviour == "slow":
            time.sleep(1)
        if behaviour == "flapping":
            return 200 if int(time.time() / 3) % 2 else 502
        return {"error": 500, "busy": 429, "reset": 0}.get(behaviour, 200)


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A sender that is killed in the middle is what this is about."""


@contextmanager
def receiving() -> Iterator[Receiver]:
    received = Receiver()

    class Hook(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            bundle = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            patient = bundle["entry"][1]["resource"]
            endpoint, begun = int(self.path.rpartition("/")[2]), time.time()
            status = received.status(endpoint)
            version = int(patient["meta"]["versionId"])
            received.arrived.append(Arrival(endpoint, patient["id"], version, begun, 200 <= status < 300))
            if not status:
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.send_response(status)
            if status == 429:
                self.send_header("Retry-After", "2")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Silent."""

    servers: list[_Server] = []

    def listen(port: int) -> int:
        servers.append(_Server(("127.0.0.1", port), Hook))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return int(servers[-1].server_address[1])

    def heal() -> None:
        listen(received.down)
        received.healed = True

    received.port, received.down, received.heal = listen(0), embedded.free_port(), heal
    try:
        yield received
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


@dataclass
class Caller:
    """Calls the installation and goes on where it is just being killed."""

    running: Running
    tokens: dict[str, str] = field(default_factory=dict)

    def call(self, method: str, path: str, who: str, body: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {self.tokens[who]}", "Content-Type": "application/fhir+json"}
        data = json.dumps(body) if body is not None else None
        for _ in range(600):
            connection = http.client.HTTPConnection("127.0.0.1", self.running.port, timeout=20)
            try:
                connection.request(method, path, data, headers)
                answer = connection.getresponse()
                text = answer.read()
                if answer.status < 300:
                    return json.loads(text) if text else None
                if answer.status not in (409, 412, 500, 502, 503):
                    raise AssertionError(f"{method} {path}: {answer.status} {text[:500]!r}")
            except (OSError, http.client.HTTPException):
                pass
            finally:
                connection.close()
            time.sleep(0.1)
        raise AssertionError(f"{method} {path} was never answered")


@dataclass
class Run:
    """One fault run on a running installation."""

    running: Running
    receiver: Receiver
    events: int
    endpoints: int
    chance: random.Random

    def __post_init__(self) -> None:
        self.caller = Caller(self.running)
        self.authorizations: list[str] = []
        self.subscriptions: list[str] = []
        self.disabled: tuple[float, float] = (0.0, 0.0)
        self.killed: dict[str, int] = {}

    def prepare(self) -> None:
        """Two organizations, clients, and a subscription for each endpoint."""
        running, caller = self.running, self.caller
        self.hospital = running.cli("organization", "create", "Hospital", "--kind", "provider")
        acme = running.cli("organization", "create", "Acme", "--kind", "application")
        for name, organization in (("hospital", self.hospital), ("acme", acme)):
            running.cli("user", "create", f"{name}@example.org", "--organization", organization, "--role", "admin")
            caller.tokens[name] = running.cli("token", "--user", f"{name}@example.org")
        self.base = f"/1/health/organizations/{self.hospital}/fhir/4"
        for number in range(CLIENTS):
            self._client(number)
        for number in range(self.endpoints):
            self._subscription(number)
        self.receiver.gone = self.endpoints - 1

    def _client(self, number: int) -> None:
        made: dict[str, Any] = {"resourceType": "ClientApplication", "name": f"App {number}", "kind": "production"}
        made |= {"grantType": ["client_credentials"], "scope": SCOPE}
        client = self.caller.call("POST", f"{REGISTRY}/ClientApplication", "acme", made)
        asked = [
            {"name": "organization", "valueReference": {"reference": f"Organization/{self.hospital}"}},
            {"name": "reason", "valueString": "fault run"},
        ]
        path = f"{REGISTRY}/ClientApplication/{client['id']}/$request-authorization"
        body = {"resourceType": "Parameters", "parameter": asked}
        self.authorizations.append(self.caller.call("POST", path, "acme", body)["id"])
        self._step(number, "approve")
        self.caller.tokens[f"client {number}"] = self._token(client["id"], client["secret"])

    def _token(self, id: str, secret: str) -> str:
        form = f"grant_type=client_credentials&client_id={id}&client_secret={secret}"
        connection = http.client.HTTPConnection("127.0.0.1", self.running.port, timeout=20)
        connection.request("POST", "/oauth2/token", form, {"Content-Type": "application/x-www-form-urlencoded"})
        token: str = json.loads(connection.getresponse().read())["access_token"]
        connection.close()
        return token

    def _step(self, client: int, action: str) -> None:
        body = {"resourceType": "Parameters", "parameter": [{"name": "note", "valueString": "fault run"}]}
        path = f"{REGISTRY}/ClientAuthorization/{self.authorizations[client]}/${action}"
        self.caller.call("POST", path, "hospital", body)

    def _subscription(self, number: int) -> None:
        channel = {
            "type": "rest-hook",
            "endpoint": self.receiver.url(number),
            "payload": "application/fhir+json",
        }
        made = {"resourceType": "Subscription", "status": "requested", "reason": "fault run"}
        made["criteria"] = f"Patient?identifier={SHARE}|{number}"
        who = f"client {number % CLIENTS}"
        id = self.caller.call("POST", f"{self.base}/Subscription", who, {**made, "channel": channel})["id"]
        self.caller.call("POST", f"{self.base}/Subscription/{id}/$approve", "hospital")
        self.subscriptions.append(id)

    def play(self) -> None:
        """Writes patients while processes are killed; a client is disabled for the middle third."""
        stop = threading.Event()
        killer = threading.Thread(target=self._kill, args=(stop,))
        killer.start()
        try:
            patients = max(3 * GROUP, self.events // UPDATES)
            groups = [range(first, min(first + GROUP, patients)) for first in range(0, patients, GROUP)]
            for turn, group in enumerate(groups):
                self._write(group)
                time.sleep(max(0.0, PLAY_SECONDS / len(groups) - 0.2))
                if turn == len(groups) // 3:
                    self._step(0, "disable")
                    self.disabled = (time.time(), 0.0)
                if turn == 2 * len(groups) // 3:
                    self.disabled = (self.disabled[0], time.time())
                    self._step(0, "enable")
        finally:
            stop.set()
            killer.join()
        self.receiver.heal()

    def _write(self, group: range) -> None:
        """All versions of some patients, one version of each in a transaction."""
        for turn in range(UPDATES):
            entries = [
                {"resource": self._patient(number, turn), "request": {"method": "PUT", "url": f"Patient/p{number}"}}
                for number in group
            ]
            self.caller.call("POST", self.base, "hospital", {**TRANSACTION, "entry": entries})

    def _patient(self, number: int, turn: int) -> dict[str, Any]:
        share = {"system": SHARE, "value": str(number % self.endpoints)}
        gender = ("male", "female")[turn % 2]
        return {"resourceType": "Patient", "id": f"p{number}", "identifier": [share], "gender": gender}

    def _kill(self, stop: threading.Event) -> None:
        """Ends a process every few seconds, or empties Redis."""
        waiting: list[str] = []
        while not stop.wait(self.chance.uniform(1, 4)):
            waiting = waiting or self.chance.sample(VICTIMS, len(VICTIMS))
            name = waiting.pop()
            try:
                if name == "flush":
                    with redis.Redis.from_url(_known(self.running).redis_url) as connection:
                        connection.flushall()
                else:
                    kill(self.running.children()[name])
            except (KeyError, ProcessLookupError, redis.RedisError, ValueError, OSError):
                continue
            self.killed[name] = self.killed.get(name, 0) + 1

    def settle(self) -> None:
        """Waits until nothing waits any more."""
        patience = PATIENCE_SECONDS + PATIENCE_FOR_EACH * self.events
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if not self._left():
                return
            time.sleep(1)
        print(f"still waiting after {patience:.0f} s: {self._left()}", file=sys.stderr)

    def _left(self) -> int:
        deliveries = self.database.collection("NotificationDelivery").count_documents({"s.waiting": {"$exists": True}})
        return deliveries + self.database.collection("Patient").count_documents({"ev": {"$exists": True}})

    def check(self) -> dict[str, int]:
        """Every promise against what was stored and what arrived."""
        written = self._versions()
        by_endpoint: dict[int, list[Arrival]] = {}
        for arrival in sorted(self.receiver.arrived, key=lambda each: each.time):
            by_endpoint.setdefault(arrival.endpoint, []).append(arrival)
        lost = disorder = duplicates = 0
        for number in range(self.endpoints):
            accepted = [(a.patient, a.version) for a in by_endpoint.get(number, ()) if a.accepted]
            duplicates += len(accepted) - len(set(accepted))
            disorder += _disorder(by_endpoint.get(number, []))
            if number != self.receiver.gone:
                own = written.get(number, set())
                lost += len(own - set(accepted)) + self._gaps(number, len(own))
        return {
            "events": sum(map(len, written.values())),
            "deliveries": sum(arrival.accepted for arrival in self.receiver.arrived),
            "lost": lost,
            "out of order": disorder,
            "unauthorized": self._unauthorized(),
            "duplicates": duplicates,
        }

    def _versions(self) -> dict[int, set[tuple[str, int]]]:
        """Endpoint -> the versions of patients that it is to be told of."""
        found: dict[int, set[tuple[str, int]]] = {}
        for name in ("Patient", "Patient.history"):
            for document in self.database.collection(name).find({}, {"i": 1, "v": 1}):
                endpoint = int(document["i"][1:]) % self.endpoints
                found.setdefault(endpoint, set()).add((document["i"], document["v"]))
        return found

    def _gaps(self, number: int, events: int) -> int:
        """Numbers that a subscription's deliveries lack between 1 and the number of events."""
        waited = {"s.subscription": f"Subscription/{self.subscriptions[number]}"}
        documents = self.database.collection("NotificationDelivery").find(waited, {"i": 1})
        numbers = {int(document["i"].rpartition(".")[2]) for document in documents}
        return len(set(range(1, events + 1)) - numbers)

    def _unauthorized(self) -> int:
        begin, end = self.disabled[0] + GRACE_SECONDS, self.disabled[1]
        return sum(a.endpoint % CLIENTS == 0 and begin < a.time < end for a in self.receiver.arrived)

    @property
    def database(self) -> Database:
        """The installation's database."""
        if not hasattr(self, "_database"):
            url = _known(self.running).mongo_url
            self._database = Database(url, Settings().mongo_database)
        return self._database


def _known(running: Running) -> embedded.Embedded:
    """Where the installation's databases listen; they do, so `embedded.remembered` would look for other ports."""
    return embedded.Embedded(**json.loads((running.data / "embedded.json").read_text()))


def _disorder(arrivals: list[Arrival]) -> int:
    """How often a version of a patient came before the one before it was accepted."""
    reached: dict[str, int] = {}
    wrong = 0
    for arrival in arrivals:
        wrong += arrival.version > reached.get(arrival.patient, 0) + 1
        if arrival.accepted:
            reached[arrival.patient] = max(reached.get(arrival.patient, 0), arrival.version)
    return wrong


def run(events: int, endpoints: int, seed: int = 1) -> dict[str, int]:
    """Plays a fault run on an installation of its own and answers its figures."""
    with tempfile.TemporaryDirectory() as folder, receiving() as receiver:
        running = Running(Path(folder) / "data", {"FHIRSERVER_QUEUE_WORKERS": "2"}).start()
        try:
            play = Run(running, receiver, events, endpoints, random.Random(seed))
            play.prepare()
            play.play()
            play.settle()
            figures = play.check()
            print(f"killed: {dict(sorted(play.killed.items()))}", file=sys.stderr)
            return figures
        finally:
            running.stop(signal.SIGTERM)


def main() -> int:
    """The command; 0 where nothing was lost, out of order or unauthorized."""
    events = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    endpoints = int(sys.argv[2]) if len(sys.argv) > 2 else 50
    figures = run(events, endpoints)
    print(", ".join(f"{name} {number}" for name, number in figures.items()))
    return int(bool(figures["lost"] or figures["out of order"] or figures["unauthorized"]))


if __name__ == "__main__":
    sys.exit(main())
