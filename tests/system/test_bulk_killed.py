"""Exports whose workers are killed, each at the first file that it writes: no file is lost, and none is there twice."""

from __future__ import annotations

import signal
import subprocess
import sys
import uuid

from fhirserver.bulk import work
from fhirserver.fhir.json import decode
from tests.api.exchange import ISSUER, exchange_of
from tests.running import wait_until

PATIENTS = 12
TOGETHER = 2
DEATHS = ("before", "between", "after")
DYING = """
import os, signal, sys
from pathlib import Path
from fhirserver import app
from fhirserver.bulk import work
from fhirserver.settings import Secret, Settings
from fhirserver.store.exports import Exports

url, database, data, key, organization, id, lines, when = sys.argv[1:]
advance, end = Exports.advance, lambda *_: os.kill(os.getpid(), signal.SIGKILL)

def dies(exports, *given):
    if when == "before":
        end()
    if when == "between":  # the file is written, the export is not moved on
        exports._collection("exports").update_one = end
    advance(exports, *given)
    end()

Exports.advance = dies
work.PART_LINES, work.LEASE_SECONDS = int(lines), 0.2  # the time of who died passes soon
settings = Settings(data=Path(data), mongo_url=Secret(url), mongo_database=database, master_key=Secret(key))
work.work(app.build(settings).server, organization, id)
"""


def test_a_killed_worker_loses_no_file_and_doubles_none(mongo_url: str) -> None:
    with exchange_of(mongo_url, f"killed-{uuid.uuid4().hex[:8]}") as exchange:
        admin, settings = exchange.people["hospital"], exchange.installation.settings
        wanted = [f"p{number:02d}" for number in range(PATIENTS)]
        for id in wanted:
            body = {"resourceType": "Patient", "id": id}
            assert exchange.call("PUT", f"{exchange.base}/Patient/{id}", admin, body).status_code == 201
        headers = {"Authorization": f"Bearer {admin}", "Prefer": "respond-async"}
        begun = exchange.http.get(f"{exchange.base}/$export?_type=Patient", headers=headers)
        status = begun.headers["Content-Location"].removeprefix(ISSUER)
        words = (mongo_url, settings.mongo_database, str(settings.data), settings.master_key.reveal(),
                 exchange.hospital, status.rpartition("/")[2], str(TOGETHER))  # fmt: skip
        for when in DEATHS:
            ended = subprocess.run([sys.executable, "-c", DYING, *words, when], timeout=120, check=False)
            assert ended.returncode == -signal.SIGKILL, when

        def done() -> bool:
            work.work(exchange.installation.server, exchange.hospital, words[5])
            return exchange.call("GET", status, admin).status_code == 200

        wait_until(done)
        files = exchange.call("GET", status, admin).json["output"]  # type: ignore[index]
        counts = [each["count"] for each in files]
        assert counts == [TOGETHER, PATIENTS - TOGETHER], "the file of one that was killed after it stays"
        answers = [exchange.call("GET", each["url"].removeprefix(ISSUER), admin) for each in files]
        assert [decode(line)["id"] for answer in answers for line in answer.data.splitlines()] == wanted
