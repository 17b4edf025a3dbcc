"""Instants as FHIR writes them. FHIR R4: datatypes#instant."""

from __future__ import annotations

from datetime import UTC, datetime


def instant_text(instant: datetime) -> str:
    """A FHIR instant in UTC with milliseconds; such texts sort as the instants do."""
    at = instant if instant.tzinfo is UTC else instant.astimezone(UTC)
    return at.isoformat(timespec="milliseconds")[:23] + "Z"
