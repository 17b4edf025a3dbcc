"""`fhirserver backup` and `restore`: what was there is there again, and nothing starts on half of it."""

from __future__ import annotations

import io
import os
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard

from fhirserver import app, local
from fhirserver.fhir.problem import Problem
from fhirserver.settings import Secret, Settings
from fhirserver.store import backup
from fhirserver.store.database import Database
from tests.api.browser import Visitor
from tests.api.exchange import REGISTRY, Exchange, exchange_of
from tests.api.relaying import record_events

MESSAGE = b"MSH|^~\\&|X|Y|A|B|20260101120000||ADT^A01|1|P|2.5\rEVN|A01\rPID|1||7^^^Z||Bramwell\rPV1|1|I\r"


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture(scope="module")
def exchange(mongo_url: str) -> Iterator[Exchange]:
    name = f"backup-{uuid.uuid4().hex[:8]}"
    with exchange_of(mongo_url, name) as made:
        yield made
        made.installation.server.store.database.client.drop_database(name)


@pytest.fixture(scope="module")
def client(exchange: Exchange) -> dict[str, Any]:
    made = exchange.register()
    exchange.authorize(made)
    return made


@pytest.fixture(scope="module")
def patient(exchange: Exchange, client: dict[str, Any]) -> str:
    """A patient in two versions, a message, and audit records that are sealed."""
    token = exchange.token(client).json["access_token"]  # type: ignore[index]
    patient = {"resourceType": "Patient", "name": [{"family": "Bramwell"}], "birthDate": "1979-04-23"}
    made = exchange.call("POST", f"{exchange.base}/Patient", token, patient).json
    assert made
    exchange.call("PUT", f"{exchange.base}/Patient/{made['id']}", token, {**made, "gender": "female"})
    assert exchange.call("GET", f"{exchange.base}/Patient?name=bram", token).json["total"] == 1  # type: ignore[index]
    exchange.installation.intake().take(MESSAGE, "127.0.0.1", exchange.hospital)
    record_events(exchange.installation.server, exchange.installation.settings.data / app.SPOOL)
    app.seals(exchange.installation).work()
    # So much that a stream that is cut off ends in the midst of documents.
    filling = [{"_id": number, "random": os.urandom(4_000)} for number in range(300)]
    exchange.installation.server.store.database.raw["Filling"].insert_many(filling)
    return str(made["id"])


@pytest.fixture(scope="module")
def taken(exchange: Exchange, patient: str) -> bytes:
    stream = io.BytesIO()
    local.back_up(exchange.installation.settings, stream)
    return stream.getvalue()


@pytest.fixture
def empty(exchange: Exchange, tmp_path: Path) -> Iterator[Settings]:
    """The settings of another installation with the same master key, whose database is empty."""
    settings = replace(exchange.installation.settings, data=tmp_path, mongo_database=f"restored-{uuid.uuid4().hex[:8]}")
    yield settings
    exchange.installation.server.store.database.client.drop_database(settings.mongo_database)


def indexes(settings: Settings) -> dict[str, set[str]]:
    with app.opened(settings) as opened:
        raw = opened.server.store.database.raw
        return {name: set(raw[name].index_information()) for name in raw.list_collection_names()}


def test_a_new_installation_has_what_the_old_one_had(
    exchange: Exchange, client: dict[str, Any], patient: str, taken: bytes, empty: Settings
) -> None:
    done = local.restore(empty, io.BytesIO(taken))
    assert done.documents > 20
    assert indexes(empty) == indexes(exchange.installation.settings)
    with app.opened(empty) as opened:
        http = app.create_app(opened).test_client()
        form = {"grant_type": "client_credentials", "client_id": client["id"], "client_secret": client["secret"]}
        bearer = {"Authorization": f"Bearer {http.post('/oauth2/token', data=form).json['access_token']}"}  # type: ignore[index]
        versions = http.get(f"{exchange.base}/Patient/{patient}/_history", headers=bearer).json
        found = http.get(f"{exchange.base}/Patient?name=bram&gender=female", headers=bearer).json
        messages = http.get(
            f"{exchange.base}/InboundMessage", headers={"Authorization": f"Bearer {exchange.people['hospital']}"}
        ).json
        assert [len((each or {}).get("entry", ())) for each in (versions, found, messages)] == [2, 1, 1]
        visitor = Visitor(replace(exchange, http=http))
        assert visitor.sign_in("hospital").status_code == 303
        assert visitor.get("/console/account").status_code == 200
        seals = app.seals(opened)
        heads = {each: seals.verify(each) for each in seals.organizations()}
        assert [report.findings for report in heads.values()] == [[]] * len(heads)
        before = app.seals(exchange.installation)
        assert {each: before.verify(each).head for each in heads} == {each: r.head for each, r in heads.items()}
        # It goes on: what is written now follows what was there.
        again = http.put(
            f"{exchange.base}/Patient/{patient}", json={"resourceType": "Patient", "id": patient}, headers=bearer
        )
        assert again.headers["ETag"] == 'W/"3"'
        assert http.get(f"{REGISTRY}/metadata").status_code == 200


def test_the_master_key_is_not_in_it_nor_is_anything_readable_without_it(exchange: Exchange, taken: bytes) -> None:
    plain = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(taken)).read()
    assert b"Bramwell" in plain  # so whoever has the file has health data
    assert exchange.installation.settings.master_key.reveal().encode() not in plain
    assert b'"kty"' not in plain
    assert b"BEGIN PRIVATE" not in plain


def test_it_goes_into_an_empty_database_alone(exchange: Exchange, taken: bytes) -> None:
    with pytest.raises(Problem, match="has data"):
        local.restore(exchange.installation.settings, io.BytesIO(taken))


def test_a_backup_of_another_master_key_is_refused_before_anything_is_written(taken: bytes, empty: Settings) -> None:
    with pytest.raises(Problem, match="another master key"):
        local.restore(replace(empty, master_key=Secret("z" * 40)), io.BytesIO(taken))
    local.restore(empty, io.BytesIO(taken))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.7, 0.999])
def test_a_file_that_was_cut_off_is_found_and_nothing_starts_on_it(
    exchange: Exchange, taken: bytes, empty: Settings, share: float
) -> None:
    with pytest.raises(Problem, match="no whole backup"):
        local.restore(empty, io.BytesIO(taken[: int(len(taken) * share)]))
    raw = exchange.installation.server.store.database.client.get_database(empty.mongo_database)
    if share > 0.9 or raw.list_collection_names():  # less may end before anything is written
        with pytest.raises(Problem, match="not restored to its end"):
            app.build(empty)
    local.restore(empty, io.BytesIO(taken))
    with app.opened(empty):
        pass


def test_a_damaged_file_is_found(taken: bytes, empty: Settings) -> None:
    damaged = bytearray(taken)
    damaged[len(damaged) // 2] ^= 0xFF
    with pytest.raises(Problem, match="no whole backup"):
        local.restore(empty, io.BytesIO(bytes(damaged)))


def test_a_restore_that_was_killed_is_begun_again(taken: bytes, empty: Settings) -> None:
    class Dying(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if self.tell() > len(taken) * 0.6:
                raise Killed
            return super().read(min(size or -1, 4096))

    with pytest.raises(Killed):
        local.restore(empty, Dying(taken))
    with pytest.raises(Problem, match="not restored to its end"):
        app.build(empty)
    assert local.restore(empty, io.BytesIO(taken)).documents > 20


def test_what_is_written_meanwhile_is_in_it_whole_or_not_at_all(exchange: Exchange, patient: str) -> None:
    """The reads are of one instant: a document of a later transaction is not there."""
    database = exchange.installation.server.store.database

    class Writing(io.BytesIO):
        done = False

        def write(self, data: Any) -> int:
            if not self.done:
                self.done = True
                database.raw["Zlater"].insert_one({"_id": "later"})
                database.raw["installation"].insert_one({"_id": "later"})
            return super().write(data)

    stream = Writing()
    backup.dump(database, stream, "1", "key")
    frames = list(backup._frames(io.BytesIO(stream.getvalue())))
    database.raw["Zlater"].drop()
    database.raw["installation"].delete_one({"_id": "later"})
    assert stream.done
    ids = [document["_id"] for kind, document in frames if kind == backup.DOCUMENT]
    assert ids.count("later") == 0


def test_an_empty_database_that_is_none_is_refused(mongo_url: str) -> None:
    database = Database(mongo_url, f"none-{uuid.uuid4().hex[:8]}")
    with pytest.raises(Problem, match="no whole backup"):
        backup.restore(database, io.BytesIO(b"PK\x03\x04 something else"), frozenset({"key"}))
    database.close()
