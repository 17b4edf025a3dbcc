"""Takes a message in and processes it in processes that end, as by kill -9, before or after one step each.

    python -m tests.system.dying ORGANIZATION FACILITY

Prints the exit code of each, in the order of STEPS; the settings come from the environment.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from fhirserver import app
from fhirserver.fhir.definitions import Definitions
from fhirserver.hl7v2.abreast import Abreast
from fhirserver.hl7v2.ingest import Intake
from fhirserver.hl7v2.mapping import Maps
from fhirserver.hl7v2.mapping.load import load
from fhirserver.hl7v2.process import process
from fhirserver.settings import Settings, folder

KILLED = 9
ALIVE = 99
"""A message that goes all the way first: it makes the organizations that all share, and would wait for."""
# Everything between the first byte taken in and the last commit: module, name in it, and whether before or after.
STEPS = (
    ("fhirserver.hl7v2.ingest", "prepare", "before"),
    ("fhirserver.hl7v2.ingest", "prepare", "after"),
    ("fhirserver.store.resources", "Store.insert_messages", "before"),
    ("fhirserver.store.resources", "Store.insert_messages", "after"),
    ("fhirserver.hl7v2.ingest", "Intake.wake", "after"),
    ("fhirserver.hl7v2.process", "_attempt", "before"),
    ("fhirserver.hl7v2.process", "to_bundle", "after"),
    ("fhirserver.messaging.content", "match", "after"),
    ("fhirserver.messaging.content", "store", "after"),
    ("fhirserver.interactions.model", "Unit.flush", "before"),
    ("fhirserver.interactions.model", "Unit.flush", "after"),
    ("fhirserver.store.resources", "Store.transaction", "after"),
    ("fhirserver.hl7v2.process", "accept", "after"),
    ("fhirserver.hl7v2.abreast", "_Batch._look", "after"),
    ("fhirserver.messaging.together", "match", "after"),
    ("fhirserver.messaging.together", "_commit", "before"),
    ("fhirserver.messaging.together", "_commit", "after"),
    ("fhirserver.store.locks", "Locks.touch", "after"),
    ("fhirserver.store.resources", "Store.commit", "after"),
    ("fhirserver.hl7v2.abreast", "accept_all", "after"),
)
TOGETHER = 13
"""From this step on a message goes the way that it goes in a worker: with others."""


def message(facility: str, number: int) -> bytes:
    """The message that the process of step `number` takes."""
    return (
        f"MSH|^~\\&|ADT1|{facility}|X|Y|20260101120000||ADT^A31|K{number}|P|2.5\rEVN|A31|20260101120000\r"
        f"PID|1||K{number}^^^{facility}^MR||Killed^n{number}\rPV1|1|N\r"
    ).encode()


def deadly(where: str, name: str, when: str) -> None:
    """Makes a function end the process."""
    *owners, last = name.split(".")
    owner: Any = import_module(where)
    for each in owners:
        owner = getattr(owner, each)
    function: Callable[..., Any] = getattr(owner, last)

    def dying(*arguments: Any, **named: Any) -> Any:
        if when == "before":
            os._exit(KILLED)
        function(*arguments, **named)
        os._exit(KILLED)

    setattr(owner, last, dying)


def work(number: int, organization: str, facility: str, maps: Maps) -> None:
    """The whole way of one message, which ends at its step."""
    server = app.build(Settings.from_env()).server
    intake = Intake(server, maps)
    intake.senders(0.0)
    if number != ALIVE:
        deadly(*STEPS[number])
    [taken] = intake.take_all([message(facility, number)], "", organization)
    if number < TOGETHER:
        process(intake, organization, taken.lane)
    else:
        Abreast(intake).process(organization, taken.lane)


def main() -> None:
    """The command: everything is loaded once, then each step has a process of its own."""
    organization, facility = sys.argv[1:]
    definitions = Definitions.load().extended(app.resources_in("profiles"), generation=-1)
    maps = load(folder("mappings"), definitions)
    for number in (ALIVE, *range(len(STEPS))):
        child = os.fork()
        if not child:
            work(number, organization, facility, maps)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
