"""The tables that the console is made of: a row for each screen, a row for each thing that waits for somebody."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from flask import Response as HttpResponse

from fhirserver.web.console.here import Here

ROOT = "/console"
PREFIXES = {
    "application": f"{ROOT}/application/<organization>",
    "hospital": f"{ROOT}/hospital/<organization>",
    "operator": f"{ROOT}/operator",
    "user": ROOT,
    "anybody": ROOT,
}
"""Who may see a screen -> where it lies: members of an application provider, those of a provider organization, platform
operators, whoever is signed in, everybody."""


@dataclass(frozen=True, slots=True)
class Screen:
    """One screen. `name` is `area.name`, its title the text `area.name.title`; `path` is what follows the audience's
    prefix, with `<name>` for a part that differs; `parent` is the screen above it in the breadcrumbs.
    """

    name: str
    path: str
    show: Callable[[Here], HttpResponse]
    audience: str
    methods: tuple[str, ...] = ("GET",)
    nav: bool = False
    """Whether the navigation of its audience lists it, in the order of the table."""
    parent: str = ""

    @property
    def rule(self) -> str:
        """The whole path, with `<name>` for its parts."""
        return PREFIXES[self.audience] + self.path

    def address(self, here: str = "", /, **values: Any) -> str:
        """The address with these parts; what is no part goes into the query, empty values are left out. `here` is the
        organization where none is given.
        """
        path = self.rule if "organization" in values else self.rule.replace("<organization>", quote(here, safe=""))
        for name in [name for name in values if f"<{name}>" in path]:
            path = path.replace(f"<{name}>", quote(str(values.pop(name)), safe=""))
        asked = urlencode({name: value for name, value in values.items() if value not in ("", None)})
        return f"{path}?{asked}" if asked else path


@dataclass(frozen=True, slots=True)
class Waiting:
    """Something that may wait for a person, on the home page: how many resources of `type` match `query`.

    `key` is the text that says what they are, `to` the address to deal with them: a screen's name and what it is asked.
    `own` says that they lie on the organization's own base, not on the registry; `{organization}` and `{user}` in the
    query stand for their ids. `tone` is the colour of a number that is not zero.
    """

    key: str
    type: str
    query: tuple[tuple[str, str], ...]
    to: str
    asked: tuple[tuple[str, str], ...] = ()
    own: bool = False
    tone: str = "info"


@dataclass(frozen=True, slots=True)
class Area:
    """The part of the console that one module folder is responsible for."""

    screens: tuple[Screen, ...]
    waiting: tuple[Waiting, ...] = ()
