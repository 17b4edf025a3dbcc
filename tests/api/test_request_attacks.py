"""Requests that cost more than they are long, addresses that are none: attacks found by reading, in one place."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator

import pytest

from fhirserver.app import Installation
from tests.api.client import Api
from tests.api.exchange import REGISTRY, Exchange, exchange_of
from tests.api.samples import bundle, entry


@pytest.fixture(scope="module")
def exchange(mongo_url: str) -> Iterator[Exchange]:
    with exchange_of(mongo_url, f"requests-{uuid.uuid4().hex[:8]}") as made:
        yield made


def test_a_parameter_given_very_often_costs_no_more_than_it_is_long(api: Api) -> None:
    parameters = b'{"name":"code"},' * 200_000
    body = b'{"resourceType":"Parameters","parameter":[' + parameters[:-1] + b"]}"
    started = time.process_time()
    assert api.post("CodeSystem/$lookup", body).status == 400
    assert time.process_time() - started < 5


@pytest.mark.parametrize("address", ["//[", "http://[", "//[::1", "https://[x]/", "//]"])
def test_an_address_that_is_none_leads_nowhere(api: Api, address: str) -> None:
    with api.app.test_client() as browser:
        answer = browser.get("/console/sign-in", query_string={"next": address}, headers={"Accept": "text/html"})
        assert answer.status_code == 200
        assert address not in answer.text


@pytest.mark.parametrize("uri", ["https://[x", "//[", "https://]/keys", "http://example.org/keys"])
def test_a_place_of_keys_that_is_none_is_refused(exchange: Exchange, uri: str) -> None:
    client = {
        "resourceType": "ClientApplication",
        "name": "Results",
        "kind": "production",
        "grantType": ["client_credentials"],
        "scope": "system/*.rs",
        "jwksUri": uri,
    }
    answer = exchange.call("POST", f"{REGISTRY}/ClientApplication", exchange.people["acme"], client)
    assert 400 <= answer.status_code < 500, answer.text
    for name in ("uri", "logoUri", "tosUri", "policyUri"):
        answer = exchange.call(
            "POST", f"{REGISTRY}/ClientApplication", exchange.people["acme"], {**client, "jwksUri": None, name: uri}
        )
        assert answer.status_code < 500, answer.text
    given = {"redirect_uris": [uri], "jwks_uri": uri, "client_name": "x", "grant_types": ["client_credentials"]}
    assert exchange.http.post("/oauth2/register", json=given).status_code < 500


def test_a_batch_holds_its_thread_for_a_time_and_says_what_it_did_not_do(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fhirserver.interactions.batch.BATCH_SECONDS", -1)
    patient = {"resourceType": "Patient", "id": "late"}
    answer = api.post("", bundle("batch", entry("PUT", "Patient/late", patient), entry("GET", "Patient")))
    assert answer.status == 200, answer.data
    assert [each["response"]["status"] for each in answer.json["entry"]] == ["503", "503"]
    assert api.get("Patient/late").status == 404


def test_a_stranger_does_not_choose_how_many_series_of_metrics_there_are(api: Api, installation: Installation) -> None:
    def series() -> set[tuple[str, ...]]:
        counts = installation.server.meter.held()["counts"]
        return {tuple(key) for key, _ in counts if key[0] == "requests"}

    types = sorted(installation.server.definitions.resource_types)[:20]
    before = series()
    for token in ("", "nonsense"):
        stranger = Api(api.app, api.base, token)
        for type in types:
            stranger.get(f"{type}/1")
            stranger.get(type, Accept="text/plain")
            stranger.get(f"{type}/$x", X_Request_Id=type)
            stranger.get(f"{type}{'&' * 2_000}")
    assert len(series() - before) < 12
