"""Measures HL7v2 intake: mapping alone, intake to a durable acknowledgment, and a message's whole way into the store.

    python -m bench.hl7v2 [parse] [transform] [ack] [pipeline]

Listener and workers are the real processes; mongod and Redis are their own. One JSON line a figure, as bench.run
writes them: hl7v2.parse and the parsers beside it, hl7v2.transform (messages a second on one core, of process time),
hl7v2.ack (16 connections and one), hl7v2.pipeline (messages stored as resources a second, and the memory of the
worker before and after).
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
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hl7
from hl7apy.parser import parse_message

from bench.installation import ROOT, Servers, resident_mb
from bench.run import OUT, _line
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
CONTEXT = Context("bench", "https://bench.example/namespace/", datetime(2026, 9, 14, tzinfo=UTC), "America/Los_Angeles")


def message(name: str) -> bytes:
    """One of the reference messages."""
    return (REFERENCE / f"{name}.hl7").read_bytes()


def numbered(raw: bytes, number: int, patients: int) -> bytes:
    """The reference admission as message `number`, of one of so many patients."""
    patient = b"7%05d" % (number % patients)
    return raw.replace(b"REF-ADT-1", b"M%09d" % number).replace(b"700100", patient).replace(b"V-9001", b"V" + patient)


def best(work: Callable[[], object], number: int = 20, repeat: int = 60) -> float:
    """Runs a second of process time: the best of many short runs, since other work on the machine only makes it
    slower.
    """
    gc.collect()
    gc.freeze()
    return number / min(timeit.repeat(work, number=number, repeat=repeat, timer=time.process_time))


def parse() -> None:
    """Our parser, and the two of the package index beside it."""
    raw = message("adt-a01")
    text = raw.decode()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        beside = {
            "python-hl7": round(best(lambda: hl7.parse(text), 5, 10)),
            "hl7apy": round(best(lambda: parse_message(text, find_groups=False), 1, 3), 1),
        }
    _line("hl7v2.parse", best(lambda: Message.parse(raw)), "messages/s", None, None, None, beside)


def transform() -> None:
    """Parsing and mapping to the message Bundle, on one core."""
    maps = load(folder("mappings"), Definitions.load())
    for name in NAMES:
        raw = message(name)
        entries = len(to_bundle(maps, Message.parse(raw), CONTEXT).bundle["entry"])
        rate = best(lambda raw=raw: to_bundle(maps, Message.parse(raw), CONTEXT))
        said = {"bytes": len(raw), "entries": entries, "to_reach": 1_000}
        _line(f"hl7v2.transform.{name}", rate, "messages/s", 1000 / rate, None, None, said)


class Hospital:
    """An installation with one hospital whose messages the listener takes."""

    def __init__(self, servers: Servers) -> None:
        self.settings = Settings(
            data=servers.data,
            public_url="http://bench.example",
            mongo_url=Secret(servers.known.mongo_url),
            mongo_database=f"hl7v2_{int(time.time())}",
            redis_url=Secret(servers.known.redis_url),
            master_key=Secret("a master key for measuring, not for people"),
            mllp_port=embedded.free_port(),
            log_level="error",
        )
        self.server = app.build(self.settings).server
        made = {"resourceType": "Organization", "active": True, "name": "Bench", "type": [kind_concept("provider")]}
        self.organization = _create(self.server, made)
        _create(self.server, endpoint_resource(self.organization, "", "", True))
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, *words: str) -> Hospital:
        """Starts the processes of these names; waits for the listener where it is one of them."""
        environ = bare_environ() | self.settings.variables()
        for word in words:
            argv = [sys.executable, "-m", "fhirserver", word]
            self.processes.append(subprocess.Popen(argv, env=environ, stdin=subprocess.DEVNULL, cwd=ROOT))
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
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            process.wait(30)
        self.processes.clear()

    def connect(self) -> Connection:
        return Connection("127.0.0.1", self.settings.mllp_port, timeout=60)

    def count(self, status: str) -> int:
        """How many messages have a status."""
        query = parse_query(self.server.definitions, "InboundMessage", [("status", status)])
        access = everything(self.organization)
        search = compile_search(self.server.store, access, "InboundMessage", query.clauses, None)
        return total(self.server.store, search, 1_000_000).count if search else 0

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
    for connections, count, goal in ((16, MESSAGES, 1_500), (1, max(200, MESSAGES // 10), 300)):
        taken, waits = hospital.send(1_000 + connections * 100_000, count, connections, 1_000)
        p50, p99 = waits[len(waits) // 2], waits[int(len(waits) * 0.99)]
        said = {"connections": connections, "messages": len(waits), "to_reach": goal}
        rate = len(waits) / taken
        _line(f"hl7v2.ack.{connections}", rate, "messages/s", round(p50, 2), round(p99, 2), None, said)
    hospital.stop()


def pipeline(hospital: Hospital) -> None:
    """From the queue into the store: matched, merged, superseded versions, Provenance, event; messages that wait
    already.
    """
    hospital.start("mllp")
    hospital.send(5_000_000, MESSAGES, 16, 400)
    waiting = hospital.count("received")
    hospital.start(*["worker"] * WORKERS, "relay")
    workers = [process.pid for process in hospital.processes[1:-1]]
    while hospital.count("received") > waiting * 0.9:
        time.sleep(0.2)
    begin, at, before = time.perf_counter(), hospital.count("received"), sum(map(resident_mb, workers))
    while hospital.count("received") and time.perf_counter() - begin < 300:
        time.sleep(0.5)
    rate = (at - hospital.count("received")) / (time.perf_counter() - begin)
    after = sum(map(resident_mb, workers))
    said: dict[str, Any] = {"messages": waiting, "workers": WORKERS, "mb_before": before, "mb_after": after}
    said |= {"failed": hospital.count("mapping-error,failed"), "to_reach": 120}
    _line("hl7v2.pipeline", rate, "messages/s", None, None, None, said)
    hospital.stop()


def main(wanted: set[str]) -> None:
    """Runs what is wanted, by name; everything for an empty set."""
    OUT.mkdir(exist_ok=True)
    for name, work in (("parse", parse), ("transform", transform)):
        if not wanted or name in wanted:
            work()
    chosen = [work for name, work in (("ack", ack), ("pipeline", pipeline)) if not wanted or name in wanted]
    if not chosen:
        return
    servers = Servers(Path(OUT / "data-hl7v2"), 0.5).start()
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
    main(set(sys.argv[1:]))
