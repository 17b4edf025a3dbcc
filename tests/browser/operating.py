"""What the operator's screens show: a policy, a search parameter, a resource with versions, a locked user."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tests.browser.conftest import Installed

HOSTILE = "<img src=x onerror=alert(1)>"


@dataclass
class Operating:
    """Ids of what was made."""

    policy: str
    parameter: str
    endpoint: str
    user: str


def operating(installed: Installed) -> Operating:
    """Makes everything, once."""

    def make(resource: dict[str, Any]) -> str:
        return str(installed.api("POST", resource["resourceType"], "operator", resource)["id"])

    policy = make(
        {
            "resourceType": "AccessPolicy",
            "name": f"Only laboratory results {HOSTILE}",
            "description": "Whoever reads observations sees those of the laboratory.",
            "type": ["Observation"],
            "action": ["read", "search"],
            "engine": "allow",
            "criteria": ["Observation?category=laboratory"],
        }
    )
    parameter = make(
        {
            "resourceType": "SearchParameter",
            "url": "https://console.example/fhir/SearchParameter/patient-nickname",
            "name": "PatientNickname",
            "status": "active",
            "description": "The nickname of a patient",
            "code": "nickname",
            "base": ["Patient"],
            "type": "string",
            "expression": "Patient.name.where(use = 'nickname').given",
        }
    )
    endpoint = {
        "resourceType": "Endpoint",
        "status": "active",
        "name": "First name",
        "connectionType": {
            "system": "http://terminology.hl7.org/CodeSystem/endpoint-connection-type",
            "code": "hl7-fhir-rest",
        },
        "managingOrganization": {"reference": f"Organization/{installed.organizations['hospital']}"},
        "payloadType": [{"text": "FHIR"}],
        "address": "https://lakeside.example/fhir",
    }
    id = make(endpoint)
    for name in ("Second name", f"Third name {HOSTILE}"):
        installed.api("PUT", f"Endpoint/{id}", "operator", {**endpoint, "id": id, "name": name})
    user = make(
        {
            "resourceType": "User",
            "email": "gone@acme.example",
            "name": f"Gone {HOSTILE}",
            "role": "member",
            "active": False,
            "organization": {"reference": f"Organization/{installed.organizations['application']}"},
        }
    )
    return Operating(policy, parameter, id, user)
