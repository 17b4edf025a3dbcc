"""What one delivery costs: processor time of Python and commands to mongod, of the relay and of a worker.

    python -m bench.notify_cost [deliveries]

Both run in this process, one after the other, so that other load on the machine changes neither figure much.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from typing import Any

from bench.figures import OUT, line
from bench.installation import Servers
from bench.notify import SUBSCRIPTIONS, Wired, receiving
from fhirserver import app
from fhirserver.subscriptions.deliver import Deliverer
from fhirserver.subscriptions.endpoint import Guard
from fhirserver.subscriptions.post import Endpoints
from fhirserver.subscriptions.relay import Relay

COUNTED = ("insert", "query", "update", "delete", "getmore", "command")


class Costs:
    """Counts what mongod does and the processor time of this process."""

    def __init__(self, wired: Wired) -> None:
        self._raw = wired.server.store.database.raw.client.admin

    def _commands(self) -> int:
        found: dict[str, Any] = self._raw.command("serverStatus")["metrics"]["commands"]
        named = ("find", "insert", "update", "delete", "aggregate", "findAndModify", "getMore", "commitTransaction")
        return sum(int(found[name]["total"]) for name in named)

    def of(self, work: Callable[[], object]) -> tuple[float, int]:
        """Milliseconds of processor time and commands that some work takes."""
        commands, began = self._commands(), time.process_time()
        work()
        return (time.process_time() - began) * 1000, self._commands() - commands


def cost(wired: Wired, deliveries: int) -> None:
    """Deliveries of events that wait already, by one relay and one worker in this process."""
    for number in range(SUBSCRIPTIONS):
        wired.subscribe(number, "Patient?gender=" + ("male", "female")[number % 2])
    server, jobs = wired.server, list[tuple[str, ...]]()

    def put(name: str, each: Any) -> int:
        found = [tuple(ids) for ids in each]
        jobs.extend(found)
        return len(found)

    relay = Relay(server, app.catalogue(), put, "bench")
    guard = Guard(wired.settings.webhook_allow)
    vault = app.build(wired.settings).vault
    deliverer = Deliverer(server, Endpoints(guard), vault.decrypt, lambda *ids: jobs.append(ids[1:]), random.random)
    relay.drain()
    jobs.clear()
    costs, events = Costs(wired), deliveries // (SUBSCRIPTIONS // 2)
    for _ in range(0, events, 100):
        wired.commit(100)
    relayed = costs.of(relay.drain)

    def work() -> None:
        while jobs:
            deliverer.deliver(*jobs.pop(0))

    sent = costs.of(work)
    arrived = len(wired.wait(deliveries, 60))
    deliverer.close()
    for name, (cpu, commands) in (("relay", relayed), ("worker", sent)):
        said = {"deliveries": arrived, "commands": round(commands / arrived, 2)}
        line(f"notify.cost.{name}", cpu / arrived, "ms CPU/delivery", None, None, None, said)


def run(deliveries: int) -> None:
    """Measures on servers of its own."""
    servers = Servers(OUT / "data-notify-cost", 0.5)
    servers.start()
    try:
        with receiving() as (port, arrived):
            cost(Wired(servers, arrived, port), deliveries)
    finally:
        servers.stop()


if __name__ == "__main__":
    run(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
