"""Applications that are registered for IHE profiles, with just the scopes that these need, and approved."""

from __future__ import annotations

from typing import Any

from tests.api.client import Api
from tests.api.exchange import ISSUER, REGISTRY, Exchange


def actor(exchange: Exchange, *profiles: str) -> Api:
    """An application's calls at the hospital, by a token for the scopes of its profiles and no other."""
    body = {
        "resourceType": "Parameters",
        "parameter": [{"name": "profile", "valueCode": profile} for profile in profiles],
    }
    computed = exchange.call("POST", f"{REGISTRY}/ClientApplication/$profile-scopes", exchange.people["acme"], body)
    assert computed.status_code == 200, computed.text
    scope = computed.json["parameter"][0]["valueString"]  # type: ignore[index]
    client = exchange.register(iheProfile=list(profiles), scope=scope)
    exchange.authorize(client)
    answer = exchange.token(client)
    assert answer.status_code == 200, answer.text
    return Api(exchange.http.application, exchange.base, answer.json["access_token"], ISSUER)  # type: ignore[index]


def hospital(exchange: Exchange) -> Api:
    """The hospital's own administrator."""
    return Api(exchange.http.application, exchange.base, exchange.people["hospital"], ISSUER)


def outcome(answer: Any) -> tuple[int, str, str]:
    """Status, issue code and text of a refusal."""
    return answer.status, answer.issue["code"], answer.issue["diagnostics"]
