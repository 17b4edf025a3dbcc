"""What the store gives and takes: a version as it lies in the database, a change to make, a page of a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from fhirserver.fhir import Resource
from fhirserver.fhir.json import decode
from fhirserver.search.index import Entry

REGISTRY = "registry"
"""The organization key of the registry base; no Organization may have this id."""


@dataclass(frozen=True, slots=True)
class Stored:
    """One version of one resource. `text` is its JSON, None for a tombstone (a deletion is a version too)."""

    organization: str
    type: str
    id: str
    version: int
    instant: datetime
    method: str
    text: str | None
    private: Mapping[str, Any] = field(default_factory=dict)

    @property
    def deleted(self) -> bool:
        return self.text is None

    def resource(self) -> Resource:
        """The resource, decoded anew on each call (so the caller may change it). A tombstone has none: ValueError."""
        if self.text is None:
            raise ValueError(f"{self.type}/{self.id} version {self.version} is a deletion")
        value: Resource = decode(self.text)
        return value


@dataclass(frozen=True, slots=True)
class Change:
    """One new version to write.

    `text` is the JSON with id and meta already in place, None to delete. `previous` is the version it supersedes; the
    write fails with Problem(conflict) when that is no longer the current one. `keep_previous` is False for the types
    without a history (InboundMessage, NotificationDelivery).
    """

    organization: str
    type: str
    id: str
    version: int
    instant: datetime
    method: str
    text: str | None
    entry: Entry | None = None
    event: Mapping[str, Any] | None = None
    private: Mapping[str, Any] = field(default_factory=dict)
    previous: Stored | None = None
    keep_previous: bool = True

    def stored(self) -> Stored:
        """The version as a read will find it."""
        return Stored(
            self.organization, self.type, self.id, self.version, self.instant, self.method, self.text, self.private
        )


@dataclass(frozen=True, slots=True)
class Pending:
    """A pending event and the document that carries it."""

    organization: str
    type: str
    id: str
    event: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Total:
    """How many match: exact, or a lower bound where counting stopped (`bounded`), or an estimate."""

    count: int
    bounded: bool = False
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a search: its matches in order, and the keyset of the last (`after`) or first (`before`) where
    more follow. values: the search values asked for of each match.
    """

    matches: Sequence[Stored]
    after: Sequence[Any] | None = None
    before: Sequence[Any] | None = None
    total: Total | None = None
    values: Sequence[Mapping[str, Any]] = ()
