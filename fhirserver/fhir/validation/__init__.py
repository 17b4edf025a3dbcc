"""Whether a resource is what FHIR R4 says it must be, with every fault and where it is.

FHIR R4: validation. Structure faults (issue types structure, required, value, code-invalid) come first: HTTP 400; what
breaks an invariant or a profile (invariant, extension, ...) follows: HTTP 422.
"""

from __future__ import annotations

from typing import Any

from fhirserver.fhir.definitions import Definitions
from fhirserver.fhir.fhirpath import TooLarge
from fhirserver.fhir.problem import Issue
from fhirserver.fhir.validation.place import MAX_FAULTS, Fault
from fhirserver.fhir.validation.structure import Structure

__all__ = ["validate"]

_STRUCTURAL = frozenset({"structure", "required", "value", "code-invalid"})


def validate(definitions: Definitions, resource: Any, *, profiles: bool = True) -> list[Issue]:
    """Every fault of a resource (about 100 of each severity), errors of structure first; [] when there is none."""
    try:
        faults = definitions.derived(Structure).resource(resource, profiles=profiles)
    except TooLarge:
        faults = [Fault("too-costly", "", "is too large for its invariants to be asked: send it in parts")]
    except RecursionError:
        faults = [Fault("structure", "", "is nested too deeply")]
    if not faults:
        return []
    kind = resource.get("resourceType") if isinstance(resource, dict) else None
    root = kind if isinstance(kind, str) and kind in definitions.resource_types else ""
    ordered = sorted(
        dict.fromkeys(faults), key=lambda fault: (fault.severity != "error", fault.code not in _STRUCTURAL)
    )
    errors = [fault for fault in ordered if fault.severity == "error"]
    return [_issue(fault, root) for fault in errors[:MAX_FAULTS] + ordered[len(errors) :][:MAX_FAULTS]]


def _issue(fault: Fault, root: str) -> Issue:
    expression = root + fault.path if root else ""
    text = fault.text if fault.text[:1].isupper() else f"{expression or 'The resource'} {fault.text}"
    return Issue(fault.code, text, (expression,) if expression else (), fault.severity)
