"""Subscriptions as clients ask for them."""

from __future__ import annotations

from typing import Any

from fhirserver.auth.access import CLIENT_SYSTEM
from fhirserver.rules.subscription import CLIENT


def asked(client: str = "", criteria: str = "create.patient") -> dict[str, Any]:
    named = {"url": CLIENT, "valueReference": {"identifier": {"system": CLIENT_SYSTEM, "value": client}}}
    return {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "Ward board",
        "criteria": criteria,
        "channel": {"type": "rest-hook", "endpoint": "https://8.8.8.8/hook", "payload": "application/fhir+json"},
        **({"extension": [named]} if client else {}),
    }
