"""BulkExport: the resource that both sides see of an export. It is written by the server alone."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from fhirserver.auth.access import everything
from fhirserver.fhir import Resource
from fhirserver.fhir.problem import Problem
from fhirserver.interactions.model import Server
from fhirserver.interactions.versions import next_instant, version_of
from fhirserver.rules.bulk_export import TYPE
from fhirserver.store.exports import Export
from fhirserver.store.model import Stored

ATTEMPTS = 5


def written(server: Server, organization: str, resource: Resource) -> Stored:
    """The first version."""
    change = version_of(server, organization, resource, None, next_instant(server, None))
    server.store.commit([change])
    return change.stored()


def rewritten(server: Server, export: Export, changes: Mapping[str, Any], before: Collection[str]) -> bool:
    """Writes the next version, where the status is one of `before`; of two who try, one alone does. Whether it was."""
    whole = everything(export.organization)
    for attempt in range(ATTEMPTS):
        found = server.store.live(whole, TYPE, export.id)
        if found is None or found.resource()["status"] not in before:
            return False
        resource = {**found.resource(), **changes}
        try:
            server.store.commit([version_of(server, export.organization, resource, found, next_instant(server, found))])
        except Problem as trouble:
            if trouble.issues[0].code != "conflict" or attempt == ATTEMPTS - 1:
                raise
        else:
            return True
    return False
