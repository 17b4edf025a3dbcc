"""What a client sees on the registry of its own doing, where no organization manages it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from fhirserver.auditing.owners import begin
from fhirserver.auditing.recording import ship
from fhirserver.auth.principal import Principal
from tests.api.exchange import REGISTRY, Exchange, exchange_of

CLIENT = {
    "resourceType": "ClientApplication",
    "name": "Nobody's",
    "kind": "production",
    "grantType": ["client_credentials"],
    "scope": "system/AuditEvent.rs system/Organization.rs",
}


@pytest.fixture(scope="module")
def exchange(mongo_url: str) -> Iterator[Exchange]:
    with exchange_of(mongo_url, f"own-{uuid.uuid4().hex[:8]}") as made:
        yield made


def test_a_client_of_no_organization_finds_the_records_of_its_own_calls(exchange: Exchange) -> None:
    operator = exchange.installation.tokens.issue(Principal("operator", "ops", operator=True, scopes="system/*.cruds"))
    made = exchange.call("POST", f"{REGISTRY}/ClientApplication", operator, CLIENT)
    assert made.status_code == 201, made.text
    client = made.json
    assert client
    assert "managingOrganization" not in client
    token = exchange.token(client).json["access_token"]  # type: ignore[index]
    assert exchange.call("GET", f"{REGISTRY}/Organization", token).status_code == 200
    server = exchange.installation.server
    begin(server)
    ship(server, exchange.installation.settings.data / "spool")
    found = exchange.call("GET", f"{REGISTRY}/AuditEvent", token)
    assert found.status_code == 200, found.text
    assert "search-type" in found.text, "its search of organizations"
