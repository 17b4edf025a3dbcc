"""Nothing leaks by notifications: random scopes and policies, and what the webhook was shown against the oracle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fhirserver import app
from tests.properties.worlds import BRIEF, CATEGORIES, GENDERS, LONG, Drawn, covers, policies, scopes
from tests.system.delivering import REGISTRY, SCOPE, Exchange, exchanging, installed

ABOUT_THEM = "system/Subscription.cruds system/NotificationDelivery.rs"


@pytest.fixture(scope="module")
def installation(mongo_url: str) -> Iterator[app.Installation]:
    with installed(mongo_url) as made:
        yield made


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("isolation")


Case = tuple[str, tuple[Drawn, ...], bool]
cases = st.tuples(scopes | st.just("system/*.cruds"), policies.map(tuple), st.sampled_from((True, True, True, False)))


def narrow(exchange: Exchange, scope: str, drawn: tuple[Drawn, ...], enabled: bool) -> list[str]:
    """After the subscriptions were made: registers other scopes, writes the policies, disables; ids of the policies."""
    path = f"{REGISTRY}/ClientApplication/{exchange.client}"
    client = exchange.call("GET", path, "acme", None, 200)
    exchange.call("PUT", path, "acme", {**client, "scope": f"{scope} {ABOUT_THEM}"}, 200)
    link = [{"reference": f"ClientApplication/{exchange.client}"}]
    made = [{"resourceType": "AccessPolicy", "name": "p", "link": link, **each.elements} for each in drawn]
    ids = [exchange.call("POST", f"{REGISTRY}/AccessPolicy", "hospital", each, 201)["id"] for each in made]
    if not enabled:
        exchange.step("disable", exchange.authorization)
    return ids


def check(installation: app.Installation, folder: Path, case: Case) -> None:
    """Subscribes while everything is permitted, narrows, lets things happen, and compares what was shown."""
    scope, drawn, enabled = case
    with exchanging(installation, folder) as exchange:
        for name in ("create.patient", "create.observation"):
            exchange.subscribe(name)
        exchange.run()
        written = narrow(exchange, scope, drawn, enabled)
        permitted = set()
        for gender in GENDERS:
            patient = {"resourceType": "Patient", "gender": gender}
            id = exchange.call("POST", f"{exchange.base}/Patient", "hospital", patient, 201)["id"]
            subject = {"reference": f"Patient/{id}"}
            made = [(f"Patient/{id}", patient)]
            for code in CATEGORIES:
                observation = {"resourceType": "Observation", "status": "final", "code": {"text": "x"},
                               "category": [{"coding": [{"code": code}]}], "subject": subject}  # fmt: skip
                new = exchange.call("POST", f"{exchange.base}/Observation", "hospital", observation, 201)["id"]
                made.append((f"Observation/{new}", observation))
            permitted |= {name for name, resource in made if may(scope, drawn, enabled, resource)}
        exchange.run()
        shown = {
            f"{entry['resource']['resourceType']}/{entry['resource']['id']}"
            for bundle in exchange.bundles()
            for entry in bundle["entry"]
            if entry.get("resource", {}).get("resourceType") in ("Patient", "Observation")
        }
        for id in written:
            exchange.call("DELETE", f"{REGISTRY}/AccessPolicy/{id}", "hospital")
    assert shown == permitted


def may(scope: str, drawn: tuple[Drawn, ...], enabled: bool, resource: dict[str, Any]) -> bool:
    """Whether a notification may show a resource, by the plainest reading: it is a read of it."""
    type_ = resource["resourceType"]
    return (
        enabled
        and covers(scope, type_, "r", resource)
        and covers(SCOPE, type_, "r", resource)
        and all(policy.permits(type_, "r", resource) for policy in drawn)
    )


@BRIEF
@given(case=cases)
@example(case=("system/*.cruds", (), True))
def test_a_notification_shows_what_the_oracle_permits_and_nothing_else(
    installation: app.Installation, folder: Path, case: Case
) -> None:
    check(installation, folder, case)


@pytest.mark.slow
@LONG
@given(case=cases)
def test_a_notification_shows_what_the_oracle_permits_in_a_hundred_worlds(
    installation: app.Installation, folder: Path, case: Case
) -> None:
    check(installation, folder, case)
