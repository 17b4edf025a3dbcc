"""A stored resource with what a message says put in its place: what the message is silent about stays. Pure.

Elements are named as in `Content`: `name`, or one part of an element that stands once, `period.end`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from fhirserver.fhir import Resource

_STEPS = re.compile(r"\.(?![^(]*\))")  # between steps, not inside the url of a selector
_STEP = re.compile(r"([A-Za-z]+)(?:\((.*)\))?\Z")
# Lists that a message adds to: their members are told apart by these.
MERGED: Mapping[str, tuple[str, ...]] = {
    "identifier": ("system", "value"),
    "extension": ("url",),
    "link": ("type", "other.reference"),
}


def merged(before: Resource, said: Resource, elements: Sequence[str] | None, deletes: Iterable[str]) -> Resource:
    """What is stored with the elements that the message speaks for (None: all that it has) in place, and without
    those it says are gone.
    """
    after = dict(before)
    if elements is None:
        elements = [name for name in said if name not in ("resourceType", "id", "meta")]
    for element in elements:
        name, _, part = element.partition(".")
        if name not in said:
            continue
        if part:
            _put_part(after, said, name, part)
            continue
        after[name] = _added(before.get(name), said[name], MERGED[name]) if name in MERGED else said[name]
        if f"_{name}" in said:
            after[f"_{name}"] = said[f"_{name}"]
    for path in deletes:
        _delete(after, _STEPS.split(path))
    for name in {element.partition(".")[0] for element in elements} & said.keys():
        value = said[name]
        if isinstance(value, dict) and _runs_backwards(after.get(name)):
            after[name] = value  # the start of one stay and the end of another are no period
    return after


def _put_part(after: Resource, said: Resource, name: str, part: str) -> None:
    held = after.get(name)
    if not isinstance(held, dict):
        after[name] = said[name]
    elif part in said[name]:
        after[name] = {**held, part: said[name][part]}


def _runs_backwards(value: Any) -> bool:
    start, end = (value.get("start"), value.get("end")) if isinstance(value, dict) else (None, None)
    if not isinstance(start, str) or not isinstance(end, str):
        return False
    if "T" in start and "T" in end:
        return datetime.fromisoformat(start) > datetime.fromisoformat(end)
    length = min(len(start), len(end), 10)
    return start[:length] > end[:length]


def _added(held: Any, said: Any, keys: tuple[str, ...]) -> Any:
    if not isinstance(held, list) or not isinstance(said, list):
        return said
    new: dict[tuple[Any, ...], list[Any]] = {}
    for each in said:
        new.setdefault(_key(each, keys), []).append(each)
    kept: list[Any] = []
    placed: set[tuple[Any, ...]] = set()
    for each in held:
        name = _key(each, keys)
        if name not in new:
            kept.append(each)
        elif name not in placed:
            placed.add(name)
            kept += new[name]
    return kept + [each for name, several in new.items() if name not in placed for each in several]


def _key(member: Any, keys: tuple[str, ...]) -> tuple[Any, ...]:
    """What tells a member of a list from others; a key with a dot is the member of a member."""
    found = []
    for key in keys:
        name, _, inner = key.partition(".")
        value = member.get(name)
        found.append(value.get(inner) if inner and isinstance(value, dict) else value)
    return tuple(found)


def _delete(value: Any, path: list[str]) -> None:
    """Removes what a path names, such as `address`, `hospitalization.admitSource` or `extension(http://...)`; in lists
    from every member. What is left empty goes too.
    """
    found = _STEP.match(path[0])
    if isinstance(value, list):
        for each in value:
            _delete(each, path)
        value[:] = [each for each in value if each != {}]
    elif isinstance(value, dict) and found:
        name, url = found.groups()
        if len(path) > 1:
            _delete(value.get(name), path[1:])
            if value.get(name) in ({}, []):
                del value[name]
        elif url and isinstance(value.get(name), list):
            value[name] = [each for each in value[name] if each.get("url") != url]
            if not value[name]:
                del value[name]
        elif not url:
            value.pop(name, None)
            value.pop(f"_{name}", None)
