"""The names in a ClientAuthorization are those that client and organizations have now, so that a search by name finds
what people look for: whoever is renamed is renamed there too, in a version without a decision.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from fhirserver.auth.access import everything
from fhirserver.fhir import Resource
from fhirserver.interactions.ending import every, rewrite
from fhirserver.interactions.model import Server
from fhirserver.rules import authorization
from fhirserver.rules.model import REGISTRY, Prepared
from fhirserver.store.errands import Errand
from fhirserver.store.model import Pending, Stored

ERRAND = "rename"

# Type of who is renamed -> search parameters of the authorizations about it: each an element, with its name beside it.
ELEMENTS: Mapping[str, tuple[str, ...]] = {
    "ClientApplication": ("client",),
    "Organization": ("organization", "provider"),
}


def errands_of(pending: Pending) -> Iterator[Errand]:
    """An errand for each change that may have renamed somebody on the registry."""
    for change in pending.event.get("changes", ()):
        if pending.organization == REGISTRY and change["type"] in ELEMENTS and change["action"] == "update":
            facts = {"type": change["type"], "id": change["id"]}
            yield Errand(f"{ERRAND}/{change['type']}/{change['id']}/{change['version']}", ERRAND, facts)


def work(server: Server, facts: Mapping[str, Any]) -> None:
    """Writes the name that somebody has now into the authorizations that have another."""
    type, id = facts["type"], facts["id"]
    found = server.store.read(everything(REGISTRY), type, id)
    name = "" if found is None or found.deleted else str(found.resource().get("name", ""))
    if not name:
        return
    for element in ELEMENTS[type]:
        for held in every(server, REGISTRY, authorization.TYPE, [(element, f"{type}/{id}")]):
            rewrite(server, held, partial(_named, element, name))


def _named(element: str, name: str, version: Stored) -> Prepared | None:
    resource: Resource = version.resource()
    if resource.get(f"{element}Name") == name:
        return None
    return Prepared({**resource, f"{element}Name": name, element: {**resource[element], "display": name}})
