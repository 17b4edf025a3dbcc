"""A message that comes to its turn late (its code had to be mapped, it was put off, it is processed again) and what
later messages of the same patient have said meanwhile: of a resource that they speak of too, it says the rest only.

docs/decisions/0009. Pure: the later messages are given as what they become.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fhirserver.hl7v2.mapping import Result

Key = tuple[str, str, str]


def narrowed(
    result: Result, later: Iterable[Result]
) -> tuple[Mapping[str, Sequence[str]], Mapping[str, Sequence[str]]]:
    """The elements and deletes (by fullUrl) that the message still speaks for."""
    said: dict[Key, set[str]] = {}
    for each in later:
        for url, type, keys in _resources(each):
            spoken = {*each.elements.get(url, ()), *each.deletes.get(url, ())}
            for name in tuple(spoken):
                spoken.update(each.maps.choices.get(type, {}).get(name, ()))
            for key in keys:
                said.setdefault(key, set()).update(spoken)
    elements, deletes = dict(result.elements), dict(result.deletes)
    for url, _, keys in _resources(result):
        since = set[str]().union(*(said.get(key, ()) for key in keys))
        if since:
            elements[url] = [name for name in elements.get(url, ()) if name in ADDED or not _is_said(name, since)]
            deletes[url] = [name for name in deletes.get(url, ()) if not _is_said(name, since)]
    return elements, {url: names for url, names in deletes.items() if names}


ADDED = frozenset({"identifier", "extension", "link"})
"""What a message adds to: it takes nothing away from what was said since."""


def _is_said(name: str, since: set[str]) -> bool:
    """Whether an element, or all that it is a part of, was spoken for."""
    return name in since or name.partition(".")[0] in since


def _resources(result: Result) -> Iterable[tuple[str, str, list[Key]]]:
    """fullUrl, type, and what tells the stored resource, of each resource of a message."""
    for entry in result.bundle["entry"]:
        resource: dict[str, Any] = entry["resource"]
        type = resource["resourceType"]
        matching = result.match.get(entry["fullUrl"]) or ()
        yield entry["fullUrl"], type, [(type, each.get("system", ""), each["value"]) for each in matching]
