"""AccessPolicy: narrows what authorization or role permits. An organization writes those for its own base."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhirserver.auth.policies import TYPE, compiled
from fhirserver.auth.principal import Principal
from fhirserver.fhir import Resource
from fhirserver.fhir.problem import problem
from fhirserver.rules.model import Context, Prepared, Rule, listed, only_on_registry, reference, target


def create(context: Context, resource: Resource) -> Prepared:
    """Raises Problem: forbidden for a base that the writer does not administer, value for what cannot be evaluated."""
    only_on_registry(context, TYPE)
    policy = dict(resource)
    if "organization" not in policy and not _operates(context.principal) and context.principal.organization:
        policy["organization"] = reference("Organization", context.principal.organization)
    _require_side(context.principal, policy)
    kinds = ("ClientApplication", "User", "Organization")
    for index, link in enumerate(listed(policy.get("link"))):
        if not any(target(link, kind) for kind in kinds):
            raise problem("value", f"A link refers to one of {', '.join(kinds)}.", f"{TYPE}.link[{index}]")
    if "organization" in policy and not target(policy["organization"], "Organization"):
        raise problem("value", "organization refers to an Organization.", f"{TYPE}.organization")
    compiled(policy, context.definitions)
    return Prepared(policy)


def update(context: Context, previous: Resource, private: Mapping[str, Any], resource: Resource) -> Prepared:
    """As for a new one; whoever changes one must also be allowed to write it as it was."""
    _require_side(context.principal, previous)
    return create(context, resource)


def delete(context: Context, resource: Resource) -> None:
    """Raises Problem(forbidden) for one of a base that the writer does not administer."""
    _require_side(context.principal, resource)


def _operates(principal: Principal) -> bool:
    return principal.operator or principal.kind in ("operator", "system")


def _require_side(principal: Principal, policy: Mapping[str, Any]) -> None:
    if not _operates(principal) and not principal.admin(target(policy.get("organization"), "Organization")):
        raise problem("forbidden", "Name the organization on whose base it holds: one that you administer.")


RULE = Rule(TYPE, create=create, update=update, delete=delete)
