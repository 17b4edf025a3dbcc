"""What is counted and timed, kept in files and told as Prometheus reads it."""

from __future__ import annotations

import logging
import os
import re
import threading
from pathlib import Path
from typing import Any

import pytest

from fhirserver.meters import CATALOGUE, FOLDER, Ledger, Meter, exposition, lives, read
from fhirserver.meters.catalogue import SECONDS
from fhirserver.meters.meter import MOST_SERIES
from tests.running import wait_until

DOCS = Path(__file__).parents[2] / "docs" / "operate" / "metrics.md"
LINE = re.compile(r'[a-z_]+(\{([a-z]+="([^"\\\n]|\\.)*",?)+\})? -?[0-9.e+-]+')


def test_a_histogram_is_told_as_prometheus_adds_it_up() -> None:
    meter = Meter()
    for seconds in (0.0004, 0.001, 0.003, 99.0):
        meter.time(seconds, "request_seconds", "read")
    text = exposition(meter, [], openmetrics=False)
    assert 'fhirserver_request_seconds_bucket{interaction="read",le="0.001"} 2\n' in text
    assert 'fhirserver_request_seconds_bucket{interaction="read",le="0.005"} 3\n' in text
    assert 'fhirserver_request_seconds_bucket{interaction="read",le="10.0"} 3\n' in text
    assert 'fhirserver_request_seconds_bucket{interaction="read",le="+Inf"} 4\n' in text
    assert 'fhirserver_request_seconds_count{interaction="read"} 4\n' in text
    assert 'fhirserver_request_seconds_sum{interaction="read"} 99.0044\n' in text


@pytest.mark.parametrize("openmetrics", [True, False])
def test_every_family_has_a_type_and_a_meaning_and_every_sample_is_one(openmetrics: bool) -> None:
    meter = Meter()
    meter.count("requests", "registry", "read", 'a "type"\\\n', "200")
    meter.time(0.5, "delivery_seconds")
    text = exposition(meter, [("open", (("type", "InboundMessage"), ("status", "failed")), 3)], openmetrics=openmetrics)
    lines = text.splitlines()
    assert text.endswith("# EOF\n") is openmetrics
    assert [line for line in lines if not line.startswith("#") and not LINE.fullmatch(line)] == []
    named = "fhirserver_requests" if openmetrics else "fhirserver_requests_total"
    assert f"# TYPE {named} counter" in lines
    assert 'fhirserver_open{type="InboundMessage",status="failed"} 3' in lines
    assert sum(line.startswith("# TYPE ") for line in lines) == len(CATALOGUE)


def test_many_labels_are_counted_together_in_the_end() -> None:
    meter = Meter()
    for number in range(MOST_SERIES + 50):
        meter.count("requests", "registry", "read", f"T{number}", "200")
    counts = meter.held()["counts"]
    assert len(counts) == MOST_SERIES + 1
    assert [["requests", "other", "other", "other", "other"], 50] in counts
    meter.count("delivery_attempts", "delivered")
    assert [["delivery_attempts", "delivered"], 1] in meter.held()["counts"], "one metric leaves room for others"


def test_threads_lose_no_count() -> None:
    meter = Meter()
    threads = [threading.Thread(target=lambda: [meter.count("purged", "x") for _ in range(5_000)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert meter.held()["counts"] == [[["purged", "x"], 40_000]]


def test_a_process_goes_on_with_the_counts_of_one_of_its_kind_that_has_ended(tmp_path: Path) -> None:
    first = Meter()
    ledger = Ledger(tmp_path, "web", first)
    first.count("requests", "registry", "read", "Patient", "200")
    first.time(0.5, "request_seconds", "read")
    ledger.close()
    second = Meter()
    ledger = Ledger(tmp_path, "web", second)
    second.count("requests", "registry", "read", "Patient", "200")
    ledger.close()
    assert [path.name for path in tmp_path.glob("*.json")] == ["web-1.json"]
    seen = Meter()
    assert [(each.kind, each.lives) for each in read(tmp_path, seen)] == [("web", False)]
    held = seen.held()
    assert held["counts"] == [[["requests", "registry", "read", "Patient", "200"], 2.0]]
    assert sum(held["times"][0][1][:-1]) == 1


def _told(folder: Path) -> dict[str, Any]:
    seen = Meter()
    read(folder, seen)
    return seen.held()


def test_processes_of_a_kind_that_live_have_a_file_each(tmp_path: Path) -> None:
    meters = [Meter(), Meter()]
    ledgers = [Ledger(tmp_path, "web", meter) for meter in meters]
    for meter in meters:
        meter.count("purged", "x")
    logging.getLogger("somewhere").error("something")
    wait_until(lambda: [["purged", "x"], 2.0] in _told(tmp_path)["counts"])
    seen = Meter()
    found = read(tmp_path, seen)
    assert [(each.pid, each.lives, each.memory > 1 << 20) for each in found] == [(os.getpid(), True, True)] * 2
    assert [["purged", "x"], 2.0] in seen.held()["counts"]
    assert [["log_lines", "web", "error"], 2.0] in seen.held()["counts"]
    for ledger in ledgers:
        ledger.close()


def test_a_process_is_alive_while_it_writes_and_holds_its_lock(tmp_path: Path) -> None:
    assert not lives(tmp_path, "relay", 30)
    ledger = Ledger(tmp_path / FOLDER, "relay", Meter())
    wait_until(lambda: lives(tmp_path, "relay", 30))
    assert not lives(tmp_path, "web", 30)
    assert not lives(tmp_path, "relay", -1)
    ledger.close()
    assert not lives(tmp_path, "relay", 30)


def test_a_folder_that_cannot_be_written_stops_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "taken").write_text("a file")
    ledger = Ledger(tmp_path / "taken" / FOLDER, "web", Meter())
    assert "are not kept" in caplog.text
    ledger.close()


def test_a_file_that_is_no_count_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "web-1.json").write_text("{")
    (tmp_path / "web-2.json").write_text('{"counts": [["a"]], "times": []}')
    assert read(tmp_path, Meter()) == []
    Ledger(tmp_path, "web", Meter()).close()
    assert [each.kind for each in read(tmp_path, Meter())] == ["web"]


def test_the_page_names_every_metric() -> None:
    page = DOCS.read_text()
    for each in CATALOGUE:
        name = f"fhirserver_{each.name}" + ("_total" if each.kind == "counter" else "")
        assert f"`{name}`" in page, name
        assert all(f"`{label}`" in page for label in each.labels)
    assert len(SECONDS) == len(set(SECONDS))
