"""Measures a real, running server over HTTP, the bare ceiling beside it, and writes a JSON line for each figure.

    make bench                            everything on 64,000 Patients and 1,000,000 Observations
    make bench ONLY=read,create SIZE=small

The lines are appended to bench/out/latest.jsonl.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import export, kinds, people
from bench.drive import Call, Result, drive
from bench.figures import OUT, line
from bench.installation import Bare, Installation, Servers, Unaudited, resident_mb, tree
from bench.searches import SEARCHES
from fhirserver.fhir.json import encode
from fhirserver.processes import SEAL_SECONDS

SIZES = {"small": (2_000, 20_000, 0.5), "full": (64_000, 1_000_000, 4.0)}
FEW = (1_000, 15_000)
"""What growth is measured from."""
CONNECTIONS = 16
SECONDS = float(os.environ.get("DURATION", "5"))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
ENTRIES = 100
Served = Installation | Bare | Unaudited


class Bench:
    """The measurements, each a method named as its figure."""

    def __init__(self, size: str) -> None:
        self.size = size
        self.patients, self.observations, cache = SIZES[size]
        self.servers = Servers(OUT / f"data-{size}", cache)
        self._installation: Installation | None = None
        self._bare: Bare | None = None
        self.chance = random.Random(7)

    @property
    def installation(self) -> Installation:
        if self._installation is None:
            self._installation = Installation(
                self.servers, f"bench_{self.size}", self.patients, self.observations
            ).ready()
        return self._installation

    @property
    def bare(self) -> Bare:
        if self._bare is None:
            self._bare = Bare(self.installation)
        return self._bare

    def close(self) -> None:
        """Ends every process."""
        for each in (self._bare, self._installation):
            if each is not None:
                each.stop()
        self.servers.stop()

    def read(self) -> None:
        """An authenticated GET by id of a 2 KB resource."""
        ids = [f"p{self.chance.randrange(self.patients):07d}" for _ in range(5_000)]
        self._beside("read", [Call("GET", f"/Patient/{id}") for id in ids], goal=0.8)

    def search(self) -> None:
        """An indexed parameter, a page of 20."""
        ours = [Call("GET", f"/Observation?code={code}&_count=20") for code in self._codes("|")]
        bare = [Call("GET", f"/Observation?code={code}") for code in self._codes("%7C")]
        self._beside("search", ours, bare, goal=0.6)

    def _codes(self, bar: str) -> list[str]:
        return [f"{people.LOINC}{bar}{code}" for code in ("8867-4", "9279-1", "8310-5", "2339-0", "4548-4")] * 20

    def create(self) -> None:
        """POST of a Patient: validated, indexed, with its pending event, on disk at a majority."""
        bodies = [_without_id(people.patient(10_000_000 + number)) for number in range(2_000)]
        self._beside("create", [Call("POST", "/Patient", body) for body in bodies], goal=0.7)

    def update(self) -> None:
        """PUT of a Patient; the superseded version moves to the history in the same transaction."""
        numbers = self.chance.sample(range(self.patients), min(self.patients, 2_000))
        calls = [Call("PUT", f"/Patient/p{number:07d}", _changed(people.patient(number))) for number in numbers]
        self._beside("update", calls, goal=0.7)

    def transaction(self) -> None:
        """POST of Bundles that create 20 Patients and 80 Observations about them, all or nothing."""
        calls = [Call("POST", "", _bundle(number)) for number in range(100)]
        result, cpu = self._ours(calls, connections=4)
        self._write("transaction", result.rate * ENTRIES, "resources/s", result, cpu, goal=2_000)

    def audit_read(self) -> None:
        """Reads with their audit records over reads without any; beside them reads while the relay stores the records,
        which it does at its own pace, and what goes on for ever: the CPU of a read without a record over that of a read
        with one and of storing and sealing that.
        """
        without, one = Unaudited(self.installation), self.installation
        calls = [Call("GET", f"{one.base}/Patient/p{self.chance.randrange(self.patients):07d}") for _ in range(5_000)]
        runs: dict[str, list[tuple[Result, tuple[float, float]]]] = {"on": [], "off": [], "shipped": []}
        try:
            self._stored()
            for _ in range(ROUNDS):
                for name, process in (("on", one), ("off", without)):
                    runs[name].append(self._driven(process, calls))
                with one.relay():
                    runs["shipped"].append(self._driven(one, calls))
        finally:
            without.stop()
        storing, records = self._stored()
        on, off, shipped = (max(each, key=lambda run: run[0].rate) for each in runs.values())
        pairs = list(zip(runs["on"], runs["off"], runs["shipped"], strict=True))
        said = {
            "on": round(on[0].rate, 1),
            "off": round(off[0].rate, 1),
            "cpu_us_server_off": round(off[1][0]),
            "ratio_cpu": round(median(sum(its[1]) / sum(mine[1]) for mine, its, _ in pairs), 3),
            "while_shipped": round(shipped[0].rate, 1),
            "ratio_while_shipped": round(median(its[0].rate / mine[0].rate for _, mine, its in pairs), 3),
            "records": records,
            "cpu_us_storing": round(storing),
            "ratio_sustained_cpu": round(median(sum(its[1]) / (sum(mine[1]) + storing) for mine, its, _ in pairs), 3),
            "errors": sum(run[0].errors for each in runs.values() for run in each),
            "to_reach": 0.8,
        }
        ratio = median(mine[0].rate / its[0].rate for mine, its, _ in pairs)
        line("audit.read", ratio, "times", on[0].p50_ms, on[0].p99_ms, on[1], said)

    def _stored(self) -> tuple[float, int]:
        """Has the relay store all that waits; the CPU microseconds a record, its own and mongod's, and how many."""
        one = self.installation
        before = one.records()
        with one.relay() as used:
            waiting = one.unshipped()
            while waiting and one.unshipped() == waiting:
                time.sleep(0.1)
            time.sleep(3)  # it has started, whatever else the machine does
            ours, mongod = used(), self.servers.mongod_cpu()
            there = one.records()
            while one.unshipped():
                time.sleep(0.2)
            time.sleep(2 * SEAL_SECONDS)  # the rest is sealed
            cpu = used() - ours + self.servers.mongod_cpu() - mongod
        made = one.records() - there
        return cpu / max(made, 1) * 1e6, made + there - before

    def _driven(self, process: Served, calls: Sequence[Call]) -> tuple[Result, tuple[float, float]]:
        drive(process.port, self.installation.token, calls, 0.7, CONNECTIONS)
        return self._counted(process, lambda: drive(process.port, self.installation.token, calls, SECONDS, CONNECTIONS))

    def growth(self) -> None:
        """The median latency of each search at all patients over that at 1,000, one connection."""
        few = Installation(self.servers, f"bench_{FEW[0]}", *FEW).ready()
        try:
            for name, path in SEARCHES.items():
                pairs = [
                    (
                        self._median(few, list(_searches(path, FEW[0], self.chance))),
                        self._median(self.installation, list(_searches(path, self.patients, self.chance))),
                    )
                    for _ in range(ROUNDS)
                ]
                least, most = (min(pair[at].p50_ms for pair in pairs) for at in (0, 1))
                errors = sum(each.errors for pair in pairs for each in pair)
                said = {"at_1000_ms": least, "at_all_ms": most, "errors": errors, "to_reach": 1.35}
                line(f"growth.{name}", most / least, "times", most, None, None, said)
        finally:
            few.stop()

    def search_kinds(self) -> None:
        """Searches of many kinds, and what mongod looks at for each."""
        one, servers = self.installation, self.servers
        kinds.measure(
            one,
            servers.known.mongo_url,
            self.patients,
            self.observations,
            lambda: (one.cpu(), servers.mongod_cpu()),
        )

    def export(self) -> None:
        """Bulk exports of everything there is."""
        export.measure(self.installation, self.servers.mongod_cpu)

    def page_deep(self) -> None:
        """Page 5,000 of a search over page 1."""
        page = 5_000 if self.size == "full" else 90
        base = self.installation.base
        first = f"{base}/Observation?code={people.LOINC}|8867-4&_count=20"
        self.installation.answered(first)
        at = first
        for _ in range(page - 1):
            links = self.installation.call("GET", at, self.installation.token)["link"]
            following = next((link["url"] for link in links if link["relation"] == "next"), None)
            if following is None:
                break
            at = "/" + following.partition("://")[2].partition("/")[2]
        pairs = [
            (self._median(None, [Call("GET", first)]), self._median(None, [Call("GET", at)])) for _ in range(ROUNDS)
        ]
        least, most = (min(pair[index].p50_ms for pair in pairs) for index in (0, 1))
        said = {"page": page, "first_ms": least, "deep_ms": most, "to_reach": 1.2}
        line("page.deep", most / least, "times", most, None, None, said)

    def start(self) -> None:
        """A cold start of the web server to its first answer, and what a worker then has in memory."""
        one = self.installation
        one.stop()
        seconds = []
        for _ in range(ROUNDS):
            seconds.append(one.start())
            resident = max(resident_mb(pid) for pid in tree(one.process.pid))
            one.stop()
        one.start()
        said = {"resident_mb": round(resident, 1), "to_reach": 1.5, "resident_to_reach_mb": 150}
        line("start", min(seconds), "s", min(seconds) * 1e3, None, None, said)

    def load(self) -> None:
        """What the bulk loader did when it made the data set."""
        line("load", self.installation.load_rate, "resources/s", None, None, None, {})

    def _median(self, installation: Installation | None, calls: Sequence[Call]) -> Result:
        one = installation or self.installation
        calls = [
            Call(call.method, call.path if call.path.startswith("/1/") else f"{one.base}/{call.path}") for call in calls
        ]
        one.answered(calls[0].path)
        drive(one.port, one.token, calls, 0.3, 1)
        return drive(one.port, one.token, calls, max(0.5, SECONDS / 4), 1)

    def _ours(self, calls: Sequence[Call], connections: int = CONNECTIONS) -> tuple[Result, tuple[float, float]]:
        one = self.installation
        mine = [Call(call.method, one.base + call.path, call.body) for call in calls]
        if mine[0].method == "GET":
            one.answered(mine[0].path)
        drive(one.port, one.token, mine, 0.7, connections)
        return self._counted(one, lambda: drive(one.port, one.token, mine, SECONDS, connections))

    def _alone(self, calls: Sequence[Call]) -> float:
        """The median latency over one connection: what one request costs, with nothing of ours beside it."""
        one = self.installation
        mine = [Call(call.method, one.base + call.path, call.body) for call in calls]
        return min(drive(one.port, one.token, mine, 1, 1).p50_ms for _ in range(ROUNDS))

    def _counted(self, process: Served, run: Callable[[], Result]) -> tuple[Result, tuple[float, float]]:
        """The result of a run, and the CPU microseconds a request of the server and of mongod."""
        server, mongod = process.cpu(), self.servers.mongod_cpu()
        result = run()
        each = 1e6 / max(1, result.requests)
        return result, ((process.cpu() - server) * each, (self.servers.mongod_cpu() - mongod) * each)

    def _beside(self, name: str, calls: Sequence[Call], bare: Sequence[Call] | None = None, *, goal: float) -> None:
        """Ours and the ceiling by turns: the best of each, and the median of the ratios of the turns.

        `ratio_cpu` compares the processor time of a request, which other work on the machine disturbs less.
        """
        ours, ceilings = [], []
        theirs = bare or calls
        for _ in range(ROUNDS):
            ours.append(self._ours(calls))
            drive(self.bare.port, "", theirs, 0.5, CONNECTIONS)
            ceilings.append(self._counted(self.bare, lambda: drive(self.bare.port, "", theirs, SECONDS, CONNECTIONS)))
        (result, cpu), (ceiling, bare_cpu) = (max(runs, key=lambda run: run[0].rate) for runs in (ours, ceilings))
        alone = self._alone(calls), min(drive(self.bare.port, "", theirs, 1, 1).p50_ms for _ in range(ROUNDS))
        pairs = list(zip(ours, ceilings, strict=True))
        said = {
            "bare": round(ceiling.rate, 1),
            "ratio": round(median(mine[0].rate / its[0].rate for mine, its in pairs), 3),
            "ratio_cpu": round(median(sum(its[1]) / sum(mine[1]) for mine, its in pairs), 3),
            "bare_cpu_us_server": round(bare_cpu[0]),
            "bare_cpu_us_mongod": round(bare_cpu[1]),
            "bare_errors": ceiling.errors,
            "alone_p50_ms": alone[0],
            "bare_alone_p50_ms": alone[1],
        }
        self._write(name, result.rate, "requests/s", result, cpu, goal=goal, **said)

    def _write(
        self, name: str, value: float, unit: str, result: Result, cpu: tuple[float, float], goal: float, **said: Any
    ) -> None:
        beside = {**said, "errors": result.errors, "to_reach": goal}
        line(name, value, unit, result.p50_ms, result.p99_ms, cpu, beside)


def _searches(path: str, patients: int, chance: random.Random) -> Iterator[Call]:
    for _ in range(200):
        number = chance.randrange(patients)
        who = people.patient(number)
        name = who["name"][0]
        filled = path.format(
            n=number,
            family=name["family"],
            given=name["given"][0],
            birthdate=who["birthDate"],
            email=who["telecom"][1]["value"],
            city=who["address"][0]["city"],
            doctor=number % 200,
        )
        yield Call("GET", filled)


def _without_id(resource: dict[str, Any]) -> str:
    return encode({name: value for name, value in resource.items() if name != "id"}).decode()


def _changed(resource: dict[str, Any]) -> str:
    return encode({**resource, "active": False}).decode()


def _bundle(number: int) -> str:
    entries = []
    for index in range(20):
        url = f"urn:uuid:00000000-0000-4000-8000-{number * 20 + index:012d}"
        entries.append(_entry(people.patient(20_000_000 + number * 20 + index), url))
        for each in range(4):
            observation = people.observation(20_000_000 + (number * 20 + index) * 4 + each, 1)
            observation["subject"] = {"reference": url}
            entries.append(_entry(observation))
    return encode({"resourceType": "Bundle", "type": "transaction", "entry": entries}).decode()


def _entry(resource: dict[str, Any], url: str | None = None) -> dict[str, Any]:
    kept = {name: value for name, value in resource.items() if name != "id"}
    asked = {"method": "POST", "url": resource["resourceType"]}
    return ({"fullUrl": url} if url else {}) | {"resource": kept, "request": asked}


OF_A_LOADED_SERVER = (
    "load", "start", "read", "search", "create", "update", "transaction", "page.deep", "growth", "search.kinds",
    "audit.read", "export",
)  # fmt: skip
# Figures that bring a server of their own: the module that has them, and their names in it.
OTHERS = {
    "notify.latency": ("notify", "latency"),
    "notify.rate": ("notify", "rate"),
    "notify.plain": ("notify", "plain"),
    "match.10k": ("notify", "match"),
    "hl7v2.transform": ("hl7v2", "transform"),
    "hl7v2.ack": ("hl7v2", "ack"),
    "hl7v2.pipeline": ("hl7v2", "pipeline"),
    "console": ("console", "pages"),
    "large.everything": ("large", "everything"),
    "large.history": ("large", "history"),
    "large.transaction": ("large", "transaction"),
    "large.body": ("large", "body"),
}
FIGURES = (*OF_A_LOADED_SERVER, *OTHERS)


def main() -> None:
    """Runs the figures that ONLY names (all of them by default) on data of SIZE."""
    only = [name for name in os.environ.get("ONLY", "").split(",") if name] or list(FIGURES)
    unknown = set(only) - set(FIGURES)
    size = os.environ.get("SIZE") or "full"
    if unknown or size not in SIZES:
        sys.exit(f"ONLY names some of {', '.join(FIGURES)}; SIZE is one of {', '.join(SIZES)}")
    OUT.mkdir(exist_ok=True)
    if set(only) & set(OF_A_LOADED_SERVER):
        bench = Bench(size)
        bench.servers.start()
        try:
            for name in OF_A_LOADED_SERVER:
                if name in only:
                    getattr(bench, name.replace(".", "_"))()
        finally:
            bench.close()
    for module in dict.fromkeys(module for module, _ in OTHERS.values()):
        wanted = [OTHERS[name][1] for name in OTHERS if name in only and OTHERS[name][0] == module]
        if wanted:
            import_module(f"bench.{module}").run(wanted)


if __name__ == "__main__":
    main()
