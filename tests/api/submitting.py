"""IHE MHD: a submission of a document."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from typing import Any

from fhirserver.interactions.ihe.mhd import DESIGNATION, LIST_TYPES, PREFIX, SOURCE_ID

PDF = b"%PDF-1.7 a letter"
LETTER = {"coding": [{"system": "http://loinc.org", "code": "11488-4"}]}


def submission(patient: str, data: bytes = PDF, kind: str = "Minimal", **document: Any) -> dict[str, Any]:
    """A Bundle as a document source sends it: the submission, what describes the document, the document."""
    digest = b64encode(hashlib.sha1(data, usedforsecurity=False).digest()).decode()
    resources: dict[str, dict[str, Any]] = {
        "urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187a4c6e0": {
            "resourceType": "List",
            "extension": [
                {"url": SOURCE_ID, "valueIdentifier": {"system": "urn:ietf:rfc:3986", "value": "urn:oid:1.3.6.1"}},
                {"url": DESIGNATION, "valueCodeableConcept": {"coding": [{"system": "urn:kinds", "code": "referral"}]}},
            ],
            "identifier": [{"system": "urn:ietf:rfc:3986", "value": "urn:oid:1.2.129.6.58.92.88336"}],
            "contained": [{"resourceType": "Practitioner", "id": "who", "name": [{"family": "Welby"}]}],
            "source": {"reference": "#who"},
            "status": "current",
            "mode": "working",
            "code": {"coding": [{"system": LIST_TYPES, "code": "submissionset"}]},
            "subject": {"reference": patient},
            "date": "2026-04-01T10:00:00Z",
            "entry": [{"item": {"reference": "urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187a4c6e1"}}],
        },
        "urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187a4c6e1": {
            "resourceType": "DocumentReference",
            "masterIdentifier": {"system": "urn:ietf:rfc:3986", "value": "urn:oid:1.2.129.6.58.92.88337"},
            "status": "current",
            "type": LETTER,
            "subject": {"reference": patient},
            "date": "2026-04-01T10:00:00Z",
            "content": [
                {
                    "attachment": {
                        "contentType": "application/pdf",
                        "url": "urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187a4c6e2",
                        "size": len(data),
                        "hash": digest,
                        "creation": "2026-03-31T09:00:00Z",
                    }
                }
            ],
            **document,
        },
        "urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187a4c6e2": {
            "resourceType": "Binary",
            "contentType": "application/pdf",
            "data": b64encode(data).decode(),
        },
    }
    return {
        "resourceType": "Bundle",
        "meta": {"profile": [f"{PREFIX}{kind}.ProvideBundle"]},
        "type": "transaction",
        "entry": [
            {"fullUrl": url, "resource": resource, "request": {"method": "POST", "url": resource["resourceType"]}}
            for url, resource in resources.items()
        ],
    }
