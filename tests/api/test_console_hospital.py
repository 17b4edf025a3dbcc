"""The screens of a provider organization over HTTP: what they show and do, whose they are, and what others typed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.api.exchange import Exchange, exchange_of
from tests.api.test_console import Visitor


@pytest.fixture(scope="module")
def exchange(mongo_url: str) -> Iterator[Exchange]:
    with exchange_of(mongo_url, "api-console-hospital") as made:
        yield made


@pytest.fixture(scope="module")
def hospital(exchange: Exchange) -> Visitor:
    made = Visitor(exchange)
    assert made.sign_in("hospital").status_code == 303
    return made


SCREENS = (
    "/clients", "/subscriptions", "/topics", "/messages", "/codes", "/mapping", "/mapping/new", "/audit",
    "/audit/patient?patient=1", "/audit/seals", "/members", "/members/new",
)  # fmt: skip


@pytest.mark.parametrize("path", SCREENS)
def test_every_screen_opens_with_nothing_in_it(exchange: Exchange, hospital: Visitor, path: str) -> None:
    answer = hospital.get(f"/console/hospital/{exchange.hospital}{path}")

    assert answer.status_code == 200
    assert "<h1>" in answer.text
