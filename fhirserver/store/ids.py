"""Ids of new resources. FHIR R4: datatypes#id."""

from __future__ import annotations

import os
import time
from collections import deque

_DRAWN = 64
_chance: deque[str] = deque()
os.register_at_fork(after_in_child=_chance.clear)  # or parent and child would make the same ids


def new_id() -> str:
    """A new id: 48 bits of milliseconds, then 80 random ones, so that resources made together lie together in the
    index.
    """
    stamp = int(time.time() * 1000) & ((1 << 48) - 1)
    while True:
        try:
            return f"{stamp:012x}{_chance.pop()}"
        except IndexError:
            # Many at once: each call of the system lets another thread go first, and a create makes three ids.
            drawn = os.urandom(_DRAWN * 10).hex()
            _chance.extend(drawn[at : at + 20] for at in range(0, len(drawn), 20))
