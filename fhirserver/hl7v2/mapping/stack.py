"""A package and the overlays on it, compiled: shipped first, then the organization's, then the sender's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fhirserver.fhir.definitions import Definitions
from fhirserver.fhir.problem import Issue, Problem, problem
from fhirserver.hl7v2.mapping.load import compiled
from fhirserver.hl7v2.mapping.maps import Maps
from fhirserver.hl7v2.mapping.overlay import Overlay, layered
from fhirserver.hl7v2.mapping.package import Package


def ordered(overlays: Sequence[Overlay]) -> list[Overlay]:
    """The overlays in the order in which they are laid: an organization's before a sender's, then by id."""
    return sorted(overlays, key=lambda each: (each.level, each.id))


def stacked(package: Package, overlays: Sequence[Overlay], definitions: Definitions) -> Maps:
    """The maps of a package with overlays on it. Raises Problem(invalid): each issue names the element of the overlay
    that is at fault, where one is.
    """
    try:
        maps = compiled(layered(package, overlays), definitions)
    except RecursionError:
        raise problem(
            "too-costly", "The maps of the overlay lie too deep in one another.", "ConceptMap.group"
        ) from None
    except Problem as fault:
        raise Problem(tuple(_placed(issue, overlays) for issue in fault.issues)) from None
    return replace(maps, overlays=tuple(each.reference for each in overlays))


def _placed(issue: Issue, overlays: Sequence[Overlay]) -> Issue:
    where = issue.expression[0] if issue.expression else ""
    place = next((found for each in reversed(overlays) if (found := each.place(where))), "")
    return replace(issue, expression=(place,)) if place else issue
