"""`fhirserver audit verify` beside a running installation: its records are sealed, and a change to one is found."""

from __future__ import annotations

from tests.running import Running, wait_until


def test_the_records_of_an_installation_are_sealed_and_verified(running: Running) -> None:
    running.cli("organization", "create", "Sealed Hospital")
    wait_until(lambda: ", 0 not sealed yet; head " in running.cli("audit", "verify", "--organization", "registry"))
    line = running.cli("audit", "verify", "--organization", "registry")
    assert line.startswith("ok   registry:")
    head = line.rpartition("head ")[2]
    assert running.cli("audit", "verify", "--organization", "registry", "--head", head).startswith("ok")
    cut = running.run("audit", "verify", "--organization", "registry", "--head", "999:h1.k.x")
    assert (cut.returncode, cut.stdout.startswith("FAIL registry: the head 999")) == (1, True)
