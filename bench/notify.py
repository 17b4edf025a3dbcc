"""Measures notifications: from a commit to the receiver's answer, how many a second, and how an event is matched.

    make bench ONLY=notify.latency,notify.rate,notify.plain,match.10k

Relay and workers are the real processes; mongod and Redis are their own; the receiver answers at once. One JSON line a
figure: notify.latency (ms at 50 events a second), notify.rate (deliveries a second, two
workers), notify.plain (the same POSTs by RQ's own worker and requests), match.10k (ms an event).
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_network
from typing import Any

import requests
import rq
import yaml
from redis import Redis

from bench.figures import OUT, line
from bench.installation import ROOT, Servers
from fhirserver import app, embedded
from fhirserver.auth.principal import Principal
from fhirserver.fhir.definitions import Definitions
from fhirserver.fhir.json import decode, encode
from fhirserver.interactions.dispatch import dispatch
from fhirserver.interactions.indexing import entry_of
from fhirserver.interactions.model import Request, Server
from fhirserver.interactions.versions import stamped
from fhirserver.rules.organization import kind_concept
from fhirserver.search.index import indexer
from fhirserver.settings import Secret, Settings, bare_environ, folder
from fhirserver.store.model import Change
from fhirserver.subscriptions.criteria import FHIRPATH, Compiler
from fhirserver.subscriptions.match import Event, Subscriptions
from fhirserver.subscriptions.topics import Catalogue

EVENTS = int(os.environ.get("EVENTS", "2000"))
PACE = 50
WORKERS = 2
SUBSCRIPTIONS = 10


class Wired:
    """An installation with one hospital, subscriptions to a fast receiver, and the processes that notify it."""

    def __init__(self, servers: Servers, arrived: Any, port: int) -> None:
        self.arrived = arrived
        self.settings = Settings(
            data=servers.data,
            public_url="http://bench.example",
            mongo_url=Secret(servers.known.mongo_url),
            mongo_database=f"notify_{int(time.time())}",
            redis_url=Secret(servers.known.redis_url),
            master_key=Secret("a master key for measuring, not for people"),
            webhook_allow=(ip_network("127.0.0.0/8"),),
            log_level="error",
        )
        self.server = app.build(self.settings).server
        self.hospital = self._organization()
        self.base = self.server.base(self.hospital)
        self.port = port
        self.processes: list[subprocess.Popen[bytes]] = []

    def _organization(self) -> str:
        made = {"resourceType": "Organization", "active": True, "name": "Bench", "type": [kind_concept("provider")]}
        system = Principal("system", id="bench", operator=True)
        request = Request("create", "registry", self.server.base("registry"), system, type="Organization", body=made)
        return _id(dispatch(self.server, request))

    def subscribe(self, number: int, criteria: str) -> None:
        """A subscription of the hospital's own."""
        subscribe(self.server, self.hospital, self.port, number, criteria)

    def start(self) -> None:
        """Starts the relay and the workers."""
        environ = bare_environ() | self.settings.variables()
        for word in ("relay", *["worker"] * WORKERS):
            argv = [sys.executable, "-m", "fhirserver", word]
            self.processes.append(subprocess.Popen(argv, env=environ, stdin=subprocess.DEVNULL, cwd=ROOT))

    def stop(self) -> None:
        """Ends them."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(30)

    def commit(self, count: int) -> list[str]:
        """Writes new patients with their pending events in one transaction; their ids."""
        changes = [self._patient(number) for number in range(count)]
        self.server.store.commit(changes)
        return [change.id for change in changes]

    def _patient(self, number: int) -> Change:
        id, now = self.server.new_id(), self.server.now()
        now = now.replace(microsecond=now.microsecond // 1000 * 1000)
        patient = {"resourceType": "Patient", "active": True, "gender": ("male", "female")[number % 2]}
        complete = stamped({**patient, "name": [{"family": "Smith", "given": ["Anna"]}]}, id, 1, now)
        change = {"type": "Patient", "id": id, "version": 1, "action": "create"}
        event = {
            "id": self.server.new_id(),
            "t": now,
            "changes": [change],
            "names": ["create.patient"],
            "trigger": None,
        }
        text, entry = encode(complete).decode(), entry_of(self.server, complete, self.base)
        return Change(self.hospital, "Patient", id, 1, now, "POST", text, entry, event)

    def wait(self, count: int, seconds: float) -> list[tuple[str, float]]:
        """The first `count` arrivals, or those that came within so many seconds: patient and instant."""
        deadline = time.monotonic() + seconds
        found: list[tuple[str, float]] = []
        while len(found) < count and time.monotonic() < deadline:
            if self.arrived.empty():
                time.sleep(0.001)
            else:
                found.append(self.arrived.get())
        return found


def subscribe(server: Server, hospital: str, port: int, number: int, criteria: str) -> None:
    """A subscription of an organization's own to a receiver on this machine, approved."""
    channel = {
        "type": "rest-hook",
        "endpoint": f"http://127.0.0.1:{port}/in/{number}",
        "payload": "application/fhir+json",
    }
    made = {"resourceType": "Subscription", "status": "requested", "reason": "bench", "criteria": criteria}
    by = Principal("operator", id="o", organization=hospital, operator=True, scopes="system/*.cruds", name="o")
    base, body = server.base(hospital), {**made, "channel": channel}
    id = _id(dispatch(server, Request("create", hospital, base, by, type="Subscription", body=body)))
    dispatch(server, Request("operation", hospital, base, by, type="Subscription", id=id, operation="$approve"))


def latency(wired: Wired) -> None:
    """From the commit to the receiver's answer, at PACE events a second, one subscription."""
    wired.subscribe(0, "create.patient")
    wired.start()
    wired.commit(1)
    wired.wait(1, 60)
    time.sleep(3)
    committed: dict[str, float] = {}
    count = min(EVENTS, PACE * 20)
    begin = time.monotonic()
    for number in range(count):
        [id] = wired.commit(1)
        committed[id] = time.time()
        time.sleep(max(0.0, begin + (number + 1) / PACE - time.monotonic()))
    waits = sorted((at - committed[id]) * 1000 for id, at in wired.wait(count, 30) if id in committed)
    p50, p99 = waits[len(waits) // 2], waits[int(len(waits) * 0.99)]
    said = {"events": count, "arrived": len(waits), "pace": PACE, "to_reach": 50, "p99_to_reach": 250}
    line("notify.latency", p50, "ms", round(p50, 1), round(p99, 1), None, said)


def rate(wired: Wired) -> None:
    """Deliveries a second of events that wait already, two workers, several subscriptions."""
    for number in range(SUBSCRIPTIONS):
        wired.subscribe(number, "Patient?gender=" + ("male", "female")[number % 2])
    events = EVENTS // (SUBSCRIPTIONS // 2)
    for _ in range(0, events, 100):
        wired.commit(100)
    wired.start()
    wanted = events * SUBSCRIPTIONS // 2
    times = [at for _, at in wired.wait(wanted, 180)]
    steady = times[len(times) // 10 :]  # without the start of the processes
    value = (len(steady) - 1) / (steady[-1] - steady[0])
    said = {"deliveries": len(times), "of": wanted, "workers": WORKERS, "to_reach": 500}
    line("notify.rate", value, "deliveries/s", None, None, None, said)


def plain(servers: Servers, port: int) -> None:
    """The same number of POSTs by two of RQ's simple workers with requests, a job each."""
    connection = Redis.from_url(servers.known.redis_url)
    queue = rq.Queue("plain", connection=connection)
    url, body = f"http://127.0.0.1:{port}/in/0", b'{"entry":[{},{"resource":{"id":"x"}}]}'
    for _ in range(600):
        queue.enqueue("bench.notify.post", url, body, result_ttl=0)
    workers = [multiprocessing.Process(target=_work, args=(servers.known.redis_url,)) for _ in range(WORKERS)]
    begin = time.monotonic()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    line("notify.plain", 600 / (time.monotonic() - begin), "deliveries/s", None, None, None, {"workers": WORKERS})
    connection.close()


def post(url: str, body: bytes) -> None:
    """The job of the plain measurement."""
    requests.post(url, data=body, timeout=10)


def _work(url: str) -> None:
    connection = Redis.from_url(url)
    rq.SimpleWorker(["plain"], connection=connection).work(burst=True, logging_level="ERROR")


def match() -> None:
    """One event against 10,000 subscriptions over 50 types, 100 of them FHIRPath criteria on its type."""
    definitions = Definitions.load()
    catalogue = Catalogue.read(yaml.safe_load((folder("capability") / "topics" / "topics.yaml").read_text()))
    others = sorted(definitions.resource_types - {"Observation", "AuditEvent", "Subscription"})
    types = ["Observation", *random.Random(1).sample(others, 49)]
    subscriptions = [_asking(number, types[number % 50], number // 50) for number in range(10_000)]
    compiled = Subscriptions.compiled(Compiler(definitions, catalogue, {}), subscriptions)
    now: dict[str, Any] = {
        "resourceType": "Observation", "id": "o", "status": "final", "subject": {"reference": "Patient/p"},
        "code": {"coding": [{"system": "http://loinc.org", "code": "150-7"}]},
        "valueQuantity": {"value": 50, "unit": "g"},
    }  # fmt: skip
    before = {**now, "valueQuantity": {"value": 10, "unit": "g"}}
    index = indexer(definitions, "Observation")
    change = {"type": "Observation", "id": "o", "version": 2, "action": "update"}
    document = {"id": "e", "changes": [change], "names": [], "trigger": None}
    times, matched = [], 0
    for _ in range(200):
        begin = time.perf_counter()
        event = Event(document, lambda type, id, version: now if version == 2 else before, lambda *_: False, index)
        matched = len(compiled.matching(event))
        times.append((time.perf_counter() - begin) * 1000)
    times.sort()
    said = {"matched": matched, "subscriptions": len(subscriptions), "to_reach": 5}
    line("match.10k", times[100], "ms", round(times[100], 3), round(times[198], 3), None, said)


def _asking(number: int, type: str, row: int) -> dict[str, Any]:
    made: dict[str, Any] = {"resourceType": "Subscription", "id": f"s{number}", "criteria": f"{type}?_id=x{number}"}
    if type != "Observation":
        return made
    if row < 100:
        path = f"valueQuantity.value > {row} and %previous.valueQuantity.value < {row} and status = 'final'"
        return {**made, "criteria": "Observation", "extension": [{"url": FHIRPATH, "valueString": path}]}
    return {**made, "criteria": f"Observation?code=http://loinc.org|{row}-7&value-quantity=gt{row}"}


def _id(response: Any) -> str:
    return str(response.location).split("/_history/")[0].rpartition("/")[2]


def _receive(port: int, arrived: Any) -> None:
    """A receiver that costs as little as it can: answers at once and notes which patient came when."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
                body = await reader.readexactly(length)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                arrived.put((decode(body)["entry"][1]["resource"].get("id", ""), time.time()))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def forever() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", port)
        await server.serve_forever()

    asyncio.run(forever())


@contextmanager
def receiving() -> Iterator[tuple[int, Any]]:
    """The receiver's port and the queue of what arrived."""
    port, arrived = embedded.free_port(), multiprocessing.Queue()  # type: ignore[var-annotated]
    process = multiprocessing.Process(target=_receive, args=(port, arrived), daemon=True)
    process.start()
    try:
        yield port, arrived
    finally:
        process.kill()
        process.join()


def run(named: Sequence[str]) -> None:
    """Runs the figures named."""
    if "match" in named:
        match()
    if set(named) <= {"match"}:
        return
    servers = Servers(OUT / "data-notify", 0.5)
    servers.start()
    try:
        for name, measure in (("latency", latency), ("rate", rate)):
            if name in named:
                with receiving() as (port, arrived):
                    wired = Wired(servers, arrived, port)
                    try:
                        measure(wired)
                    finally:
                        wired.stop()
        if "plain" in named:
            with receiving() as (port, _):
                plain(servers, port)
    finally:
        servers.stop()


if __name__ == "__main__":
    run(sys.argv[1:] or ["match", "latency", "rate", "plain"])
