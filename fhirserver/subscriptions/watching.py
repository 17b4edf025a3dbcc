"""The subscriptions of each organization, compiled and kept as long as they stand; and events to hold against them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from fhirserver.auth.access import everything
from fhirserver.fhir import Resource
from fhirserver.interactions.indexing import entry_of
from fhirserver.interactions.model import Server
from fhirserver.rules.subscription import decision
from fhirserver.search.index import Entry
from fhirserver.search.parse import parse
from fhirserver.search.query import Clause, Ids, SortKey
from fhirserver.store.model import REGISTRY
from fhirserver.store.search import compile_search, find
from fhirserver.subscriptions.criteria import Compiler
from fhirserver.subscriptions.match import Event, Subscriptions
from fhirserver.subscriptions.notification import HEARTBEAT, channel_number
from fhirserver.subscriptions.topics import Catalogue, coded

# A stamp younger than this may still be joined by a write of the same millisecond, so it is not relied upon.
SETTLED = timedelta(seconds=2)
PAGE = 500


@dataclass(frozen=True, slots=True)
class Watched:
    """The subscriptions of an organization as they were at a stamp; ids of those that end, and that want heartbeats."""

    subscriptions: Subscriptions
    resources: Mapping[str, Resource]
    stamp: tuple[Any, ...]
    loaded: datetime
    ends: tuple[str, ...] = ()
    beats: tuple[str, ...] = ()


class Watching:
    """Watches the subscriptions of an installation."""

    def __init__(self, server: Server, catalogue: Catalogue) -> None:
        self._server = server
        self._store = server.store
        self._catalogue = catalogue
        self._watched: dict[str, Watched] = {}

    def watched(self, organization: str) -> Watched:
        """The compiled subscriptions of an organization, as they are now."""
        kept = self._watched.get(organization)
        stamp = self._stamp(organization)
        newest = max((part[0] for part in stamp if part), default=None)
        if kept and kept.stamp == stamp and (newest is None or kept.loaded - newest > SETTLED):
            return kept
        loaded = self._load(organization, stamp)
        self._watched[organization] = loaded
        return loaded

    def compiler(self, organization: str) -> Compiler:
        """What compiles criteria for an organization, with its topics as they are now."""
        topics = {**self._topics(REGISTRY), **self._topics(organization)}
        return Compiler(self._server.definitions, self._catalogue, topics, self._server.base(organization))

    def event(self, organization: str, document: Mapping[str, Any]) -> Event:
        """A pending event as the matcher looks at it, on the stored versions."""
        server, whole = self._server, everything(organization)
        base = server.base(organization)

        def version(type: str, id: str, number: int) -> Resource | None:
            found = server.store.vread(whole, type, id, number)
            return None if found is None or found.deleted else found.resource()

        def found(type: str, id: str, clause: Clause) -> bool:
            search = compile_search(server.store, whole, type, [Ids(frozenset({id})), clause], None)
            return search is not None and bool(find(server.store, search, (), 1).matches)

        def index(resource: Resource) -> Entry:
            return entry_of(server, resource, base)

        return Event(document, version, found, index)

    def _stamp(self, organization: str) -> tuple[Any, ...]:
        """What moves whenever a Subscription or topic of the organization is written."""
        stamps: list[Any] = [self._server.definitions.generation and ()]
        for type in ("Subscription", "SubscriptionTopic"):
            search = compile_search(self._store, everything(organization), type, [], None)
            newest = find(self._store, search, [SortKey("_lastUpdated", "t", True)], 1).matches if search else ()
            stamps.append((newest[0].instant, newest[0].id, newest[0].version) if newest else ())
        return tuple(stamps)

    def _load(self, organization: str, stamp: tuple[Any, ...]) -> Watched:
        loaded = self._server.now()
        compiler = self.compiler(organization)
        clauses = parse(self._server.definitions, "Subscription", [("status", "active,error")]).clauses
        resources = {resource["id"]: resource for resource in self.every(organization, "Subscription", clauses)}
        ends = tuple(id for id, resource in resources.items() if resource.get("end"))
        beats = tuple(id for id, resource in resources.items() if channel_number(resource, HEARTBEAT))
        compiled = Subscriptions.compiled(compiler, resources.values())
        return Watched(compiled, resources, stamp, loaded, ends, beats)

    def _topics(self, organization: str) -> dict[str, Resource]:
        """An organization's topics by url, and by name where it keeps one of that name."""
        found: dict[str, Resource] = {}
        for topic in self.every(organization, "SubscriptionTopic", ()):
            found[topic.get("url", "")] = topic
            events = topic.get("eventTrigger", ()) if organization != REGISTRY else ()
            found.update({name: topic for part in events if (name := coded(part.get("event", {})))})
        return found

    def every(self, organization: str, type: str, clauses: Iterable[Clause]) -> Iterable[Resource]:
        """Every resource of a type that the clauses match, read page by page."""
        search = compile_search(self._store, everything(organization), type, clauses, None)
        after: Sequence[Any] | None = None
        while search is not None:
            page = find(self._store, search, (), PAGE, after=after)
            yield from (version.resource() for version in page.matches)
            after = page.after
            if after is None:
                return


def covers(subscription: Resource, instant: datetime) -> bool:
    """Whether a subscription was approved before the change and has not ended before it."""
    since = (decision(subscription) or {}).get("when", "")
    end = subscription.get("end", "")
    return (not since or datetime.fromisoformat(since) <= instant) and (
        not end or datetime.fromisoformat(end) > instant
    )
