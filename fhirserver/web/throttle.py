"""Failed attempts are answered slower and slower, then not at all for a while: a bounded token bucket per caller.

In the memory of one process: with n workers a caller has n times the attempts, which is still far from guessing a
secret.
"""

from __future__ import annotations

import threading
from collections import OrderedDict


class Throttle:
    """At most `attempts` failures at once for a key, one more every `seconds`. It knows the `size` keys that failed
    last.
    """

    def __init__(self, attempts: int = 10, seconds: float = 6.0, size: int = 10_000) -> None:
        self._attempts, self._seconds, self._size = attempts, seconds, size
        self._debts: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def wait(self, now: float, key: str) -> int:
        """Seconds until the key may try again, 0 where it may now. `now` is in seconds."""
        with self._lock:
            excess = self._debt(key, now) - self._attempts + 1
        return int(excess * self._seconds) + 1 if excess > 0 else 0

    def failed(self, now: float, key: str) -> None:
        """Counts a failure against the key."""
        with self._lock:
            self._debts[key] = (self._debt(key, now) + 1, now)
            self._debts.move_to_end(key)
            while len(self._debts) > self._size:
                self._debts.popitem(last=False)

    def _debt(self, key: str, now: float) -> float:
        debt, since = self._debts.get(key, (0.0, now))
        return max(0.0, debt - (now - since) / self._seconds)
