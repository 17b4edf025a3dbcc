"""Days where the viewer lives: their first and last instants, and which day an instant is of. Pure."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, tzinfo

from fhirserver.fhir.instants import instant_text


def first_instant(day: str, zone: tzinfo) -> str:
    """The instant at which a day begins. Raises ValueError for what is no day."""
    return instant_text(datetime.combine(date.fromisoformat(day), time(), zone))


def last_instant(day: str, zone: tzinfo) -> str:
    """The last millisecond of a day. Raises ValueError for what is no day."""
    after = datetime.combine(date.fromisoformat(day) + timedelta(days=1), time(), zone)
    return instant_text(after.astimezone(UTC) - timedelta(milliseconds=1))


def noon(day: date, zone: tzinfo) -> str:
    """The middle of a day."""
    return instant_text(datetime.combine(day, time(12), zone))
