"""The index entry of a resource, by indexers compiled once per type and generation of definitions."""

from __future__ import annotations

from fhirserver.fhir import Resource
from fhirserver.interactions.model import Server
from fhirserver.search.index import Entry, indexer

MOST_INDEXERS = 5_000


def entry_of(server: Server, resource: Resource, base: str) -> Entry:
    """What search finds the resource by on that base, and its sort keys."""
    key = (resource["resourceType"], base)
    indexers = server.caches.setdefault("indexers", {})
    index = indexers.get(key)
    if index is None:
        if len(indexers) > MOST_INDEXERS:
            indexers.clear()
        index = indexers[key] = indexer(server.definitions, key[0], base)
    entry: Entry = index(resource)
    return entry
