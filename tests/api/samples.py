"""Small valid resources for the API tests."""

from __future__ import annotations

from typing import Any


def patient(**more: Any) -> dict[str, Any]:
    """A Patient with one name."""
    return {"resourceType": "Patient", "name": [{"family": "Adler", "given": ["Ida"]}], **more}


def observation(subject: str = "", code: str = "8867-4", **more: Any) -> dict[str, Any]:
    """A final Observation with a LOINC code, of a subject given as Type/id."""
    made: dict[str, Any] = {
        "resourceType": "Observation",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
    }
    if subject:
        made["subject"] = {"reference": subject}
    return {**made, **more}


def encounter(subject: str, **more: Any) -> dict[str, Any]:
    """A finished ambulatory Encounter of a subject given as Type/id."""
    ambulatory = {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"}
    return {
        "resourceType": "Encounter",
        "status": "finished",
        "class": ambulatory,
        "subject": {"reference": subject},
        **more,
    }


def entry(method: str, url: str, resource: Any = None, full_url: str = "", **request: str) -> dict[str, Any]:
    """A Bundle entry; `request` are its other request elements (ifMatch, ifNoneExist, ...)."""
    made: dict[str, Any] = {"request": {"method": method, "url": url, **request}}
    if full_url:
        made["fullUrl"] = full_url
    if resource is not None:
        made["resource"] = resource
    return made


def bundle(kind: str, *entries: dict[str, Any]) -> dict[str, Any]:
    """A Bundle of that type."""
    return {"resourceType": "Bundle", "type": kind, "entry": list(entries)}


def parameters(**values: Any) -> dict[str, Any]:
    """Parameters: a dict value with resourceType is a resource, another dict is value[x], a text is a string."""
    made = []
    for name, value in values.items():
        part: dict[str, Any] = {"name": name}
        if isinstance(value, dict) and "resourceType" in value:
            part["resource"] = value
        elif isinstance(value, dict):
            part |= value
        else:
            part["valueString"] = value
        made.append(part)
    return {"resourceType": "Parameters", "parameter": made}
