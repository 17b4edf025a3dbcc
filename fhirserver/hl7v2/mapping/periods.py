"""Periods inside a resource: found, and told apart from those that run backwards (FHIR invariant per-1)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any


def periods(value: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every object inside that has a start and an end."""
    if "start" in value and "end" in value and isinstance(value["end"], str):
        yield value
    for member in value.values():
        if isinstance(member, dict):
            yield from periods(member)
        elif isinstance(member, list):
            for item in member:
                if isinstance(item, dict):
                    yield from periods(item)


def backwards(start: str, end: str) -> bool:
    """Whether two FHIR dates or dateTimes are certainly in the wrong order; a partial one is compared as far as it
    says.
    """
    if "T" in start and "T" in end:
        return datetime.fromisoformat(start) > datetime.fromisoformat(end)
    length = min(len(start), len(end), 10)
    return start[:length] > end[:length]
