"""The JWK Sets that clients publish at their jwksUri: fetched when they are needed, kept for five minutes, and fetched
again for a key that is new. SMART App Launch 2.2, client-confidential-asymmetric; RFC 7517.
"""

from __future__ import annotations

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fhirserver.auth.assertions import Refused
from fhirserver.fhir.problem import problem

FRESH_SECONDS = 300.0
AGAIN_SECONDS = 60.0
"""How long nobody asks again, after a failure or for a kid that was not there."""
MOST_WAITING = 4
"""Threads of a process that may wait for strangers' key sets at once; the others serve everybody else."""
MOST_SETS = 1_000

Get = Callable[[str], tuple[int, bytes, str]]
"""A URL -> the status of its answer (0: none), the body, and why there is no answer."""


@dataclass(slots=True)
class _Held:
    """What is known of one URL: its keys and when they were read, when it was last asked, what was wrong then."""

    keys: Mapping[str, Any] | None = None
    read: float = 0.0
    tried: float | None = None
    reason: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)


class KeySets:
    """Reads key sets with `get`, which judges addresses and bounds time and size. Threads may share it."""

    def __init__(self, get: Get, clock: Callable[[], float] = time.monotonic) -> None:
        self._get = get
        self._clock = clock
        self._held: OrderedDict[str, _Held] = OrderedDict()
        self._lock = threading.Lock()
        self._waiting = threading.Semaphore(MOST_WAITING)

    def fetch(self, url: str, kid: str) -> Mapping[str, Any]:
        """The JWK Set at the URL, asked again where it does not have this kid, at most once a minute.

        Raises Refused where there is none to be had, Problem(transient) where too many wait for one.
        """
        held = self._of(url)
        known = self._known(held, kid)
        if known is not None:
            return known
        if not self._waiting.acquire(blocking=False):
            raise problem("transient", "Many clients' keys are being fetched: try again.", headers={"Retry-After": "2"})
        try:
            with held.lock:
                known = self._known(held, kid)  # of whoever came first
                if known is None:
                    self._read(held, url)
                    known = self._known(held, kid)
        finally:
            self._waiting.release()
        if known is None:
            raise Refused(held.reason)
        return known

    def _of(self, url: str) -> _Held:
        with self._lock:
            held = self._held.setdefault(url, _Held())
            self._held.move_to_end(url)
            while len(self._held) > MOST_SETS:
                self._held.popitem(last=False)
            return held

    def _known(self, held: _Held, kid: str) -> Mapping[str, Any] | None:
        """The keys that need no asking; None where it is time to ask. Raises Refused where it is not, and there are
        none.
        """
        now = self._clock()
        fresh = held.keys if now - held.read < FRESH_SECONDS else None
        if fresh is not None and any(key.get("kid") == kid for key in fresh["keys"]):
            return fresh
        if held.tried is None or now - held.tried >= AGAIN_SECONDS:
            return None
        if fresh is None:
            raise Refused(held.reason)
        return fresh

    def _read(self, held: _Held, url: str) -> None:
        status, body, error = self._get(url)
        held.tried = self._clock()
        if status != 200:
            held.reason = f"its jwksUri cannot be read: {error or f'it answers with status {status}'}"
            return
        keys = _keys(body)
        if keys is None:
            held.reason = "its jwksUri answers with something else than a JWK Set"
            return
        held.keys, held.read = keys, held.tried


def _keys(body: bytes) -> Mapping[str, Any] | None:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    keys = found.get("keys") if isinstance(found, dict) else None
    if not isinstance(keys, list) or not all(isinstance(key, dict) for key in keys):
        return None
    return {"keys": keys}
