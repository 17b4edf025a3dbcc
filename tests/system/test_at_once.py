"""A decision acts on the very next call, whichever web worker takes it; a new definition too."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.running import Running, wait_until

WORKERS = 3


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """An installation with several web workers."""
    made = Running(tmp_path_factory.mktemp("many") / "data", {"FHIRSERVER_WORKERS": str(WORKERS)})
    try:
        yield made.start()
    finally:
        made.stop()


def call(
    many: Running, method: str, path: str, token: str, body: Any = None, timeout: float = 30
) -> tuple[int, dict[str, Any]]:
    """One request on a connection of its own, so that any worker may take it."""
    connection = http.client.HTTPConnection("127.0.0.1", many.port, timeout=timeout)
    try:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/fhir+json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text else {}
    finally:
        connection.close()


class Caller:
    """Calls a path without a pause from several threads; keeps when each call began and ended and what it met."""

    def __init__(self, many: Running, path: str, token: str, threads: int = 6) -> None:
        self.seen: list[tuple[float, float, int]] = []
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._loop, args=(many, path, token), daemon=True) for _ in range(threads)
        ]

    def __enter__(self) -> Caller:
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for each in self._threads:
            each.join()

    def _loop(self, many: Running, path: str, token: str) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            status = call(many, "GET", path, token)[0]
            self.seen.append((began, time.monotonic(), status))

    def between(self, start: float, end: float) -> list[int]:
        """What the calls met that began and ended in that time."""
        return [status for began, ended, status in self.seen if start < began and ended < end]

    def more(self, since: float) -> float:
        """Waits until there were enough calls since then for every worker to have met some; answers when that was."""
        time.sleep(0.4)
        wait_until(lambda: len(self.between(since, time.monotonic())) > 3 * WORKERS)
        return time.monotonic()


@pytest.fixture(scope="module")
def story(many: Running) -> dict[str, str]:
    """A hospital that has authorized a client, with the tokens of everybody."""
    hospital = many.cli("organization", "create", "Hospital of the Quick")
    acme = many.cli("organization", "create", "--kind", "application", "Acme")
    people = {}
    for name, organization in (("hospital", hospital), ("acme", acme)):
        many.cli("user", "create", f"admin@{name}.example", "--organization", organization, "--role", "admin")
        people[name] = many.cli("token", "--user", f"admin@{name}.example")
    registry = "/1/health/fhir/4"
    client = {
        "resourceType": "ClientApplication",
        "name": "Quick",
        "kind": "production",
        "grantType": ["client_credentials"],
        "scope": "system/*.cruds",
    }
    status, made = call(many, "POST", f"{registry}/ClientApplication", people["acme"], client)
    assert status == 201, made
    asked = {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "organization", "valueReference": {"reference": f"Organization/{hospital}"}},
            {"name": "reason", "valueString": "to be quick"},
        ],
    }
    path = f"{registry}/ClientApplication/{made['id']}/$request-authorization"
    status, authorization = call(many, "POST", path, people["acme"], asked)
    assert status == 200, authorization
    form = f"grant_type=client_credentials&client_id={made['id']}&client_secret={made['secret']}"
    connection = http.client.HTTPConnection("127.0.0.1", many.port)
    connection.request("POST", "/oauth2/token", form, {"Content-Type": "application/x-www-form-urlencoded"})
    token = json.loads(connection.getresponse().read())["access_token"]
    connection.close()
    return people | {
        "token": token,
        "patients": f"/1/health/organizations/{hospital}/fhir/4/Patient",
        "authorization": f"{registry}/ClientAuthorization/{authorization['id']}",
        "client": f"{registry}/ClientApplication/{made['id']}",
        "operator": many.cli("token", "--organization", hospital),
    }


def step(many: Running, story: dict[str, str], action: str) -> float:
    """Takes a step of the authorization and answers when its answer was there."""
    note = {"resourceType": "Parameters", "parameter": [{"name": "note", "valueString": "because"}]}
    status, answer = call(many, "POST", f"{story['authorization']}/${action}", story["hospital"], note)
    assert status == 200, answer
    return time.monotonic()


def test_disabling_and_enabling_act_on_the_next_call_in_every_worker(many: Running, story: dict[str, str]) -> None:
    times = [(step(many, story, "approve"), time.monotonic(), 200)]
    with Caller(many, story["patients"], story["token"]) as caller:
        for _ in range(6):
            for action, expected in (("disable", 403), ("enable", 200)):
                since = step(many, story, action)
                times.append((since, caller.more(since), expected))
    for since, until, expected in times[1:]:
        met = caller.between(since, until)
        assert len(met) > 3 * WORKERS
        assert set(met) == {expected}


def test_switching_a_client_off_acts_on_the_next_call_in_every_worker(many: Running, story: dict[str, str]) -> None:
    times = []
    with Caller(many, story["patients"], story["token"]) as caller:
        for active, expected in ((False, 403), (True, 200)) * 3:
            _, client = call(many, "GET", story["client"], story["acme"])
            status, answer = call(many, "PUT", story["client"], story["acme"], {**client, "active": active})
            assert status == 200, answer
            since = time.monotonic()
            times.append((since, caller.more(since), expected))
    for since, until, expected in times:
        met = caller.between(since, until)
        assert len(met) > 3 * WORKERS
        assert set(met) == {expected}


def test_a_search_parameter_is_known_to_every_worker_when_it_is_answered(many: Running, story: dict[str, str]) -> None:
    for number in range(3):
        code = f"quick-{number}"
        parameter = {
            "resourceType": "SearchParameter",
            "url": f"http://example.org/SearchParameter/{code}",
            "name": "Quick",
            "status": "active",
            "description": "A quick one",
            "code": code,
            "base": ["Patient"],
            "type": "string",
            "expression": "Patient.name.suffix",
        }
        status, answer = call(many, "POST", "/1/health/fhir/4/SearchParameter", story["operator"], parameter)
        assert status == 201, answer
        for _ in range(6 * WORKERS):
            _, found = call(many, "GET", f"{story['patients']}?{code}=x", story["operator"])
            self = next(link["url"] for link in found["link"] if link["relation"] == "self")
            assert code in self
