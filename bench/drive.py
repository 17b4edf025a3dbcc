"""Load over HTTP: wrk where it is installed, else a small client of several processes. Both keep connections open."""

from __future__ import annotations

import http.client
import json
import multiprocessing
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LUA = Path(__file__).with_name("wrk.lua")


@dataclass(frozen=True)
class Call:
    """One request: method, path, body ("" for none)."""

    method: str
    path: str
    body: str = ""


@dataclass(frozen=True)
class Result:
    """What a run measured: requests answered, seconds, latencies in milliseconds, and answers that were no success."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: int

    @property
    def rate(self) -> float:
        return self.requests / self.seconds


def drive(port: int, token: str, calls: Sequence[Call], seconds: float, connections: int) -> Result:
    """Sends the calls over and over for so long, over so many connections."""
    return (_wrk if shutil.which("wrk") else _own)(port, token, calls, seconds, connections)


def _wrk(port: int, token: str, calls: Sequence[Call], seconds: float, connections: int) -> Result:
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        for call in calls:
            file.write(f"{call.method}\t{call.path}\t{call.body}\n")
        file.flush()
        threads = min(2, connections)
        argv = ["wrk", f"-t{threads}", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency", "-s", str(LUA)]
        argv += ["--timeout", "30s", f"http://127.0.0.1:{port}", "--", file.name, str(threads), token]
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
    said: dict[str, Any] = json.loads(done.stdout.rpartition("RESULT ")[2])
    return Result(said["requests"], said["us"] / 1e6, said["p50"] / 1e3, said["p99"] / 1e3, said["errors"])


def _own(port: int, token: str, calls: Sequence[Call], seconds: float, connections: int) -> Result:
    processes = min(2, connections)
    share = [(port, token, calls[at::processes], seconds, connections // processes) for at in range(processes)]
    begin = time.monotonic()
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        parts = pool.starmap(_process, share)
    took = time.monotonic() - begin
    times = sorted(each for part, _ in parts for each in part)
    errors = sum(wrong for _, wrong in parts)
    return Result(len(times), took, times[len(times) // 2] * 1e3, times[len(times) * 99 // 100] * 1e3, errors)


def _process(port: int, token: str, calls: Sequence[Call], seconds: float, connections: int) -> tuple[list[float], int]:
    times: list[float] = []
    wrong: list[int] = []
    deadline = time.monotonic() + seconds
    threads = [
        threading.Thread(target=_connection, args=(port, token, calls[at::connections], deadline, times, wrong))
        for at in range(connections)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return times, len(wrong)


def _connection(
    port: int, token: str, calls: Sequence[Call], deadline: float, times: list[float], wrong: list[int]
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Content-Type": "application/fhir+json", "Authorization": f"Bearer {token}"}
    at = 0
    while time.monotonic() < deadline:
        call = calls[at % len(calls)]
        at += 1
        begin = time.monotonic()
        connection.request(call.method, call.path, call.body.encode() or None, headers)
        answer = connection.getresponse()
        answer.read()
        times.append(time.monotonic() - begin)
        if answer.status >= 400:
            wrong.append(answer.status)
    connection.close()
