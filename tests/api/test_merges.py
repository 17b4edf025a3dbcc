"""Merging and un-merging patients by message: links, references by policy, and everything back as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fhirserver import app
from fhirserver.fhir.problem import problem
from fhirserver.hl7v2.process import MERGE_POLICY, process
from fhirserver.hl7v2.senders import EXTENSION, endpoint_resource
from fhirserver.messaging import merge
from tests.api.client import Api
from tests.api.ward import Ward, pid

SYSTEM = "http://api.test/1/health/organizations/{}/namespace/id/LAKESIDE"


def links(patient: dict[str, Any]) -> list[tuple[str, str]]:
    return [(each["type"], each["other"]["reference"]) for each in patient.get("link", ())]


@pytest.fixture
def ward(api: Api, installation: app.Installation) -> Ward:
    return Ward(api, installation)


def test_what_spoke_of_the_prior_patient_speaks_of_the_survivor(ward: Ward) -> None:
    prior, survivor = ward.admit("10"), ward.admit("20")
    ward.merge("20", "10")
    after, gone = ward.patient("20"), ward.patient("10")
    assert (after["id"], gone["id"]) == (survivor["id"], prior["id"])
    assert gone["active"] is False
    assert links(gone) == [("replaced-by", f"Patient/{survivor['id']}")]
    assert links(after) == [("replaces", f"Patient/{prior['id']}")]
    assert ward.of(prior) == {}
    assert ward.of(survivor) == {"Encounter": 2, "AllergyIntolerance": 2}
    [record] = ward.all(f"Provenance?entity=Patient/{prior['id']}")
    assert record["activity"]["coding"][0]["code"] == "merge"
    targets = [each["reference"].partition("/")[0] for each in record["target"]]
    assert targets == ["Patient", "Patient", "AllergyIntolerance", "Coverage", "Encounter"]
    [kept] = ward.all("InboundMessage?event=ADT_A40")
    assert kept["status"] == "processed"
    assert any(each["reference"].startswith("AllergyIntolerance/") for each in kept["result"])


def test_an_unmerge_puts_everything_back_as_it_was(ward: Ward) -> None:
    prior, survivor = ward.admit("10", "Marlow"), ward.admit("20")
    ward.merge("20", "10")
    ward.send("A01", pid("20"), "PV1|1|O|W9|||||||||||||||||V99")
    ward.part("20", "10")
    after, back = ward.patient("20"), ward.patient("10")
    assert (links(after), links(back)) == ([], [])
    assert "active" not in back, "as it was before the merge"
    assert back["name"][0]["family"] == "Marlowe", "as the message says that parted them"
    assert ward.of(back) == {"Encounter": 1, "AllergyIntolerance": 1}
    assert ward.of(after) == {"Encounter": 2, "AllergyIntolerance": 1}, "what came later stays with the survivor"
    assert (back["id"], after["id"]) == (prior["id"], survivor["id"])


def test_merged_parted_and_merged_again(ward: Ward) -> None:
    prior, survivor = ward.admit("10"), ward.admit("20")
    for _ in range(2):
        ward.merge("20", "10")
        assert ward.of(survivor) == {"Encounter": 2, "AllergyIntolerance": 2}
        ward.part("10", "20")
        assert ward.of(prior) == ward.of(survivor) == {"Encounter": 1, "AllergyIntolerance": 1}


def test_the_same_merge_twice_is_one(ward: Ward) -> None:
    prior, survivor = ward.admit("10"), ward.admit("20")
    ward.merge("20", "10")
    before = (ward.patient("10")["meta"]["versionId"], ward.patient("20")["meta"]["versionId"])
    ward.merge("20", "10")
    assert (ward.patient("10")["meta"]["versionId"], ward.patient("20")["meta"]["versionId"]) == before
    assert len(ward.all(f"Provenance?entity=Patient/{prior['id']}")) == 1
    assert ward.of(survivor) == {"Encounter": 2, "AllergyIntolerance": 2}


def test_what_the_api_writes_about_the_prior_patient_stays_there_until_the_merge_is_said_again(ward: Ward) -> None:
    prior, survivor = ward.admit("10"), ward.admit("20")
    ward.merge("20", "10")
    late = {"resourceType": "Basic", "code": {"text": "late"}, "subject": {"reference": f"Patient/{prior['id']}"}}
    ward.api.create(late)
    assert ward.of(prior) == {"Basic": 1}, "a client's words are stored as they are; the link leads on"
    ward.merge("20", "10")
    assert ward.of(prior) == {}
    assert ward.of(survivor)["Basic"] == 1
    ward.part("20", "10")
    assert ward.of(prior)["Basic"] == 1, "and both go back"
    assert ward.of(prior)["Encounter"] == 1


def test_a_message_for_the_number_that_was_merged_goes_to_the_survivor(ward: Ward) -> None:
    prior, survivor = ward.admit("10"), ward.admit("20")
    ward.merge("20", "10")
    ward.send("A31", pid("10", "Newname"))
    ward.send("A01", pid("10", "Newname"), "PV1|1|O|W9|||||||||||||||||V99")
    after = ward.patient("20")
    assert (after["id"], after["name"][0]["family"]) == (survivor["id"], "Newname")
    assert [each["value"] for each in after["identifier"]] == ["20"], "the prior number stays the prior's"
    assert ward.patient("10")["meta"]["versionId"] == "2"
    assert ward.of(survivor)["Encounter"] == 3
    ward.part("20", "10")
    assert ward.of(ward.patient("10"))["Encounter"] == 1, "only what the merge had moved"
    assert ward.patient("10")["id"] == prior["id"]


def test_a_survivor_that_lists_the_prior_number_as_its_own_is_not_the_prior(ward: Ward) -> None:
    prior = ward.admit("10")
    ward.send("A40", pid("20").replace("MR|", "MR~10^^^LAKESIDE^MR|", 1), "MRG|10^^^LAKESIDE^MR")
    found = {each["id"]: each for each in ward.all("Patient?identifier=10")}
    assert found.pop(prior["id"])["active"] is False
    [survivor] = found.values()
    assert links(survivor) == [("replaces", f"Patient/{prior['id']}")]
    ward.send("A31", pid("10", "Newname"))
    assert ward.patient("20")["name"][0]["family"] == "Newname"


def test_a_chain_of_merges_ends_at_the_last(ward: Ward) -> None:
    first, second, third = ward.admit("10"), ward.admit("20"), ward.admit("30")
    ward.merge("20", "10")
    ward.merge("30", "20")
    assert ward.of(third) == {"Encounter": 3, "AllergyIntolerance": 3}
    ward.send("A31", pid("10", "Newname"))
    assert ward.patient("30")["name"][0]["family"] == "Newname"
    ward.merge("20", "10")
    assert links(ward.patient("10")) == [("replaced-by", f"Patient/{second['id']}")], "said again, nothing changes"
    ward.part("20", "10")
    assert ward.of(first) == {"Encounter": 1, "AllergyIntolerance": 1}
    assert ward.of(third) == {"Encounter": 2, "AllergyIntolerance": 2}
    ward.part("20", "30")
    assert ward.of(second) == ward.of(third) == {"Encounter": 1, "AllergyIntolerance": 1}


def test_a_survivor_may_take_in_several(ward: Ward) -> None:
    ward.admit("10"), ward.admit("20"), ward.admit("30")
    ward.merge("30", "10")
    ward.merge("30", "20")
    assert [type for type, _ in links(ward.patient("30"))] == ["replaces", "replaces"]
    ward.part("30", "10")
    assert links(ward.patient("30")) == [("replaces", f"Patient/{ward.patient('20')['id']}")]


def test_patients_that_nobody_knew_are_merged_too(ward: Ward) -> None:
    ward.merge("20", "10")
    prior = ward.patient("10")
    assert prior["active"] is False
    assert links(ward.patient("20")) == [("replaces", f"Patient/{prior['id']}")]
    ward.part("20", "10")
    assert ward.patient("10")["active"] is True


@pytest.mark.parametrize(("survivor", "prior"), [("10", "10"), ("10", "20"), ("30", "10")])
def test_a_merge_that_makes_no_sense_waits_for_a_person(ward: Ward, survivor: str, prior: str) -> None:
    ward.admit("10"), ward.admit("20"), ward.admit("30")
    ward.merge("20", "10")
    before = [ward.patient(number) for number in ("10", "20", "30")]
    ward.merge(survivor, prior)
    [kept] = ward.all("InboundMessage?status=mapping-error")
    assert kept["issue"][0]["code"] == "business-rule"
    assert [ward.patient(number) for number in ("10", "20", "30")] == before


@pytest.mark.parametrize("where", ["organization", "endpoint"])
def test_the_policy_may_be_to_leave_references_alone(ward: Ward, registry: Api, where: str) -> None:
    id = ward.api.organization
    if where == "organization":
        held = registry.get(f"Organization/{id}").json
        registry.put(f"Organization/{id}", {**held, "extension": [{"url": MERGE_POLICY, "valueCode": "keep"}]})
    else:
        endpoint = endpoint_resource(id, "", f"ONLY-{id}", False)
        said = {"url": EXTENSION, "extension": [{"url": "merge", "valueCode": "keep"}]}
        endpoint["identifier"][0]["value"] = "LAKESIDE"
        registry.create({**endpoint, "extension": [said]})
        ward.intake.senders(0.0)
    prior, survivor = ward.admit("10"), ward.admit("20")
    ward.merge("20", "10")
    assert links(ward.patient("10")) == [("replaced-by", f"Patient/{survivor['id']}")]
    assert ward.of(prior) == ward.of(survivor) == {"Encounter": 1, "AllergyIntolerance": 1}
    ward.part("20", "10")
    assert "active" not in ward.patient("10")


def test_only_references_are_changed_and_each_is_put_back(ward: Ward) -> None:
    prior, survivor = ward.admit("10"), ward.admit("20")
    group = {
        "resourceType": "Group", "type": "person", "actual": True,
        "member": [{"entity": {"reference": f"Patient/{each['id']}"}} for each in (survivor, prior)],
    }  # fmt: skip
    made = ward.api.create(group)
    ward.merge("20", "10")
    merged = ward.api.get(f"Group/{made['id']}").json
    assert [each["entity"]["reference"] for each in merged["member"]] == [f"Patient/{survivor['id']}"] * 2
    ward.part("20", "10")
    assert ward.api.get(f"Group/{made['id']}").json["member"] == group["member"]


@pytest.mark.parametrize("event", ["merge", "unmerge"])
def test_a_merge_of_very_many_references_goes_on_where_it_was_killed(
    ward: Ward, event: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior, survivor = ward.admit("10"), ward.admit("20")
    for number in range(11):
        note = {"resourceType": "Basic", "code": {"text": str(number)}}
        ward.api.create({**note, "subject": {"reference": f"Patient/{prior['id']}"}})
    monkeypatch.setattr(merge, "MOST_MOVED", 3)
    if event == "unmerge":
        ward.merge("20", "10")
        assert ward.of(survivor) == {"Encounter": 2, "AllergyIntolerance": 2, "Basic": 11}
    ends = ward.patient("20")
    taken = ward.take(*(("A40", pid("20"), "MRG|10^^^LAKESIDE^MR") if event == "merge" else
                        ("A37", pid("20"), pid("10"))))  # fmt: skip
    assert taken == "AA"
    ward.take("A31", pid("20", "Later"))
    _die_at_every_step(ward, monkeypatch)
    whole = {"Encounter": 2, "AllergyIntolerance": 2, "Basic": 11}
    assert ward.of(survivor) == (whole if event == "merge" else {"Encounter": 1, "AllergyIntolerance": 1})
    assert ward.of(prior) == ({} if event == "merge" else {"Encounter": 1, "AllergyIntolerance": 1, "Basic": 11})
    assert ward.patient("20")["name"][0]["family"] == "Later", "the next message of the patient waited"
    assert int(ward.patient("20")["meta"]["versionId"]) == int(ends["meta"]["versionId"]) + 2
    versions = {each["meta"]["versionId"] for each in ward.all("Basic?_count=100")}
    assert versions == {"2" if event == "merge" else "3"}, "each was moved once"


def _die_at_every_step(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes what waits, the process ending before each of the steps once."""
    step, dies = merge.step, [False]

    def dying(*arguments: Any) -> Any:
        if dies and dies.pop():
            raise problem("transient", "The process was killed.")
        return step(*arguments)

    monkeypatch.setattr(merge, "step", dying)
    for lives in range(3):
        dies[:] = [True, *[False] * lives]
        with pytest.raises(Exception, match="killed"):
            ward.drain()
        received = ward.all("InboundMessage?status=received&_sort=sequence")
        assert len(received) == 2, "the merge and what came after it"
    ward.drain()


def test_earlier_messages_of_the_prior_patient_come_first(ward: Ward) -> None:
    ward.admit("10"), ward.admit("20")
    ward.take("A31", pid("10", "Before"))
    ward.take("A40", pid("20"), "MRG|10^^^LAKESIDE^MR")
    ward.take("A31", pid("10", "After"))
    [merging] = ward.all("InboundMessage?event=ADT_A40")
    assert process(ward.intake, ward.api.organization, merging["lane"]) == 0, "it waits for its turn in the other lane"
    assert process(ward.intake, ward.api.organization, merging["otherLane"][0]) == 3
    assert ward.patient("10")["name"][0]["family"] == "Before"
    assert ward.patient("20")["name"][0]["family"] == "After"


def test_what_was_merged_tells_its_subscribers(ward: Ward, installation: app.Installation) -> None:
    ward.admit("10"), ward.admit("20")
    ward.merge("20", "10")
    events = [each.event for each in installation.server.store.pending(10_000) if each.event["trigger"] == "ADT_A40"]
    names: Callable[[Any], bool] = lambda event: event["changes"] and event["message"].startswith("InboundMessage/")  # noqa: E731
    event = next(each for each in reversed(events) if names(each))
    assert {"merge.patient", "update.patient", "update.encounter", "update.allergyintolerance"} <= set(event["names"])


def test_two_resources_that_are_one_in_the_store_are_named(ward: Ward) -> None:
    ward.send("A01", pid("71").replace("MR||", "MR~72^^^LAKESIDE^MR||"), "PV1|1|I|W7")
    other = pid("72", "Prynne").replace("PID|1", "PID|2")
    ward.send("A24", pid("71", "Hale"), other)
    [kept] = ward.all("InboundMessage?event=ADT_A24")
    [patient] = ward.all("Patient?identifier=71")
    [issue] = kept["issue"]
    assert (kept["status"], issue["code"]) == ("mapping-error", "multiple-matches")
    assert f"Patient/{patient['id']}" in issue["diagnostics"]
    assert len(set(issue["expression"])) == 2
    assert patient["name"][0]["family"] == "Marlowe"
