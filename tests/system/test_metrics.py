"""Metrics: what an operator's Prometheus is told of a real installation, and what nobody is told."""

from __future__ import annotations

import http.client
import re
import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from fhirserver import app, embedded, metrics
from fhirserver.settings import Secret
from tests.running import Running, wait_until
from tests.system.delivering import installed

TOKEN = "a token for metrics"


def asked(port: int, path: str = "/metrics", **headers: str) -> tuple[int, str, str]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.headers["Content-Type"]


def values(text: str, name: str) -> dict[str, float]:
    """The samples of a metric by the text of their labels."""
    found = re.findall(rf"^fhirserver_{name}(?:\{{(.*)\}})? (\S+)$", text, re.M)
    return {labels: float(value) for labels, value in found}


@pytest.fixture(scope="module")
def installation(mongo_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[app.Installation]:
    """An installation without processes of its own, whose metrics are served by this one."""
    with installed(mongo_url) as made:
        settings = replace(
            made.settings,
            data=tmp_path_factory.mktemp("metrics"),
            metrics_port=embedded.free_port(),
            metrics_token=Secret(TOKEN),
            metrics_organizations="yes",
        )
        made = replace(made, settings=settings)
        with metrics.served(made):
            yield made


def told(installation: app.Installation) -> str:
    status, text, _ = asked(installation.settings.metrics_port, Authorization=f"Bearer {TOKEN}")
    assert status == 200
    return text


def test_nobody_is_told_without_the_token(installation: app.Installation) -> None:
    port = installation.settings.metrics_port
    assert asked(port)[0] == asked(port, Authorization="Bearer guessed")[0] == 401
    assert asked(port, "/1/health/fhir/4/metadata", Authorization=f"Bearer {TOKEN}")[0] == 404


def test_openmetrics_is_told_to_who_asks_for_it(installation: app.Installation) -> None:
    port, accept = installation.settings.metrics_port, "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
    _, text, kind = asked(port, Authorization=f"Bearer {TOKEN}", Accept=accept)
    assert kind.startswith("application/openmetrics-text")
    assert text.endswith("# EOF\n")
    assert "# TYPE fhirserver_requests counter" in text


def test_a_part_that_does_not_answer_is_down_and_the_rest_is_told(installation: app.Installation) -> None:
    text = told(installation)
    up = values(text, "up")
    assert up['part="database"'] == 1
    assert up['part="queue"'] == up['part="workers"'] == up['part="relay"'] == 0  # none runs here
    assert values(text, "build_info") == {f'version="{installation.server.software}",format="1"': 1}


def test_whoever_sends_nothing_holds_up_nobody(installation: app.Installation) -> None:
    port = installation.settings.metrics_port
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(metrics.MOST_AT_ONCE - 1)]
    assert "fhirserver_up" in told(installation)
    for each in silent:
        each.close()


def test_a_taken_port_is_no_reason_not_to_relay(
    installation: app.Installation, caplog: pytest.LogCaptureFixture
) -> None:
    with metrics.served(installation):
        assert "metrics cannot be served" in caplog.text


def test_the_processes_of_an_installation_are_counted_together(running: Running) -> None:
    """Reads of two web workers, a message and what waits of it, with nothing of a patient in it."""
    hospital = running.cli("organization", "create", "Metric Hospital")
    token = running.cli("token", "--organization", hospital)
    running.cli("endpoint", "create", "--organization", hospital, "--sending-facility", "METRIC")
    base = f"/1/health/organizations/{hospital}/fhir/4"
    for path in (f"{base}/Patient/nobody-there", f"{base}/Zebra/1", f"{base}/Patient?name=Secretname"):
        asked(running.port, path, Authorization=f"Bearer {token}")
    message = Path(running.data).with_name("metric.hl7")
    message.write_bytes(
        b"MSH|^~\\&|X|METRIC|A|B|20260101120000||ADT^A01|M1|P|2.5\rEVN|A01\rPID|1||77^^^Z||Secretname\rPV1|1|I\r"
    )
    running.run("hl7v2", "send", str(message))
    port = int(running.environ()["FHIRSERVER_METRICS_PORT"])

    def told() -> str:
        return asked(port)[1]

    def seen() -> bool:  # each process tells of what it did within two seconds
        text = told()
        requests, processed = (values(text, name) for name in ("requests_total", "messages_processed_total"))
        missed = 'base="organization",interaction="read",type="{}",status="404"'
        return (
            {missed.format("Patient"), missed.format("")} <= set(requests)  # a type that there is not is not told
            and not {'status="processed"', 'status="warning"'}.isdisjoint(processed)
            and values(text, "acknowledgment_seconds_count").get('way="mllp"', 0) >= 1
        )

    wait_until(seen, 60)
    text = told()
    assert values(text, "up") == dict.fromkeys(
        (f'part="{part}"' for part in ("database", "queue", "relay", "workers")), 1
    )
    assert values(text, "processes")['process="web"'] >= 1
    assert min(values(text, "process_resident_memory_bytes").values()) > 10 << 20
    assert 'type="InboundMessage",status="failed"' in values(text, "open")
    assert "ecretname" not in text
    assert hospital not in text
