"""AuditEvents as a system sends them."""

from __future__ import annotations

from typing import Any

DCM = "http://dicom.nema.org/resources/ontology/DCM"
ENTITY = "http://terminology.hl7.org/CodeSystem/audit-entity-type"
ROLE = "http://terminology.hl7.org/CodeSystem/object-role"


def event(patient: str, **elements: Any) -> dict[str, Any]:
    return {
        "resourceType": "AuditEvent",
        "type": {"system": DCM, "code": "110112", "display": "Query"},
        "subtype": [{"system": "urn:ihe:event-type-code", "code": "ITI-78"}],
        "action": "E",
        "recorded": "2026-05-01T10:00:00Z",
        "outcome": "0",
        "agent": [
            {
                "requestor": True,
                "who": {"identifier": {"system": "urn:staff", "value": "n77"}},
                "network": {"address": "10.1.2.3", "type": "2"},
            }
        ],
        "source": {"observer": {"identifier": {"system": "urn:devices", "value": "gateway-1"}}},
        "entity": [
            {
                "what": {"reference": patient},
                "type": {"system": ENTITY, "code": "1"},
                "role": {"system": ROLE, "code": "1"},
            },
            {"what": {"identifier": {"system": "urn:docs", "value": "d-9"}}, "type": {"system": ENTITY, "code": "2"}},
        ],
        **elements,
    }
