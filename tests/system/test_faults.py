"""kill -9 in the middle of the story: mongod, Redis, a web worker, a queue worker, the relay and the listener each come
back, and what was acknowledged is neither lost nor applied twice.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPConnection, HTTPException

import pytest

from fhirserver import supervisor
from fhirserver.demo import Receiver, Story
from fhirserver.hl7v2.framing import frame
from tests.running import Running, descendants, kill, wait_until

PATIENCE = 60.0
MESSAGES_BETWEEN = 6


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Story]]:
    """An installation in which the story has been played up to the active subscription."""
    running = Running(tmp_path_factory.mktemp("faults") / "data").start()
    receiver = Receiver()
    try:
        settings = supervisor.running(running.data)
        assert settings is not None
        told = Story(supervisor.with_master_key(settings, make=False), receiver)
        for step in told.steps()[:9]:
            step()
        yield running, told
    finally:
        receiver.close()
        running.stop()


class Sender:
    """A sender as hospitals have them: one message at a time, sent again unchanged until it gets a positive answer."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.acknowledged: list[str] = []
        self._number = 0

    def send(self, count: int) -> None:
        """Sends that many messages about new patients, however long it takes."""
        for _ in range(count):
            self._number += 1
            id = f"F{self._number:05d}"
            deadline = time.monotonic() + PATIENCE
            while not self._once(_admission(id)):
                assert time.monotonic() < deadline, f"no acknowledgment for {id}"
                time.sleep(0.2)
            self.acknowledged.append(id)

    def _once(self, raw: bytes) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
                connection.sendall(frame(raw))
                answer = b""
                while not answer.endswith(b"\x1c\r"):
                    part = connection.recv(65536)
                    if not part:
                        return False
                    answer += part
        except OSError:
            return False
        return b"MSA|AA|" in answer


def _admission(id: str) -> bytes:
    return (
        f"MSH|^~\\&|ADT1|LAKESIDE|X|Y|20260101120000||ADT^A01|C{id}|P|2.5\rEVN|A01|20260101120000\r"
        f"PID|1||{id}^^^LAKESIDE^MR||Fault^Tolerant||19700101|F\rPV1|1|I|W7^1^1||||||||||||||||V{id}^^^LAKESIDE\r"
    ).encode()


@pytest.mark.timeout(300)
def test_nothing_acknowledged_is_lost_or_applied_twice_when_processes_are_killed(story: tuple[Running, Story]) -> None:
    running, told = story
    sender = Sender(running.mllp_port)
    victims = ("worker-1", "relay", "mllp", "redis", "web", "mongod")
    assert set(victims) <= set(running.children()), running.children()
    for victim in victims:
        sending = threading.Thread(target=sender.send, args=(MESSAGES_BETWEEN,))
        sending.start()
        time.sleep(0.1)
        pid = running.children()[victim]
        kill(pid)
        sending.join(PATIENCE * 2)
        assert not sending.is_alive(), f"the sender got no answers after {victim} was killed"
        wait_until(lambda victim=victim, pid=pid: running.children().get(victim) not in (None, pid), PATIENCE)
    wait_until(running.healthy, PATIENCE)

    expected = Counter(sender.acknowledged)
    delivered = _delivered(told, len(expected))
    assert set(delivered) == set(expected), sorted(set(expected) - set(delivered))
    for id in expected:
        found = told._get(f"Patient?identifier={id}", told.facts["token"], 200, organization=True)
        assert [entry["resource"]["meta"]["versionId"] for entry in found["entry"]] == ["1"], id


@pytest.mark.timeout(120)
def test_a_killed_web_worker_is_forked_again(story: tuple[Running, Story]) -> None:
    running, _ = story
    web = running.children()["web"]
    workers = descendants(web)
    kill(max(workers))
    wait_until(running.healthy, PATIENCE)
    wait_until(lambda: len(descendants(web)) >= len(workers), PATIENCE)


class Reader:
    """Somebody who reads, searches and writes without a pause, and remembers which of his requests were answered."""

    def __init__(self, running: Running, organization: str, token: str) -> None:
        self._port = running.port
        self._base = f"/1/health/organizations/{organization}/fhir/4"
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/fhir+json"}
        self.answered: set[str] = set()
        self.stop = threading.Event()

    def work(self, name: str) -> None:
        """Calls until it is told to stop; a connection that broke is no answer."""
        number = 0
        body = json.dumps({"resourceType": "Patient", "id": name})
        while not self.stop.is_set():
            for method, path in (("PUT", f"Patient/{name}"), ("GET", f"Patient/{name}"), ("GET", "Patient?_count=1")):
                number += 1
                with suppress(OSError, HTTPException):
                    status, _ = self.call(method, path, f"{name}-{number}", body if method == "PUT" else None)
                    if status < 500:
                        self.answered.add(f"{name}-{number}")

    def call(self, method: str, path: str, id: str, body: str | None = None) -> tuple[int, bytes]:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=10)
        try:
            connection.request(method, f"{self._base}/{path}", body, {**self._headers, "X-Request-Id": id})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def recorded(self) -> set[str]:
        """The request ids that the audit records name."""
        found: set[str] = set()
        path = "AuditEvent?_count=200"
        while path:
            status, text = self.call("GET", path, "looking")
            assert status == 200
            page = json.loads(text)
            entities = [each for entry in page.get("entry", ()) for each in entry["resource"].get("entity", ())]
            found |= {each["what"]["identifier"]["value"] for each in entities if "identifier" in each.get("what", {})}
            path = "".join(link["url"] for link in page["link"] if link["relation"] == "next").partition("/fhir/4/")[2]
        return found


@pytest.mark.timeout(180)
def test_every_answered_request_has_its_audit_record_though_web_workers_and_the_relay_are_killed(
    story: tuple[Running, Story],
) -> None:
    running, _ = story
    organization = running.cli("organization", "create", "Audited Hospital")
    reader = Reader(running, organization, running.cli("token", "--organization", organization))
    threads = [threading.Thread(target=reader.work, args=(f"p{number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    for victim in ("web", "relay"):
        before = len(reader.answered)
        wait_until(lambda before=before: len(reader.answered) > before + 15, PATIENCE)
        pid = running.children()[victim]
        for worker in sorted(descendants(pid)) if victim == "web" else [pid]:
            kill(worker)
    before = len(reader.answered)
    wait_until(lambda: len(reader.answered) > before + 15, PATIENCE)
    reader.stop.set()
    for thread in threads:
        thread.join(PATIENCE)
    wait_until(lambda: reader.answered <= reader.recorded(), PATIENCE)


def _delivered(told: Story, count: int) -> list[str]:
    """The patients that the webhook was told of, until that many have arrived or nothing more comes."""
    seen: list[str] = []
    while len(set(seen)) < count:
        bundle = told.receiver.next()
        patients = [e["resource"] for e in bundle["entry"] if e["resource"]["resourceType"] == "Patient"]
        assert patients, json.dumps(bundle)[:500]
        seen += [identifier["value"] for patient in patients for identifier in patient["identifier"]]
    return seen
