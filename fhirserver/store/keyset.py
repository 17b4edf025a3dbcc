"""The order of a search's matches, and how to go on from the last one shown. FHIR R4: search#sort, http#paging.

Sort keys are scalars beside the search values; resources without a value come last in either direction. One key is two
ranges of an index (those with a value, then those without), walked in its own order. Several keys are compared in an
aggregation, over no more than the first key's ranks that a page can hold (`Stage.cut`). The id breaks ties, so the
order is total and a page never repeats or skips a resource that was there all along.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fhirserver.store.database import Document

UPDATED, ID = "t", "i"


@dataclass(frozen=True, slots=True)
class Cut:
    """How far an aggregation has to look: to the value of `field`, in that direction, of the last that a page has room
    for. `past` holds of what comes after the one that the page begins with.
    """

    field: str
    direction: int
    past: Document

    def to(self, value: Any) -> Document:
        """The condition that leaves out what a page has no room for."""
        return {self.field: {"$lte" if self.direction > 0 else "$gte": value}}


@dataclass(frozen=True, slots=True)
class Stage:
    """One query of a page: filters to add, and how to sort (or the aggregation that sorts)."""

    filters: list[Document]
    sort: list[tuple[str, int]] = field(default_factory=list)
    pipeline: list[Document] = field(default_factory=list)
    cut: Cut | None = None
    hint: list[tuple[str, int]] = field(default_factory=list)
    """The index whose own order the answer comes in."""


@dataclass(frozen=True, slots=True)
class Keyset:
    """An order: fields with their direction; the id comes last, in the direction that the index of the field has."""

    keys: tuple[tuple[str, bool], ...]
    ids_descend: bool = False

    def of(self, document: Mapping[str, Any]) -> list[Any]:
        """Where a document stands: its key values (None where missing) and its `_id`."""
        return [*(value_at(document, name) for name, _ in self.keys), document["_id"]]

    def stages(self, start: Sequence[Any] | None, backwards: bool) -> Iterator[Stage]:
        """The queries that give what comes after `start` (before it, if backwards), each used until the page is
        full.
        """
        if not self.keys:
            yield Stage([self._later(start[-1], backwards)] if start else [], sort=[("_id", self._ids(backwards))])
            return
        with_value, without = self._valued(start, backwards), self._unvalued(start, backwards)
        both = [without, with_value] if backwards else [with_value, without]
        yield from (stage for stage in ([with_value] if self.keys[0][0] == UPDATED else both) if stage)

    def _ids(self, backwards: bool) -> int:
        return -1 if self.ids_descend != backwards else 1

    def _later(self, id: str, backwards: bool) -> Document:
        return {"_id": {"$gt" if self._ids(backwards) > 0 else "$lt": id}}

    def _valued(self, start: Sequence[Any] | None, backwards: bool) -> Stage | None:
        """Those with a value of the first key."""
        name, descending = self.keys[0]
        direction = -1 if descending != backwards else 1
        filters: list[Document] = [] if name == UPDATED else [{name: {"$exists": True}}]
        past: Document = {}
        if start and start[0] is None and not backwards:
            return None  # Already among those without a value.
        if start and start[0] is not None:
            sign = "$gt" if direction > 0 else "$lt"
            past = {name: {sign: start[0]}}
            filters.append({name: {f"{sign}e": start[0]}})  # where the index is entered; the rest is asked of its keys
            if len(self.keys) == 1:
                filters.append({"$or": [past, {name: start[0], **self._later(start[-1], backwards)}]})
        if len(self.keys) == 1:
            return Stage(filters, sort=[(name, direction), ("_id", self._ids(backwards))])
        return Stage(filters, pipeline=self._compared(start, backwards), cut=Cut(name, direction, past))

    def _unvalued(self, start: Sequence[Any] | None, backwards: bool) -> Stage | None:
        """Those without one."""
        name, _ = self.keys[0]
        filters: list[Document] = [{name: {"$exists": False}}]
        if start and start[0] is not None and backwards:
            return None
        if len(self.keys) > 1:
            return Stage(filters, pipeline=self._compared(start, backwards))
        if start and start[0] is None:
            filters.append(self._later(start[-1], backwards))
        return Stage(filters, sort=[("_id", self._ids(backwards))])

    def _compared(self, start: Sequence[Any] | None, backwards: bool) -> list[Document]:
        """The aggregation that sorts by all keys, and leaves out what comes no later than `start`."""
        missing = {f"m{at}": {"$cond": [_present(name), 0, 1]} for at, (name, _) in enumerate(self.keys)}
        sort: Document = {}
        for at, (name, descending) in enumerate(self.keys):
            sort[f"m{at}"] = -1 if backwards else 1
            sort[name] = -1 if descending != backwards else 1
        sort["_id"] = self._ids(backwards)
        steps: list[Document] = [{"$set": missing}]
        if start:
            steps.append({"$match": {"$or": self._beyond(start, sort)}})
        return [*steps, {"$sort": sort}]

    def _beyond(self, start: Sequence[Any], sort: Document) -> list[Document]:
        """What comes later in a lexicographic order: equal in the first n keys and past in the next one."""
        values: list[tuple[str, Any]] = []
        for at, (name, _) in enumerate(self.keys):
            values.append((f"m{at}", 1 if start[at] is None else 0))
            if start[at] is not None:
                values.append((name, start[at]))
        values.append(("_id", start[-1]))
        return [
            {**dict(values[:at]), name: {"$lt" if sort[name] < 0 else "$gt": value}}
            for at, (name, value) in enumerate(values)
        ]


@dataclass(frozen=True, slots=True)
class Span:
    """The order of a search for the start of a text: by the first value in the span, then by id.

    A search for "al" matches a share of all patients, so sorting its matches by id costs more the more patients there
    are. In the order of the index that finds them, a page costs what a page costs. The index holds a resource once for
    each of its values in the span: one scan shows it once, at the first; the pages after it leave it out by its values
    before their start. Going backwards sorts after all: nobody goes far that way.

    field: `s.<parameter>`. low, high: what a value must not be less than, and must be less than (None: no bound).
    """

    field: str
    low: str
    high: str | None

    @property
    def keys(self) -> tuple[tuple[str, bool], ...]:
        """What must be fetched to tell where a document stands."""
        return ((self.field, False),)

    def of(self, document: Mapping[str, Any]) -> list[Any]:
        """Where a document stands: its first value in the span and its `_id`."""
        values = (value for value in value_at(document, self.field) if self._holds(value))
        return [min(values), document["_id"]]

    def stages(self, start: Sequence[Any] | None, backwards: bool) -> Iterator[Stage]:
        """The one query that gives what comes after `start` (before it, if backwards)."""
        if backwards and start:
            yield self._before(start)
            return
        filters = [self._within(self.low)]
        if start:
            value, id = start
            earlier = {self.field: {"$elemMatch": {"$gte": self.low, "$lt": value}}}
            filters = [self._within(value), {"$nor": [earlier, {self.field: value, "_id": {"$lte": id}}]}]
        yield Stage(filters, hint=[("o", 1), (self.field, 1), ("_id", 1)])

    def _before(self, start: Sequence[Any]) -> Stage:
        value, id = start
        bounds: list[Document] = [{"$gte": ["$$this", self.low]}]
        if self.high is not None:
            bounds.append({"$lt": ["$$this", self.high]})
        first = {"$min": {"$filter": {"input": f"${self.field}", "cond": {"$and": bounds}}}}
        earlier = {"$or": [{"first": {"$lt": value}}, {"first": value, "_id": {"$lt": id}}]}
        steps: list[Document] = [{"$set": {"first": first}}, {"$match": earlier}, {"$sort": {"first": -1, "_id": -1}}]
        return Stage([self._within(self.low)], pipeline=steps)

    def _within(self, low: str) -> Document:
        bounds = {"$gte": low} if self.high is None else {"$gte": low, "$lt": self.high}
        return {self.field: {"$elemMatch": bounds}}

    def _holds(self, value: Any) -> bool:
        return isinstance(value, str) and self.low <= value and (self.high is None or value < self.high)


def ordering(keys: Sequence[tuple[str, bool]]) -> Keyset:
    """The order by these (field, descending) keys.

    Ties come in the order that the index of a single key has them, so that nothing is sorted: (o, key, _id) read
    either way, and (o, t descending, _id). The id of a resource orders as `_id` does, and what follows it decides
    nothing.
    """
    kept: list[tuple[str, bool]] = []
    for name, descending in keys:
        if name == ID:
            return Keyset(tuple(kept), descending)
        kept.append((name, descending))
    if len(kept) != 1:
        return Keyset(tuple(kept))
    name, descending = kept[0]
    return Keyset(tuple(kept), not descending if name == UPDATED else descending)


def _present(name: str) -> Document:
    return {"$gt": [f"${name}", None]}


def value_at(document: Mapping[str, Any], name: str) -> Any:
    """What a document has at a path, None where it has nothing."""
    value: Any = document
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
