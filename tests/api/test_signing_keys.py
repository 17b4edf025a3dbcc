"""The keys that sign tokens change while the server runs: old tokens count to their end, a stolen key is forgotten."""

from __future__ import annotations

import json
import uuid
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from fhirserver import app
from fhirserver.auth.keys import new_key
from fhirserver.auth.principal import Principal
from fhirserver.settings import Secret, Settings
from fhirserver.store import keyring

OPERATOR = Principal("operator", id="operator", operator=True, scopes="system/*.cruds", name="tests")
DAY = 86_400


@dataclass
class Workers:
    """Two worker processes' installations over one database, with a clock that can be moved."""

    database: str
    settings: Settings
    ahead: timedelta = field(default_factory=timedelta)
    made: list[app.Installation] = field(default_factory=list)

    def start(self) -> app.Installation:
        installation = app.build(self.settings)
        real = installation.server.now
        installation.server.now = lambda: self.now(real())
        object.__setattr__(installation.tokens, "now", installation.server.now)
        self.made.append(installation)
        return installation

    def now(self, real: datetime) -> datetime:
        return real + self.ahead

    def later(self, **more: float) -> None:
        self.ahead += timedelta(**more)


@pytest.fixture
def workers(mongo_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workers]:
    monkeypatch.setattr(keyring, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(keyring, "TEND_SECONDS", 0.0)
    name = f"keys-{uuid.uuid4().hex[:8]}"
    settings = Settings(
        data=tmp_path,
        mongo_url=Secret(mongo_url),
        mongo_database=name,
        master_key=Secret("k" * 40),
        public_url="http://keys.test",
    )
    made = Workers(name, settings)
    yield made
    made.made[0].server.store.database.client.drop_database(name)
    for each in made.made:
        each.close()


def kid_of(token: str) -> str:
    head = token.split(".")[0]
    return str(json.loads(urlsafe_b64decode(head + "=" * (-len(head) % 4)))["kid"])


def http_of(installation: app.Installation) -> FlaskClient:
    made = app.create_app(installation)
    return made.test_client()  # type: ignore[attr-defined,no-any-return]


def published(http: FlaskClient) -> list[str]:
    return [key["kid"] for key in dict(http.get("/oauth2/jwks").json or {})["keys"]]


def status(http: FlaskClient, token: str) -> int:
    return http.get("/1/health/fhir/4/Organization", headers={"Authorization": f"Bearer {token}"}).status_code


def test_a_new_key_is_published_then_signs_and_the_old_one_stays_for_its_tokens(workers: Workers) -> None:
    one, other = workers.start(), workers.start()
    here, there = http_of(one), http_of(other)
    first = kid_of(one.tokens.issue(OPERATOR))
    second = app.keyring(one).rotate().key.kid
    assert published(here) == published(there) == [first, second]
    assert kid_of(other.tokens.issue(OPERATOR)) == first, "nobody else could have fetched it yet"
    workers.later(seconds=599)
    old = one.tokens.issue(OPERATOR, DAY)
    assert kid_of(old) == first
    workers.later(seconds=2)
    new = one.tokens.issue(OPERATOR)
    assert kid_of(new) == kid_of(other.tokens.issue(OPERATOR)) == second
    assert published(there) == [second, first]
    assert [status(there, token) for token in (old, new)] == [200, 200]
    workers.later(seconds=DAY - 10)
    fresh = other.tokens.issue(OPERATOR)
    assert [status(there, token) for token in (old, fresh)] == [200, 200]
    workers.later(seconds=100)
    assert published(here) == published(there) == [second]
    assert [status(here, token) for token in (old, fresh)] == [401, 200]


def test_a_stolen_key_is_forgotten_by_every_worker_though_it_has_seen_its_tokens(workers: Workers) -> None:
    one, other = workers.start(), workers.start()
    here, there = http_of(one), http_of(other)
    stolen = one.tokens.issue(OPERATOR, DAY)
    assert [status(http, stolen) for http in (here, there)] == [200, 200]
    made = app.keyring(one).rotate(revoke=True)
    workers.later(seconds=keyring.AT_ONCE.total_seconds() + 1)
    assert [status(http, stolen) for http in (here, there)] == [401, 401]
    assert published(there) == [made.key.kid]
    assert status(there, one.tokens.issue(OPERATOR)) == 200


def test_keys_are_changed_by_their_age_by_one_process_alone_and_let_go(workers: Workers) -> None:
    one, other = app.keyring(workers.start()), app.keyring(workers.start())
    one.tend(90)
    assert len(one.held()) == 1
    workers.later(days=91)
    one.tend(0)
    assert len(one.held()) == 1, "never, if so configured"
    one.tend(90)
    other.tend(90)
    assert len(other.held()) == 2
    workers.later(days=2)
    one.tend(90)
    assert [each.until for each in other.held()] == [None]
    kept: dict[str, Any] = (
        workers.made[0].server.store.database.collection("installation").find_one({"_id": keyring.NAME}) or {}
    )
    assert len(kept["keys"]) == 1


def test_the_key_of_an_older_installation_is_taken_over_and_none_lies_open(workers: Workers) -> None:
    one = workers.start()
    collection = one.server.store.database.collection("installation")
    collection.delete_one({"_id": keyring.NAME})
    former = new_key()
    collection.insert_one({"_id": keyring.FORMER, "key": one.vault.encrypt(former.exported(), "signing key")})
    other = workers.start()
    assert kid_of(other.tokens.issue(OPERATOR)) == former.kid
    assert former.pair.as_dict(private=True)["d"] not in str(list(collection.find()))
