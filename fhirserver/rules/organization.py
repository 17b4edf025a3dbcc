"""Organization on the registry: an application provider or a provider organization, as its type says. Operators write
it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhirserver.auth.sandbox import is_sandbox
from fhirserver.fhir import Resource
from fhirserver.fhir.problem import problem
from fhirserver.rules.model import CANONICAL, REGISTRY, Context, Prepared, Rule, listed

KIND_SYSTEM = f"{CANONICAL}/CodeSystem/organization-kind"
KINDS = ("application", "provider")


def kind(organization: Mapping[str, Any]) -> str:
    """`application`, `provider`, or empty for an organization that takes no part in the exchange."""
    concepts = [concept for concept in listed(organization.get("type")) if isinstance(concept, Mapping)]
    codings = [coding for concept in concepts for coding in listed(concept.get("coding"))]
    ours = [coding for coding in codings if isinstance(coding, Mapping) and coding.get("system") == KIND_SYSTEM]
    codes = [str(coding.get("code")) for coding in ours]
    return codes[0] if len(codes) == 1 and codes[0] in KINDS else ""


def kind_concept(kind_: str) -> dict[str, Any]:
    """The CodeableConcept for Organization.type that says the kind."""
    return {"coding": [{"system": KIND_SYSTEM, "code": kind_}]}


def create(context: Context, resource: Resource) -> Prepared:
    """Raises Problem: business-rule without exactly one kind, value for the id that the registry's own key is."""
    if context.organization != REGISTRY:
        return Prepared(resource)
    if resource.get("id") == REGISTRY:
        raise problem("value", "The id 'registry' is reserved: choose another.", "Organization.id")
    if is_sandbox(str(resource.get("id", ""))) and context.principal.kind != "system":
        raise problem("value", "The ids of sandboxes are the server's: choose another.", "Organization.id")
    if not kind(resource):
        raise problem(
            "business-rule",
            f"Organization.type needs one coding of {KIND_SYSTEM}: {' or '.join(KINDS)}.",
            "Organization.type",
        )
    return Prepared({**resource, "active": resource.get("active", True)})


def update(context: Context, previous: Resource, private: Mapping[str, Any], resource: Resource) -> Prepared:
    """Raises Problem(business-rule) where the kind would change."""
    prepared = create(context, resource)
    if context.organization == REGISTRY and kind(previous) != kind(resource):
        raise problem(
            "business-rule", "The kind of an organization cannot change: create another.", "Organization.type"
        )
    return prepared


RULE = Rule("Organization", create=create, update=update)
