"""What only several processes and real sockets can show: races between web workers, hostile bodies, HTTP as it is."""

from __future__ import annotations

import http.client
import json
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.api.hostile import BODIES
from tests.running import Running

pytestmark = pytest.mark.slow


class Caller:
    """A caller of one organization's base over sockets."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.hospital = running.cli("organization", "create", "Races Hospital").split()[-1]
        self.token = running.cli("token", "--organization", self.hospital).split()[-1]
        self.base = f"/1/health/organizations/{self.hospital}/fhir/4"

    def call(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.running.port, timeout=60)
        given = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/fhir+json", **headers}
        try:
            connection.request(method, f"{self.base}/{path}" if path else self.base, body=body, headers=given)
            reply = connection.getresponse()
            text = reply.read()
            return reply.status, json.loads(text) if text else None
        finally:
            connection.close()


@pytest.fixture(scope="module")
def caller(running: Running) -> Caller:
    return Caller(running)


def test_two_hundred_concurrent_conditional_creates_over_several_workers_make_one_resource(caller: Caller) -> None:
    body = json.dumps({"resourceType": "Patient", "identifier": [{"system": "urn:race", "value": "1"}]}).encode()

    def create(_: int) -> tuple[int, str]:
        status, answer = caller.call("POST", "Patient", body, **{"If-None-Exist": "identifier=urn:race|1"})
        return status, answer.get("id", "")

    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(create, range(200)))
    assert [status for status, _ in answers].count(201) == 1
    assert {status for status, _ in answers} == {200, 201}
    assert len({id for _, id in answers}) == 1
    assert caller.call("GET", "Patient?identifier=urn:race|1")[1]["total"] == 1


def test_concurrent_transactions_over_several_workers_make_one_patient(caller: Caller) -> None:
    urn = "urn:uuid:00000000-0000-4000-8000-000000000001"
    patient = {"resourceType": "Patient", "identifier": [{"system": "urn:race", "value": "2"}]}
    observation = {
        "resourceType": "Observation",
        "status": "final",
        "code": {"text": "pulse"},
        "subject": {"reference": urn},
    }
    entries = [
        {
            "fullUrl": urn,
            "resource": patient,
            "request": {"method": "POST", "url": "Patient", "ifNoneExist": "identifier=urn:race|2"},
        },
        {"resource": observation, "request": {"method": "POST", "url": "Observation"}},
    ]
    body = json.dumps({"resourceType": "Bundle", "type": "transaction", "entry": entries}).encode()
    with ThreadPoolExecutor(16) as pool:
        statuses = [status for status, _ in pool.map(lambda _: caller.call("POST", "", body), range(48))]
    assert set(statuses) <= {200, 503}
    found = caller.call("GET", "Patient?identifier=urn:race|2")[1]
    assert found["total"] == 1
    id = found["entry"][0]["resource"]["id"]
    written = caller.call("GET", f"Observation?subject=Patient/{id}&_summary=count")[1]["total"]
    assert written == statuses.count(200)


def test_hostile_bodies_are_answered_and_the_workers_live(caller: Caller) -> None:
    before = caller.running.children()
    for name, body in BODIES.items():
        status, answer = caller.call("POST", "Patient", body)
        assert 400 <= status < 500, name
        assert answer["resourceType"] == "OperationOutcome"
    for depth in (100, 400, 900, 5_000, 100_000):
        nested = b'{"url":"urn:x","extension":[' * depth + b'{"url":"urn:x","valueString":"x"}' + b"]}" * depth
        text = b'{"resourceType":"Patient","extension":[' + nested + b"]}"
        assert caller.call("POST", "Patient", text)[0] < 500
        entry = b'{"request":{"method":"POST","url":"Patient"},"resource":' + text + b"}"
        bundle = b'{"resourceType":"Bundle","type":"transaction","entry":[' + entry + b"]}"
        assert caller.call("POST", "", bundle)[0] < 500
        patch = b'{"resourceType":"Parameters","parameter":[{"name":"operation","part":[' + nested + b"]}]}"
        assert caller.call("PATCH", "Patient?_id=x", patch)[0] < 500
    assert caller.running.children() == before
    assert caller.running.healthy()


@pytest.mark.parametrize(
    "head",
    [
        b"GET %s/Patient HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET %s/Patient\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST %s/Patient HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
def test_what_is_no_http_does_no_harm(caller: Caller, head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", caller.running.port), timeout=10) as connection:
        connection.sendall(head.replace(b"%s", caller.base.encode()))
        connection.settimeout(10)
        try:
            answer = connection.recv(65_536)
        except (TimeoutError, ConnectionResetError):
            answer = b""
    assert not answer.startswith(b"HTTP/1.1 5")
    assert caller.running.healthy()
