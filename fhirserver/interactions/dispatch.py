"""The one place for what holds for every interaction: is it served, who may, run, audit. FHIR R4: http, security."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fhirserver.auth.access import Access, everything
from fhirserver.fhir.instants import instant_text
from fhirserver.fhir.problem import Problem, problem
from fhirserver.interactions.capabilities import served_types
from fhirserver.interactions.model import Request, Response, Server
from fhirserver.interactions.table import BY_CODE
from fhirserver.interactions.visiting import visitor

# Interactions on a resource's path that a type's rule may refuse under another name.
REFUSED_AS = {"conditional-update": "update", "conditional-patch": "patch", "conditional-delete": "delete"}


def dispatch(server: Server, request: Request) -> Response:
    """Answers one interaction. Raises Problem for everything the caller must hear about; either way it is audited."""
    try:
        server.refresh()
        principal = visitor(server, request.principal, request.organization)
        if principal is not request.principal:
            request = replace(request, principal=principal)
        response = BY_CODE[request.interaction].function(server, request, admitted(server, request))
    except Problem as error:
        server.audit(server, request, error)
        raise
    server.audit(server, request, response)
    return response


def perform(server: Server, request: Request, access: Access) -> Response:
    """Answers an entry of a Bundle, with the access that the Bundle was admitted with. Audited like any interaction;
    what runs in a transaction is so when that has committed, by whoever runs it.
    """
    row = BY_CODE[request.interaction]
    _served(server, request)
    access = access.about(lambda: _told(server, request))
    if row.letter and request.type:
        access.require(request.type, row.letter)
    response = row.function(server, request, access)
    if request.unit is None:
        server.audit(server, request, response)
    return response


def admitted(server: Server, request: Request) -> Access:
    """The access of the principal on this base. Raises Problem when the interaction is not served or not permitted
    at all.

    What needs no access (the CapabilityStatement) gets one that its function does not use: it reads no resource.
    """
    row = BY_CODE[request.interaction]
    if row.letter is None:
        return everything(request.organization)
    _served(server, request)
    access = server.access(server, request.principal, request.organization, request)
    access = access.about(lambda: _told(server, request))
    if row.letter and request.type:
        access.require(request.type, row.letter)
    return access


def _told(server: Server, request: Request) -> dict[str, Any]:
    """What policies see of a request."""
    query: dict[str, list[str]] = {}
    for name, value in request.query:
        query.setdefault(name, []).append(value)
    told = {
        "interaction": request.interaction,
        "operation": request.operation,
        "id": request.id,
        "method": request.facts.get("method"),
        "address": request.facts.get("address"),
        "query": query,
        "time": instant_text(server.now()),
    }
    return {name: value for name, value in told.items() if value}


def _served(server: Server, request: Request) -> None:
    if request.type is None:
        return
    if request.type not in server.definitions.resource_types:
        raise problem("not-found", f"{request.type[:100]} is not a resource type of FHIR R4 nor one defined here.")
    if request.type not in served_types(server, request.organization):
        where = "an organization's base" if request.organization == "registry" else "the registry"
        raise problem("not-found", f"{request.type} is not served on this base; it is kept on {where}.")
    rule = server.rules.get(request.type)
    refused = rule.refusals(request.organization) if rule else {}
    reason = refused.get(REFUSED_AS.get(request.interaction, request.interaction))
    if reason:
        raise problem("not-supported", reason, status=405, headers={"Allow": "GET, OPTIONS"})
