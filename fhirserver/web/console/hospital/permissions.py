"""What a client asks for, in words: every resource and action, which IHE profile it comes from, what is new in it.

The words and the sources are those of ClientApplication/$profile-scopes; here they are put side by side.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fhirserver.fhir import Resource
from fhirserver.web.console.here import Here

ACTIONS = ("create", "read", "update", "delete", "search")
KEPT, ADDED, DROPPED = "kept", "added", "dropped"


@dataclass(slots=True)
class Permission:
    """One resource type, narrowed or not: each action with what becomes of it, and why it is needed."""

    type: str
    narrowed: str = ""
    level: str = "system"
    actions: dict[str, str] = field(default_factory=dict)
    """Action -> kept, added or dropped."""
    sources: list[tuple[str, str]] = field(default_factory=list)
    """IHE profile and reason; none where the client chose the resource itself."""

    @property
    def changed(self) -> bool:
        """Whether anything of it is new or goes."""
        return any(state != KEPT for state in self.actions.values())


def permissions(here: Here, authorization: Mapping[str, Any]) -> list[Permission]:
    """What an authorization is about: its scope, and where others are pending, how they differ."""
    held, pending = str(authorization.get("scope", "")), authorization.get("pendingScope")
    before = _pairs(here, held)
    after = before if pending is None else _pairs(here, str(pending))
    table: dict[tuple[str, str, str], Permission] = {}
    for key in sorted({*before, *after}):
        level, type, narrowed, action = key
        state = KEPT if key in before and key in after else ADDED if key in after else DROPPED
        row = table.setdefault((type, level, narrowed), Permission(type, narrowed, level))
        row.actions[action] = state
    sources = _sources(here, authorization.get("iheProfile") or ())
    for row in table.values():
        row.actions = {action: row.actions[action] for action in ACTIONS if action in row.actions}
        found = [each for action in row.actions for each in sources.get((row.type, action), ())]
        row.sources = list(dict.fromkeys(found))
    return list(table.values())


def titles(here: Here) -> dict[str, str]:
    """The IHE profiles that are offered: code -> title."""
    offered = here.operate("ClientApplication", None, "profile-scopes", method="GET")
    parts = [_parts(each) for each in offered.get("parameter", ()) if each["name"] == "offered"]
    return {str(one["profile"][0]): str(one["title"][0]) for one in parts}


def _pairs(here: Here, scope: str) -> set[tuple[str, str, str, str]]:
    """Every (level, type, narrowing, action) of a scope text."""
    if not scope:
        return set()
    found = set()
    for one in _permissions(here, scope=scope):
        text = str(one["scope"][0])
        level, narrowed = text.partition("/")[0], text.partition("?")[2]
        found |= {(level, str(one["type"][0]), narrowed, str(action)) for action in one["action"]}
    return found


def _sources(here: Here, profiles: Iterable[str]) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """(type, action) -> the IHE profiles that need it, each with its reason. A profile that is not offered any more
    explains nothing.
    """
    offered = titles(here)
    known = [code for code in profiles if code in offered]
    if not known:
        return {}
    sources: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for one in _permissions(here, profile=known):
        for parts in one.get("from", ()):
            said = {part["name"]: _value(part) for part in parts}
            if said.get("profile"):
                title = offered[str(said["profile"])]
                sources.setdefault((str(one["type"][0]), str(said["action"])), []).append(
                    (title, str(said.get("reason", "")))
                )
    return sources


def _permissions(here: Here, **given: Any) -> list[dict[str, list[Any]]]:
    answer = here.operate("ClientApplication", None, "profile-scopes", method="GET", **given)
    return [_parts(each) for each in answer.get("parameter", ()) if each["name"] == "permission"]


def _parts(parameter: Resource) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for part in parameter.get("part", ()):
        found.setdefault(part["name"], []).append(part["part"] if "part" in part else _value(part))
    return found


def _value(part: Mapping[str, Any]) -> Any:
    return next((value for name, value in part.items() if name != "name"), None)
