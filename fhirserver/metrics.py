"""What Prometheus asks for: what the processes of this machine counted, and how the installation stands. Served by the
relay on an address of its own, since it is for operators; it tells nothing of a patient, a user or a client.
"""

from __future__ import annotations

import hmac
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET, AF_INET6

from fhirserver import app
from fhirserver.exchange.operating import OPEN
from fhirserver.fhir.problem import Problem
from fhirserver.meters import FOLDER, OPENMETRICS, PLAIN, Ledger, Meter, Sample, exposition, read
from fhirserver.settings import Settings
from fhirserver.store import standing
from fhirserver.store.formats import FORMAT
from fhirserver.store.spool import unshipped

log = logging.getLogger(__name__)
FRESH_SECONDS = 5.0
"""For how long what was looked at is told again."""
SHARE = 20
"""Looking takes at most one part in so many of the time, however often it is asked for."""
MOST_AT_ONCE = 8
SOCKET_SECONDS = 5.0
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def counting(installation: app.Installation, kind: str) -> Ledger:
    """Writes what this process counts into the data folder; `kind` says what it is."""
    return Ledger(installation.settings.data / FOLDER, kind, installation.server.meter)


class Look:
    """How the installation stands, looked at anew when somebody asks and the last look is old."""

    def __init__(self, installation: app.Installation) -> None:
        self._installation = installation
        self._lock = threading.Lock()
        self._gauges: list[Sample] = []
        self._until = 0.0

    def text(self, openmetrics: bool) -> str:
        """All metrics as text."""
        meter = Meter()
        gauges = [*self._now(), *self._processes(meter)]
        return exposition(meter, gauges, openmetrics=openmetrics)

    def _now(self) -> list[Sample]:
        with self._lock:
            begun = time.monotonic()
            if begun >= self._until:
                self._gauges = list(self._looked())
                took = time.monotonic() - begun
                self._gauges.append(("scrape_seconds", (), took))
                self._until = time.monotonic() + max(FRESH_SECONDS, SHARE * took)
            return self._gauges

    def _looked(self) -> Iterator[Sample]:
        server = self._installation.server
        yield "build_info", (("version", server.software), ("format", str(FORMAT))), 1
        yield "audit_spool_bytes", (), unshipped(self._installation.settings.data / app.SPOOL)
        yield from self._queue()
        try:
            took, _, _ = standing.reach(server.store.database)
            relay = standing.held(server.store.database, "relay")
            yield _up("relay", relay)
            yield "database_seconds", (), took / 1000
            yield from self._waiting()
            yield from self._open()
            yield _up("database", True)
        except Problem as trouble:  # what could be told before it went is told
            log.warning("the database could not be asked for metrics: %s", trouble.issues[0].code)
            yield _up("database", False)

    def _queue(self) -> Iterator[Sample]:
        queue = self._installation.queue
        depth = queue.depth() if queue else None
        yield _up("queue", depth is not None)
        workers = len(queue.workers()) if queue else 0
        yield _up("workers", workers > 0)
        yield "workers", (), workers
        if depth is not None:
            yield "jobs_waiting", (), depth

    def _waiting(self) -> Iterator[Sample]:
        server = self._installation.server
        database, now = server.store.database, server.now()
        for what, found in (("outbox", standing.outbox(database)), ("seals", standing.unsealed(database))):
            yield "waiting", (("what", what),), found.count
            yield "waiting_oldest_seconds", (("what", what),), _age(found.oldest, now)
        yield "waiting", (("what", "errands"),), standing.kept(database, "errands")

    def _open(self) -> Iterator[Sample]:
        """By type and status, by organization too only where a setting asks for it."""
        server, apart = self._installation.server, self._installation.settings.metrics_organizations == "yes"
        now = server.now()
        for type, statuses in OPEN.items():
            # What is never open has a line too, so that an alert can tell nothing from no answer.
            found: dict[tuple[tuple[str, str], ...], tuple[int, float]] = {
                (("type", type), ("status", status)): (0, 0.0) for status in statuses
            }
            for organization, status, waiting in standing.open_work(server.store, type, statuses):
                labels = (("type", type), ("status", status), *((("organization", organization),) if apart else ()))
                count, oldest = found.get(labels, (0, 0.0))
                found[labels] = count + waiting.count, max(oldest, _age(waiting.oldest, now))
            for labels, (count, oldest) in found.items():
                yield "open", labels, count
                yield "open_oldest_seconds", labels, oldest

    def _processes(self, meter: Meter) -> Iterator[Sample]:
        living = [each for each in read(self._installation.settings.data / FOLDER, meter) if each.lives]
        for kind in sorted({each.kind for each in living}):
            yield "processes", (("process", kind),), sum(each.kind == kind for each in living)
        for each in living:
            labels = (("process", each.kind), ("pid", str(each.pid)))
            yield "process_resident_memory_bytes", labels, each.memory
            yield "process_start_time_seconds", labels, each.began


@contextmanager
def served(installation: app.Installation) -> Iterator[None]:
    """Answers GET /metrics for the length of a `with`, where a port is set. A port that is taken is logged: whoever
    watches misses the answers, and the relay does its work.
    """
    settings = installation.settings
    if not settings.metrics_port:
        yield
        return
    try:
        door = _Door(settings, Look(installation))
    except OSError as trouble:
        log.error("metrics cannot be served on port %s: %s", settings.metrics_port, trouble.strerror)
        yield
        return
    if not settings.metrics_token and settings.metrics_host not in LOOPBACK:
        log.warning("metrics are told to whoever reaches their port: set FHIRSERVER_METRICS_TOKEN or mind the network")
    thread = threading.Thread(target=door.serve_forever, daemon=True, name="metrics")
    thread.start()
    try:
        yield
    finally:
        door.shutdown()
        door.server_close()
        thread.join()


class _Door(ThreadingHTTPServer):
    """The address of the metrics. So many are answered at once, whoever comes beyond that is closed."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, settings: Settings, look: Look) -> None:
        self.address_family = AF_INET6 if ":" in settings.metrics_host else AF_INET
        self.look, self.token = look, settings.metrics_token.reveal()
        self._room = threading.BoundedSemaphore(MOST_AT_ONCE)
        super().__init__((settings.metrics_host, settings.metrics_port), _Asked)

    def process_request(self, request, client_address) -> None:  # type: ignore[no-untyped-def]  # as the library has it
        if not self._room.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request, client_address) -> None:  # type: ignore[no-untyped-def]  # the same
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request, client_address) -> None:  # type: ignore[no-untyped-def]  # the same
        log.warning("a request for metrics could not be answered", exc_info=True)


class _Asked(BaseHTTPRequestHandler):
    """One request."""

    server: _Door
    timeout = SOCKET_SECONDS
    server_version, sys_version = "fhirserver", ""

    def do_GET(self) -> None:
        if self.path.partition("?")[0] != "/metrics":
            return self._answer(404, "ask for /metrics\n")
        if self.server.token and not hmac.compare_digest(
            self.headers.get("Authorization", "").encode(), f"Bearer {self.server.token}".encode()
        ):
            return self._answer(401, "this needs the token in FHIRSERVER_METRICS_TOKEN\n")
        openmetrics = "application/openmetrics-text" in self.headers.get("Accept", "")
        return self._answer(200, self.server.look.text(openmetrics), OPENMETRICS if openmetrics else PLAIN)

    def _answer(self, status: int, text: str, kind: str = PLAIN) -> None:
        body = text.encode()
        self.send_response(status)
        if status == 401:
            self.send_header("WWW-Authenticate", "Bearer")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Who asked is nobody's business."""


def _up(part: str, answers: bool) -> Sample:
    return "up", (("part", part),), int(answers)


def _age(oldest: datetime | None, now: datetime) -> float:
    return max(0.0, (now - oldest).total_seconds()) if oldest else 0.0
