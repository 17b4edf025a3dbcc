"""Subscription: requested, decided by the organization, then fixed; its secrets never in the resource."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fhirserver.auth.principal import Principal
from fhirserver.auth.secrets import Vault
from fhirserver.fhir import Resource
from fhirserver.fhir.problem import Problem
from fhirserver.rules import subscription as rule
from fhirserver.rules.model import Context, Prepared
from tests.unit.rules.conftest import NOW, VAULT, definitions, faults

ASKED = {
    "resourceType": "Subscription",
    "reason": "To greet new patients",
    "criteria": "create.patient",
    "channel": {
        "type": "rest-hook",
        "endpoint": "https://app.example/hook",
        "payload": "application/fhir+json",
        "header": ["Authorization: Bearer abc", "X-Tenant: 7"],
    },
}


@pytest.fixture
def context(made: Any, people: dict[str, Principal]) -> Context:
    made_: Context = made(people["client"], "hospital", registry="https://x.example/1/health/fhir/4")
    return made_


@pytest.fixture
def hospital(made: Any, people: dict[str, Principal]) -> Context:
    made_: Context = made(people["hospital"], "hospital")
    return made_


def with_channel(**changes: Any) -> Resource:
    channel = {**ASKED["channel"], **changes}  # type: ignore[dict-item]
    return {**ASKED, "channel": {name: value for name, value in channel.items() if value is not None}}


def requested(context: Context, resource: Resource = ASKED) -> Prepared:
    return rule.create(context, dict(resource))


def approved(context: Context, hospital: Context) -> Prepared:
    prepared = requested(context)
    return rule.step(hospital, prepared.resource, prepared.private or {}, "approve", "welcome")


def test_a_new_subscription_is_requested_by_its_client_and_valid(context: Context) -> None:
    prepared = requested(context)
    assert faults(prepared.resource) == []
    assert prepared.resource["status"] == "requested"
    assert rule.owner(prepared.resource) == "cli"
    assert rule.decision(prepared.resource) is None
    extension = prepared.resource["extension"][0]["valueReference"]
    assert extension["reference"] == "https://x.example/1/health/fhir/4/ClientApplication/cli"


def test_header_values_and_signing_secret_are_kept_encrypted_and_out_of_the_resource(
    context: Context, vault: Vault
) -> None:
    prepared = requested(context)
    assert prepared.private is not None
    assert prepared.shown is not None
    assert prepared.resource["channel"]["header"] == ["Authorization: ********", "X-Tenant: ********"]
    assert [vault.decrypt(entry["value"]) for entry in prepared.private["headers"]] == ["Bearer abc", "7"]
    secret = prepared.shown["channel"]["extension"][0]["valueString"]
    assert secret.startswith("whsec_")
    assert vault.decrypt(prepared.private["signing"]) == secret
    stored = json.dumps([prepared.resource, prepared.private])
    assert secret not in stored
    assert "Bearer abc" not in stored
    assert faults(prepared.shown) == []


def test_status_reason_and_payload_are_filled_in_and_the_client_cannot_be_forged(context: Context) -> None:
    forged = {"url": rule.CLIENT, "valueReference": {"identifier": {"value": "another"}}}
    decided = {"url": rule.DECISION, "extension": [{"url": "action", "valueCode": "approve"}]}
    sent = {**with_channel(payload=None), "status": "active", "extension": [forged, decided]}
    sent.pop("reason")
    prepared = requested(context, sent)
    assert prepared.resource["status"] == "requested"
    assert prepared.resource["reason"] == "Requested by CLI, without a reason given."
    assert prepared.resource["channel"]["payload"] == "application/fhir+json"
    assert rule.owner(prepared.resource) == "cli"
    changed = rule.update(context, prepared.resource, prepared.private or {}, {**sent, "reason": "x"})
    assert rule.decision(changed.resource) is None


@pytest.mark.parametrize(
    ("sent", "status", "expression"),
    [
        ({**ASKED, "criteria": ""}, 400, "Subscription.criteria"),
        ({**ASKED, "criteria": None}, 400, "Subscription.criteria"),
        ({**ASKED, "criteria": "create.spaceship"}, 400, "Subscription.criteria"),
        ({**ASKED, "criteria": "create.auditevent"}, 400, "Subscription.criteria"),
        ({**ASKED, "criteria": "Subscription?status=active"}, 400, "Subscription.criteria"),
        ({**ASKED, "criteria": "AuditEvent"}, 400, "Subscription.criteria"),
        ({**ASKED, "criteria": "Nothing?x=y"}, 400, "Subscription.criteria"),
        ({**ASKED, "criteria": "x" * 5000}, 400, "Subscription.criteria"),
        ({**ASKED, "channel": None}, 400, "Subscription.channel"),
        ({**ASKED, "channel": "hook"}, 400, "Subscription.channel"),
        (with_channel(type="email"), 400, "Subscription.channel.type"),
        (with_channel(type=None), 400, "Subscription.channel.type"),
        (with_channel(payload="application/fhir+xml"), 400, "Subscription.channel.payload"),
        (with_channel(endpoint=None), 400, "Subscription.channel.endpoint"),
        (with_channel(endpoint="http://app.example/hook"), 400, "Subscription.channel.endpoint"),
        (with_channel(endpoint="ftp://app.example"), 400, "Subscription.channel.endpoint"),
        (with_channel(endpoint="https://"), 400, "Subscription.channel.endpoint"),
        (with_channel(endpoint="https://user:pw@app.example"), 400, "Subscription.channel.endpoint"),
        (with_channel(endpoint="https://app.example:99999/"), 400, "Subscription.channel.endpoint"),
        (with_channel(endpoint="https://app.example/#x"), 400, "Subscription.channel.endpoint"),
        (with_channel(endpoint=["https://app.example"]), 400, "Subscription.channel.endpoint"),
        (with_channel(header=["no colon"]), 400, "Subscription.channel.header[0]"),
        (with_channel(header=["X-A: 1", "X-B: 2\r\nHost: x"]), 400, "Subscription.channel.header[1]"),
        (with_channel(header=["Host: x"]), 400, "Subscription.channel.header[0]"),
        (with_channel(header=["Webhook-Signature: x"]), 400, "Subscription.channel.header[0]"),
        (with_channel(header=["X-A: 1"] * 30), 400, "Subscription.channel.header"),
        (with_channel(header="X-A: 1"), 400, "Subscription.channel.header"),
        ({**ASKED, "end": "2020-01-01T00:00:00Z"}, 400, "Subscription.end"),
    ],
)
def test_what_cannot_be_served_is_refused_with_its_element(
    context: Context, sent: Resource, status: int, expression: str
) -> None:
    with pytest.raises(Problem) as refusal:
        requested(context, sent)
    assert refusal.value.status == status
    assert refusal.value.issues[0].expression == (expression,)


@pytest.mark.parametrize(
    "criteria", ["create.patient", "update.encounter", "ADT_A01", "Observation?code=http://loinc.org|718-7", "Patient"]
)
def test_events_triggers_and_searches_are_criteria(context: Context, criteria: str) -> None:
    assert requested(context, {**ASKED, "criteria": criteria}).resource["criteria"] == criteria


def test_http_is_for_operators_who_allow_it(made: Any, people: dict[str, Principal]) -> None:
    allowed = made(people["client"], "hospital", allow_http=True)
    assert requested(allowed, with_channel(endpoint="http://127.0.0.1:9000/hook")).resource["status"] == "requested"


def test_it_can_be_changed_until_the_organization_decides(context: Context, vault: Vault) -> None:
    first = requested(context)
    sent = {**first.resource, "criteria": "update.patient"}
    changed = rule.update(context, first.resource, first.private or {}, sent)
    assert changed.resource["criteria"] == "update.patient"
    assert changed.private == first.private
    assert changed.shown is None
    new = {**sent, "channel": {**sent["channel"], "header": ["Authorization: Bearer new", "X-Tenant: ********"]}}
    changed = rule.update(context, changed.resource, changed.private or {}, new)
    assert [vault.decrypt(entry["value"]) for entry in (changed.private or {})["headers"]] == ["Bearer new", "7"]


def test_approval_activates_it_and_says_who_when_and_why(context: Context, hospital: Context) -> None:
    prepared = approved(context, hospital)
    assert prepared.resource["status"] == "active"
    assert rule.decision(prepared.resource) == {
        "action": "approve",
        "when": "2026-01-01T12:00:00.000Z",
        "who": "Ann hospital",
        "note": "welcome",
    }
    assert faults(prepared.resource) == []
    assert prepared.private == requested(context).private or prepared.private is not None


@pytest.mark.parametrize("who", ["client", "acme", "hospital member", "other", "operator", "local acme"])
def test_nobody_but_the_organizations_administrator_decides(made: Any, people: dict[str, Principal], who: str) -> None:
    prepared = requested(made(people["client"], "hospital"))
    with pytest.raises(Problem) as refusal:
        rule.step(made(people[who], "hospital"), prepared.resource, {}, "approve")
    assert refusal.value.status == 403


def test_a_decision_is_made_once(context: Context, hospital: Context) -> None:
    with pytest.raises(Problem) as refusal:
        rule.step(hospital, approved(context, hospital).resource, {}, "reject")
    assert refusal.value.status == 409


@pytest.mark.parametrize(
    ("status", "wanted", "after"),
    [
        ("active", "off", "off"),
        ("off", "active", "active"),
        ("off", "requested", "active"),
        ("error", "requested", "active"),
    ],
)
def test_after_approval_the_status_can_change(
    context: Context, hospital: Context, status: str, wanted: str, after: str
) -> None:
    prepared = approved(context, hospital)
    previous = {**prepared.resource, "status": status}
    changed = rule.update(context, previous, prepared.private or {}, {**previous, "status": wanted})
    assert changed.resource["status"] == after
    assert changed.private == prepared.private


def test_after_approval_the_original_text_with_another_status_is_still_the_same(
    context: Context, hospital: Context
) -> None:
    prepared = approved(context, hospital)
    sent = {**ASKED, "status": "off"}
    assert rule.update(context, prepared.resource, prepared.private or {}, sent).resource["status"] == "off"


@pytest.mark.parametrize(
    "changes",
    [
        {"criteria": "update.patient"},
        {"reason": "other"},
        with_channel(endpoint="https://evil.example/hook"),
        with_channel(header=["Authorization: Bearer other", "X-Tenant: 7"]),
        with_channel(header=["Authorization: Bearer abc"]),
        {"end": "2030-01-01T00:00:00Z"},
        {"status": "error"},
    ],
)
def test_after_approval_nothing_else_can_change(context: Context, hospital: Context, changes: Resource) -> None:
    prepared = approved(context, hospital)
    with pytest.raises(Problem) as refusal:
        rule.update(context, prepared.resource, prepared.private or {}, {**prepared.resource, **changes})
    assert refusal.value.status == 422


def test_a_rejected_one_may_be_changed_and_asked_for_again(context: Context, hospital: Context) -> None:
    first = requested(context)
    rejected = rule.step(hospital, first.resource, first.private or {}, "reject", "not now")
    assert rejected.resource["status"] == "off"
    again = rule.update(context, rejected.resource, first.private or {}, {**rejected.resource, "criteria": "ADT_A01"})
    assert again.resource["status"] == "requested"
    assert rule.decision(again.resource) is None


def test_a_subscription_belongs_to_an_organization(made: Any, people: dict[str, Principal]) -> None:
    with pytest.raises(Problem, match="organization's base"):
        requested(made(people["client"]))


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["url", "type", "header", "x"]), inner),
    max_leaves=8,
)


@settings(max_examples=200)
@given(st.dictionaries(st.sampled_from(["criteria", "channel", "reason", "end", "extension", "status"]), junk), junk)
def test_no_body_breaks_the_rule(changes: dict[str, Any], channel: Any) -> None:
    principal = Principal("client", "cli")
    context = Context(
        principal,
        "hospital",
        NOW,
        lambda: "i",
        lambda: "s",
        VAULT.seal,
        VAULT.matches,
        VAULT.encrypt,
        definitions(),
        allow_http=True,
    )
    for sent in ({**ASKED, **changes}, with_channel(header=channel), with_channel(extension=channel)):
        try:
            rule.create(context, sent)
        except Problem:
            continue
