"""The end of a client: access at once, and then everything that hung on it, also where a process dies in the middle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fhirserver.auth.sandbox import sandbox_of
from fhirserver.exchange import ending, errands
from fhirserver.interactions.model import Server
from fhirserver.store.errands import waiting
from fhirserver.store.kept import Kept
from fhirserver.web import codes
from tests.api.exchange import REGISTRY, Exchange, exchange_of
from tests.api.relaying import relay_events


@pytest.fixture(scope="module")
def exchange(mongo_url: str) -> Iterator[Exchange]:
    with exchange_of(mongo_url, "test_client_end") as made:
        yield made


@pytest.fixture
def server(exchange: Exchange) -> Server:
    return exchange.installation.server


@pytest.fixture
def relayed(server: Server) -> Callable[[], list[str]]:
    """Does what the relay does with events; answers the errands that wait."""

    def work() -> list[str]:
        relay_events(server, lambda pending, session: errands.note(server, pending, session))
        return [errand.id for errand in waiting(server.store.database)]

    return work


def subscription(exchange: Exchange, token: str) -> str:
    asked = {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "to know",
        "criteria": "create.patient",
        "channel": {"type": "rest-hook", "endpoint": "https://hooks.example/in"},
    }
    made = exchange.call("POST", f"{exchange.base}/Subscription", token, asked)
    assert made.status_code == 201, made.text
    id: str = made.json["id"]  # type: ignore[index]
    answer = exchange.call("POST", f"{exchange.base}/Subscription/{id}/$approve", exchange.people["hospital"], {})
    assert answer.status_code in (200, 400), answer.text
    return id


def authorization(exchange: Exchange, id: str) -> dict[str, Any]:
    answer = exchange.call("GET", f"{REGISTRY}/ClientAuthorization/{id}", exchange.people["hospital"])
    assert answer.status_code == 200, answer.text
    return dict(answer.json)  # type: ignore[arg-type]


def status(exchange: Exchange, id: str) -> str:
    found: str = exchange.call("GET", f"{exchange.base}/Subscription/{id}", exchange.people["hospital"]).json["status"]  # type: ignore[index]
    return found


def delete(exchange: Exchange, client: dict[str, Any]) -> None:
    answer = exchange.call("DELETE", f"{REGISTRY}/ClientApplication/{client['id']}", exchange.people["acme"])
    assert answer.status_code == 200, answer.text


def test_deleting_a_client_ends_all_that_hung_on_it(
    exchange: Exchange, server: Server, relayed: Callable[[], list[str]]
) -> None:
    client = exchange.register()
    decided = exchange.authorize(client)
    token = exchange.token(client).json["access_token"]  # type: ignore[index]
    told = subscription(exchange, token)
    kept, now = Kept(server.store.database), server.now()
    consent = codes.Consent(client["id"], "somebody", "openid", exchange.base, family=f"family of {client['id']}")
    refresh = codes.new_refresh(kept, consent, now)
    assert relayed() == []
    delete(exchange, client)
    assert exchange.call("GET", f"{exchange.base}/Patient", token).status_code == 401  # at once, before any job
    assert exchange.token(client).status_code == 401

    (errand,) = relayed()
    errands.finish(server, errand)
    assert relayed() == []
    after = authorization(exchange, decided)
    assert after["status"] == "removed"
    assert after["decision"][-1]["who"]["display"] == "Acme"
    assert after["decision"][-1]["note"] == "The client was deleted by Acme."
    assert int(after["meta"]["versionId"]) > 2
    assert status(exchange, told) == "off"
    assert codes.held(kept, refresh, now) is None
    assert kept.ended(consent.family)


def test_a_job_that_died_in_the_middle_is_done_to_its_end_by_the_next_one(
    exchange: Exchange, server: Server, relayed: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = exchange.register()
    decided = exchange.authorize(client)
    told = subscription(exchange, exchange.token(client).json["access_token"])  # type: ignore[index]
    delete(exchange, client)
    (errand,) = relayed()
    for done in range(len(ending.STEPS)):

        class Killed(BaseException):
            """Nothing catches it, as nothing catches a kill."""

        def killed(server: Server, ended: Any, killed: type[BaseException] = Killed) -> None:
            raise killed

        monkeypatch.setattr(ending, "STEPS", (*ending.STEPS[:done], killed))
        with pytest.raises(Killed):
            errands.finish(server, errand)
        monkeypatch.undo()
        assert relayed() == [errand]
    before = authorization(exchange, decided)
    errands.finish(server, errand)
    errands.finish(server, errand)
    assert relayed() == []
    assert authorization(exchange, decided) == before  # removed once, whoever came again
    assert before["status"] == "removed"
    assert status(exchange, told) == "off"


def test_a_client_of_the_same_id_keeps_what_is_its_own(
    exchange: Exchange, server: Server, relayed: Callable[[], list[str]]
) -> None:
    client = exchange.register()
    decided = exchange.authorize(client)
    first = subscription(exchange, exchange.token(client).json["access_token"])  # type: ignore[index]
    delete(exchange, client)
    (errand,) = relayed()
    again = {
        "resourceType": "ClientApplication",
        "id": client["id"],
        "name": "Again",
        "kind": "production",
        "grantType": ["client_credentials"],
        "scope": "system/*.cruds",
    }
    answer = exchange.call("PUT", f"{REGISTRY}/ClientApplication/{client['id']}", exchange.people["acme"], again)
    assert answer.status_code == 201, answer.text
    new = dict(answer.json)  # type: ignore[arg-type]
    assert exchange.authorize(new) == decided
    token = exchange.token(new).json["access_token"]  # type: ignore[index]
    second = subscription(exchange, token)
    errands.finish(server, errand)
    assert authorization(exchange, decided)["status"] == "approved"
    assert status(exchange, first) == "off"
    assert status(exchange, second) != "off"
    assert exchange.call("GET", f"{exchange.base}/Patient", token).status_code == 200


def test_the_sandbox_goes_with_its_client(exchange: Exchange, server: Server, relayed: Callable[[], list[str]]) -> None:
    client = exchange.register(kind="test", id="goes")
    organization = sandbox_of(client["id"])
    base = f"/1/health/organizations/{organization}/fhir/4"
    token = exchange.token(client).json["access_token"]  # type: ignore[index]
    patients = exchange.call("GET", f"{base}/Patient", token).json["total"]  # type: ignore[index]
    assert patients == 8
    made = exchange.call("PUT", f"{base}/Patient/mine", token, {"resourceType": "Patient", "id": "mine"})
    assert made.status_code == 201
    exchange.call("PUT", f"{base}/Patient/mine", token, {"resourceType": "Patient", "id": "mine", "active": True})
    delete(exchange, client)
    (errand,) = relayed()
    errands.finish(server, errand)
    names = server.store.database.raw.list_collection_names()
    left = {
        name
        for name in names
        if name[:1].isupper()
        and name != "AuditEvent"
        and server.store.database.collection(name).count_documents({"o": organization})
    }
    assert left == set()
    assert exchange.call("GET", f"{REGISTRY}/Organization/{organization}", exchange.operator()).status_code == 410
    assert relayed() == []


def test_an_errand_of_others_is_left_alone(
    exchange: Exchange, server: Server, relayed: Callable[[], list[str]]
) -> None:
    client = exchange.register()
    consent = codes.Consent(client["id"], "somebody", "openid", exchange.base, family="other")
    kept = Kept(server.store.database)
    token = codes.new_refresh(kept, consent, server.now())
    delete(exchange, exchange.register())
    for errand in relayed():
        errands.finish(server, errand)
    assert codes.held(kept, token, server.now()) is not None
