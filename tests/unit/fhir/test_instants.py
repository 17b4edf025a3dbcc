"""Instants as they are written."""

from __future__ import annotations

from datetime import UTC, datetime

from fhirserver.fhir.instants import instant_text


def test_an_instant_is_written_in_utc_with_milliseconds() -> None:
    assert instant_text(datetime(2026, 3, 4, 5, 6, 7, 89_999, UTC)) == "2026-03-04T05:06:07.089Z"
    assert instant_text(datetime(2026, 3, 4, 5, 6, 7, 0, UTC)) == "2026-03-04T05:06:07.000Z"
    eastern = datetime.fromisoformat("2026-03-04T00:06:07.5-05:00")
    assert instant_text(eastern) == "2026-03-04T05:06:07.500Z"
