"""$why: the whole decision, and which party to it refuses. One row for every layer that can."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.api.exchange import REGISTRY, Exchange, exchange_of


@pytest.fixture(scope="module")
def exchange(mongo_url: str) -> Iterator[Exchange]:
    with exchange_of(mongo_url, "test_why") as made:
        yield made


Answer = tuple[bool, dict[str, tuple[bool, str]]]


def why(exchange: Exchange, path: str, who: str, **asked: str) -> Answer:
    """Whether it is permitted, and what each party says."""
    body = {"resourceType": "Parameters",
            "parameter": [{"name": name, "valueString": value} for name, value in asked.items()]}  # fmt: skip
    answer = exchange.call("POST", f"{REGISTRY}/{path}/$why", exchange.people[who], body)
    assert answer.status_code == 200, answer.text
    given: list[Any] = answer.json["parameter"]  # type: ignore[index]
    parties = {}
    for each in given:
        if each["name"] == "party":
            part = {p["name"]: p.get("valueCode", p.get("valueBoolean", p.get("valueString"))) for p in each["part"]}
            name, said = part["name"], (part["permits"], part.get("reason", ""))
            parties[name] = said if parties.get(name, (True, ""))[0] else parties[name]
    return given[0]["valueBoolean"], parties


def disabled(exchange: Exchange, client: dict[str, Any], authorization: str) -> None:
    assert exchange.step(authorization, "disable").status_code == 200


def inactive(exchange: Exchange, client: dict[str, Any], authorization: str) -> None:
    given = {name: value for name, value in client.items() if name != "secret"}
    path = f"{REGISTRY}/ClientApplication/{client['id']}"
    assert exchange.call("PUT", path, exchange.people["acme"], {**given, "active": False}).status_code == 200


def policed(exchange: Exchange, client: dict[str, Any], authorization: str) -> None:
    link = [{"reference": f"ClientApplication/{client['id']}"}]
    given = {"resourceType": "AccessPolicy", "name": "no conditions", "link": link, "engine": "matcho",
             "pattern": '{"request": {"query": {"category": "present?"}}}'}  # fmt: skip
    answer = exchange.call("POST", f"{REGISTRY}/AccessPolicy", exchange.people["hospital"], given)
    assert answer.status_code == 201, answer.text


def widened(exchange: Exchange, client: dict[str, Any], authorization: str) -> None:
    given = {name: value for name, value in client.items() if name != "secret"}
    path = f"{REGISTRY}/ClientApplication/{client['id']}"
    wider = {**given, "scope": "system/Patient.rs system/Observation.rs"}
    assert exchange.call("PUT", path, exchange.people["acme"], wider).status_code == 200


def nothing(exchange: Exchange, client: dict[str, Any], authorization: str) -> None:
    """All is as it was approved."""


Change = Callable[[Exchange, dict[str, Any], str], None]


@pytest.mark.parametrize(("scope", "change", "url", "refusing", "reason"), [
    ("system/*.rs", nothing, "Observation?category=exam", "", ""),
    ("system/Patient.rs", nothing, "Observation?category=exam", "scope authorization", "scope"),
    ("system/Patient.r", nothing, "Patient", "scope authorization", "Search Patient"),
    ("system/Patient.rs", widened, "Observation", "authorization", "ClientAuthorization"),
    ("system/*.rs", nothing, "InboundMessage", "role", "InboundMessage is not for clients"),
    ("system/*.rs", policed, "Condition", "policy", "no conditions"),
    ("system/*.rs", policed, "Condition?category=x", "", ""),
    ("system/*.rs", disabled, "Patient", "authorization", "is disabled"),
    ("system/*.rs", inactive, "Patient", "client", "not active"),
])  # fmt: skip
def test_the_party_that_refuses_is_named_to_both_sides(
    scope: str, change: Change, url: str, refusing: str, reason: str, exchange: Exchange
) -> None:
    client = exchange.register(scope=scope)
    authorization = exchange.authorize(client)
    change(exchange, client, authorization)
    for who in ("hospital", "acme"):
        permitted, parties = why(exchange, f"ClientAuthorization/{authorization}", who, method="GET", url=url)
        assert permitted is not bool(refusing), parties
        assert [name for name, (permits, _) in parties.items() if not permits] == refusing.split()
        assert reason in parties.get(refusing.partition(" ")[0], (True, ""))[1]


def test_who_was_never_let_in_learns_what_to_do(exchange: Exchange) -> None:
    client = exchange.register()
    where = {"name": "organization", "valueReference": {"reference": f"Organization/{exchange.hospital}"}}
    body = {"resourceType": "Parameters", "parameter": [
        where, {"name": "type", "valueCode": "Patient"}, {"name": "interaction", "valueCode": "read"}]}  # fmt: skip
    path = f"{REGISTRY}/ClientApplication/{client['id']}/$why"
    answer = exchange.call("POST", path, exchange.people["acme"], body)
    assert answer.status_code == 200, answer.text
    assert answer.json["parameter"][0]["valueBoolean"] is False  # type: ignore[index]
    assert "$request-authorization" in answer.text


def test_why_says_what_happens(exchange: Exchange) -> None:
    """The answer of $why is the answer of the call itself."""
    client = exchange.register(scope="system/Patient.rs system/Observation.r")
    authorization = exchange.authorize(client)
    token = exchange.token(client).json["access_token"]  # type: ignore[index]
    for method, url in (("GET", "Patient"), ("GET", "Patient/x"), ("POST", "Patient"), ("GET", "Observation"),
                        ("GET", "Observation/x"), ("DELETE", "Patient/x"), ("GET", "Encounter")):  # fmt: skip
        permitted, _ = why(exchange, f"ClientAuthorization/{authorization}", "hospital", method=method, url=url)
        body = {"resourceType": "Patient"} if method == "POST" else None
        status = exchange.call(method, f"{exchange.base}/{url}", token, body).status_code
        assert (status != 403) is permitted, (method, url, status)
