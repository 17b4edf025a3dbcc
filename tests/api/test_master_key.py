"""The master key is changed: interrupted or not, nothing is lost, and in the end the former key opens nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from fhirserver import app, local
from fhirserver.auth.secrets import Vault
from fhirserver.fhir.problem import Problem
from fhirserver.settings import Secret, Settings
from fhirserver.store import envelopes
from tests.api.exchange import REGISTRY, Exchange, exchange_of
from tests.api.relaying import record_events

OLD, NEW = "m" * 40, "n" * 40
HEADER = "Authorization: Bearer of-the-endpoint"


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def exchange(mongo_url: str, request: pytest.FixtureRequest) -> Iterator[Exchange]:
    name = f"master-{abs(hash(request.node.name)) % 10**8}"
    with exchange_of(mongo_url, name) as made:
        yield made
        made.installation.server.store.database.client.drop_database(name)


def subscription(exchange: Exchange, client: dict[str, Any]) -> dict[str, Any]:
    token = exchange.token(client).json["access_token"]  # type: ignore[index]
    wanted = {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "to be told",
        "criteria": "create.patient",
        "channel": {"type": "rest-hook", "endpoint": "https://hook.example/in", "header": [HEADER]},
    }
    made = exchange.call("POST", f"{exchange.base}/Subscription", token, wanted)
    assert made.status_code == 201, made.text
    return dict(made.json or {})


def everything_stored(settings: Settings) -> str:
    """All of the database as text: an envelope anywhere is found by what it begins with."""
    with app.opened(settings) as opened:
        raw = opened.server.store.database.raw
        return json.dumps({name: list(raw[name].find()) for name in raw.list_collection_names()}, default=str)


def rotated(settings: Settings) -> Settings:
    return replace(settings, master_key=Secret(NEW), former_master_key=Secret(OLD))


def test_whatever_was_made_with_the_former_key_holds_under_the_new_one_alone(exchange: Exchange) -> None:
    settings = exchange.installation.settings
    client = exchange.register()
    exchange.authorize(client)
    made = subscription(exchange, client)
    old_token = exchange.token(client).json["access_token"]  # type: ignore[index]
    record_events(exchange.installation.server, settings.data / app.SPOOL)
    app.seals(exchange.installation).work()
    former = exchange.installation.vault.key_id
    assert f"v1.{former}." in everything_stored(settings)

    done = local.rotate_master_key(rotated(settings))

    assert done.count >= 3  # a signing key, the header and the secret of a Subscription
    assert done.lost == []
    alone = replace(settings, master_key=Secret(NEW))
    assert f"v1.{former}." not in everything_stored(alone)
    with app.opened(alone) as opened:
        http = app.create_app(opened).test_client()
        form = {"grant_type": "client_credentials", "client_id": client["id"], "client_secret": client["secret"]}
        assert http.post("/oauth2/token", data=form).status_code == 200
        assert http.post("/oauth2/token", data=form | {"client_secret": "x" * 43}).status_code == 401
        path = f"{exchange.base}/Subscription/{made['id']}"
        read = http.get(path, headers={"Authorization": f"Bearer {old_token}"})
        assert read.status_code == 200  # what was signed before the change is still good
        kept = opened.server.store.database.current("Subscription").find_one({"i": made["id"]})
        assert kept
        assert opened.vault.decrypt(kept["p"]["headers"][0]["value"]) == HEADER.partition(": ")[2]
        seals = app.seals(opened)
        assert [seals.verify(each).findings for each in seals.organizations()] == [[]] * len(seals.organizations())
        # What its owner says again is the same, though it was hashed under the former key.
        again = {**client, "name": "Results again"}
        token = exchange.people["acme"]
        answer = http.put(f"{REGISTRY}/ClientApplication/{client['id']}", json=again,
                          headers={"Authorization": f"Bearer {token}"})  # fmt: skip
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("after", range(4))
def test_a_change_that_was_killed_at_any_point_is_finished_by_the_next(exchange: Exchange, after: int) -> None:
    settings = exchange.installation.settings
    client = exchange.register()
    exchange.authorize(client)
    subscription(exchange, client)
    with app.opened(rotated(settings)) as opened:
        vault, left = opened.vault, after

        def anew(envelope: str, purpose: str) -> str:
            nonlocal left
            if not left:
                raise Killed
            left -= 1
            return vault.encrypt(vault.decrypt(envelope, purpose), purpose)

        hashing = {id: vault.encrypt(key, envelopes.HASHING) for id, key in vault.hashing_keys().items()}
        envelopes.keep_hashing_keys(opened.server.store.database, hashing)
        with suppress(Killed):
            envelopes.renew(opened.server.store.database, vault.older, anew)
    # In between, the server runs with both keys.
    with app.opened(rotated(settings)) as opened:
        http = app.create_app(opened).test_client()
        form = {"grant_type": "client_credentials", "client_id": client["id"], "client_secret": client["secret"]}
        assert http.post("/oauth2/token", data=form).status_code == 200
    local.rotate_master_key(rotated(settings))
    assert f"v1.{Vault(OLD.encode(), bytes).key_id}." not in everything_stored(
        replace(settings, master_key=Secret(NEW))
    )
    assert local.rotate_master_key(rotated(settings)).count == 0


def test_a_second_change_keeps_what_the_first_kept(exchange: Exchange) -> None:
    settings, client = exchange.installation.settings, exchange.register()
    local.rotate_master_key(rotated(settings))
    local.rotate_master_key(replace(settings, master_key=Secret("o" * 40), former_master_key=Secret(NEW)))
    with app.opened(replace(settings, master_key=Secret("o" * 40))) as opened:
        form = {"grant_type": "client_credentials", "client_id": client["id"], "client_secret": client["secret"]}
        assert app.create_app(opened).test_client().post("/oauth2/token", data=form).status_code == 200


def test_a_key_that_is_not_the_databases_is_told_and_nothing_starts(exchange: Exchange) -> None:
    with pytest.raises(Problem, match="not the one that this database was written with"):
        app.build(replace(exchange.installation.settings, master_key=Secret("x" * 40)))
    local.rotate_master_key(rotated(exchange.installation.settings))
    with pytest.raises(Problem, match="not the one that this database was written with"):
        app.build(exchange.installation.settings)


def test_what_no_key_opens_is_told_and_left_as_it_is(exchange: Exchange) -> None:
    settings = exchange.installation.settings
    client = exchange.register()
    exchange.authorize(client)
    made = subscription(exchange, client)
    stranger = Vault(b"q" * 40, lambda count: b"0" * count).encrypt("whatever")
    subscriptions = exchange.installation.server.store.database.current("Subscription")
    subscriptions.update_one({"i": made["id"]}, {"$set": {"p.signing": stranger}})
    done = local.rotate_master_key(rotated(settings))
    assert done.lost == [f"Subscription/{exchange.hospital}/{made['id']}"]
    found = subscriptions.find_one({"i": made["id"]})
    assert found
    assert found["p"]["signing"] == stranger
