"""Measures HL7v2 intake: mapping alone, intake to a durable acknowledgment, and a message's whole way into the store.

    make bench ONLY=hl7v2.transform,hl7v2.ack,hl7v2.pipeline

Listener, workers, relay and a receiver of notifications are real processes; mongod and Redis are their own. One JSON
line a figure: hl7v2.transform (messages a second on one core, of process time, the slowest of three; what parsing
alone does, ours and the two of the package index), hl7v2.ack (16 connections, and one), hl7v2.pipeline (messages
stored as resources, matched and queued for delivery a second, the CPU of each process for a message, and the memory
of each along the run).
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
import timeit
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import Any

import hl7
from hl7apy.parser import parse_message
from redis import Redis

from bench.figures import OUT, line
from bench.installation import ROOT, Servers, cpu_seconds, resident_mb
from bench.notify import receiving, subscribe
from fhirserver import app, embedded
from fhirserver.auth.access import everything
from fhirserver.fhir.definitions import Definitions
from fhirserver.hl7v2.mapping import Context, load, to_bundle
from fhirserver.hl7v2.message import Message
from fhirserver.hl7v2.send import Connection
from fhirserver.hl7v2.senders import endpoint_resource
from fhirserver.local import _create
from fhirserver.rules.organization import kind_concept
from fhirserver.search.parse import parse as parse_query
from fhirserver.settings import Secret, Settings, bare_environ, folder
from fhirserver.store.search import compile_search, total

REFERENCE = ROOT / "examples" / "hl7v2" / "reference"
NAMES = ("adt-a01", "siu-s12", "orm-o01")
MESSAGES = int(os.environ.get("MESSAGES", "3000"))
WORKERS = int(os.environ.get("WORKERS", "1"))
TENTHS = 10
PATIENCE_SECONDS = 1_800
CONTEXT = Context("bench", "https://bench.example/namespace/", datetime(2026, 9, 14, tzinfo=UTC), "America/Los_Angeles")


def message(name: str) -> bytes:
    """One of the reference messages."""
    return (REFERENCE / f"{name}.hl7").read_bytes()


def numbered(raw: bytes, number: int, patients: int) -> bytes:
    """The reference admission as message `number`, of one of so many patients: each with numbers of its own, since
    patients that share any number are the same one.
    """
    patient = b"%05d" % (number % patients)
    own = {
        b"700100": b"7" + patient,
        b"8842190": b"88" + patient,
        b"S77001": b"S" + patient,
        b"V-9001": b"V7" + patient,
    }
    own |= {b"ACC-77": b"ACC-" + patient, b"POL-1": b"POL-" + patient, b"SUB-2": b"SUB-" + patient}
    raw = raw.replace(b"REF-ADT-1", b"M%09d" % number)
    for given, made in own.items():
        raw = raw.replace(given, made)
    return raw


def best(work: Callable[[], object], number: int = 20, repeat: int = 60) -> float:
    """Runs a second of process time: the best of many short runs, since other work on the machine only makes it
    slower.
    """
    gc.collect()
    gc.freeze()
    return number / min(timeit.repeat(work, number=number, repeat=repeat, timer=time.process_time))


def parsed() -> dict[str, float]:
    """Messages a second that are only parsed: by us, and by the two of the package index."""
    raw = message("adt-a01")
    text = raw.decode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "parse": round(best(lambda: Message.parse(raw))),
            "parse_python_hl7": round(best(lambda: hl7.parse(text), 5, 10)),
            "parse_hl7apy": round(best(lambda: parse_message(text, find_groups=False), 1, 3), 1),
        }


def transform() -> None:
    """Parsing and mapping to the message Bundle, on one core."""
    maps = load(folder("mappings"), Definitions.load())
    said: dict[str, Any] = {}
    for name in NAMES:
        raw = message(name)
        entries = len(to_bundle(maps, Message.parse(raw), CONTEXT).bundle["entry"])
        rate = best(lambda raw=raw: to_bundle(maps, Message.parse(raw), CONTEXT))
        said[name] = {"rate": round(rate), "bytes": len(raw), "entries": entries}
    least = min(each["rate"] for each in said.values())
    line("hl7v2.transform", least, "messages/s", 1000 / least, None, None, said | parsed() | {"to_reach": 1_000})


class Hospital:
    """An installation with one hospital whose messages the listener takes."""

    def __init__(self, servers: Servers) -> None:
        self.servers = servers
        self.settings = Settings(
            data=servers.data,
            public_url="http://bench.example",
            mongo_url=Secret(servers.known.mongo_url),
            mongo_database=f"hl7v2_{int(time.time())}",
            redis_url=Secret(servers.known.redis_url),
            master_key=Secret("a master key for measuring, not for people"),
            mllp_port=embedded.free_port(),
            webhook_allow=(ip_network("127.0.0.0/8"),),
            log_level="error",
        )
        with Redis.from_url(servers.known.redis_url) as queue:
            queue.flushall()  # what an earlier run has left waits for messages of another database
        self.server = app.build(self.settings).server
        made = {"resourceType": "Organization", "active": True, "name": "Bench", "type": [kind_concept("provider")]}
        self.organization = _create(self.server, made)
        _create(self.server, endpoint_resource(self.organization, "", "", True))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, *words: str) -> Hospital:
        """Starts the processes of these names; waits for the listener where it is one of them."""
        environ = bare_environ() | self.settings.variables()
        for word in words:
            argv = [sys.executable, "-m", "fhirserver", word]
            name = f"{word}-{len(self.processes)}"
            self.processes[name] = subprocess.Popen(argv, env=environ, stdin=subprocess.DEVNULL, cwd=ROOT)
        deadline = time.monotonic() + 60
        while "mllp" in words and time.monotonic() < deadline:
            try:
                self.connect().close()
                return self
            except OSError:
                time.sleep(0.1)
        return self

    def stop(self) -> None:
        """Ends them."""
        for process in self.processes.values():
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes.clear()

    def connect(self) -> Connection:
        return Connection("127.0.0.1", self.settings.mllp_port, timeout=60)

    def count(self, status: str) -> int:
        """How many messages have a status."""
        return self.total("InboundMessage", [("status", status)])

    def total(self, type: str, asked: list[tuple[str, str]]) -> int:
        """How many resources of a type there are for a search."""
        query = parse_query(self.server.definitions, type, asked)
        search = compile_search(self.server.store, everything(self.organization), type, query.clauses, None)
        return total(self.server.store, search, 1_000_000).count if search else 0

    def resident(self) -> dict[str, int]:
        """Megabytes that each process has in memory, by its name."""
        return {name: round(resident_mb(process.pid)) for name, process in self.processes.items()}

    def spent(self) -> dict[str, float]:
        """Seconds of CPU that each process and mongod have used, by its name."""
        found = {name: cpu_seconds(process.pid) for name, process in self.processes.items()}
        return found | {"mongod": self.servers.mongod_cpu()}

    def send(self, first: int, count: int, connections: int, patients: int) -> tuple[float, list[float]]:
        """Sends messages over so many connections, each waiting for its answer: the seconds, and each wait in ms."""
        raw, waits = message("adt-a01"), []
        each = count // connections

        def work(number: int) -> None:
            with self.connect() as connection:
                for offset in range(each):
                    begin = time.perf_counter()
                    answer = connection.send(numbered(raw, first + number * each + offset, patients))
                    assert b"MSA|AA" in answer, answer
                    waits.append((time.perf_counter() - begin) * 1000)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(connections)]
        begin = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return time.perf_counter() - begin, sorted(waits)


def ack(hospital: Hospital) -> None:
    """Intake to the durable acknowledgment: the sender and everything else on the same machine."""
    hospital.start("mllp")
    hospital.send(0, 200, 4, 1_000)
    found = []
    for connections, count in ((16, MESSAGES), (1, max(200, MESSAGES // 10))):
        taken, waits = hospital.send(1_000 + connections * 100_000, count, connections, 1_000)
        found.append((len(waits) / taken, round(waits[len(waits) // 2], 2), round(waits[int(len(waits) * 0.99)], 2)))
    (many, p50, p99), (one, one_p50, one_p99) = found
    said = {"connections": 16, "messages": MESSAGES, "to_reach": 1_500, "over_one_to_reach": 300}
    said |= {
        "over_one": round(one, 1),
        "over_one_p50_ms": one_p50,
        "over_one_p99_ms": one_p99,
        "over_one_to_reach": 300,
    }
    line("hl7v2.ack", many, "messages/s", p50, p99, None, said)
    hospital.stop()


def pipeline(hospital: Hospital) -> None:
    """From the queue into the store: matched, merged, superseded versions, Provenance, event, subscriptions matched
    and the notification queued; messages that wait already.
    """
    hospital.start("mllp")
    hospital.send(5_000_000, MESSAGES, 16, 400)
    waiting = hospital.count("received")
    with receiving() as (port, _):
        subscribe(hospital.server, hospital.organization, port, 0, "Patient?gender=female")
        hospital.start(*["worker"] * WORKERS, "relay")
        deadline = time.monotonic() + 60
        while hospital.count("received") > waiting * 0.9:
            if time.monotonic() > deadline:
                found = {each: hospital.count(each) for each in ("received", "processed", "mapping-error", "failed")}
                raise SystemExit(f"the messages are not worked on: {found}")
            time.sleep(0.2)
        drained = _drained(hospital, waiting)
        queued = _settled(lambda: hospital.total("NotificationDelivery", []))
    said: dict[str, Any] = {"messages": waiting, "workers": WORKERS, "cpu_ms": drained.cpu, "mb": drained.along}
    said |= {"mb_after": hospital.resident(), "failed": hospital.count("mapping-error,failed"), "deliveries": queued}
    line("hl7v2.pipeline", drained.rate, "messages/s", None, None, None, said | {"to_reach": 120})
    hospital.stop()


@dataclass
class Drained:
    """What waited, and is processed: messages a second, milliseconds of CPU a message of each process, and the
    megabytes of each in TENTHS steps along the way.
    """

    rate: float
    cpu: dict[str, float]
    along: dict[str, list[int]]


def _drained(hospital: Hospital, waiting: int) -> Drained:
    """Waits until nothing is `received` any more."""
    begin, at, spent = time.perf_counter(), hospital.count("received"), hospital.spent()
    left, along = at, [hospital.resident()]
    while left and time.perf_counter() - begin < PATIENCE_SECONDS:
        time.sleep(0.5)
        left = hospital.count("received")
        if left <= at - waiting / TENTHS * len(along):
            along.append(hospital.resident())
    done, taken = at - left, time.perf_counter() - begin
    cpu = {name: round(1000 * (used - spent[name]) / done, 2) for name, used in hospital.spent().items()}
    return Drained(done / taken, cpu, {name: [each[name] for each in along] for name in along[0]})


def _settled(count: Callable[[], int]) -> int:
    """A number that has stopped growing."""
    found, last = count(), -1
    while found != last:
        time.sleep(2)
        found, last = count(), found
    return found


def run(wanted: Sequence[str]) -> None:
    """Runs the figures named."""
    if "transform" in wanted:
        transform()
    chosen = [work for name, work in (("ack", ack), ("pipeline", pipeline)) if name in wanted]
    if not chosen:
        return
    servers = Servers(OUT / "data-hl7v2", 0.5).start()
    try:
        for work in chosen:
            hospital = Hospital(servers)
            try:
                work(hospital)
            finally:
                hospital.stop()
    finally:
        servers.stop()


if __name__ == "__main__":
    run(sys.argv[1:] or ["transform", "ack", "pipeline"])
