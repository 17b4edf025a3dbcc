"""The counts and times of one process, in memory: a microsecond for each, whoever reads them pays the rest."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import Any

from fhirserver.meters.catalogue import SECONDS

MOST_SERIES = 4_000
"""Beyond so many of one metric in one process, new ones are counted together as `other`."""
OTHER = "other"

Key = tuple[str, ...]
"""The metric's name and the values of its labels."""


class Meter:
    """Counts and times, by metric and labels. Threads may share it; a child process makes its own."""

    def __init__(self) -> None:
        self._counts: dict[Key, float] = {}
        self._series: Counter[str] = Counter()
        self._times: dict[Key, list[float]] = {}
        self._lock = threading.Lock()

    def count(self, *key: str, by: float = 1) -> None:
        """One more (or `by` more) of a metric, given with the values of its labels in the catalogue's order."""
        with self._lock:
            known = self._counts.get(key)
            if known is None and self._series[key[0]] >= MOST_SERIES:
                key = (key[0], *(OTHER for _ in key[1:]))
                known = self._counts.get(key)
            if known is None:
                self._series[key[0]] += 1
            self._counts[key] = (known or 0) + by

    def time(self, seconds: float, *key: str) -> None:
        """One observation of a histogram."""
        at = bisect_left(SECONDS, seconds)
        with self._lock:
            found = self._times.get(key)
            if found is None:
                if len(self._times) >= MOST_SERIES:
                    return
                # a count for each bucket, one for what is above all, and the sum
                found = self._times[key] = [0.0] * (len(SECONDS) + 2)
            found[at] += 1
            found[-1] += seconds

    def held(self) -> dict[str, list[list[Any]]]:
        """All of it, as JSON holds it: [[name, label values ...], value or values]."""
        with self._lock:
            return {
                "counts": [[list(key), value] for key, value in self._counts.items()],
                "times": [[list(key), list(values)] for key, values in self._times.items()],
            }

    def add(self, held: dict[str, Sequence[Any]]) -> None:
        """Adds what another meter held. Raises ValueError, TypeError or KeyError for what is none."""
        for key, value in held["counts"]:
            self.count(*map(str, key), by=float(value))
        for key, values in held["times"]:
            name = tuple(map(str, key))
            with self._lock:
                found = self._times.setdefault(name, [0.0] * (len(SECONDS) + 2))
                if len(found) == len(values):
                    found[:] = [one + float(other) for one, other in zip(found, values, strict=True)]
