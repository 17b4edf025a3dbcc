"""How fast the spool is shipped: beside requests, not before them, as long as little waits.

A record costs a third of what a read costs, and a burst of reads leaves very many. Shipped as fast as possible they
take the processors from the requests that follow; so after each batch the relay rests for some times as long as that
took - longer on a busy machine, by itself - until too much waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable

RESTS = 2.0
"""Of the time that a batch took: a third of one thread's time is for records."""
MOST_REST = 1.0
MOST_WAITING = 32 * 1024 * 1024
"""Bytes of spool: some 75,000 records. Beyond, there are no rests; `$health` warns of twice as many."""


class Pace:
    """Rests between batches. `waiting` says how many bytes wait, `wait` returns after so many seconds, or earlier."""

    def __init__(
        self,
        waiting: Callable[[], int],
        wait: Callable[[float], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._waiting = waiting
        self._wait = wait
        self._clock = clock
        self._began = clock()

    def begin(self) -> None:
        """A batch begins now."""
        self._began = self._clock()

    def rest(self) -> None:
        """A batch has ended; returns when the next one is to begin."""
        took = self._clock() - self._began
        if self._waiting() <= MOST_WAITING:
            self._wait(min(took * RESTS, MOST_REST))
        self.begin()
