"""Which subscriptions an event matches, and the sentence that says why or why not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from fhirserver.fhir import Resource
from fhirserver.fhir.definitions import Definitions
from fhirserver.search.index import Entry, indexer
from fhirserver.search.query import Clause
from fhirserver.subscriptions.criteria import FHIRPATH, FILTER, Compiler
from fhirserver.subscriptions.match import Event, Subscriptions
from fhirserver.subscriptions.topics import TOPIC, Catalogue

DEFINITIONS = Definitions.load()
TOPICS = Path(__file__).parents[3] / "capability" / "topics" / "topics.yaml"
CATALOGUE = Catalogue.read(yaml.safe_load(TOPICS.read_text()))
INDEXERS = {type: indexer(DEFINITIONS, type) for type in ("Patient", "Observation", "Appointment")}

HEMOGLOBIN = {
    "resourceType": "Observation", "id": "o1", "status": "final",
    "code": {"coding": [{"system": "http://loinc.org", "code": "718-7"}]},
    "subject": {"reference": "Patient/p1"},
    "valueQuantity": {"value": 7.2, "unit": "g/dL", "system": "http://unitsofmeasure.org", "code": "g/dL"},
}  # fmt: skip
PATIENT = {"resourceType": "Patient", "id": "p1", "active": True, "gender": "female"}


def index(resource: Resource) -> Entry:
    return INDEXERS[resource["resourceType"]](resource)


def compiled(*subscriptions: Resource, topics: Mapping[str, Resource] | None = None) -> Subscriptions:
    return Subscriptions.compiled(Compiler(DEFINITIONS, CATALOGUE, topics or {}), subscriptions)


def asking(criteria: str, id: str = "s1", **more: Any) -> Resource:
    return {"resourceType": "Subscription", "id": id, "status": "active", "criteria": criteria, **more}


def event(
    *versions: Resource, action: str = "create", before: Resource | None = None, found: bool = False, **more: Any
) -> Event:
    """An event of one change per resource; `before` is the version that an update or deletion found."""
    number = 1 if action == "create" else 2
    changes = [{"type": v["resourceType"], "id": v["id"], "version": number, "action": action} for v in versions]
    known = {(v["resourceType"], v["id"], number): v for v in versions}
    if before:
        known[before["resourceType"], before["id"], 1] = before

    def joined(type: str, id: str, clause: Clause) -> bool:
        return found

    document = {"id": "e1", "changes": changes, "trigger": None, "names": [], **more}
    return Event(document, lambda type, id, version: known.get((type, id, version)), joined, index)


def matched(criteria: str | Resource, happened: Event, **more: Any) -> bool:
    subscription = asking(criteria) if isinstance(criteria, str) else criteria
    subscriptions = compiled(subscription, **more)
    found = bool(subscriptions.matching(happened))
    explained, why = subscriptions.explain("s1", happened)
    assert explained is found, why
    assert why
    return found


NAMES = [
    # criteria, trigger, action on a Patient, expected
    ("create.patient", None, "create", True),
    ("create.patient", None, "update", False),
    ("CREATE.PATIENT", None, "create", False),
    ("create.Patient", None, "create", True),
    ("update.patient", None, "update", True),
    ("delete.patient", None, "delete", True),
    ("create.patient", "ADT_A08", "create", True),
    ("create.patient", "ADT_A08", "update", False),
    ("update.patient", "ADT_A08", "update", True),
    ("create.patient", "ADT_A28", "update", True),
    ("merge.patient", "ADT_A40", "update", True),
    ("merge.patient", "ADT_A08", "update", False),
    ("ADT_A01", "ADT_A01", "create", True),
    ("ADT_A01", "ADT_A04", "create", False),
    ("create.encounter", "ADT_A01", "create", True),
    ("create.encounter", None, "create", False),
    ("update.encounter", "ADT_A03", "update", True),
    ("cancel.encounter", "ADT_A11", "update", True),
    ("cancel.appointment", "SIU_S15", "update", True),
    ("create.observation", None, "create", False),
]  # fmt: skip


@pytest.mark.parametrize(("criteria", "trigger", "action", "expected"), NAMES)
def test_names_and_triggers(criteria: str, trigger: str | None, action: str, expected: bool) -> None:
    assert matched(criteria, event(PATIENT, action=action, before=PATIENT, trigger=trigger)) is expected


def test_a_message_that_changed_nothing_still_happened() -> None:
    happened = event(trigger="ADT_A01")
    assert matched("ADT_A01", happened)
    assert matched("create.encounter", happened)
    assert not matched("Encounter", happened)


SEARCHES = [
    ("Observation?code=http://loinc.org|718-7&value-quantity=gt5", True),
    ("Observation?code=http://loinc.org|718-7&value-quantity=gt8", False),
    ("Observation?code=http://loinc.org|718-7&value-quantity=lt80|http://unitsofmeasure.org|g/L", True),
    ("Observation?code=718-8,718-7", True),
    ("Observation?code:not=718-7", False),
    ("Observation?subject=Patient/p1", True),
    ("Observation?subject=Patient/p2", False),
    ("Observation?status=final&_id=o1", True),
    ("Observation?_id=o2", False),
    ("Observation?component-code:missing=true", True),
    ("Observation", True),
    ("Observation?", True),
    ("Patient?active=true", False),
]


@pytest.mark.parametrize(("criteria", "expected"), SEARCHES)
@pytest.mark.parametrize("action", ["create", "update"])
def test_search_criteria(criteria: str, expected: bool, action: str) -> None:
    assert matched(criteria, event(HEMOGLOBIN, action=action)) is expected


def test_search_criteria_say_nothing_about_deletions() -> None:
    assert not matched("Observation?status=final", event(HEMOGLOBIN, action="delete", before=HEMOGLOBIN))


@pytest.mark.parametrize("found", [True, False])
def test_chains_are_asked_of_the_store(found: bool) -> None:
    assert matched("Observation?subject:Patient.name=smith", event(HEMOGLOBIN, found=found)) is found


def with_path(text: str) -> Resource:
    return asking("Patient", extension=[{"url": FHIRPATH, "valueString": text}])


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("%current.gender = 'female' and %previous.gender = 'male'", True),
        ("%current.gender != %previous.gender", True),
        ("%current.gender = %previous.gender", False),
        ("gender = 'female'", True),
        ("%previous.empty()", False),
        ("birthDate > today()", False),
        ("name.given.first().length() > 3", False),
    ],
)
def test_fhirpath_criteria_see_both_versions(path: str, expected: bool) -> None:
    assert matched(with_path(path), event(PATIENT, action="update", before={**PATIENT, "gender": "male"})) is expected


def test_at_a_creation_there_is_no_previous_version() -> None:
    assert matched(with_path("%previous.empty()"), event(PATIENT))


def test_a_fhirpath_that_cannot_be_evaluated_does_not_hold() -> None:
    assert not matched(with_path("gender + 1 = 2"), event(PATIENT))


TOPIC_RESOURCE: Resource = {
    "resourceType": "SubscriptionTopic", "id": "low", "url": "http://hospital.example/low", "status": "active",
    "resourceTrigger": [
        {"resource": "Patient", "supportedInteraction": ["update"],
         "queryCriteria": {"previous": "gender=male", "current": "gender=female", "requireBoth": True}},
        {"resource": "Observation", "supportedInteraction": ["create", "delete"]},
    ],
}  # fmt: skip
TOPIC_MAP = {TOPIC_RESOURCE["url"]: TOPIC_RESOURCE}


@pytest.mark.parametrize(
    ("happened", "expected"),
    [
        (event(PATIENT, action="update", before={**PATIENT, "gender": "male"}), True),
        (event(PATIENT, action="update", before=PATIENT), False),
        (event(PATIENT), False),
        (event(HEMOGLOBIN), True),
        (event(HEMOGLOBIN, action="update", before=HEMOGLOBIN), False),
        (event(HEMOGLOBIN, action="delete", before=HEMOGLOBIN), True),
    ],
)
def test_a_topic_says_what_triggers_it(happened: Event, expected: bool) -> None:
    assert matched("http://hospital.example/low", happened, topics=TOPIC_MAP) is expected
    assert matched("http://hospital.example/low|1.0", happened, topics=TOPIC_MAP) is expected


def test_filters_of_a_topic_must_all_hold() -> None:
    def filtered(*filters: str) -> Resource:
        extension = [{"url": FILTER, "valueString": text} for text in filters]
        return asking("http://hospital.example/obs", _criteria={"extension": extension})

    topic = {**TOPIC_RESOURCE, "resourceTrigger": [{"resource": "Observation"}]}
    topics = {"http://hospital.example/obs": topic}
    assert matched(filtered("Observation?code=718-7"), event(HEMOGLOBIN), topics=topics)
    assert matched(filtered("code=718-7", "Observation?subject=Patient/p1"), event(HEMOGLOBIN), topics=topics)
    assert not matched(filtered("code=718-7", "subject=Patient/p2"), event(HEMOGLOBIN), topics=topics)
    refused = compiled(filtered("Patient?gender=male"), topics=topics)
    assert "not about a resource of this topic" in refused.refused["s1"]


def test_the_shipped_topics_work_by_their_canonical_urls() -> None:
    topics = {topic["url"]: topic for topic in CATALOGUE.resources()}
    assert matched(TOPIC + "ADT-A01", event(PATIENT, trigger="ADT_A01"), topics=topics)
    assert matched(TOPIC + "create.patient", event(PATIENT), topics=topics)
    assert not matched(TOPIC + "ADT-A01", event(PATIENT, trigger="ADT_A04"), topics=topics)


def test_a_topic_that_the_organization_has_not_activated_stops_its_name() -> None:
    draft = {**next(t for t in CATALOGUE.resources() if t["id"] == "ADT-A01"), "status": "draft"}
    subscriptions = compiled(asking("ADT_A01"), topics={"ADT_A01": draft})
    assert "draft, not active" in subscriptions.refused["s1"]


def test_an_organizations_topic_may_add_a_condition() -> None:
    shipped = next(t for t in CATALOGUE.resources() if t["id"] == "create.patient")
    narrowed = {**shipped, "extension": [{"url": FHIRPATH, "valueString": "gender = 'male'"}]}
    assert not matched("create.patient", event(PATIENT), topics={"create.patient": narrowed})
    assert matched("create.patient", event({**PATIENT, "gender": "male"}), topics={"create.patient": narrowed})


@pytest.mark.parametrize(
    ("before", "after", "criteria"),
    [
        ({"status": "booked"}, {"status": "cancelled"}, "cancel.appointment"),
        ({"status": "booked"}, {"status": "entered-in-error"}, "cancel.appointment"),
    ],
)
def test_a_write_over_rest_can_cancel(before: Resource, after: Resource, criteria: str) -> None:
    appointment = {"resourceType": "Appointment", "id": "a1"}
    earlier, later = {**appointment, **before}, {**appointment, **after}
    assert matched(criteria, event(later, action="update", before=earlier))
    assert not matched(criteria, event(later, action="update", before=later)), "it was cancelled before"
    assert not matched(criteria, event(earlier, action="update", before=earlier))


def test_a_write_over_rest_can_merge() -> None:
    link = {"link": [{"type": "replaced-by", "other": {"reference": "Patient/p2"}}]}
    assert matched("merge.patient", event({**PATIENT, **link}, action="update", before=PATIENT))
    assert not matched("merge.patient", event(PATIENT, action="update", before={**PATIENT, **link}))


@pytest.mark.parametrize(
    "criteria", ["Observation?nonsense=1", "Observation?date=never", "Nothing?x=y", "http://unknown.example/topic"]
)
def test_criteria_that_cannot_be_matched_are_set_aside_with_the_reason(criteria: str) -> None:
    subscriptions = compiled(asking(criteria), asking("Observation", id="s2"))
    assert list(subscriptions.refused) == ["s1"]
    assert [match.subscription for match in subscriptions.matching(event(HEMOGLOBIN))] == ["s2"]
    assert subscriptions.explain("s1", event(HEMOGLOBIN)) == (False, subscriptions.refused["s1"])


def test_the_focus_is_what_matched_and_a_subscription_is_matched_once() -> None:
    subscriptions = compiled(asking("Patient?active=true"), asking("ADT_A01", id="s2"))
    happened = event(PATIENT, HEMOGLOBIN, trigger="ADT_A01")
    found = {
        match.subscription: [change.reference for change in match.changes] for match in subscriptions.matching(happened)
    }
    assert found == {"s1": ["Patient/p1"], "s2": ["Patient/p1", "Observation/o1"]}


def test_why_not_names_the_condition_that_failed() -> None:
    subscriptions = compiled(asking("Observation?code=718-7&value-quantity=gt8"))
    assert subscriptions.explain("s1", event(HEMOGLOBIN)) == (
        False,
        "The event is Observation, but Observation?code=718-7&value-quantity=gt8 does not hold of Observation/o1.",
    )
    assert "not Observation" in subscriptions.explain("s1", event(PATIENT))[1]
    assert subscriptions.explain("gone", event(PATIENT)) == (False, "The subscription is not active.")


def test_versions_are_read_only_where_a_criterion_asks_for_them() -> None:
    reads: list[tuple[str, str, int]] = []

    def versions(type: str, id: str, version: int) -> Resource | None:
        reads.append((type, id, version))
        return HEMOGLOBIN

    changes = [{"type": "Observation", "id": "o1", "version": 2, "action": "update"}]
    document = {"id": "e1", "changes": changes, "trigger": None}
    happened = Event(document, versions, lambda *_: False, index)
    compiled(asking("update.observation"), asking("Patient?active=true", id="s2")).matching(happened)
    assert reads == []
    compiled(*(asking("Observation?code=718-7", id=f"s{n}") for n in range(50))).matching(happened)
    assert reads == [("Observation", "o1", 2)], "fifty subscriptions share one reading"
