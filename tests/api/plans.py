"""How MongoDB says that it answers a query."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def stages(winning: Any) -> Iterator[str]:
    """The names of all stages of a plan."""
    if isinstance(winning, dict):
        if "stage" in winning:
            yield winning["stage"]
        for value in winning.values():
            yield from stages(value)
    elif isinstance(winning, list):
        for value in winning:
            yield from stages(value)
