"""BulkExport: written by the server alone, as an export goes on."""

from __future__ import annotations

from fhirserver.rules.model import Rule

TYPE = "BulkExport"
OPEN = ("accepted", "in-progress")
"""The states of an export that is under way."""
STATUSES = (*OPEN, "completed", "failed", "cancelled", "expired")
WRITTEN = "A BulkExport is written by the server: ask for one with $export, end one with DELETE at its status address."

RULE = Rule(TYPE, refused=dict.fromkeys(("create", "update", "patch", "delete"), WRITTEN))
