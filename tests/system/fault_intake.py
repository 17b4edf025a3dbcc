"""The fault run of intake: hospitals send by MLLP and HTTP while processes are killed, the primary steps down, Redis is
emptied, the disk fills up, a consumer reads nothing and thousands of connections are offered; then the senders' log is
replayed and every promise checked against the database.

    python -m tests.system.fault_intake [EVENTS]

Prints one line: sent, acknowledged, stored, lost, applied twice, out of order, answered otherwise when sent once more.
The last four must be 0. What takes the time are the faults, some 250 in 5,000 events. The disk is a
small one of its own where this may mount one (root on Linux); elsewhere it is not filled.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from pymongo import MongoClient, errors

from fhirserver import embedded
from fhirserver.fhir.json import decode
from fhirserver.fhir.problem import Problem
from fhirserver.hl7v2.message import Message
from fhirserver.hl7v2.send import Connection
from fhirserver.settings import Settings
from fhirserver.store.database import Database
from fhirserver.store.text import plain
from tests.running import Running, kill

SENDERS = 12
OVER_HTTP = 2
"""So many of the senders speak HTTP, the others MLLP."""
EVENTS = 5_000
PATIENTS = 4
"""Patients of each sender, so that there is an order to keep."""
OFFERED = 10_000
PATIENCE_SECONDS = 420
LEAST_SECONDS = 60
"""A run lasts that long at least, so that there is time for every fault."""
DISK = "1500m"
FAULTS = (
    "mllp",
    "worker-1",
    "mongod",
    "web",
    "worker-2",
    "flush",
    "mllp",
    "step-down",
    "redis",
    "relay",
    "disk",
    "mllp",
)


@dataclass
class Sent:
    """One message in a sender's log: its bytes, and the acknowledgment once there was a positive one."""

    control: str
    patient: str
    number: int
    raw: bytes
    answer: bytes = b""
    attempts: int = 0


@dataclass(frozen=True)
class Kept:
    """One InboundMessage as it was found: its bytes, its status, and how often it was applied."""

    raw: bytes
    status: str
    applied: int


def message(facility: str, control: str, patient: str, number: int) -> bytes:
    """The n-th change of a patient: the given name counts."""
    return (
        f"MSH|^~\\&|ADT1|{facility}|X|Y|20260101120000||ADT^A31|{control}|P|2.5\rEVN|A31|20260101120000\r"
        f"PID|1||{patient}^^^{facility}^MR||Fault^v{number}\rPV1|1|N\r"
    ).encode()


def judged(log: Iterable[Sent], kept: Sequence[Kept], histories: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """The figures: the senders' log against what is stored and the numbers in each patient's versions, oldest first."""
    sent = list(log)
    by_bytes = Counter(each.raw for each in kept)
    processed = {each.raw for each in kept if each.status in ("processed", "warning") and each.applied}
    acknowledged = [each for each in sent if each.answer]
    lost = [each for each in acknowledged if not by_bytes[each.raw] or each.raw not in processed]
    twice = sum(count - 1 for count in by_bytes.values()) + sum(max(0, each.applied - 1) for each in kept)
    disorder = sum(list(numbers) != sorted(set(numbers)) for numbers in histories.values())
    return {
        "sent": sum(each.attempts for each in sent),
        "acknowledged": len(acknowledged),
        "stored": len(kept),
        "lost": len(lost),
        "applied twice": twice,
        "out of order": disorder,
    }


@dataclass
class Run:
    """One fault run on a running installation."""

    running: Running
    events: int
    chance: random.Random
    disk: Path | None = None
    log: list[Sent] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    held: dict[int, Connection] = field(default_factory=dict)

    def prepare(self) -> None:
        """A hospital; its messages come by MLLP, and by HTTP with a token of its administrator."""
        cli = self.running.cli
        self.hospital = cli("organization", "create", "Hospital")
        self.facility = f"F{self.hospital[-10:].upper()}"
        cli("endpoint", "create", "--organization", self.hospital, "--sending-facility", self.facility)
        cli("user", "create", "fault@example.org", "--organization", self.hospital, "--role", "admin")
        self.token = cli("token", "--user", "fault@example.org")

    def play(self) -> None:
        """Sends while everything happens that must not matter; ends when every message has been acknowledged."""
        stop = threading.Event()
        share = max(1, self.events // SENDERS)
        senders = [threading.Thread(target=self._send, args=(each, share)) for each in range(SENDERS)]
        beside = [threading.Thread(target=each, args=(stop,)) for each in (self._harm, self._offer, self._read_nothing)]
        for each in (*senders, *beside):
            each.start()
        for each in senders:
            each.join()
        stop.set()
        for each in beside:
            each.join()

    def _send(self, sender: int, share: int) -> None:
        """One sender, original mode: a message is sent unchanged until it is acknowledged positively."""
        numbers: Counter[str] = Counter()
        pause = LEAST_SECONDS / share
        exchange = self._way(sender)
        for count in range(share):
            patient = f"{sender}-{count % PATIENTS}"
            numbers[patient] += 1
            control = f"S{sender}-{count}"
            one = Sent(control, patient, numbers[patient], message(self.facility, control, patient, numbers[patient]))
            self.log.append(one)
            time.sleep(self.chance.uniform(0, 2 * pause))
            while not one.answer:
                if self.running.process.poll() is not None:
                    raise AssertionError(f"the installation has ended: {self.running.log.read_text()[-2000:]}")
                one.attempts += 1
                answer = exchange(sender, one.raw)
                if _accepts(answer, control):
                    one.answer = answer
                else:
                    time.sleep(0.1)

    def _way(self, sender: int) -> Callable[[int, bytes], bytes]:
        return self._over_http if sender < OVER_HTTP else self._over_mllp

    def _over_mllp(self, sender: int, raw: bytes) -> bytes:
        held = self.held
        try:
            if sender not in held:
                held[sender] = Connection("127.0.0.1", self.running.mllp_port, timeout=20)
            return held[sender].send(raw)
        except (OSError, Problem):
            if sender in held:
                held.pop(sender).close()
            return b""

    def _over_http(self, sender: int, raw: bytes) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.running.port, timeout=20)
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/hl7-v2"}
        try:
            connection.request("POST", f"/1/health/organizations/{self.hospital}/hl7v2", raw, headers)
            answer = connection.getresponse()
            body = answer.read()
            if answer.status == 401:
                self.token = self.running.cli("token", "--user", "fault@example.org")
            return body if answer.status == 200 else b""
        except (OSError, http.client.HTTPException, AssertionError):
            return b""
        finally:
            connection.close()

    def _harm(self, stop: threading.Event) -> None:
        """One fault after the other, at any moment: what a kill meets lies anywhere between receive and commit."""
        waiting: list[str] = []
        while not stop.wait(self.chance.uniform(0.5, 3.0)):
            waiting = waiting or self.chance.sample(FAULTS, len(FAULTS))
            name = waiting.pop()
            try:
                if self._fault(name, stop):
                    self.done[name] += 1
            except (KeyError, ProcessLookupError, redis.RedisError, errors.PyMongoError, ValueError, OSError):
                continue

    def _fault(self, name: str, stop: threading.Event) -> bool:
        if name == "flush":
            with redis.Redis.from_url(_known(self.running).redis_url) as connection:
                connection.flushall()
        elif name == "step-down":
            _step_down(_known(self.running).mongo_url)
        elif name == "disk":
            return self.disk is not None and self._fill(self.disk, stop)
        else:
            kill(self.running.children()[name])
        return True

    def _fill(self, disk: Path, stop: threading.Event) -> bool:
        """Leaves no byte of the disk for some seconds."""
        ballast = disk / "ballast"
        try:
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                while file.write(b"\0" * (1 << 20)):
                    pass
            stop.wait(4)
        finally:
            ballast.unlink(missing_ok=True)
        return True

    def _offer(self, stop: threading.Event) -> None:
        """Ten thousand connections that say nothing, in waves."""
        open_: list[socket.socket] = []
        while not stop.is_set() and self.done["offered"] < OFFERED:
            with contextlib.suppress(OSError):
                made = socket.create_connection(("127.0.0.1", self.running.mllp_port), timeout=2)
                made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                open_.append(made)
            self.done["offered"] += 1
            if len(open_) >= 400:
                stop.wait(0.5)
                while open_:
                    open_.pop().close()
        for each in open_:
            each.close()

    def _read_nothing(self, stop: threading.Event) -> None:
        """A sender that posts and posts and never reads an acknowledgment; it logs nothing, as it knows nothing."""
        count = 0
        while not stop.is_set() and count < 2 * self.events:
            with contextlib.suppress(OSError):
                connection = Connection("127.0.0.1", self.running.mllp_port, timeout=1)
                try:
                    while not stop.is_set() and count < 2 * self.events:
                        count += 1
                        connection.post(message(self.facility, f"D{count}", "deaf", count).replace(b"A31", b"A99"))
                        stop.wait(0.02)
                finally:
                    connection.close()
            stop.wait(0.5)

    def settle(self) -> None:
        """Waits until nothing waits any more."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(errors.PyMongoError, Problem):
                if not self._collection("InboundMessage").count_documents({"s.status": "received"}):
                    return
            time.sleep(1)
        print(f"messages still wait after {PATIENCE_SECONDS} s", file=sys.stderr)

    def replay(self) -> int:
        """Sends everything once more, as senders do that lost their logs; answers how many heard something else."""
        with ThreadPoolExecutor(SENDERS) as senders:
            return sum(senders.map(self._again, range(SENDERS)))

    def _again(self, sender: int) -> int:
        exchange, other = self._way(sender), 0
        for each in [each for each in self.log if each.control.startswith(f"S{sender}-")]:
            answer = b""
            for _ in range(50):
                answer = exchange(sender, each.raw)
                if answer:
                    break
                time.sleep(0.2)
            other += answer != each.answer
        return other

    def check(self) -> dict[str, int]:
        """Every promise against what was stored, before and after a replay of the log."""
        figures = judged(self.log, self._kept(), self._histories())
        other = self.replay()
        self.settle()
        again = judged(self.log, self._kept(), self._histories())
        return {**again, "lost": max(figures["lost"], again["lost"]), "answered otherwise": other}

    def _kept(self) -> list[Kept]:
        applied: Counter[str] = Counter()
        for document in self._collection("Provenance").find({}, {"d": 1}):
            for entity in decode(plain(document["d"])).get("entity", ()):
                applied[entity["what"].get("reference", "")] += 1
        found = []
        for document in self._collection("InboundMessage").find({"o": self.hospital}, {"d": 1}):
            resource = decode(plain(document["d"]))
            if resource["controlId"].startswith("S"):
                raw = base64.b64decode(resource["content"]["data"])
                found.append(Kept(raw, resource["status"], applied[f"InboundMessage/{resource['id']}"]))
        return found

    def _histories(self) -> dict[str, list[int]]:
        versions: list[tuple[str, int, int]] = []
        for name in ("Patient", "Patient.history"):
            for document in self._collection(name).find({}, {"d": 1, "v": 1, "i": 1}):
                given = decode(plain(document["d"]))["name"][0]["given"][0]
                versions.append((document["i"], document["v"], int(given.removeprefix("v"))))
        found: dict[str, list[int]] = {}
        for id, _, number in sorted(versions):
            found.setdefault(id, []).append(number)
        return found

    def close(self) -> None:
        """Hangs up."""
        for connection in self.held.values():
            connection.close()
        if hasattr(self, "_database"):
            self._database.close()

    def _collection(self, name: str) -> Any:
        if not hasattr(self, "_database"):
            self._database = Database(_known(self.running).mongo_url, Settings().mongo_database)
        return self._database.collection(name)


def _accepts(answer: bytes, control: str) -> bool:
    try:
        said = Message.parse(answer)
    except Problem:
        return False
    return said["MSA-1"] in ("AA", "CA") and said["MSA-2"] == control


def _step_down(url: str) -> None:
    """The primary is none for a second; of one member it is elected again afterwards."""
    client: MongoClient[dict[str, Any]] = MongoClient(url, serverSelectionTimeoutMS=2_000)
    with client, contextlib.suppress(errors.AutoReconnect):
        client.admin.command("replSetStepDown", 2, force=True)


def _known(running: Running) -> embedded.Embedded:
    text = (running.data / "embedded.json").read_text()
    return embedded.Embedded(**decode(text))


@contextlib.contextmanager
def _small_disk(folder: Path) -> Iterator[Path | None]:
    """A disk of its own at this folder, where it may be mounted; else None."""
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(words, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)


def run(events: int, seed: int = 1) -> dict[str, int]:
    """Plays a fault run on an installation of its own and answers its figures."""
    with tempfile.TemporaryDirectory() as temporary, _small_disk(Path(temporary) / "disk") as disk:
        data = (disk or Path(temporary) / "disk") / "data"
        running = Running(data, {"FHIRSERVER_QUEUE_WORKERS": "2"})
        running.start()
        play = Run(running, events, random.Random(seed), disk)
        try:
            play.prepare()
            spent = [_told("sent", play.play), _told("settled", play.settle)]
            figures: dict[str, int] = {}
            spent.append(_told("replayed and checked", lambda: figures.update(play.check())))
            print(f"faults: {dict(sorted(play.done.items()))}", file=sys.stderr)
            print(f"{1000 * sum(spent) / max(1, len(play.log)):.0f} ms an event", file=sys.stderr)
            return figures
        finally:
            play.close()
            running.stop(signal.SIGTERM)


def _told(what: str, step: Callable[[], None]) -> float:
    """The seconds that a step took, which it says: a long run shall be seen to go on."""
    begun = time.monotonic()
    step()
    seconds = time.monotonic() - begun
    print(f"{what} in {seconds:.0f} s", file=sys.stderr, flush=True)
    return seconds


def main() -> int:
    """The command; 0 where nothing was lost, applied twice or out of order."""
    figures = run(int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS)
    print(", ".join(f"{name} {number}" for name, number in figures.items()))
    return int(any(figures[name] for name in ("lost", "applied twice", "out of order", "answered otherwise")))


if __name__ == "__main__":
    sys.exit(main())
