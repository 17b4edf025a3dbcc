"""The shipped topics as resources: drafts on the registry, for organizations to activate on their own bases. FHIR R5:
subscriptiontopic.
"""

from __future__ import annotations

from fhirserver.auth.access import everything
from fhirserver.fhir import Resource
from fhirserver.fhir.problem import Problem
from fhirserver.interactions.model import Server
from fhirserver.interactions.write import next_instant, version_of
from fhirserver.store import shelf
from fhirserver.store.model import REGISTRY
from fhirserver.subscriptions.topics import TOPIC, TYPE, Catalogue


def publish(server: Server, catalogue: Catalogue) -> int:
    """Makes the registry's SubscriptionTopics say what the catalogue says, and answers how many were written. What is
    there already with this content stays; what is shipped no more is retired.
    """
    wanted = {topic["id"]: {**topic, "status": "draft"} for topic in catalogue.resources()}
    there = shelf.versions(server.store.database, TYPE, REGISTRY, {"s.url": {"$regex": f"^{TOPIC}"}})
    changes = []
    for id in [*wanted, *(id for id in there if id not in wanted)]:
        stored = server.store.read(everything(REGISTRY), TYPE, id) if there else None
        held = stored.resource() if stored is not None and not stored.deleted else None
        resource = wanted.get(id) or {**(held or {}), "status": "retired"}
        if held is None or _content(held) != _content(resource):
            changes.append(version_of(server, REGISTRY, resource, stored, next_instant(server, stored)))
    try:
        server.store.commit(changes)
    except Problem as fault:
        if fault.issues[0].code not in ("conflict", "duplicate"):  # another process does the same
            raise
        return 0
    return len(changes)


def _content(resource: Resource) -> Resource:
    return {name: value for name, value in resource.items() if name != "meta"}
