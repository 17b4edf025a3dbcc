"""Leases that live as long as their process: short, and renewed in the background, so that a killed worker's
subscriptions and lanes are free again within seconds, however long a POST or a message may take.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fhirserver.fhir.problem import Problem
from fhirserver.store.database import Session
from fhirserver.store.resources import Store

log = logging.getLogger(__name__)

SECONDS = 6.0
RENEW_SECONDS = 2.0


@dataclass(eq=False, slots=True)
class Held:
    """A lease while it is held. lost: it could not be renewed in time, so somebody else may hold it now."""

    name: str
    owner: str
    lost: bool = False


class Holding:
    """The leases that this process holds. Threads may share it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._held: set[Held] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def lease(self, name: str, owner: str, session: Session | None = None) -> Iterator[Held | None]:
        """The lease for the length of a `with`, or None where another holds it. `session`: what is written with under
        it, ended by whoever takes it over from a process that was killed.
        """
        if self._store.lease(name, owner, SECONDS, session) is None:
            yield None
            return
        with self._holding([name], owner) as [held]:
            yield held

    @contextmanager
    def leases(self, names: Collection[str], owner: str, session: Session | None = None) -> Iterator[list[Held]]:
        """Those of these leases that nobody else holds, for the length of a `with`: few commands, however many."""
        taken = self._store.lease_all(names, owner, SECONDS, session) if names else ()
        with self._holding(taken, owner) as held:
            yield held

    @contextmanager
    def _holding(self, names: Collection[str], owner: str) -> Iterator[list[Held]]:
        """Renews these leases, which are taken, for the length of a `with`, and gives them back."""
        held = [Held(name, owner) for name in names]
        with self._lock:
            self._held.update(held)
            if held and self._thread is None:
                self._thread = threading.Thread(target=self._renew, daemon=True, name="leases")
                self._thread.start()
        try:
            yield held
        finally:
            with self._lock:
                self._held.difference_update(held)
            if held:
                self._store.release_all(names, owner)

    def sweep(self) -> int:
        """Ends the transactions of processes that were killed, in whatever process, once their leases have run out:
        nobody else would for as long as the database keeps them (`transactionLifetimeLimitSeconds`). Answers how many
        leases that were.
        """
        return self._store.end_lapsed()

    def close(self) -> None:
        """Ends the renewing."""
        self._closed.set()

    def _renew(self) -> None:
        """Renews what is held until nothing is: who takes a lease then starts another thread."""
        failures = 0
        while not self._closed.wait(RENEW_SECONDS):
            with self._lock:
                held = list(self._held)
                if not held:
                    self._thread = None
                    return
            try:
                for owner in {one.owner for one in held}:
                    of_one = [one for one in held if one.owner == owner]
                    kept = self._store.renew_all([one.name for one in of_one], owner, SECONDS)
                    for one in of_one:
                        one.lost = one.lost or one.name not in kept
                failures = 0
            except Problem as trouble:
                failures += 1
                log.warning("leases cannot be renewed: %s", trouble)
                if failures * RENEW_SECONDS >= SECONDS - RENEW_SECONDS:
                    for one in held:
                        one.lost = True
