"""Values: text of a field -> a FHIR primitive, and the few named functions that a rule may use where a table cannot
say it.
"""

from __future__ import annotations

import base64
import binascii
import html
import re
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar

from fhirserver.hl7v2.mapping import times
from fhirserver.hl7v2.mapping.run import Run
from fhirserver.hl7v2.mapping.tables import Table
from fhirserver.hl7v2.message import NULL

Convert = Callable[[Run, str], Any]
T = TypeVar("T")

_NUMBER = re.compile(r"[+-]?(?:\d{1,30}(?:\.\d{0,18})?|\.\d{1,18})$")
_OID = re.compile(r"[0-2](?:\.(?:0|[1-9]\d*))+$")
_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:\S+$")
_YES_NO: Mapping[str, bool] = {
    "Y": True,
    "N": False,
    "YES": True,
    "NO": False,
    "TRUE": True,
    "FALSE": False,
    "1": True,
    "0": False,
}


def leaf(run: Run, text: str, depth: int) -> str:
    """The decoded text of the first subcomponent. `depth`: 0 for a repetition, 1 for a component, 2 for a
    subcomponent.
    """
    if depth == 0 and run.component and run.component in text:
        text = text[: text.index(run.component)]
    if depth <= 1 and run.subcomponent and run.subcomponent in text:
        text = text[: text.index(run.subcomponent)]
    if text == NULL:
        return ""
    if run.escape and run.escape in text:
        text = run.decode(text)
    return text.strip()


def parts_of(run: Run, text: str, depth: int) -> list[str]:
    """The raw components of a repetition, or the raw subcomponents of a component."""
    separator = run.component if depth == 0 else run.subcomponent if depth == 1 else ""
    return text.split(separator) if separator else [text]


def whole(run: Run, text: str) -> str:
    """The decoded text of a whole repetition, delimiters and all: what a sender that forgot to escape meant."""
    return run.decode(text).strip() if text != NULL else ""


def _date(run: Run, text: str) -> str | None:
    return _noted(run, times.date(text), text, "date")


def _date_time(run: Run, text: str) -> str | None:
    found, dropped = times.date_time(text, run.context.timezone)
    if dropped:
        run.warn(
            f"{run.field}: the time of day was left out, because neither the message nor the endpoint gives a time zone"
        )
    return _noted(run, found, text, "time")


def _instant(run: Run, text: str) -> str | None:
    return times.instant(text, run.context.timezone)


def _time(run: Run, text: str) -> str | None:
    return _noted(run, times.time(text), text, "time of day")


def _decimal(run: Run, text: str) -> Decimal | None:
    try:
        return _noted(run, Decimal(text) if _NUMBER.match(text) else None, text, "number")
    except InvalidOperation:
        return None


def _integer(run: Run, text: str) -> int | None:
    number = _decimal(run, text)
    return int(number) if number is not None and number == int(number) and abs(number) < 2**31 else None


def _natural(run: Run, text: str) -> int | None:
    number = _integer(run, text)
    return number if number is not None and number >= 0 else None


def _positive(run: Run, text: str) -> int | None:
    return _natural(run, text) or None


def _boolean(run: Run, text: str) -> bool | None:
    return _noted(run, _YES_NO.get(text.upper()), text, "yes or no")


def _code(run: Run, text: str) -> str | None:
    return " ".join(text.split()) or None


def _uri(run: Run, text: str) -> str | None:
    return text if text and not any(c.isspace() for c in text) else None


def _base64(run: Run, text: str) -> str | None:
    compact = "".join(text.split())
    try:
        base64.b64decode(compact, validate=True)
    except (binascii.Error, ValueError):
        return _noted(run, None, text[:20], "base64")
    return compact


def _string(run: Run, text: str) -> str | None:
    return text or None


def _noted(run: Run, value: T | None, text: str, kind: str) -> T | None:
    if value is None and text:
        run.warn(f"{run.field} is no {kind} and was left out")
    return value


PRIMITIVES: Mapping[str, Convert] = {
    "string": _string,
    "markdown": _string,
    "code": _code,
    "id": _code,
    "uri": _uri,
    "url": _uri,
    "canonical": _uri,
    "date": _date,
    "dateTime": _date_time,
    "instant": _instant,
    "time": _time,
    "decimal": _decimal,
    "integer": _integer,
    "unsignedInt": _natural,
    "positiveInt": _positive,
    "boolean": _boolean,
    "base64Binary": _base64,
}


def authority(run: Run, namespace: str, universal: str, kind: str) -> str:
    """The system URI of an assigning authority (HD): an ISO OID or a UUID as a URN, a URI as it is, what the endpoint
    knows for the namespace id, else a URI of ours made from it. Of nothing: that of the sending facility."""
    known = run.context.authorities.get(namespace) if namespace else None
    if known:
        return known
    return authority_of(namespace, universal, kind) or run.local("id", namespace or universal or run.authority)


def authority_of(namespace: str, universal: str, kind: str) -> str | None:
    """The system URI that an HD gives by itself, None where it has only a name."""
    return (
        universal_uri(universal, kind) if universal else universal_uri(namespace, "URI") if ":" in namespace else None
    )


def universal_uri(universal: str, kind: str) -> str | None:
    """The URI of a universal id (HD.2) of a type (HD.3), None where it is none."""
    if kind.upper() in ("ISO", "") and _OID.match(universal):
        return f"urn:oid:{universal}"
    if kind.upper() in ("UUID", "GUID", "") and _UUID.match(universal):
        return f"urn:uuid:{universal.lower()}"
    if _SCHEME.match(universal):
        return universal
    if kind.upper() == "DNS" and re.match(r"[A-Za-z0-9.-]{1,253}$", universal):
        return f"urn:dns:{universal.lower()}"
    return None


def coding_system(run: Run, systems: Table, name: str) -> str | None:
    """The URI of a coding system by its HL7 name (table 0396): `LN`, `HL70002`; an OID or a URI as such, else a local
    one.
    """
    mapped = systems.translate(name)
    if mapped is not None:
        return mapped.code
    found = re.match(r"HL7(?:0|-)?(\d{3,4})$", name.upper())
    if found:
        return f"http://terminology.hl7.org/CodeSystem/v2-{found.group(1).zfill(4)}"
    return universal_uri(name, "") or run.local("coding", name)


def narrative(text: str) -> dict[str, str]:
    """A Narrative that says the text."""
    return {
        "status": "additional",
        "div": f'<div xmlns="http://www.w3.org/1999/xhtml">{html.escape(text, quote=False)}</div>',
    }


# Minutes in one unit of table-less duration fields (AIS-8, SCH-10, TQ.3 and the like).
UNITS: Mapping[str, Decimal] = {
    **dict.fromkeys(("", "M", "MIN", "MINS", "MINUTE", "MINUTES"), Decimal(1)),
    **dict.fromkeys(("S", "SEC", "SECS", "SECOND", "SECONDS"), Decimal(1) / 60),
    **dict.fromkeys(("H", "HR", "HRS", "HOUR", "HOURS"), Decimal(60)),
    **dict.fromkeys(("D", "DAY", "DAYS"), Decimal(1440)),
    **dict.fromkeys(("W", "WK", "WEEK", "WEEKS"), Decimal(10080)),
}


def minutes(text: str, unit: str) -> Decimal | None:
    """A duration in minutes; None where the number or the unit says nothing."""
    factor = UNITS.get(unit.strip().upper())
    return Decimal(text) * factor if factor is not None and _NUMBER.match(text) else None
