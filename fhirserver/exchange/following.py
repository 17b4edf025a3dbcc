"""What a ClientAuthorization says of its client and organizations follows them, in versions without a decision.

Names are those of now, so that a search by name finds what people look for. A production client that registers wider
scopes asks every organization that approved it: the authorization stays approved for what it covered, and shows the
new scope as pending, to be decided on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from fhirserver.auth.access import everything
from fhirserver.exchange.ending import every, rewrite
from fhirserver.fhir import Resource
from fhirserver.interactions.model import Server
from fhirserver.rules import authorization
from fhirserver.rules.model import REGISTRY, Prepared
from fhirserver.store.errands import Errand
from fhirserver.store.model import Pending, Stored

ERRAND = "follow"
CLIENT = "ClientApplication"

# Type of who has changed -> the elements of an authorization that refer to it; each has a name beside it.
ELEMENTS: Mapping[str, tuple[str, ...]] = {CLIENT: ("client",), "Organization": ("organization", "provider")}


def errands_of(pending: Pending) -> Iterator[Errand]:
    """An errand for each change of a client or an organization on the registry."""
    for change in pending.event.get("changes", ()):
        if pending.organization == REGISTRY and change["type"] in ELEMENTS and change["action"] == "update":
            facts = {name: change[name] for name in ("type", "id", "version")}
            yield Errand(f"{ERRAND}/{change['type']}/{change['id']}/{change['version']}", ERRAND, facts)


def work(server: Server, facts: Mapping[str, Any]) -> None:
    """Has the authorizations about somebody say what that one is now."""
    type, id, whole = facts["type"], facts["id"], everything(REGISTRY)
    found = server.store.live(whole, type, id)
    if found is None:
        return
    changed, widened = found.resource(), None
    if type == CLIENT:
        before, after = (server.store.vread(whole, type, id, facts["version"] - step) for step in (1, 0))
        if _scope(before) != _scope(after):
            widened = changed
    for element in ELEMENTS[type]:
        for held in every(server, REGISTRY, authorization.TYPE, [(element, f"{type}/{id}")]):
            rewrite(server, held, partial(_followed, server, element, changed.get("name"), widened))


def _scope(version: Stored | None) -> str:
    return "" if version is None or version.deleted else str(version.resource().get("scope", ""))


def _followed(
    server: Server, element: str, name: str | None, widened: Resource | None, version: Stored
) -> Prepared | None:
    before = after = version.resource()
    if name:
        after = {**after, f"{element}Name": name, element: {**after[element], "display": name}}
    if widened is not None:
        after = authorization.follow(after, widened, server.definitions.resource_types)
    return None if after == before else Prepared(after)
