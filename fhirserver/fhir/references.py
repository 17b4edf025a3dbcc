"""The references in a resource. FHIR R4: references#literal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def texts(value: Any) -> Iterator[str]:
    """Every literal reference in a resource as it is written, wherever it stands."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list):
            waiting.extend(one)
        elif isinstance(one, dict):
            waiting.extend(each for each in one.values() if isinstance(each, dict | list))
            text = one.get("reference")
            if isinstance(text, str):
                yield text


def named(value: Any, base: str = "") -> Iterator[str]:
    """Type/id of what a resource refers to: by a relative reference, or by an absolute one that begins with `base`. Of
    a reference to one version the resource is named.
    """
    for text in texts(value):
        parts = text.removeprefix(base).split("/")
        if len(parts) in (2, 4) and parts[0][:1].isupper():
            yield f"{parts[0]}/{parts[1]}"
