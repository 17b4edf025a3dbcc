"""The home page of every role: what waits for somebody, as a table of each area says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flask import Response as HttpResponse

from fhirserver.auth.access import REGISTRY
from fhirserver.web.console.common.notifications import latest
from fhirserver.web.console.here import Here
from fhirserver.web.console.operator.watching import values
from fhirserver.web.console.screen import Waiting

FIRST = "application.waiting.clients"
"""What an application provider begins with: while there is none, the page says what to do."""
LATEST = 5


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
        cards = [_card(here, row) for row in waiting]
        if here.part == "cards":
            return here.page("common/home.html", cards=cards)
        return here.page(
            "common/home.html",
            cards=cards,
            empty=any(card.key == FIRST and card.count == 0 for card in cards),
            latest=latest(here, LATEST) if here.place else [],
            unwell=_unwell(here) if not here.place else None,
        )

    return show


def _unwell(here: Here) -> list[str]:
    """The parts of the installation that want to be looked at, for whoever operates it."""
    parts = values(here.operate(None, None, "health", method="GET"))["component"]
    return [str(each["name"]) for each in parts if each["status"] in ("warning", "error")]


def _card(here: Here, row: Waiting) -> Card:
    values = {"organization": here.organization, "user": here.principal.id}
    query = [(name, value.format_map(values)) for name, value in row.query]
    count = here.count(row.type, *query, base=here.organization if row.own else REGISTRY)
    return Card(row.key, count, here.url(row.to, **dict(row.asked)), row.tone if count != 0 else "none")
