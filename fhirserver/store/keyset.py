"""The order of a search's matches, and how to go on from the last one shown. FHIR R4: search#sort, http#paging.

Sort keys are scalars beside the search values; resources without a value come last in either direction. One key is
two ranges of an
index (those with a value, then those without); several keys are compared in an aggregation. The id breaks ties, so
the order is total
and a page never repeats or skips a resource that was there all along.
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
