"""What each change of a Subscription says to whom."""

from __future__ import annotations

from typing import Any

import pytest

from fhirserver.notices.words import of_subscription
from fhirserver.rules.subscription import DECISION


def version(status: str, decided: str = "", error: str = "") -> dict[str, Any]:
    parts = [{"url": "action", "valueCode": decided}, {"url": "note", "valueString": "because"}]
    extension = [{"url": DECISION, "extension": parts}] if decided else []
    return {"status": status, "extension": extension, **({"error": error} if error else {})}


TOLD: list[tuple[str, Any, Any, tuple[str, str] | None]] = [
    ("asked for", None, version("requested"), ("subscription-requested", "")),
    ("edited", version("requested"), version("requested"), None),
    ("approved", version("requested"), version("active", "approve"), ("subscription-approved", "because")),
    (
        "approved, the handshake to come",
        version("requested"),
        version("requested", "approve"),
        ("subscription-approved", "because"),
    ),
    ("greeted for the first time", version("requested", "approve"), version("active", "approve"), None),
    (
        "the handshake failed",
        version("requested", "approve"),
        version("error", "approve", "no answer"),
        ("subscription-error", "no answer"),
    ),
    ("rejected", version("requested"), version("off", "reject"), ("subscription-rejected", "because")),
    ("asked for again", version("off", "reject"), version("requested"), ("subscription-requested", "")),
    (
        "failed for long",
        version("active", "approve"),
        version("error", "approve", "500"),
        ("subscription-error", "500"),
    ),
    (
        "asked to go on",
        version("error", "approve", "500"),
        version("requested", "approve", "500"),
        ("subscription-reactivation", ""),
    ),
    (
        "greeted after an error",
        version("requested", "approve", "500"),
        version("active", "approve"),
        ("subscription-recovered", ""),
    ),
    (
        "set active after an error",
        version("error", "approve", "500"),
        version("active", "approve"),
        ("subscription-recovered", ""),
    ),
    ("gone", version("active", "approve"), version("off", "approve", "410"), ("subscription-off", "410")),
    ("paused", version("active", "approve"), version("off", "approve"), None),
    ("resumed without a handshake yet", version("off", "approve"), version("requested", "approve"), None),
]


@pytest.mark.parametrize(("before", "after", "expected"), [row[1:] for row in TOLD], ids=[row[0] for row in TOLD])
def test_each_change_is_told_once_and_rightly(before: Any, after: Any, expected: tuple[str, str] | None) -> None:
    said = of_subscription(after, before)
    assert (said and (said[0].code, said[1])) == expected
