"""The seals on the audit record: whatever is done to it beside the server is found. `fhirserver audit verify`."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fhirserver import app, local, processes
from fhirserver.auditing.recording import LEAST_SEALED, ship
from fhirserver.auditing.sealed import operations as sealed_rows
from fhirserver.auth.principal import Principal
from fhirserver.fhir.problem import Problem, problem
from fhirserver.interactions.model import Request
from fhirserver.settings import Secret, Settings
from fhirserver.store.seal import Report, Seals
from tests.api.client import Api
from tests.api.exchange import OPERATOR
from tests.running import wait_until

Documents = Any


@pytest.fixture
def seals(installation: app.Installation) -> Seals:
    return app.seals(installation)


@pytest.fixture
def records(installation: app.Installation) -> Documents:
    return installation.server.store.database.collection("AuditEvent")


@pytest.fixture
def chains(installation: app.Installation) -> Documents:
    return installation.server.store.database.collection("AuditEvent.seals")


@pytest.fixture
def sealed(installation: app.Installation, api: Api, seals: Seals) -> Callable[[], Report]:
    """Three seals of two reads each; answers a verification of them when called."""
    for _ in range(3):
        for _ in range(2):
            api.get("Patient/nobody")
        while ship(installation.server, installation.settings.data / app.SPOOL):
            pass
        seals.seal(api.organization)
    assert seals.verify(api.organization).findings == []
    return lambda: seals.verify(api.organization)


def test_what_nobody_touched_holds_and_its_end_is_told(
    installation: app.Installation, api: Api, sealed: Callable[[], Report]
) -> None:
    api.get("Patient/nobody")
    while ship(installation.server, installation.settings.data / app.SPOOL):
        pass
    report = sealed()
    assert (report.findings, report.seals, report.records, report.unsealed) == ([], 3, 6, 1)
    assert report.head.startswith("3:h1.")


def test_a_posted_record_is_sealed_too(api: Api, seals: Seals, records: Documents) -> None:
    event = {
        "resourceType": "AuditEvent",
        "type": {"system": "http://dicom.nema.org/resources/ontology/DCM", "code": "110112"},
        "recorded": "2026-01-01T00:00:00Z",
        "agent": [{"requestor": True}],
        "source": {"observer": {"display": "elsewhere"}},
    }
    id = api.create(event)["id"]
    assert records.find_one({"i": id})["z"] == 0
    seals.work()
    assert records.find_one({"i": id})["z"] == 1


def test_a_changed_text_is_found(api: Api, records: Documents, sealed: Callable[[], Report]) -> None:
    one = records.find_one({"o": api.organization, "z": 2})
    records.update_one({"_id": one["_id"]}, {"$set": {"d": one["d"].replace("nobody", "somebody")}})
    assert sealed().findings == [f"AuditEvent/{one['i']} of seal 2 was changed"]


def test_a_deleted_record_is_found(api: Api, records: Documents, sealed: Callable[[], Report]) -> None:
    one = records.find_one_and_delete({"o": api.organization, "z": 1})
    assert sealed().findings == [f"AuditEvent/{one['i']} of seal 1 is missing"]


@pytest.mark.parametrize("number", [1, 2])
def test_a_removed_seal_is_found(number: int, api: Api, chains: Documents, sealed: Callable[[], Report]) -> None:
    chains.delete_one({"o": api.organization, "n": number})
    findings = sealed().findings
    assert f"seal {number} is missing" in findings
    assert f"seal {number + 1} does not follow the one before it" in findings


def test_a_seal_removed_at_the_end_is_found(api: Api, chains: Documents, sealed: Callable[[], Report]) -> None:
    chains.delete_one({"o": api.organization, "n": 3})
    assert sealed().findings == ["2 records bear the number of seal 3, which is missing at the end"]


def test_an_end_cut_off_with_its_records_is_found_by_a_head_noted_before(
    api: Api, seals: Seals, records: Documents, chains: Documents, sealed: Callable[[], Report]
) -> None:
    head = sealed().head
    chains.delete_one({"o": api.organization, "n": 3})
    records.delete_many({"o": api.organization, "z": 3})
    assert sealed().findings == []  # nothing within tells
    assert "cut off" in seals.verify(api.organization, head).findings[0]


def test_reordered_records_are_found(api: Api, chains: Documents, sealed: Callable[[], Report]) -> None:
    seal = chains.find_one({"o": api.organization, "n": 2})
    chains.update_one({"_id": seal["_id"]}, {"$set": {"records": seal["records"][::-1]}})
    assert sealed().findings == ["seal 2 was changed"]


def test_two_seals_exchanged_are_found(api: Api, chains: Documents, sealed: Callable[[], Report]) -> None:
    one, two = (chains.find_one({"o": api.organization, "n": n}) for n in (1, 2))
    for seal, other in ((one, two), (two, one)):
        chains.update_one(
            {"_id": seal["_id"]}, {"$set": {name: other[name] for name in ("records", "hash", "previous")}}
        )
    assert "seal 1 was changed" in sealed().findings


def test_a_seal_made_with_another_key_is_found(api: Api, records: Documents, chains: Documents, seals: Seals) -> None:
    """Whoever has the database alone can change a record and its digest, but not make the hash that fits."""
    forged = Seals(seals._database, lambda text: f"h1.k.{hash(text)}", lambda text, hashed: True)
    api.get("Patient/nobody")
    records.insert_one(
        {"_id": f"{api.organization}/f", "o": api.organization, "i": "f", "d": "{}", "t": _now(), "z": 0}
    )
    forged.seal(api.organization)
    assert seals.verify(api.organization).findings == ["seal 1 was changed"]


@pytest.mark.parametrize(("mark", "finding"), [
    ({"z": 2}, "1 records bear the number of seal 2, which does not name them"),
    ({"z": 9}, "1 records bear the number of seal 9, which is missing at the end"),
    ({}, "1 records bear no number of a seal that is there: they were put in beside the server"),
])  # fmt: skip
def test_an_inserted_record_is_found(
    mark: dict[str, int], finding: str, api: Api, records: Documents, sealed: Callable[[], Report]
) -> None:
    id = f"{api.organization}/inserted{mark.get('z', '')}"
    records.insert_one({"_id": id, "o": api.organization, "i": id.rpartition("/")[2], "d": "{}", "t": _now(), **mark})
    assert sealed().findings == [finding]


def test_what_is_older_than_it_is_kept_goes_with_its_seal_and_the_rest_holds(
    installation: app.Installation, api: Api, seals: Seals, chains: Documents, sealed: Callable[[], Report]
) -> None:
    head = sealed().head
    later = installation.server.now() + timedelta(days=1)
    assert seals.retire(api.organization, installation.server.now() - timedelta(days=1)) == 0
    assert seals.retire(api.organization, later) == 4  # the last seal stays
    report = seals.verify(api.organization, head)
    assert (report.findings, report.seals, report.records, report.retired) == ([], 1, 2, 2)
    chains.update_one({"o": api.organization, "n": 0}, {"$set": {"through": 1}})
    assert "the note of where the chain begins was changed" in sealed().findings


def test_two_sealers_at_once_make_one_chain(
    installation: app.Installation, api: Api, seals: Seals, sealed: Callable[[], Report]
) -> None:
    for _ in range(5):
        api.get("Patient/nobody")
    while ship(installation.server, installation.settings.data / app.SPOOL):
        pass
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(seals.seal, [api.organization] * 4))
    report = sealed()
    assert (sum(done), report.findings, report.records, report.unsealed) == (5, [], 11, 0)


@pytest.fixture
def burst(installation: app.Installation, api: Api) -> Callable[[int], None]:
    """Leaves so many records in the spool."""
    server = installation.server

    def leave(count: int) -> None:
        base = server.base(api.organization)
        asked = Request("read", api.organization, base, OPERATOR, type="Patient", id="x")
        for _ in range(count):
            server.audit(server, asked, problem("not-found", "not here"))

    return leave


def test_many_records_are_sealed_as_they_are_stored_and_few_are_not(
    installation: app.Installation, api: Api, seals: Seals, burst: Callable[[int], None]
) -> None:
    folder = installation.settings.data / app.SPOOL
    for count in (LEAST_SEALED - 1, LEAST_SEALED, 2 * LEAST_SEALED):
        burst(count)
        assert ship(installation.server, folder, seals) >= count
    report = seals.verify(api.organization)
    assert (report.findings, report.seals, report.records, report.unsealed) == ([], 2, 150, 49)
    assert seals.seal(api.organization) == 49
    assert seals.verify(api.organization, report.head).findings == []


def test_records_that_are_shipped_again_after_a_crash_are_there_once_and_the_chain_holds(
    installation: app.Installation, api: Api, seals: Seals, burst: Callable[[int], None]
) -> None:
    folder = installation.settings.data / app.SPOOL
    burst(60)
    ship(installation.server, folder, seals)
    for mark in folder.glob("*.done"):
        mark.unlink()  # as if the process had died between storing and remembering
    burst(60)
    while ship(installation.server, folder, seals):
        pass
    seals.seal(api.organization)
    report = seals.verify(api.organization)
    assert (report.findings, report.records, report.unsealed) == ([], 120, 0)


def test_who_stores_with_seals_and_who_seals_make_one_chain(
    installation: app.Installation, api: Api, seals: Seals, burst: Callable[[int], None]
) -> None:
    folder = installation.settings.data / app.SPOOL
    burst(40)
    ship(installation.server, folder, seals)
    for _ in range(3):
        burst(60)
    with ThreadPoolExecutor(4) as pool:
        working = [pool.submit(ship, installation.server, folder, seals) for _ in range(2)]
        working += [pool.submit(seals.seal, api.organization) for _ in range(2)]
        for each in working:
            each.result()
    seals.seal(api.organization)
    report = seals.verify(api.organization)
    assert (report.findings, report.records, report.unsealed) == ([], 220, 0)


def _now() -> Any:
    return datetime.now(UTC)


def test_the_process_that_seals_lets_go_what_is_older_than_the_setting_says(
    mongo_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    settings = Settings(
        data=tmp_path_factory.mktemp("retention"),
        mongo_url=Secret(mongo_url),
        mongo_database=f"retention-{uuid.uuid4().hex[:8]}",
        master_key=Secret("k" * 40),
        public_url="http://api.test",
        audit_retention_days=30,
    )
    made = app.build(settings)
    server, seals = made.server, app.seals(made)
    today = datetime.now(UTC)
    for days in (90, 60, 31, 29, 0):
        server.now = lambda days=days: today - timedelta(days=days)
        server.audit(server, Request("read", "registry", server.base("registry"), OPERATOR, type="User", id="x"),
                     problem("not-found", "not here"))  # fmt: skip
        assert ship(server, settings.data / app.SPOOL) == 1
        assert seals.seal("registry") == 1
    server.now = lambda: today
    stop = threading.Event()
    working = threading.Thread(target=processes._seal, args=(made, stop))
    working.start()
    wait_until(lambda: server.store.database.collection("AuditEvent").count_documents({}) == 2, 60)
    stop.set()
    working.join()
    (report,) = local.verify_audit(settings, "registry", "")
    assert (report.findings, report.records, report.seals, report.retired) == ([], 2, 2, 3)
    server.store.database.close()


def _verified(api: Api, query: str = "") -> dict[str, list[Any]]:
    answer = api.get(f"AuditEvent/$verify-seals{query}")
    assert answer.status == 200, answer.data
    said: dict[str, list[Any]] = {}
    for part in answer.json["parameter"]:
        said.setdefault(part["name"], []).append(next(value for name, value in part.items() if name != "name"))
    return said


def test_an_administrator_asks_whether_the_last_seals_hold(
    api: Api, sealed: Callable[[], Report], seals: Seals, records: Documents
) -> None:
    whole = sealed()
    told = _verified(api)
    assert (told["holds"], told["seals"], told["records"], told["head"]) == ([True], [3], [6], [whole.head])
    assert _verified(api, "?count=1")["seals"] == [1]

    records.update_one({"o": api.organization, "z": 3}, {"$set": {"d": "{}"}})
    assert _verified(api, "?count=1")["holds"] == [False]
    assert "was changed" in _verified(api, "?count=1")["finding"][0]


def test_what_was_changed_before_the_seals_asked_for_is_not_looked_at(
    api: Api, sealed: Callable[[], Report], records: Documents
) -> None:
    sealed()
    records.update_one({"o": api.organization, "z": 1}, {"$set": {"d": "{}"}})

    assert _verified(api, "?count=2")["holds"] == [True]
    assert _verified(api, "?count=3")["holds"] == [False]


def test_a_seal_that_is_gone_from_between_is_missed(api: Api, sealed: Callable[[], Report], chains: Documents) -> None:
    sealed()
    chains.delete_one({"o": api.organization, "n": 2})

    assert any("are missing" in text for text in _verified(api)["finding"])


@pytest.mark.parametrize("count", ["0", "101", "x", "-1", "²"])
def test_a_number_of_seals_that_is_too_large_or_none_is_refused(api: Api, count: str) -> None:
    assert api.get(f"AuditEvent/$verify-seals?count={count}").status == 400


def test_who_is_no_administrator_does_not_verify_the_seals(api: Api) -> None:
    member = Principal("user", "m", roles={api.organization: "member"})
    asked = Request("operation", api.organization, "", member, type="AuditEvent", operation="$verify-seals", query=())
    with pytest.raises(Problem, match="administrator"):
        sealed_rows(lambda server: None)[0].function(None, asked, None)  # type: ignore[arg-type, return-value]
