"""A search that runs through several parts - types, or containers of contained resources - and is paged like one.

A place in it is the name of a part and a keyset in that part; without a keyset it is before all that the part has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from fhirserver.store.database import Session
from fhirserver.store.model import Page, Stored, Total
from fhirserver.store.resources import Store
from fhirserver.store.search import Search, find, total

Place = Sequence[Any]
Find = Callable[[int, Sequence[Any] | None], Page]


@dataclass(frozen=True, slots=True)
class Part:
    """One part: its name, by which the parts are in order; `find` answers a page of at most so many matches after a
    keyset, `back` one of those before a keyset (empty: of the last there are), where there is a way back; `total`
    counts them up to a bound."""

    name: str
    find: Find
    total: Callable[[int], Total]
    back: Find | None = None


def of_type(store: Store, name: str, search: Search, session: Session | None) -> Part:
    """The matches of one search as a part."""
    return Part(
        name,
        lambda count, after: find(store, search, (), count, after=after, session=session),
        lambda bound: total(store, search, bound, session),
        lambda count, before: find(store, search, (), count, before=before or (), session=session),
    )


def through(parts: Iterable[Part], count: int, start: Place | None, bound: int | None) -> Page:
    """At most `count` matches of the parts from a place on; with a bound, all are counted up to it. `after` and
    `before` of the page are places."""
    begin, *keyset = start or ("",)
    matches: list[Stored] = []
    before: Place | None = None
    after: Place | None = None
    counted = Total(0)
    for part in parts:
        if bound is not None:
            counted = _sum(counted, part.total(bound - counted.count))
        if part.name < begin or after or count == 0:
            continue
        if len(matches) == count:
            after = [part.name] if part.find(1, None).matches else None
        else:
            page = part.find(count - len(matches), keyset or None if part.name == begin else None)
            if page.matches and not matches and start and part.back:
                before = [part.name, *(page.before or ())]
            matches += page.matches
            after = [part.name, *page.after] if page.after else None
        if after and bound is None:
            break
    return Page(matches, after=after, before=before, total=counted if bound is not None else None)


def back_through(parts: Iterable[Part], count: int, start: Place, bound: int | None) -> Page:
    """The same for what comes before a place."""
    kept = list(parts)
    begin, *keyset = start
    matches: list[Stored] = []
    before: Place | None = None
    after: Place | None = None
    more = False
    for part in reversed(kept):
        if part.back is None or part.name > begin or (part.name == begin and not keyset):
            continue
        if len(matches) == count:
            more = bool(part.find(1, None).matches)
        else:
            page = part.back(count - len(matches), keyset if part.name == begin else ())
            if page.matches:
                after = after or [part.name, *(page.after or ())]
                before = [part.name, *(page.before or ())]
            matches[:0] = page.matches
            more = page.before is not None
        if more:
            break
    counted = Total(0)
    for part in kept if bound is not None else ():
        counted = _sum(counted, part.total((bound or 0) - counted.count))
    counts = counted if bound is not None else None
    return Page(matches, after=after, before=before if more else None, total=counts)


def _sum(one: Total, other: Total) -> Total:
    return Total(one.count + other.count, one.bounded or other.bounded)
