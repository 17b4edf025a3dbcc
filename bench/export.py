"""Bulk exports, from the kick-off until the manifest names the last file: resources a second, what one costs, and the
memory of the worker before, at its height and after.

    make bench ONLY=export SIZE=small

`export.system`: Patients and Observations as they lie; `export.patient`: the same of all patients' compartments, with
what they refer to, for which each resource is read and not only copied; `export.fetch`: the files of the first, fetched
one after the other, in compressed megabytes; its CPU is that of a file. One worker does them, and nothing else runs.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from redis import Redis

from bench.figures import line
from bench.installation import ROOT, Installation, resident_mb, tree, tree_cpu_seconds
from fhirserver.settings import bare_environ

ASKED = {
    "system": "$export?_type=Patient,Observation",
    "patient": "Patient/$export?_type=Patient,Observation,Practitioner,Organization",
}
PATIENCE_SECONDS = 1_800
LOOK_SECONDS = 0.25


@dataclass
class Worker:
    """The process that does them."""

    pid: int
    mb: list[float] = field(default_factory=list)

    def look(self) -> None:
        """Notes the memory of its largest process."""
        self.mb.append(max(resident_mb(pid) for pid in tree(self.pid)))


def measure(one: Installation, mongod: Callable[[], float]) -> None:
    """Writes the figures of an installation with data. `mongod`: the seconds of CPU that it has used."""
    with working(one) as worker:
        manifests = {level: _exported(one, worker, mongod, level, path) for level, path in ASKED.items()}
    _fetched(one, mongod, manifests["system"])
    for manifest in manifests.values():
        _asked(one, manifest["status"], 202, method="DELETE")


@contextmanager
def working(one: Installation) -> Iterator[Worker]:
    """With one worker, and a queue that holds nothing of before."""
    with Redis.from_url(one.settings.redis_url.reveal()) as queue:
        queue.flushall()
    environ = bare_environ() | one.settings.variables()
    argv = [sys.executable, "-m", "fhirserver", "worker"]
    process = subprocess.Popen(argv, env=environ, stdin=subprocess.DEVNULL, cwd=ROOT)
    try:
        time.sleep(3)
        yield Worker(process.pid)
    finally:
        process.terminate()
        process.wait(60)


def _exported(one: Installation, worker: Worker, mongod: Callable[[], float], level: str, path: str) -> dict[str, Any]:
    worker.mb.clear()
    worker.look()
    spent, its = tree_cpu_seconds(worker.pid), mongod()
    begin = time.monotonic()
    _, headers, _ = _asked(one, f"{one.base}/{path}", 202)
    status = "/" + headers["Content-Location"].partition("://")[2].partition("/")[2]
    while (answer := _asked(one, status))[0] == 202:
        worker.look()
        time.sleep(LOOK_SECONDS)
        if time.monotonic() - begin > PATIENCE_SECONDS:
            raise SystemExit(f"the export is not done: {answer[1].get('X-Progress')}")
    seconds = time.monotonic() - begin
    manifest: dict[str, Any] = json.loads(answer[2]) | {"status": status}
    worker.look()
    many = sum(each["count"] for each in manifest["output"])
    cpu = ((tree_cpu_seconds(worker.pid) - spent) / many * 1e6, (mongod() - its) / many * 1e6)
    before, after = worker.mb[0], worker.mb[-1]
    said = {"resources": many, "files": len(manifest["output"]), "errors": len(manifest["error"])}
    said |= {"worker_mb": [round(each) for each in (before, max(worker.mb), after)], "seconds": round(seconds, 1)}
    line(f"export.{level}", many / seconds, "resources/s", None, None, cpu, said)
    return manifest


def _fetched(one: Installation, mongod: Callable[[], float], manifest: dict[str, Any]) -> None:
    taken, files = 0, manifest["output"]
    spent, its, begin = one.cpu(), mongod(), time.monotonic()
    for each in files:
        path = "/" + each["url"].partition("://")[2].partition("/")[2]
        taken += len(_asked(one, path, 200, Accept_Encoding="gzip")[2])
    seconds = time.monotonic() - begin
    cpu = ((one.cpu() - spent) / len(files) * 1e6, (mongod() - its) / len(files) * 1e6)
    said = {"resources": sum(each["count"] for each in files), "files": len(files), "mb": round(taken / 1e6, 1)}
    line("export.fetch", taken / 1e6 / seconds, "MB/s", None, None, cpu, said)


def _asked(
    one: Installation, path: str, expected: int = 0, method: str = "GET", **more: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """A request of the client: status, headers and body of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", one.port, timeout=60)
    headers = {"Authorization": f"Bearer {one.token}", "Prefer": "respond-async"}
    connection.request(method, path, headers=headers | {name.replace("_", "-"): value for name, value in more.items()})
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    if answer.status >= 400 or (expected and answer.status != expected):
        raise SystemExit(f"{method} {path}: {answer.status} {body[:500]!r}")
    return answer.status, answer.headers, body
