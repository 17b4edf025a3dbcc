"""The home page of every role: what waits for somebody, as a table of each area says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flask import Response as HttpResponse

from fhirserver.auth.access import REGISTRY
from fhirserver.web.console.here import Here
from fhirserver.web.console.screen import Waiting


@dataclass(frozen=True, slots=True)
class Card:
    """A number on the home page. `count` is None where there are too many to count."""

    key: str
    count: int | None
    address: str
    tone: str


def home(waiting: Sequence[Waiting]) -> Callable[[Here], HttpResponse]:
    """The screen of these rows."""

    def show(here: Here) -> HttpResponse:
        return here.page("common/home.html", cards=[_card(here, row) for row in waiting])

    return show


def _card(here: Here, row: Waiting) -> Card:
    values = {"organization": here.organization, "user": here.principal.id}
    query = [(name, value.format_map(values)) for name, value in row.query]
    count = here.count(row.type, *query, base=here.organization if row.own else REGISTRY)
    return Card(row.key, count, here.url(row.to, **dict(row.asked)), row.tone if count != 0 else "none")
