"""What every request must know - may this client still call, are the definitions still these - read once in a blink.

The invariant: when a write of such a thing has been answered to its writer, no process acts on what was there before.
It holds without talking to the other processes. A reader uses what it read for LEASE_SECONDS counted from *before* it
asked; a writer waits a little longer than that after its commit, before it answers. Whoever had read the old state
asked before the commit, so that its lease has run out by then. Disabling a client thus acts on the very next call,
whichever worker takes it, and costs whoever disables it a tenth of a second instead of costing every request a
round trip.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")

LEASE_SECONDS = 0.1
PATIENCE_SECONDS = 0.12
"""What a writer waits: the lease, and room for clocks that run at slightly different speeds."""
AGAIN_SECONDS = 0.06
"""From here on somebody asks again, while the others go on with what there is to the end of its lease: all of them
asking at once would make the database answer the same question a dozen times.
"""
MOST_KEPT = 10_000


class Recent:
    """Readings that are good for a moment, and the wait of whoever has changed what they show. Safe among threads."""

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._kept: dict[Hashable, tuple[float, Any]] = {}
        self._asking: set[Hashable] = set()
        self._changed = threading.local()

    def read(self, key: Hashable, ask: Callable[[], T]) -> T:
        """What `ask` answered for this key less than a lease ago, or answers now."""
        now = self._clock()
        kept = self._kept.get(key)
        if kept is not None:
            age = now - kept[0]
            if age < AGAIN_SECONDS or (age < LEASE_SECONDS and key in self._asking):
                found: T = kept[1]
                return found
        self._asking.add(key)
        try:
            answer = ask()
        finally:
            self._asking.discard(key)
        if len(self._kept) >= MOST_KEPT:
            self._kept.clear()
        self._kept[key] = (now, answer)
        return answer

    def changed(self) -> None:
        """Notes that this thread has written something that is read here; it must `settle` after its commit."""
        self._changed.noted = True

    def settle(self) -> None:
        """Returns when nobody can act any more on what was there before this thread's write; at once without one."""
        if getattr(self._changed, "noted", False):
            self._changed.noted = False
            self._sleep(PATIENCE_SECONDS)
            self._kept.clear()
