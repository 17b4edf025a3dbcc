"""A search that runs through several parts - types, or containers of contained resources - and is paged like one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fhirserver.store.database import Session
from fhirserver.store.model import Page, Stored, Total
from fhirserver.store.resources import Store
from fhirserver.store.search import Search, find, total


@dataclass(frozen=True, slots=True)
class Part:
    """One part: its name, by which the parts are in order; `find` answers a page of at most so many matches after a
    keyset; `total` counts them up to a bound."""

    name: str
    find: Callable[[int, Sequence[Any] | None], Page]
    total: Callable[[int], Total]


def of_type(store: Store, name: str, search: Search, session: Session | None) -> Part:
    """The matches of one search as a part."""
    return Part(
        name,
        lambda count, after: find(store, search, (), count, after=after, session=session),
        lambda bound: total(store, search, bound, session),
    )


def through(parts: Iterable[Part], count: int, begin: str, start: Sequence[Any] | None, bound: int | None) -> Page:
    """At most `count` matches of the parts from `begin` on, after `start` in that one; with a bound, counted up to it.

    `after` of the page is the name of the part to go on with and the keyset in it.
    """
    matches: list[Stored] = []
    after: Sequence[Any] | None = None
    counted = Total(0)
    for part in parts:
        if bound is not None:
            of_part = part.total(bound - counted.count)
            counted = Total(counted.count + of_part.count, counted.bounded or of_part.bounded)
        if part.name < begin or after or count == 0:
            continue
        if len(matches) == count:
            after = [part.name] if part.find(1, None).matches else None
        else:
            page = part.find(count - len(matches), (start or None) if part.name == begin else None)
            matches += page.matches
            after = [part.name, *page.after] if page.after else None
        if after and bound is None:
            break
    return Page(matches, after=after, total=counted if bound is not None else None)
