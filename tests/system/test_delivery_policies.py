"""Policies and notifications: what a policy takes from a client is not shown; conditions see where it would go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.system.delivering import REGISTRY, Exchange


@pytest.fixture
def policy(exchange: Exchange) -> Iterator[Callable[..., None]]:
    """Writes a policy for the client as the hospital's administrator; it is gone after the test."""
    made: list[str] = []

    def make(**elements: Any) -> None:
        link = [{"reference": f"ClientApplication/{exchange.client}"}]
        given = {"resourceType": "AccessPolicy", "name": "p", "engine": "allow", "link": link, **elements}
        made.append(exchange.call("POST", f"{REGISTRY}/AccessPolicy", "hospital", given, 201)["id"])

    yield make
    for id in made:
        exchange.call("DELETE", f"{REGISTRY}/AccessPolicy/{id}", "hospital")


def shown(exchange: Exchange) -> set[str]:
    """The patients that the webhook was shown."""
    exchange.run()
    return {entry["resource"]["id"] for bundle in exchange.bundles() for entry in bundle["entry"]
            if entry.get("resource", {}).get("resourceType") == "Patient"}  # fmt: skip


def test_criteria_hold_back_what_they_exclude(exchange: Exchange, policy: Callable[..., None]) -> None:
    exchange.subscribe("create.patient")
    policy(criteria=["Patient?gender=female"])
    exchange.patient(gender="male")
    seen = exchange.patient(gender="female")
    assert shown(exchange) == {seen}


@pytest.mark.parametrize(("condition", "permitted"), [
    ({"engine": "fhirpath", "expression": "request.address = 'hooks.example'"}, True),
    ({"engine": "fhirpath", "expression": "request.address.startsWith('10.20.')"}, False),
    ({"engine": "matcho", "pattern": '{"request": {"interaction": {"$not": "notification"}}}'}, False),
    ({"engine": "matcho", "pattern": '{"request": {"interaction": "notification", "method": "POST"}}'}, True),
    ({"engine": "json-schema", "schema": '{"properties": {"request": {"required": ["query"]}}}'}, False),
])  # fmt: skip
def test_conditions_see_that_it_is_a_notification_and_where_it_goes(
    condition: dict[str, Any], permitted: bool, exchange: Exchange, policy: Callable[..., None]
) -> None:
    exchange.subscribe("create.patient")
    policy(type=["Patient"], **condition)
    id = exchange.patient(gender="female")
    assert shown(exchange) == ({id} if permitted else set())
