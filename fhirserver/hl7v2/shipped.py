"""ConceptMaps that are maps: the shipped ones laid out on the registry, and what is asked of an overlay when it is
written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fhirserver.fhir import Resource
from fhirserver.fhir.problem import Issue, Problem, problem
from fhirserver.hl7v2.effective import TYPE, Overlays
from fhirserver.hl7v2.mapping.conceptmaps import URL, concept_maps
from fhirserver.hl7v2.mapping.overlay import is_overlay, marked, overlay
from fhirserver.hl7v2.mapping.package import Package
from fhirserver.interactions.model import Server
from fhirserver.interactions.publishing import publish
from fhirserver.rules.model import REGISTRY, Context, Prepared, Rule

OURS = "This map is shipped with the server: change it by an overlay on your organization's base."


def lay_out(server: Server, package: Package) -> int:
    """Makes the registry's ConceptMaps say what the package says; answers how many were written. A map of another
    package that this one has no more is retired.
    """
    return publish(server, concept_maps(package), URL)


def ruled(rules: Mapping[str, Rule], overlays: Callable[[], Overlays]) -> dict[str, Rule]:
    """The rules, with what is asked of a ConceptMap added. `overlays` is asked for when a rule runs."""

    def create(context: Context, resource: Resource) -> Prepared:
        return _prepared(context, resource, overlays)

    def update(context: Context, previous: Resource, private: Mapping[str, Any], resource: Resource) -> Prepared:
        if context.organization != REGISTRY and _holds(previous) and not _holds(resource):
            overlays().check(context.organization, None, str(previous.get("id", "")))
        return _prepared(context, resource, overlays)

    def delete(context: Context, resource: Resource) -> None:
        if context.organization == REGISTRY:
            _refuse_ours(resource)
        elif _holds(resource):
            overlays().check(context.organization, None, str(resource.get("id", "")))

    return {**rules, TYPE: Rule(TYPE, create=create, update=update, delete=delete)}


def _holds(resource: Resource) -> bool:
    return is_overlay(resource) and resource.get("status") == "active"


def _prepared(context: Context, resource: Resource, overlays: Callable[[], Overlays]) -> Prepared:
    """An overlay in use is refused where it cannot be compiled; of a draft the faults are told as warnings."""
    if context.organization == REGISTRY:
        _refuse_ours(resource)
    if not is_overlay(resource):
        return Prepared(resource)
    if context.organization == REGISTRY:
        text = "An overlay belongs to an organization: write it on the base of the one whose messages it is for."
        raise problem("business-rule", text, f"{TYPE}.extension")
    made = marked(resource)
    if made.get("status") not in ("active", "draft"):
        return Prepared(made)
    try:
        overlay(made)
        overlays().check(context.organization, made, str(made.get("id", "")))
    except Problem as fault:
        if made["status"] == "active":
            raise
        told = (Issue(i.code, f"Not ready for use: {i.diagnostics}", i.expression, "warning") for i in fault.issues)
        return Prepared(made, warnings=tuple(told))
    return Prepared(made)


def _refuse_ours(resource: Resource) -> None:
    if str(resource.get("url", "")).startswith(URL):
        raise problem("business-rule", OURS, f"{TYPE}.url")
