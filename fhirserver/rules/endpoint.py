"""Endpoint on the registry: whose messages a sender's are. Its organization is one that the writer administers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhirserver.fhir import Resource
from fhirserver.fhir.problem import problem
from fhirserver.rules.model import REGISTRY, Context, Prepared, Rule, reference, target


def create(context: Context, resource: Resource) -> Prepared:
    """Raises Problem: required without an organization, forbidden for one that the writer does not administer."""
    if context.organization != REGISTRY:
        return Prepared(resource)
    endpoint, principal = dict(resource), context.principal
    endpoint.setdefault("status", "active")
    if "managingOrganization" not in endpoint and principal.organization:
        endpoint["managingOrganization"] = reference("Organization", principal.organization)
    organization = target(endpoint.get("managingOrganization"), "Organization")
    if not organization:
        text = "Endpoint.managingOrganization is missing: reference the Organization whose messages come from here."
        raise problem("required", text, "Endpoint.managingOrganization")
    if not (principal.operator or principal.kind in ("operator", "system") or principal.admin(organization)):
        raise problem("forbidden", f"Only an administrator of organization {organization} may write its endpoints.")
    return Prepared(endpoint)


def update(context: Context, previous: Resource, private: Mapping[str, Any], resource: Resource) -> Prepared:
    """Raises Problem(forbidden) where a writer would move the endpoint to an organization it does not administer."""
    kept = {"managingOrganization": previous["managingOrganization"]} if "managingOrganization" in previous else {}
    return create(context, {**kept, **resource})


RULE = Rule("Endpoint", create=create, update=update)
