"""AuditEvent: written once, by the server or by POST (ITI-20), and never changed. FHIR R4: auditevent."""

from __future__ import annotations

from fhirserver.rules.model import Rule

TYPE = "AuditEvent"
APPEND_ONLY = "An AuditEvent is never changed or deleted: records are only added."

RULE = Rule(TYPE, refused=dict.fromkeys(("update", "patch", "delete"), APPEND_ONLY))
