"""Communication: on an organization's base a resource like any other, on the registry a notice of the server's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhirserver.fhir import Resource
from fhirserver.fhir.problem import problem
from fhirserver.rules.model import REGISTRY, Context, Prepared, Rule

TYPE = "Communication"


def _only_by_the_server(context: Context) -> None:
    if context.organization == REGISTRY and context.principal.kind != "system":
        text = "A notice on the registry is written by the server alone; mark it as read with $mark-read."
        raise problem("not-supported", text, status=405, headers={"Allow": "GET, OPTIONS"})


def create(context: Context, resource: Resource) -> Prepared:
    """Raises Problem(not-supported, 405) on the registry for anybody but the server."""
    _only_by_the_server(context)
    return Prepared(resource)


def update(context: Context, previous: Resource, private: Mapping[str, Any], resource: Resource) -> Prepared:
    """Raises Problem(not-supported, 405) on the registry for anybody but the server."""
    _only_by_the_server(context)
    return Prepared(resource, dict(private))


def delete(context: Context, resource: Resource) -> None:
    """Raises Problem(not-supported, 405) on the registry for anybody but the server."""
    _only_by_the_server(context)


RULE = Rule(TYPE, create=create, update=update, delete=delete)
