"""The servers that are measured: mongod, Redis, the web server of an installation, and the bare ceiling beside it."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import people
from fhirserver import app, embedded, local
from fhirserver.fhir.json import encode
from fhirserver.settings import Secret, Settings, bare_environ
from fhirserver.store import bootstrap
from fhirserver.store.database import Database
from fhirserver.store.spool import unshipped

ROOT = Path(__file__).resolve().parents[1]
TICKS = os.sysconf("SC_CLK_TCK")
RELAY_SECONDS = 3.0  # until it has started


@dataclass
class Servers:
    """mongod and Redis on a data folder of their own."""

    data: Path
    cache_gb: float
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self) -> Servers:
        """Starts both and waits until they answer."""
        self.data.mkdir(parents=True, exist_ok=True)
        self.known = embedded.remembered(self.data)
        self._run(embedded.mongod(self.data, self.known, self.cache_gb))
        bootstrap.initiate(self.known.mongo_port, self.known.password)
        self._run(embedded.redis(self.data, self.known))
        embedded.wait_for_redis(self.known)
        return self

    def _run(self, argv: list[str]) -> None:
        self.processes.append(subprocess.Popen(argv, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL))

    def stop(self) -> None:
        """Ends both and waits for it."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(60)

    def mongod_cpu(self) -> float:
        """Seconds of CPU that mongod has used."""
        return cpu_seconds(self.processes[0].pid)


@dataclass
class Installation:
    """An installation in one database: an organization with data, a client with an access token, a web server."""

    servers: Servers
    database: str
    patients: int
    observations: int

    def __post_init__(self) -> None:
        self.port = embedded.free_port()
        self.settings = Settings(
            data=self.servers.data,
            port=self.port,
            public_url=f"http://127.0.0.1:{self.port}",
            mongo_url=Secret(self.servers.known.mongo_url),
            mongo_database=self.database,
            redis_url=Secret(self.servers.known.redis_url),
            master_key=Secret("a master key for measuring, not for people"),
            log_level="error",
            token_lifetime=86_400,
        )

    def ready(self) -> Installation:
        """Loads the data where it is not there yet, and starts the web server."""
        memory = self.servers.data / f"{self.database}.json"
        known = json.loads(memory.read_text()) if memory.exists() else {}
        self.organization = known.get("organization") or local.create_organization(self.settings, "General", "provider")
        if "loaded" not in known:
            known = {"organization": self.organization, "loaded": self._load()}
            memory.write_text(json.dumps(known))
        self.load_rate: float = known["loaded"]
        self.start()
        try:
            self.token = self._client_token()
        except BaseException:
            self.stop()
            raise
        return self

    def _load(self) -> float:
        """Resources a second of the bulk loader."""
        size = f"{self.patients}-{self.observations}"
        path = people.write(self.servers.data / f"people-{size}.ndjson.gz", self.patients, self.observations)
        begin = time.monotonic()
        done = local.load(self.settings, [path], self.organization, True, lambda so_far: None)
        if done.refused or not done.stored:
            raise SystemExit(f"the load went wrong: {done}")
        return done.stored / (time.monotonic() - begin)

    def start(self) -> float:
        """Starts the web server; seconds until it answered a request for the first time."""
        argv = [sys.executable, "-m", "fhirserver", "web"]
        environ = bare_environ() | self.settings.variables()
        begin = time.monotonic()
        self.process = subprocess.Popen(argv, env=environ, stdin=subprocess.DEVNULL, cwd=ROOT)
        wait_for(self.port, f"{self.base}/metadata?_summary=true", self.process)
        return time.monotonic() - begin

    def unshipped(self) -> int:
        """How many bytes of audit records wait in the spool."""
        return unshipped(self.settings.data / app.SPOOL)

    def records(self) -> int:
        """How many audit records are in the database."""
        database = Database(self.settings.mongo_url.reveal(), self.database)
        try:
            return database.collection("AuditEvent").estimated_document_count()
        finally:
            database.close()

    def stop(self) -> None:
        """Ends the web server."""
        self.process.terminate()
        self.process.wait(30)

    @contextmanager
    def relay(self) -> Iterator[Callable[[], float]]:
        """With the relay beside the web server: audit records go from the spool into the database. Gives what tells the
        seconds of CPU that it has used.
        """
        environ = bare_environ() | self.settings.variables()
        argv = [sys.executable, "-m", "fhirserver", "relay"]
        process = subprocess.Popen(argv, env=environ, stdin=subprocess.DEVNULL, cwd=ROOT)
        try:
            time.sleep(RELAY_SECONDS)
            yield lambda: tree_cpu_seconds(process.pid)
        finally:
            process.terminate()
            process.wait(60)

    @property
    def base(self) -> str:
        """The path of the organization's base."""
        return f"/1/health/organizations/{self.organization}/fhir/4"

    def _client_token(self) -> str:
        """The access token of a client that the organization has approved: what an application really sends."""
        registry = "/1/health/fhir/4"
        owner = local.create_organization(self.settings, "Applications", "application")
        email = f"{owner}@bench.example"
        local.create_user(self.settings, email, owner, "admin")
        hospital = f"{self.organization}@bench.example"
        local.create_user(self.settings, hospital, self.organization, "admin")
        acting, approving = (local.user_token(self.settings, each) for each in (email, hospital))
        client = {
            "resourceType": "ClientApplication",
            "name": "Bench",
            "kind": "production",
            "grantType": ["client_credentials"],
            "scope": "system/*.cruds",
        }
        made = self.call("POST", f"{registry}/ClientApplication", acting, client)
        asked = _parameters(
            {"name": "organization", "valueReference": {"reference": f"Organization/{self.organization}"}},
            {"name": "reason", "valueString": "for measuring"},
        )
        requested = self.call(
            "POST", f"{registry}/ClientApplication/{made['id']}/$request-authorization", acting, asked
        )
        note = _parameters({"name": "note", "valueString": "for measuring"})
        self.call("POST", f"{registry}/ClientAuthorization/{requested['id']}/$approve", approving, note)
        form = f"grant_type=client_credentials&client_id={made['id']}&client_secret={made['secret']}"
        answer = self.call("POST", "/oauth2/token", "", form.encode(), "application/x-www-form-urlencoded")
        return str(answer["access_token"])

    def answered(self, path: str, timeout: float = 300.0) -> None:
        """Returns when GET `path` is answered with 200: the first search by a parameter builds its index."""
        deadline = time.monotonic() + timeout
        while self._status(path) != 200:
            if time.monotonic() > deadline:
                raise SystemExit(f"{path} is not answered")
            time.sleep(1)

    def _status(self, path: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", path, headers={"Authorization": f"Bearer {self.token}"})
        return connection.getresponse().status

    def call(
        self, method: str, path: str, token: str, body: Any = None, kind: str = "application/fhir+json"
    ) -> dict[str, Any]:
        """One request; ends the run where it is refused."""
        data = body if isinstance(body, bytes) or body is None else encode(body)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Content-Type": kind} | ({"Authorization": f"Bearer {token}"} if token else {})
        connection.request(method, path, data, headers)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status >= 400:
            raise SystemExit(f"{method} {path}: {answer.status} {text[:500]!r}")
        found: dict[str, Any] = json.loads(text)
        return found

    def cpu(self) -> float:
        """Seconds of CPU that the web server and its workers have used."""
        return tree_cpu_seconds(self.process.pid)


class Bare:
    """The ceiling: a bare Flask application on the same WSGI server, with the same MongoDB calls and nothing else."""

    def __init__(self, installation: Installation) -> None:
        self.port = embedded.free_port()
        environ = bare_environ() | {
            "BARE_PORT": str(self.port),
            "BARE_URL": installation.servers.known.mongo_url,
            "BARE_DATABASE": installation.database,
            "BARE_ORGANIZATION": installation.organization,
            "BARE_WORKERS": str(installation.settings.workers),
            "BARE_THREADS": str(installation.settings.threads),
        }
        argv = [sys.executable, "-m", "bench.bare"]
        self.process = subprocess.Popen(argv, env=environ, stdin=subprocess.DEVNULL, cwd=ROOT)
        wait_for(self.port, "/ping", self.process)

    def stop(self) -> None:
        """Ends it."""
        self.process.terminate()
        self.process.wait(30)

    def cpu(self) -> float:
        """Seconds of CPU that it has used."""
        return tree_cpu_seconds(self.process.pid)


class Unaudited:
    """The same web server on the same data, keeping no audit records: a switch of the bench, which no setting has."""

    def __init__(self, installation: Installation) -> None:
        self.port = embedded.free_port()
        variables = installation.settings.variables() | {"FHIRSERVER_PORT": str(self.port)}
        argv = [sys.executable, "-m", "bench.unaudited"]
        self.process = subprocess.Popen(argv, env=bare_environ() | variables, stdin=subprocess.DEVNULL, cwd=ROOT)
        wait_for(self.port, f"{installation.base}/metadata?_summary=true", self.process)

    def stop(self) -> None:
        """Ends it."""
        self.process.terminate()
        self.process.wait(30)

    def cpu(self) -> float:
        """Seconds of CPU that it has used."""
        return tree_cpu_seconds(self.process.pid)


def wait_for(port: int, path: str, process: subprocess.Popen[bytes], timeout: float = 60.0) -> None:
    """Returns when GET `path` answers 200."""
    deadline = time.monotonic() + timeout
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        if time.monotonic() > deadline or process.poll() is not None:
            raise SystemExit(f"nothing answers on port {port}")
        time.sleep(0.005)


def tree(pid: int) -> list[int]:
    """A process and those below it."""
    below = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            below += tree(int(child))
    return below


def tree_cpu_seconds(pid: int) -> float:
    """Seconds of CPU of a process and those below it."""
    return sum(cpu_seconds(each) for each in tree(pid))


def cpu_seconds(pid: int) -> float:
    """Seconds of CPU of a process."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / TICKS


def resident_mb(pid: int) -> float:
    """Megabytes of memory of this process that are in use (resident set size)."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _parameters(*parameter: dict[str, Any]) -> dict[str, Any]:
    return {"resourceType": "Parameters", "parameter": list(parameter)}


__all__ = ["Bare", "Installation", "Servers", "Unaudited", "cpu_seconds", "resident_mb", "tree"]
