"""Parameters, the resource that operations are asked with and answer. FHIR R4: parameters. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fhirserver.fhir import Resource


def parameters_of(parts: Sequence[dict[str, Any]]) -> Resource:
    """The resource of these parameters; of none it has no list, as no list may be empty (json#2.6.2)."""
    return {"resourceType": "Parameters", **({"parameter": list(parts)} if parts else {})}
