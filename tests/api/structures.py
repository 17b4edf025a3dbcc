"""StructureDefinitions as short as they may be."""

from __future__ import annotations

from typing import Any

BASE = "http://example.org/fhir"


def element(path: str, minimum: int, maximum: str, *types: str) -> dict[str, Any]:
    """One ElementDefinition."""
    made: dict[str, Any] = {"id": path, "path": path, "min": minimum, "max": maximum}
    if types:
        made["type"] = [{"code": code} for code in types]
    return made


def structure(type: str, derivation: str, base: str, url: str, *elements: dict[str, Any]) -> dict[str, Any]:
    """A StructureDefinition with a differential."""
    return {
        "resourceType": "StructureDefinition",
        "url": f"{BASE}/StructureDefinition/{url}",
        "name": url,
        "status": "active",
        "kind": "resource",
        "abstract": False,
        "type": type,
        "baseDefinition": f"http://hl7.org/fhir/StructureDefinition/{base}",
        "derivation": derivation,
        "differential": {"element": [element(type, 0, "*"), *elements]},
    }
