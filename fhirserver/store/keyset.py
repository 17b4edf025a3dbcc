"""The order of a search's matches, and how to go on from the last one shown. FHIR R4: search#sort, http#paging.

Sort keys are scalars beside the search values; resources without a value come last in either direction. One key is two
ranges of an index (those with a value, then those without); several keys are compared in an aggregation. The id breaks
ties, so the order is total and a page never repeats or skips a resource that was there all along.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fhirserver.store.database import Document

ALWAYS_THERE = frozenset({"t", "i"})


@dataclass(frozen=True, slots=True)
class Stage:
    """One query of a page: filters to add, and how to sort (or the aggregation that sorts)."""

    filters: list[Document]
    sort: list[tuple[str, int]] = field(default_factory=list)
    pipeline: list[Document] = field(default_factory=list)
    hint: list[tuple[str, int]] = field(default_factory=list)
    """The index whose own order the answer comes in."""


@dataclass(frozen=True, slots=True)
class Keyset:
    """An order: fields with their direction; the id comes last."""

    keys: tuple[tuple[str, bool], ...]

    def of(self, document: Mapping[str, Any]) -> list[Any]:
        """Where a document stands: its key values (None where missing) and its `_id`."""
        return [*(_value(document, name) for name, _ in self.keys), document["_id"]]

    def stages(self, start: Sequence[Any] | None, backwards: bool) -> Iterator[Stage]:
        """The queries that give what comes after `start` (before it, if backwards), each used until the page is
        full.
        """
        if not self.keys:
            sign = "$lt" if backwards else "$gt"
            yield Stage([{"_id": {sign: start[-1]}}] if start else [], sort=[("_id", -1 if backwards else 1)])
        elif len(self.keys) == 1:
            yield from self._single(start, backwards)
        else:
            yield self._several(start, backwards)

    def _single(self, start: Sequence[Any] | None, backwards: bool) -> Iterator[Stage]:
        name, descending = self.keys[0]
        with_value = self._valued(name, descending, start, backwards)
        without = self._unvalued(name, start, backwards)
        stages = [with_value] if name in ALWAYS_THERE else [without, with_value] if backwards else [with_value, without]
        yield from (stage for stage in stages if stage)

    def _valued(self, name: str, descending: bool, start: Sequence[Any] | None, backwards: bool) -> Stage | None:
        direction = -1 if descending != backwards else 1
        filters: list[Document] = [] if name in ALWAYS_THERE else [{name: {"$exists": True}}]
        if start and start[0] is None and not backwards:
            return None  # Already among those without a value.
        if start and start[0] is not None:
            past, later = ("$lt" if direction < 0 else "$gt"), ("$lt" if backwards else "$gt")
            filters.append({"$or": [{name: {past: start[0]}}, {name: start[0], "_id": {later: start[-1]}}]})
        return Stage(filters, sort=[(name, direction), ("_id", -1 if backwards else 1)])

    def _unvalued(self, name: str, start: Sequence[Any] | None, backwards: bool) -> Stage | None:
        filters: list[Document] = [{name: {"$exists": False}}]
        if start and start[0] is not None and backwards:
            return None
        if start and start[0] is None:
            filters.append({"_id": {"$lt" if backwards else "$gt": start[-1]}})
        return Stage(filters, sort=[("_id", -1 if backwards else 1)])

    def _several(self, start: Sequence[Any] | None, backwards: bool) -> Stage:
        missing = {f"m{at}": {"$cond": [_present(name), 0, 1]} for at, (name, _) in enumerate(self.keys)}
        sort: Document = {}
        for at, (name, descending) in enumerate(self.keys):
            sort[f"m{at}"] = -1 if backwards else 1
            sort[name] = -1 if descending != backwards else 1
        sort["_id"] = -1 if backwards else 1
        steps: list[Document] = [{"$set": missing}]
        if start:
            steps.append({"$match": {"$or": self._beyond(start, sort)}})
        return Stage([], pipeline=[*steps, {"$sort": sort}])

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
        values = (value for value in _value(document, self.field) if self._holds(value))
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
    """The order by these (field, descending) keys."""
    return Keyset(tuple(keys))


def _present(name: str) -> Document:
    return {"$gt": [f"${name}", None]}


def _value(document: Mapping[str, Any], name: str) -> Any:
    value: Any = document
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value
