"""The largest things that are asked: how long they take, and the memory of a worker before, at its height and after.

`large.everything`: a Patient's 10,000 Observations through $everything, in pages of 1,000; `large.history`: 5,000
versions of a Patient, in pages of 1,000; `large.transaction`: 2,000 entries that refer to each other; `large.body`: a
body of 16 MB, created and read. The value is in seconds for the whole.
"""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench import people
from bench.figures import OUT, line
from bench.installation import Installation, Servers, resident_mb, tree
from fhirserver.fhir.json import encode

OBSERVATIONS = 10_000
VERSIONS = 5_000
ENTRIES = 2_000
BODY_BYTES = 16 * 1024 * 1024 - 4_096  # as large as the settings let it be
PAGE = 1_000
TIMES = 3


def run(wanted: Sequence[str]) -> None:
    """Measures what is wanted of the functions below, on a server of their own."""
    servers = Servers(OUT / "data-large", 0.5).start()
    one = Installation(servers, "bench_large", 1, OBSERVATIONS)
    try:
        one.ready()
        for name in wanted:
            FIGURES[name](one)
    finally:
        if hasattr(one, "process"):
            one.stop()
        servers.stop()


def everything(one: Installation) -> None:
    """A Patient with all its Observations, page after page."""
    _measured(one, "everything", lambda: _pages(one, f"{one.base}/Patient/p0000000/$everything?_count={PAGE}"))


def history(one: Installation) -> None:
    """All versions of a Patient, page after page."""
    path = f"{one.base}/Patient/p0000000"
    connection = http.client.HTTPConnection("127.0.0.1", one.port, timeout=60)
    headers = {"Authorization": f"Bearer {one.token}", "Content-Type": "application/fhir+json"}
    for number in range(VERSIONS - _versions(one)):
        connection.request("PUT", path, encode({**people.patient(0), "multipleBirthInteger": number}), headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise SystemExit(f"PUT {path}: {answer.status}")
    _measured(one, "history", lambda: _pages(one, f"{path}/_history?_count={PAGE}"))


def _versions(one: Installation) -> int:
    found = one.call("GET", f"{one.base}/Patient/p0000000", one.token)
    return int(found["meta"]["versionId"])


def transaction(one: Installation) -> None:
    """Patients and Observations about them in one transaction."""
    entries: list[dict[str, Any]] = []
    for number in range(ENTRIES // 5):
        url = f"urn:uuid:00000000-0000-4000-8000-{number:012d}"
        patient = {name: value for name, value in people.patient(30_000_000 + number).items() if name != "id"}
        entries.append({"fullUrl": url, "resource": patient, "request": {"method": "POST", "url": "Patient"}})
        for each in range(4):
            about = people.observation(30_000_000 + number * 4 + each, 1) | {"subject": {"reference": url}}
            del about["id"]
            entries.append({"resource": about, "request": {"method": "POST", "url": "Observation"}})
    body = encode({"resourceType": "Bundle", "type": "transaction", "entry": entries})
    _measured(one, "transaction", lambda: len(one.call("POST", one.base, one.token, body)["entry"]))


def body(one: Installation) -> None:
    """A Binary of nearly 16 MB, created and read."""
    resource = {"resourceType": "Binary", "contentType": "application/octet-stream", "data": "QUJD" * (BODY_BYTES // 4)}
    text = encode(resource)

    def there_and_back() -> int:
        made = one.call("POST", f"{one.base}/Binary", one.token, text)
        return len(encode(one.call("GET", f"{one.base}/Binary/{made['id']}?_format=json", one.token)))

    _measured(one, "body", there_and_back)


def _pages(one: Installation, path: str) -> int:
    """How many entries all the pages have."""
    entries = 0
    while path:
        page = one.call("GET", path, one.token)
        entries += len(page.get("entry", ()))
        following = [link["url"] for link in page["link"] if link["relation"] == "next"]
        path = "/" + following[0].partition("://")[2].partition("/")[2] if following else ""
    return entries


def _measured(one: Installation, name: str, work: Callable[[], int]) -> None:
    """The best time of several, and the memory of the worker that has most: before, at its height, after."""
    workers = tree(one.process.pid)[1:]
    before = max(map(resident_mb, workers))
    for pid in workers:
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # forgets the height so far
    seconds, amount = [], 0
    for _ in range(TIMES):
        begin = time.monotonic()
        amount = work()
        seconds.append(time.monotonic() - begin)
    said = {
        "amount": amount,
        "mb_before": round(before),
        "mb_height": round(max(map(_height_mb, workers))),
        "mb_after": round(max(map(resident_mb, workers))),
    }
    line(f"large.{name}", min(seconds), "s", None, None, None, said)


def _height_mb(pid: int) -> float:
    for text in Path(f"/proc/{pid}/status").read_text().splitlines():
        if text.startswith("VmHWM:"):
            return int(text.split()[1]) / 1024
    return 0.0


FIGURES: dict[str, Callable[[Installation], None]] = {
    "everything": everything,
    "history": history,
    "transaction": transaction,
    "body": body,
}
