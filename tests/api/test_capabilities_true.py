"""The CapabilityStatement tells the truth: of every type on every base, what it says can be done, what it does not say
is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.api.client import Answer, Api

ABSENT = "there-is-none"
PATCH = {"Content_Type": "application/json-patch+json"}


def _resource(type: str) -> dict[str, Any]:
    return {"resourceType": type, "id": ABSENT}


PROBES: dict[str, Callable[[Api, str], Answer]] = {
    "read": lambda api, type: api.get(f"{type}/{ABSENT}"),
    "vread": lambda api, type: api.get(f"{type}/{ABSENT}/_history/1"),
    "update": lambda api, type: api.put(f"{type}/{ABSENT}", _resource(type)),
    "patch": lambda api, type: api.patch(f"{type}/{ABSENT}", [], **PATCH),
    "delete": lambda api, type: api.delete(f"{type}/{ABSENT}"),
    "history-instance": lambda api, type: api.get(f"{type}/{ABSENT}/_history"),
    "history-type": lambda api, type: api.get(f"{type}/_history"),
    "create": lambda api, type: api.post(type, {"resourceType": type}),
    "search-type": lambda api, type: api.get(f"{type}?_id={ABSENT}"),
}
CONDITIONAL: dict[str, Callable[[Api, str], Answer]] = {
    "conditionalCreate": lambda api, type: api.post(type, {"resourceType": type}, If_None_Exist=f"_id={ABSENT}"),
    "conditionalUpdate": lambda api, type: api.put(f"{type}?_id={ABSENT}", {"resourceType": type}),
    "conditionalDelete": lambda api, type: api.delete(f"{type}?_id={ABSENT}"),
    "updateCreate": lambda api, type: api.put(f"{type}/{ABSENT}", _resource(type)),
}


def refused(answer: Answer) -> bool:
    """Whether this can be had by nobody; a body that is too little, or a resource that is not there, says nothing."""
    issues = answer.json["issue"] if answer.data and answer.json.get("resourceType") == "OperationOutcome" else []
    return answer.status in (405, 501) or any(each["code"] == "not-supported" for each in issues)


@pytest.fixture(scope="module", params=["registry", "organization"])
def base(request: pytest.FixtureRequest, registry: Api, new_base: Callable[..., Api]) -> Api:
    """Somebody who may do everything that anybody may, on each kind of base."""
    return registry if request.param == "registry" else new_base()


def listed(base: Api) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = base.get("metadata").json["rest"][0]["resource"]
    return found


@pytest.mark.parametrize("code", PROBES)
def test_of_every_type_that_is_listed_which_can_be_done(base: Api, code: str) -> None:
    said = {each["type"]: code in [one["code"] for one in each["interaction"]] for each in listed(base)}
    seen = {type: not refused(PROBES[code](base, type)) for type in said}
    assert seen == said


@pytest.mark.parametrize("name", CONDITIONAL)
def test_of_every_type_that_is_said_to_be_conditional_which_can_be(base: Api, name: str) -> None:
    said = {each["type"]: each[name] not in (False, "not-supported") for each in listed(base)}
    seen = {type: not refused(CONDITIONAL[name](base, type)) for type in said}
    assert seen == said


def test_a_notice_can_be_changed_by_nobody_in_whatever_way(registry: Api) -> None:
    """One that is there is refused before it is looked for."""
    entry = next(each for each in listed(registry) if each["type"] == "Communication")
    codes = {each["code"] for each in entry["interaction"]}
    assert not codes & {"create", "update", "patch", "delete"}
    assert {"read", "search-type"} <= codes


def test_a_message_does_not_come_to_be_but_by_a_message(api: Api) -> None:
    forged = {"resourceType": "InboundMessage", "status": "processed", "lane": "x", "sequence": "1" * 20}
    answer = api.post("InboundMessage", forged)
    assert answer.status == 405
    assert "$process-message" in answer.issue["diagnostics"]


def test_what_is_not_listed_is_not_there(base: Api) -> None:
    types = {each["type"] for each in listed(base)}
    others = {"ClientApplication", "Patient", "AccessPolicy", "Zebra", "Observation", "User"} - types
    assert others
    assert {base.get(type).status for type in others} == {404}


TOPIC = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/capability-subscriptiontopic-canonical"


def topics_said(api: Api) -> set[str]:
    found = next(each for each in listed(api) if each["type"] == "Subscription")
    return {each["valueCanonical"] for each in found.get("extension", ()) if each["url"] == TOPIC}


def test_the_topics_that_are_listed_are_those_that_can_be_subscribed_to(api: Api, new_base: Callable[..., Api]) -> None:
    bundle = api.get("Subscription/$topics").json
    assert topics_said(api) == {each["fullUrl"] for each in bundle["entry"]}
    assert len(topics_said(api)) > 100
    assert api.post("SubscriptionTopic/$govern", GOVERNED).status == 200
    assert topics_said(api) == set()
    nobody = replace(api, token="")
    nowhere = replace(nobody, base=api.base.replace(api.organization, "there-is-none"))
    assert topics_said(nobody) == topics_said(nowhere)  # so nobody learns which organizations there are
    assert len(topics_said(nobody)) > 100
    assert len(topics_said(new_base())) > 100  # of another organization


GOVERNED = {"resourceType": "Parameters", "parameter": [{"name": "governed", "valueBoolean": True}]}


def test_the_registry_lists_no_topic(registry: Api) -> None:
    assert not any("extension" in each for each in listed(registry))
