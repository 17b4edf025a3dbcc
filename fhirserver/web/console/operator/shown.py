"""Any element of any resource as a short text for a cell of a table, and two versions side by side. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from fhirserver.fhir import Resource
from fhirserver.fhir.definitions import Definitions
from fhirserver.fhir.json import encode, pretty

LONGEST = 90
COLUMNS = 4
AROUND = 3
"""Lines that stay the same and are shown on either side of those that differ."""
_NOT_COLUMNS = ("resourceType", "id", "meta", "implicitRules", "language", "text", "contained", "extension")
_CALLED = ("name", "title", "clientName", "email")
"""The elements that say what a resource is called."""
_NAMING = ("text", "display", "reference", "value", "code", "title", "name", "family", "url", "start", "contentString")
"""The parts of a composite element that may stand for it, the best first."""


def columns(definitions: Definitions, type: str, resources: Sequence[Resource]) -> list[str]:
    """The elements to show beside what `label` says: those of the type's summary that these resources have, in the
    type's order; where the type has no summary, any.
    """
    defined = definitions.types[type].properties
    there = [name for name in defined if name not in _NOT_COLUMNS and any(name in each for each in resources)]
    summary = [name for name in there if defined[name].summary] or there
    called = next((name for name in _CALLED if name in summary), "")
    return [name for name in summary if name != called][:COLUMNS]


def label(resource: Resource) -> str:
    """What people call a resource, "" where it has no name."""
    return next((text for name in _CALLED if (text := brief(resource.get(name)))), "")


def brief(value: Any) -> str:
    """An element in a few words."""
    text = _text(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return _composite(value)
    if isinstance(value, list):
        more = f" (+{len(value) - 1})" if len(value) > 1 else ""
        return f"{_text(value[0])}{more}" if value else ""
    return "" if value is None else str(value)


def _composite(value: Mapping[str, Any]) -> str:
    if value.get("coding") and not value.get("text"):
        return _text(value["coding"][0])
    if value.get("family") and not value.get("text"):
        return " ".join([*map(str, value.get("given", ())), str(value["family"])])
    found = next((value[name] for name in _NAMING if value.get(name)), None)
    return _text(found) if found is not None else encode(dict(value)).decode()


def lines(resource: Resource) -> list[str]:
    """A resource as lines of JSON to compare: its members sorted, without the number and time of the version."""
    meta = {name: value for name, value in resource.get("meta", {}).items() if name not in ("versionId", "lastUpdated")}
    kept = {name: value for name, value in resource.items() if name != "meta"} | ({"meta": meta} if meta else {})
    return pretty(encode(_sorted(kept))).decode().splitlines()


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _sorted(value[name]) for name in sorted(value, key=lambda name: (name != "resourceType", name))}
    return [_sorted(each) for each in value] if isinstance(value, list) else value


def difference(old: Sequence[str], new: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Lines with what became of them: `same`, `gone`, `new`, or `skip` for a run of lines that stayed the same."""
    blocks = SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
    for place, (tag, first, last, begin, end) in enumerate(blocks):
        if tag == "equal":
            yield from _unchanged(old[first:last], place > 0, place < len(blocks) - 1)
        else:
            yield from (("gone", line) for line in old[first:last])
            yield from (("new", line) for line in new[begin:end])


def _unchanged(run: Sequence[str], after: bool, before: bool) -> Iterable[tuple[str, str]]:
    head, tail = AROUND if after else 0, AROUND if before else 0
    if len(run) <= head + tail + 1:
        return [("same", line) for line in run]
    shown = [("same", line) for line in run[:head]]
    return [*shown, ("skip", ""), *(("same", line) for line in run[len(run) - tail :])]
