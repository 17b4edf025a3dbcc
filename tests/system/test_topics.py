"""The topic catalogue: shipped as drafts, activated by organizations with conditions and shapes of their own."""

from __future__ import annotations

from typing import Any

import pytest

from fhirserver.interactions.publishing import publish
from fhirserver.subscriptions.criteria import FHIRPATH, FILTER
from fhirserver.subscriptions.topics import CONDITION, TOPIC
from tests.system.delivering import CATALOGUE, REGISTRY, SCOPE, Exchange

OBSERVATION = {"status": "final", "code": {"coding": [{"system": "http://loinc.org", "code": "718-7"}]}}


def activate(exchange: Exchange, id: str, status: str = "active", **elements: Any) -> dict[str, Any]:
    """The hospital's own of a shipped topic."""
    shipped: dict[str, Any] = next(topic for topic in CATALOGUE.resources() if topic["id"] == id)
    path = f"{exchange.base}/SubscriptionTopic/{id}"
    made: dict[str, Any] = exchange.call("PUT", path, "hospital", {**shipped, "status": status, **elements})
    assert made["resourceType"] == "SubscriptionTopic", made
    return made


def govern(exchange: Exchange, governed: bool, who: str = "hospital", status: int = 200) -> Any:
    body = {"resourceType": "Parameters", "parameter": [{"name": "governed", "valueBoolean": governed}]}
    return exchange.call("POST", f"{exchange.base}/SubscriptionTopic/$govern", who, body, status)


def topics(exchange: Exchange, query: str = "") -> dict[str, str]:
    bundle = exchange.call("GET", f"{exchange.base}/Subscription/$topics{query}", "client", None, 200)
    return {each["resource"]["id"]: each["resource"]["status"] for each in bundle["entry"]}


def asking(exchange: Exchange, criteria: str, *filters: str) -> dict[str, Any]:
    channel = {"type": "rest-hook", "endpoint": exchange.receiver.url(), "payload": "application/fhir+json"}
    made: dict[str, Any] = {"resourceType": "Subscription", "reason": "test", "criteria": criteria, "channel": channel}
    if filters:
        made["_criteria"] = {"extension": [{"url": FILTER, "valueString": text} for text in filters]}
    return made


def observe(exchange: Exchange, patient: str, **elements: Any) -> str:
    made = {"resourceType": "Observation", **OBSERVATION, "subject": {"reference": f"Patient/{patient}"}, **elements}
    return str(exchange.call("POST", f"{exchange.base}/Observation", "hospital", made, 201)["id"])


def test_what_is_shipped_lies_on_the_registry_as_drafts_that_nobody_writes(exchange: Exchange) -> None:
    server = exchange.installation.server
    shipped = list(CATALOGUE.resources())
    publish(server, CATALOGUE.drafts(), TOPIC)
    assert publish(server, CATALOGUE.drafts(), TOPIC) == 0, "what is there already stays"
    bundle = exchange.call("GET", f"{REGISTRY}/SubscriptionTopic?_count=500&status=draft", "hospital", None, 200)
    found = {each["resource"]["url"]: each["resource"] for each in bundle["entry"]}
    assert {topic["url"] for topic in shipped} <= set(found)
    assert "create.encounter" in found[f"{TOPIC}ADT-A01"]["description"]
    exchange.subscribe(f"{TOPIC}create.patient")
    exchange.patient()
    exchange.run()
    assert len(exchange.receiver.arrived) == 1, "a draft of the catalogue says nothing about what fires"


def test_an_organization_narrows_what_fires_by_criteria_and_fhirpath(exchange: Exchange) -> None:
    search, path = (
        {"url": CONDITION, "valueString": "Patient?gender=female"},
        {"url": FHIRPATH, "valueString": "active"},
    )
    activate(exchange, "create.patient", extension=[search, path])
    exchange.subscribe("create.patient")
    exchange.patient(gender="male")
    exchange.patient(gender="female", active=False)
    told = exchange.patient(gender="female")
    exchange.run()
    assert [bundle["entry"][1]["resource"]["id"] for bundle in exchange.bundles()] == [told]


@pytest.mark.parametrize(
    "elements",
    [
        {"extension": [{"url": CONDITION, "valueString": "Observation?code=x"}]},
        {"extension": [{"url": CONDITION, "valueString": "nonsense=x"}]},
        {"canFilterBy": [{"filterParameter": "nonsense"}]},
        {"notificationShape": [{"resource": "Patient", "include": ["Patient:gender"]}]},
        {"notificationShape": [{"resource": "Patient", "include": ["Encounter:patient"]}]},
        {"notificationShape": [{"resource": "Nothing"}]},
    ],
)
def test_a_topic_that_could_not_be_honoured_is_refused(exchange: Exchange, elements: dict[str, Any]) -> None:
    shipped = next(topic for topic in CATALOGUE.resources() if topic["id"] == "create.patient")
    path = f"{exchange.base}/SubscriptionTopic/create.patient"
    exchange.call("PUT", path, "hospital", {**shipped, **elements}, 400)


def test_a_governed_catalogue_needs_activation(exchange: Exchange) -> None:
    before = exchange.subscribe("create.patient")
    stopped = govern(exchange, True)
    assert stopped["parameter"] == [
        {"name": "governed", "valueBoolean": True},
        {"name": "stopped", "valueReference": {"reference": f"Subscription/{before['id']}"}},
    ]
    assert topics(exchange) == {}
    assert topics(exchange, "?all=true")["create.patient"] == "draft"
    for criteria in ("create.patient", "ADT_A01", f"{TOPIC}create.patient"):
        exchange.call("POST", f"{exchange.base}/Subscription", "client", asking(exchange, criteria), 422)
    exchange.patient()
    exchange.run()
    assert exchange.receiver.arrived == []
    activate(exchange, "create.patient")
    assert topics(exchange) == {"create.patient": "active"}
    for criteria in ("create.patient", f"{TOPIC}create.patient", "Patient?gender=male"):
        exchange.call("POST", f"{exchange.base}/Subscription", "client", asking(exchange, criteria), 201)
    exchange.patient()
    exchange.run()
    assert len(exchange.receiver.arrived) == 1
    activate(exchange, "create.patient", "retired")
    exchange.patient()
    exchange.run()
    assert len(exchange.receiver.arrived) == 1
    assert govern(exchange, False)["parameter"][0]["valueBoolean"] is False
    assert "ADT-A01" in topics(exchange)


def test_only_an_administrator_governs(exchange: Exchange) -> None:
    govern(exchange, True, "client", 403)
    told = exchange.call("GET", f"{exchange.base}/SubscriptionTopic/$govern", "hospital", None)
    assert told["resourceType"] == "OperationOutcome", "it may change state, so it is a POST"
    told = exchange.call("POST", f"{exchange.base}/SubscriptionTopic/$govern", "hospital", None, 200)
    assert told["parameter"] == [{"name": "governed", "valueBoolean": False}]


def own_topic(exchange: Exchange, **elements: Any) -> str:
    url = "http://hospital.example/results"
    topic = {"resourceType": "SubscriptionTopic", "url": url, "status": "active"}
    trigger = {"resource": "Observation", "supportedInteraction": ["create", "update"]}
    made = {**topic, "resourceTrigger": [trigger], **elements}
    exchange.call("POST", f"{exchange.base}/SubscriptionTopic", "hospital", made, 201)
    return url


FILTERS: list[tuple[str, bool]] = [
    ("Observation?code=718-7", True),
    ("code=http://loinc.org|718-7", True),
    ("code:in=http://x.example/vs", False),
    ("status=final", False),
    ("date=gt2026-01-01", True),
    ("date=2026-01-01", False),
]


def test_a_topic_says_what_it_can_be_filtered_by(exchange: Exchange) -> None:
    rows = [{"filterParameter": "code", "resource": "Observation"}, {"filterParameter": "date", "comparator": ["gt"]}]
    url = own_topic(exchange, canFilterBy=rows)
    for filter, accepted in FILTERS:
        answer = exchange.call("POST", f"{exchange.base}/Subscription", "client", asking(exchange, url, filter))
        assert (answer["resourceType"] == "Subscription") is accepted, filter
        if not accepted:
            assert "code, date" in answer["issue"][0]["diagnostics"]


@pytest.mark.parametrize("content", ["", "full-resource", "id-only"])
def test_a_shape_says_what_is_told_of_beside_the_focus(exchange: Exchange, content: str) -> None:
    shape = {"resource": "Observation", "include": ["Observation:subject", "Observation:encounter"]}
    url = own_topic(exchange, notificationShape=[{**shape, "revInclude": ["Observation:has-member"]}])
    subscription = exchange.subscribe(url, content=content)
    exchange.run()
    exchange.receiver.arrived.clear()
    patient = exchange.patient()
    one = observe(exchange, patient)
    panel = observe(exchange, patient, hasMember=[{"reference": f"Observation/{one}"}])
    exchange.update(patient, gender="male")
    exchange.run()
    first, _ = exchange.bundles()
    urls = {entry["fullUrl"].split("/fhir/4/")[-1] for entry in first["entry"][1:]}
    assert urls == {f"Observation/{one}", f"Patient/{patient}", f"Observation/{panel}"}
    [told, _] = exchange.deliveries(subscription)
    actions = {each["reference"]["reference"]: each["action"] for each in told["change"]}
    assert actions == {
        f"Observation/{one}": "create",
        f"Patient/{patient}": "include",
        f"Observation/{panel}": "include",
    }
    if content:
        for entry in first["entry"]:
            assert entry["request"]
            assert entry["response"]
            assert ("resource" in entry) is (content == "full-resource" or entry is first["entry"][0])


def test_what_a_shape_includes_is_held_against_the_clients_scopes(exchange: Exchange) -> None:
    narrow = SCOPE.replace("system/Patient.cruds ", "")
    client = exchange.call("GET", f"{REGISTRY}/ClientApplication/{exchange.client}", "acme", None, 200)
    url = own_topic(exchange, notificationShape=[{"resource": "Observation", "include": ["Observation:subject"]}])
    exchange.subscribe(url)
    exchange.call("PUT", f"{REGISTRY}/ClientApplication/{exchange.client}", "acme", {**client, "scope": narrow}, 200)
    one = observe(exchange, exchange.patient())
    exchange.run()
    [bundle] = exchange.bundles()
    assert [entry["resource"]["id"] for entry in bundle["entry"][1:]] == [one]
