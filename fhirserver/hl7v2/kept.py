"""The messages that are kept: found, read, and moved on in their life by nobody but the server."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from fhirserver.auth.access import Access
from fhirserver.fhir import Resource
from fhirserver.fhir.problem import problem
from fhirserver.interactions.model import Server
from fhirserver.interactions.versions import next_instant, version_of
from fhirserver.search.parse import parse
from fhirserver.store.model import Stored
from fhirserver.store.search import compile_search, find


def found(server: Server, access: Access, type: str, pairs: list[tuple[str, str]], most: int) -> list[Stored]:
    """At most so many resources that a search finds. Raises Problem for a criterion that is none."""
    query = parse(server.definitions, type, pairs, strict=True)
    search = compile_search(server.store, access, type, query.clauses, None)
    return list(find(server.store, search, query.sort, most).matches) if search else []


def again(resource: Resource) -> Resource:
    """An InboundMessage that is to be processed once more. Raises Problem(deleted) where its content was purged."""
    bytes_of(resource)
    kept = {name: value for name, value in resource.items() if name not in ("reason", "issue", "unmapped")}
    return {**kept, "status": "received"}


def rewrite(server: Server, current: Stored, resource: Resource) -> Stored:
    """Writes the next version of an InboundMessage and answers it. Raises Problem(conflict) where another was
    faster.
    """
    instant, private = next_instant(server, current), current.private
    change = version_of(server, current.organization, resource, current, instant, private=private, keep_previous=False)
    server.store.commit([change])
    return change.stored()


def content_of(inbound: Stored) -> bytes:
    """The bytes of a message as they came. Raises Problem(deleted) where they were purged."""
    return bytes_of(inbound.resource())


def bytes_of(resource: Mapping[str, Any]) -> bytes:
    """The bytes of a message as they came. Raises Problem(deleted) where they were purged."""
    if "purged" in resource:
        text = f"The content of this message was purged at {resource['purged']}, being older than is kept here."
        raise problem("deleted", text, "InboundMessage.content")
    return base64.b64decode(resource["content"]["data"])
