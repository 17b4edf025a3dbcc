"""What is shipped with the server, laid out on the registry for people to read: topics, HL7v2 maps, IHE profiles."""

from __future__ import annotations

from collections.abc import Iterable

from fhirserver.fhir import Resource
from fhirserver.fhir.problem import Problem
from fhirserver.interactions.model import Server
from fhirserver.interactions.versions import next_instant, version_of
from fhirserver.store import shelf
from fhirserver.store.model import REGISTRY


def publish(server: Server, resources: Iterable[Resource], family: str) -> int:
    """Makes the registry say what resources of one type say, in one write; answers how many were written.

    What is there already with this content stays. What is there with a URL that begins with `family`, and is shipped
    no more, is retired. These are nobody's writes: they have no event, so nobody is notified and nothing is audited.
    """
    wanted = {resource["id"]: resource for resource in resources}
    [type] = {resource["resourceType"] for resource in wanted.values()}
    there = shelf.laid_out(server.store.database, type, wanted, family)
    changes = []
    for id in [*wanted, *(id for id in there if id not in wanted)]:
        stored = there.get(id)
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
