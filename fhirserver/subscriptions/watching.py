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
from fhirserver.rules.subscription import approved, decision
from fhirserver.search.index import Entry
from fhirserver.search.parse import parse
from fhirserver.search.query import Clause, Ids, SortKey
from fhirserver.store.model import REGISTRY, Pending, Stored
from fhirserver.store.search import by_references, compile_search, find
from fhirserver.subscriptions.criteria import Compiler
from fhirserver.subscriptions.match import Event, Subscriptions
from fhirserver.subscriptions.notification import HEARTBEAT, channel_number
from fhirserver.subscriptions.topics import CANONICAL, TOPIC, Catalogue, coded

# After this time they are read once more: a write may have become visible behind the newest that the stamp looks at.
SETTLED = timedelta(seconds=2)
NEWEST = 8
GOVERNED = f"{CANONICAL}/StructureDefinition/organization-governs-topics"
PAGE = 500


@dataclass(frozen=True, slots=True)
class Watched:
    """The subscriptions of an organization as they were at a stamp; ids of those that end, and that want heartbeats.

    settled: they were read again after the stamp had come to rest.
    """

    subscriptions: Subscriptions
    resources: Mapping[str, Resource]
    stamp: tuple[Any, ...]
    loaded: datetime
    settled: bool
    ends: tuple[str, ...] = ()
    beats: tuple[str, ...] = ()


class Watching:
    """Watches the subscriptions of an installation."""

    def __init__(self, server: Server, catalogue: Catalogue) -> None:
        self._server = server
        self._store = server.store
        self._catalogue = catalogue
        self._watched: dict[str, Watched] = {}
        self._prepared = False

    def prepare(self) -> None:
        """Makes what `watched` searches by exist. An index cannot be built under a transaction that reads the type, so
        this comes before one.
        """
        if not self._prepared:
            clauses = parse(self._server.definitions, "Subscription", [("status", "active")]).clauses
            list(self.every(REGISTRY, "Subscription", clauses))
            self._prepared = True

    def watched(self, organization: str) -> Watched:
        """The compiled subscriptions of an organization, as they are now."""
        kept = self._watched.get(organization)
        stamp = self._stamp(organization)
        same = kept is not None and kept.stamp == stamp
        if kept and same and (kept.settled or self._server.now() - kept.loaded < SETTLED):
            return kept
        loaded = self._load(organization, stamp, settled=same)
        self._watched[organization] = loaded
        return loaded

    def active(self, organization: str) -> list[str]:
        """The canonical URLs of the topics that can be subscribed to at an organization now."""
        known = self.compiler(organization).topics.values()
        return sorted({topic["url"] for topic in known if topic.get("status") == "active"})

    def compiler(self, organization: str) -> Compiler:
        """What compiles criteria for an organization, with its topics as they are now."""
        shared = {topic["url"]: topic for topic in self._catalogue.resources()}
        # The shipped ones lie on the registry as drafts, for organizations to copy: they say nothing of their own.
        shared |= {url: topic for url, topic in self._topics(REGISTRY).items() if not url.startswith(TOPIC)}
        governs = governed(self._server, organization)
        if governs:
            shared = {url: {**topic, "status": "draft"} for url, topic in shared.items()}
        topics = {**shared, **self._topics(organization)}
        kept = self._watched.get(organization)
        if (
            kept
            and kept.subscriptions.compiler.definitions is self._server.definitions
            and kept.subscriptions.compiler.topics == topics
            and kept.subscriptions.compiler.governed == governs
        ):
            return kept.subscriptions.compiler  # It knows the criteria that it has compiled.
        return Compiler(self._server.definitions, self._catalogue, topics, self._server.base(organization), governs)

    def versions(self, events: Iterable[Pending]) -> dict[str, Stored]:
        """The current versions of what some events changed, by `organization/Type/id`, read together."""
        documents: dict[str, list[Mapping[str, Any]]] = {}
        for pending in events:
            if pending.organization != REGISTRY:
                documents.setdefault(pending.organization, []).append(pending.event)
        found: dict[str, Stored] = {}
        for organization, told in documents.items():
            found |= self.changed(organization, told)
        return found

    def changed(self, organization: str, documents: Iterable[Mapping[str, Any]]) -> dict[str, Stored]:
        """The same of events of one organization."""
        references = {f"{change['type']}/{change['id']}" for document in documents for change in document["changes"]}
        known = by_references(self._store, everything(organization), references)
        return {f"{organization}/{version.type}/{version.id}": version for version in known}

    def event(self, organization: str, document: Mapping[str, Any], known: Mapping[str, Stored] | None = None) -> Event:
        """A pending event as the matcher looks at it, on the stored versions; `known` are some of them."""
        server, whole = self._server, everything(organization)
        base = server.base(organization)

        def version(type: str, id: str, number: int) -> Resource | None:
            found = (known or {}).get(f"{organization}/{type}/{id}")
            if found is None or found.version != number:
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
        stamps: list[Any] = [self._server.definitions.generation, governed(self._server, organization)]
        looked = ((organization, "Subscription"), (organization, "SubscriptionTopic"), (REGISTRY, "SubscriptionTopic"))
        for base, type in looked:
            search = compile_search(self._store, everything(base), type, [], None)
            newest = find(self._store, search, [SortKey("_lastUpdated", "t", True)], NEWEST).matches if search else ()
            stamps += [(version.id, version.version) for version in newest]
        return tuple(stamps)

    def _load(self, organization: str, stamp: tuple[Any, ...], *, settled: bool) -> Watched:
        loaded = self._server.now()
        compiler = self.compiler(organization)
        clauses = parse(self._server.definitions, "Subscription", [("status", "active,error,requested")]).clauses
        found = self.every(organization, "Subscription", clauses)
        # One that was approved is told of all that happens since, though its handshake may take a while.
        resources = {each["id"]: each for each in found if each["status"] != "requested" or approved(each)}
        ends = tuple(id for id, resource in resources.items() if resource.get("end"))
        beats = tuple(id for id, resource in resources.items() if channel_number(resource, HEARTBEAT))
        compiled = Subscriptions.compiled(compiler, resources.values())
        return Watched(compiled, resources, stamp, loaded, settled, ends, beats)

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


def governed(server: Server, organization: str) -> bool:
    """Whether an organization has decided that only topics which it activated can be subscribed to by name."""
    found = server.store.live(everything(REGISTRY), "Organization", organization)
    extensions = found.resource().get("extension", ()) if found else ()
    return any(each.get("url") == GOVERNED and each.get("valueBoolean") is True for each in extensions)


def covers(subscription: Resource, instant: datetime) -> bool:
    """Whether a subscription was approved before the change and has not ended before it."""
    since = (decision(subscription) or {}).get("when", "")
    end = subscription.get("end", "")
    return (not since or datetime.fromisoformat(since) <= instant) and (
        not end or datetime.fromisoformat(end) > instant
    )
