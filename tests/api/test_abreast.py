"""Lanes drained abreast: messages of many patients in one transaction, each once, in order, whatever is among them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from fhirserver import app
from fhirserver.auth.access import everything
from fhirserver.fhir.problem import Problem, problem
from fhirserver.hl7v2 import abreast
from fhirserver.hl7v2.abreast import Abreast
from fhirserver.hl7v2.message import Message
from fhirserver.hl7v2.process import lease_of
from fhirserver.store.model import Stored
from fhirserver.store.resources import Store
from tests.api.client import Api

NUMBERS = itertools.count(1)
DONE = {"processed", "warning"}


class House:
    """A hospital whose messages wait until they are drained, by as many threads as it has lanes."""

    def __init__(self, api: Api, installation: app.Installation) -> None:
        self.api, self.intake, self.store = api, installation.intake(), installation.server.store

    def take(self, patient: str, family: str, event: str = "A31", *more: str) -> None:
        """A message of a patient, whose attending doctor and hospital all patients share."""
        lines = (
            f"MSH|^~\\&|ADT1|SHARED|X|Y|20260101120000+0000||ADT^{event}|T{next(NUMBERS)}|P|2.5",
            f"EVN|{event}|20260101120000",
            f"PID|1||{patient}^^^SHARED^MR||{family}^Iris||19800214|F",
            *(more or (f"PV1|1|I|W7||||4711^Welby^Marcus|||||||||||{'V' + patient}",)),
        )
        answer = self.intake.take("\r".join(lines).encode() + b"\r", "", self.api.organization)
        assert answer
        assert Message.parse(answer)["MSA-1"] == "AA"

    def lanes(self) -> list[str]:
        found = self.api.get("InboundMessage?status=received&_sort=sequence&_count=500").resources
        return list(dict.fromkeys(each["lane"] for each in found))

    def drain(self, *workers: Abreast) -> None:
        """Runs a job for each lane in each worker, all at the same time."""
        lanes, organization = self.lanes(), self.api.organization
        with ThreadPoolExecutor(32) as pool:
            each_of = workers or (Abreast(self.intake),)
            jobs = [pool.submit(each.process, organization, lane) for lane in lanes for each in each_of]
        for job in jobs:
            job.result()

    def all(self, search: str) -> list[dict[str, Any]]:
        return self.api.get(search).resources

    def families(self, patient: str) -> list[str]:
        """The family names that a patient has had, the oldest first."""
        [found] = self.all(f"Patient?identifier={patient}")
        history = self.api.get(f"Patient/{found['id']}/_history").resources
        return [each["name"][0]["family"] for each in reversed(history)]

    def applied(self) -> Counter[str]:
        """How often each message was applied, by what its Provenances say."""
        found = self.all("Provenance?_count=1000")
        return Counter(e["what"]["reference"] for each in found for e in each["entity"] if "reference" in e["what"])


@pytest.fixture
def house(api: Api, installation: app.Installation) -> House:
    return House(api, installation)


def committed(house: House, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many messages each transaction has taken, from now on."""
    found: list[int] = []
    commit = Store.commit

    def counted(self: Store, changes: Any, session: Any = None) -> None:
        count = sum(each.type == "InboundMessage" for each in changes)
        commit(self, changes, session)
        if count:
            found.append(count)

    monkeypatch.setattr(Store, "commit", counted)
    return found


def test_messages_of_many_patients_are_stored_together_each_once_and_in_order(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["Ash", "Birch", "Cedar"]
    for name in names:
        for number in range(12):
            house.take(f"1{number:02}", name)
    sizes = committed(house, monkeypatch)
    house.drain()
    kept = house.all("InboundMessage?_count=500")
    assert {each["status"] for each in kept} <= DONE
    assert len(kept) == 36
    assert house.applied() == Counter(f"InboundMessage/{each['id']}" for each in kept)
    for number in range(12):
        assert house.families(f"1{number:02}") == names
    assert max(sizes) > 1
    assert len(sizes) < 36


def test_what_all_share_is_made_once(house: House) -> None:
    for number in range(20):
        house.take(f"2{number:02}", "Ash")
    house.drain()
    assert len(house.all("Patient?_count=100")) == 20
    assert len(house.all("Practitioner?identifier=4711")) == 1
    encounters = house.all("Encounter?_count=100")
    assert len(encounters) == 20
    assert len({each["location"][0]["location"]["reference"] for each in encounters}) == 1
    assert len({each["participant"][0]["individual"]["reference"] for each in encounters}) == 1


def test_two_workers_at_the_same_lanes_lose_and_repeat_nothing(house: House, installation: app.Installation) -> None:
    for name in ("Ash", "Birch", "Cedar", "Dogwood"):
        for number in range(10):
            house.take(f"3{number:02}", name)
    house.drain(Abreast(house.intake), Abreast(installation.intake()))
    while house.lanes():  # a lane that another worker held is left to the sweep
        house.drain()
    assert house.applied() == Counter(f"InboundMessage/{each['id']}" for each in house.all("InboundMessage?_count=500"))
    for number in range(10):
        assert house.families(f"3{number:02}") == ["Ash", "Birch", "Cedar", "Dogwood"]


def test_what_is_out_of_the_ordinary_goes_alone_and_holds_up_nobody(house: House) -> None:
    for number in range(8):
        house.take(f"4{number:02}", "Ash")
    house.take("403", "Birch", "A31", "PV1|1|?|W7")  # a class that no table maps
    house.take("404", "Birch", "A40", "MRG|405^^^SHARED^MR")
    house.take("404", "Cedar")
    house.take("405", "Dogwood")
    house.take("406", "Birch", "A31", "OBX|1|NM|1^a^L||x")  # no number
    house.drain()
    while house.lanes():
        house.drain()
    kept = house.all("InboundMessage?_sort=sequence&_count=100")
    assert {each["status"] for each in kept[:8]} <= DONE
    assert "received" not in {each["status"] for each in kept}
    assert all(each["processed"].endswith("Z") for each in kept)
    assert "replaced-by" in str(house.all("Patient?identifier=405"))
    # What is said of the one that ended is said of the one that it has become; two lanes have no order.
    first, merged, *since = house.families("404")
    assert (first, merged, set(since)) == ("Ash", "Birch", {"Cedar", "Dogwood"})


def test_a_message_that_was_processed_meanwhile_is_passed_over(house: House) -> None:
    house.take("500", "Ash")
    house.take("501", "Ash")
    [lane, _] = house.lanes()
    batch = abreast._Batch(house.intake, house.api.organization)
    look = batch._look

    def late(wanted: Iterable[str]) -> Any:
        found = look(list(wanted))
        leases = house.store.database.collection("leases")
        leases.update_one({"_id": lease_of(house.api.organization, lane)}, [{"$set": {"until": "$$NOW"}}])
        Abreast(house.intake).process(house.api.organization, lane)  # another, as the lease has run out
        return found

    batch._look = late  # type: ignore[method-assign]  # between the look and the commit
    done = batch.drain(house.lanes())
    assert done.alone
    house.drain()
    assert house.applied() == Counter(f"InboundMessage/{each['id']}" for each in house.all("InboundMessage?_count=9"))


def test_a_store_that_is_away_leaves_the_messages_where_they_are(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        house.take(f"6{number:02}", "Ash")

    def away(*arguments: Any) -> Stored:
        raise problem("transient", "The database cannot be reached at the moment. Try again.")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "transaction", away)
        with pytest.raises(Problem, match="cannot be reached"):
            house.drain()
    assert len(house.lanes()) == 3
    house.drain()
    assert house.lanes() == []
    assert len(house.applied()) == 3


def test_whoever_takes_a_lease_over_ends_the_transaction_of_its_holder(house: House) -> None:
    store, name = house.store, f"inbound/{house.api.organization}/taken-over"
    lock = [("Practitioner", "identifier 4712")]
    store.locks.prepare(house.api.organization, lock, house.intake.server.now())
    with store.session() as killed:
        assert store.lease(name, "killed", 30, killed)
        killed.start_transaction()
        store.locks.touch(killed, house.api.organization, lock)
        with pytest.raises(Problem, match="held"):  # as everybody is who makes this Practitioner
            touch(house, lock)
        store.database.collection("leases").update_one({"_id": name}, [{"$set": {"until": "$$NOW"}}])
        assert store.lease_all([name], "next", 30) == {name}
        touch(house, lock)


def test_a_transaction_of_a_process_whose_lease_has_run_out_is_ended_by_the_sweep(house: House) -> None:
    store, lock = house.store, [("Practitioner", "identifier 4713")]
    store.locks.prepare(house.api.organization, lock, house.intake.server.now())
    holding, names = house.intake.holding, [f"inbound/{house.api.organization}/{name}" for name in ("silent", "heard")]
    with store.session() as killed, store.session() as living:
        assert store.lease(names[0], "killed", 30, killed)
        assert store.lease(names[1], "living", 30, living)
        for session in (killed, living):
            session.start_transaction()
        store.locks.touch(killed, house.api.organization, lock)
        assert store.read(everything(house.api.organization), "Patient", "none", living) is None
        assert holding.sweep() == 0
        store.database.collection("leases").update_one({"_id": names[0]}, [{"$set": {"until": "$$NOW"}}])
        assert holding.sweep() == 1
        assert holding.sweep() == 0
        touch(house, lock)
        assert store.read(everything(house.api.organization), "Patient", "none", living) is None
        living.commit_transaction()


def test_leases_are_renewed_together_and_those_that_are_lost_are_told(house: House) -> None:
    store, names = house.store, [f"inbound/{house.api.organization}/{number}" for number in range(3)]
    assert store.lease_all(names, "one", 30) == set(names)
    assert store.renew_all(names, "one", 30) == set(names)
    store.release(names[1], "one")
    assert store.lease(names[1], "other", 30)
    assert store.renew_all(names, "one", 30) == {names[0], names[2]}
    assert store.renew_all(names, "nobody", 30) == set()


def touch(house: House, lock: list[tuple[str, str]]) -> None:
    """Touches a lock in a transaction of its own. Raises Problem where another transaction keeps it."""
    tries = itertools.count(1)

    def work(session: Any) -> None:
        if next(tries) > 3:
            raise problem("conflict", "held")
        house.store.locks.touch(session, house.api.organization, lock)

    house.store.transaction(work)


def test_a_lease_that_was_given_back_ends_nobody(house: House) -> None:
    store, name = house.store, f"inbound/{house.api.organization}/given-back"
    with store.session() as living:
        assert store.lease(name, "living", 30, living)
        store.release(name, "living")
        living.start_transaction()
        found = store.read(everything(house.api.organization), "Patient", "none", living)
        assert store.lease_all([name, name + "2"], "next", 30) == {name, name + "2"}
        assert store.lease_all([name], "another", 30) == set()
        assert found is store.read(everything(house.api.organization), "Patient", "none", living)
        living.commit_transaction()


def test_lanes_that_wait_for_a_lead_are_all_let_go(house: House) -> None:
    for number in range(40):
        house.take(f"7{number:02}", "Ash")
    worker = Abreast(house.intake)
    house.drain(worker)
    assert house.lanes() == []
    assert (worker._leaders, len(worker._waiting)) == (0, 0)
