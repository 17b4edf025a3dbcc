"""`fhirserver audit verify` beside a running installation: its records are sealed, and a change to one is found. None
is lost, whenever the process dies that stores and seals them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

from fhirserver import app
from fhirserver.settings import Secret, Settings
from tests.running import Running, wait_until
from tests.system import dying_shipper
from tests.system.dying import KILLED


def test_the_records_of_an_installation_are_sealed_and_verified(running: Running) -> None:
    running.cli("organization", "create", "Sealed Hospital")
    wait_until(lambda: ", 0 not sealed yet; head " in running.cli("audit", "verify", "--organization", "registry"))
    line = running.cli("audit", "verify", "--organization", "registry")
    assert line.startswith("ok   registry:")
    head = line.rpartition("head ")[2]
    assert running.cli("audit", "verify", "--organization", "registry", "--head", head).startswith("ok")
    cut = running.run("audit", "verify", "--organization", "registry", "--head", "999:h1.k.x")
    assert (cut.returncode, cut.stdout.startswith("FAIL registry: the head 999")) == (1, True)


def test_a_shipper_killed_at_any_step_loses_and_repeats_no_record_and_the_chain_holds(
    mongo_url: str, tmp_path: Path
) -> None:
    settings = Settings(
        data=tmp_path,
        mongo_url=Secret(mongo_url),
        mongo_database=f"dying-{uuid.uuid4().hex[:8]}",
        master_key=Secret("k" * 40),
        public_url="http://ship.test",
    )
    words = [sys.executable, "-m", "tests.system.dying_shipper"]
    environ = os.environ | settings.variables()
    done = subprocess.run(words, env=environ, capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.split() == [str(KILLED)] * len(dying_shipper.STEPS) + ["0"], done.stderr
    with app.opened(settings) as installation:
        seals = app.seals(installation)
        seals.seal("registry")
        report = seals.verify("registry")
        made = dying_shipper.RECORDS * (len(dying_shipper.STEPS) + 1)
        assert (report.findings, report.records, report.unsealed) == ([], made, 0)
        held = installation.server.store.database.current("AuditEvent")
        assert held.count_documents({}) == made
        assert len(held.distinct("s.entity")) == made
