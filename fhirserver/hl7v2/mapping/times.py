"""HL7v2 times (DT, TM, DTM, TS) as FHIR dates: the sender's offset kept, the endpoint's zone used where there is
none, nothing made up.

HL7 v2.8.2 chapter 2A (DTM); FHIR R4 datatypes#dateTime: a time of day needs a zone, so without one only the date is
told.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

_DTM = re.compile(
    r"(\d{4})(\d{2})?(\d{2})?(?:(\d{2})(?:(\d{2})(?:(\d{2})(\.\d{1,6})?)?)?)?\s*([+-]\d{2}:?\d{2}|[+-]\d{2}|Z)?$"
)
_TM = re.compile(r"(\d{2})(?:(\d{2})(?:(\d{2})(\.\d{1,6})?)?)?(?:[+-]\d{4})?$")


@lru_cache(maxsize=64)
def zone(name: str) -> ZoneInfo | None:
    """The time zone of an IANA name, None for one that is not known."""
    try:
        return ZoneInfo(name)
    except (ValueError, OSError, KeyError):
        return None


@lru_cache(maxsize=8192)
def date(text: str) -> str | None:
    """YYYY, YYYY-MM or YYYY-MM-DD of a DT or DTM; None where it is none, or names a day that does not exist."""
    match = _DTM.match(text.strip())
    if not match:
        return None
    parts = [part for part in match.groups()[:3] if part]
    try:
        datetime(
            int(parts[0]), int(parts[1]) if len(parts) > 1 else 1, int(parts[2]) if len(parts) > 2 else 1, tzinfo=UTC
        )
    except ValueError:
        return None
    return "-".join(parts)


@lru_cache(maxsize=8192)
def date_time(text: str, zone_name: str) -> tuple[str | None, bool]:
    """The FHIR dateTime of a DTM, and whether its time of day had to be left out because nothing says its zone."""
    day = date(text)
    match = _DTM.match(text.strip())
    if day is None or match is None or match.group(5) is None or len(day) < 10:
        return day, False
    hour, minute, second, fraction, offset = match.groups()[3:]
    clock = f"{hour}:{minute}:{second or '00'}{fraction or ''}"
    try:
        naive = datetime.fromisoformat(f"{day}T{hour}:{minute}:{second or '00'}")
    except ValueError:
        return day, False
    if offset:
        return f"{day}T{clock}{_offset(offset)}", False
    known = zone(zone_name) if zone_name else None
    if known is None:
        return day, True
    return f"{day}T{clock}{_minutes(naive.replace(tzinfo=known).utcoffset())}", False


def instant(text: str, zone_name: str) -> str | None:
    """The FHIR instant of a DTM, None where it is not exact to the second or its zone is not known."""
    found, _ = date_time(text, zone_name)
    return found if found and "T" in found and len(re.sub(r"\D.*", "", text)) >= 14 else None


@lru_cache(maxsize=2048)
def time(text: str) -> str | None:
    """hh:mm:ss of a TM."""
    match = _TM.match(text.strip())
    if not match:
        return None
    hour, minute, second, fraction = match.groups()
    if int(hour) > 23 or int(minute or 0) > 59 or int(second or 0) > 59:
        return None
    return f"{hour}:{minute or '00'}:{second or '00'}{fraction or ''}"


def plus_minutes(moment: str, minutes: float) -> str | None:
    """A FHIR dateTime with a time of day, so many minutes later; None where it has none or the sum leaves the
    calendar.
    """
    if "T" not in moment:
        return None
    try:
        return (datetime.fromisoformat(moment) + timedelta(minutes=minutes)).isoformat()
    except (ValueError, OverflowError):
        return None


def backwards(start: str, end: str) -> bool:
    """Whether two FHIR dates or dateTimes are certainly in the wrong order; a partial one is compared as far as it
    says.
    """
    if "T" in start and "T" in end:
        return datetime.fromisoformat(start) > datetime.fromisoformat(end)
    length = min(len(start), len(end), 10)
    return start[:length] > end[:length]


def _minutes(offset: timedelta | None) -> str:
    """An offset in whole minutes, as FHIR wants it: local mean times of long ago had seconds."""
    total = round((offset or timedelta()).total_seconds() / 60)
    return f"{'-' if total < 0 else '+'}{abs(total) // 60:02d}:{abs(total) % 60:02d}"


def _offset(text: str) -> str:
    if text == "Z":
        return "Z"
    digits = text[1:].replace(":", "").ljust(4, "0")
    return f"{text[0]}{digits[:2]}:{digits[2:]}"
