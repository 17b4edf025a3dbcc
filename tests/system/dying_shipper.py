"""Ships audit records in processes that end, as by kill -9, before or after one step each; then in one that does not.

    python -m tests.system.dying_shipper

Prints the exit code of each, in the order of STEPS; the settings come from the environment.
"""

from __future__ import annotations

import os

from fhirserver import app
from fhirserver.auditing.recording import ship
from fhirserver.auth.principal import SYSTEM
from fhirserver.fhir.definitions import Definitions
from fhirserver.fhir.problem import problem
from fhirserver.interactions.model import Request
from fhirserver.settings import Settings
from tests.system.dying import deadly

RECORDS = 60
"""Of each process: enough to be sealed as they are stored."""
STEPS = (
    ("fhirserver.store.spool", "gathered", "before"),
    ("fhirserver.auditing.recording", "_changes", "after"),
    ("fhirserver.store.seal", "Seals.insert", "before"),
    ("fhirserver.store.seal", "Seals._next", "after"),
    ("fhirserver.store.seal", "Seals.insert", "after"),
    ("fhirserver.store.spool", "shipped", "before"),
    ("fhirserver.store.spool", "shipped", "after"),
)


def work(number: int) -> None:
    """Leaves records, then ships all that waits, and ends at a step of that."""
    settings = Settings.from_env()
    installation = app.build(settings)
    server = installation.server
    base = server.base("registry")
    for each in range(RECORDS):
        asked = Request("read", "registry", base, SYSTEM, type="User", id=f"u{number}-{each}")
        server.audit(server, asked, problem("not-found", "not here"))
    if number < len(STEPS):
        deadly(*STEPS[number])
    while ship(server, settings.data / app.SPOOL, app.seals(installation)):
        pass


def main() -> None:
    """The command: everything is loaded once, then each step has a process of its own."""
    Definitions.load()
    for number in range(len(STEPS) + 1):
        child = os.fork()
        if not child:
            work(number)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
