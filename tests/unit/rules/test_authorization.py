"""ClientAuthorization: every step by every side in every state, and what each leaves behind."""

from __future__ import annotations

from typing import Any

import pytest

from fhirserver.auth.principal import Principal
from fhirserver.fhir import Resource
from fhirserver.fhir.problem import Problem
from fhirserver.rules import RULES, authorization
from fhirserver.rules.authorization import STEPS
from fhirserver.rules.organization import kind_concept
from tests.unit.rules.conftest import faults

CLIENT = {
    "resourceType": "ClientApplication",
    "id": "cli",
    "name": "CLI",
    "kind": "production",
    "active": True,
    "managingOrganization": {"reference": "Organization/acme"},
    "scope": "system/Patient.rs",
}
HOSPITAL = {"resourceType": "Organization", "id": "hospital", "name": "Hospital", "type": [kind_concept("provider")]}
STATUSES = sorted({step.after for step in STEPS.values()})


def asked(made: Any, people: dict[str, Principal], who: str = "acme", existing: Resource | None = None) -> Resource:
    context = made(people[who])
    return authorization.request(context, CLIENT, existing, HOSPITAL, "To show results", "Acme").resource


def test_a_request_is_a_valid_resource_that_says_what_the_hospital_wants_to_know(
    made: Any, people: dict[str, Principal]
) -> None:
    resource = asked(made, people)
    assert faults(resource) == []
    assert resource["id"] == authorization.authorization_id("cli", "hospital")
    assert resource["status"] == "waiting-for-approval"
    assert (resource["clientName"], resource["providerName"], resource["organizationName"]) == (
        "CLI",
        "Acme",
        "Hospital",
    )
    assert resource["scope"] == "system/Patient.rs"
    assert resource["reason"] == "To show results"
    assert resource["decision"] == [
        {
            "action": "request",
            "status": "waiting-for-approval",
            "when": "2026-01-01T12:00:00.000Z",
            "who": {"reference": "User/admin-acme", "display": "Ann acme"},
            "note": "To show results",
        }
    ]


@pytest.mark.parametrize("who", ["acme", "client", "local acme", "local hospital"])
def test_the_applications_side_may_request(made: Any, people: dict[str, Principal], who: str) -> None:
    assert asked(made, people, who)["status"] == "waiting-for-approval"


@pytest.mark.parametrize("who", ["acme member", "hospital", "other", "another client", "operator"])
def test_nobody_else_may_request(made: Any, people: dict[str, Principal], who: str) -> None:
    with pytest.raises(Problem) as refusal:
        asked(made, people, who)
    assert refusal.value.status == 403


@pytest.mark.parametrize("action", sorted(set(STEPS) - {"request"}))
@pytest.mark.parametrize("status", STATUSES)
def test_a_step_leads_where_the_table_says_or_names_the_steps_that_are_possible(
    made: Any, people: dict[str, Principal], action: str, status: str
) -> None:
    step = STEPS[action]
    who = {"application": people["acme"], "provider": people["hospital"], "system": Principal("system", "system")}
    previous = {**asked(made, people), "status": status}
    if status in step.before:
        after = authorization.step(made(who[step.side]), previous, action, "because").resource
        assert after["status"] == step.after
        assert after["decision"][-1]["note"] == "because"
        assert len(after["decision"]) == 2
        assert faults(after) == []
    else:
        with pytest.raises(Problem, match="possible now") as refusal:
            authorization.step(made(who[step.side]), previous, action, "because")
        assert refusal.value.status == 409


@pytest.mark.parametrize(
    ("action", "allowed"),
    [
        ("approve", {"hospital", "local hospital"}),
        ("reject", {"hospital", "local hospital"}),
        ("withdraw", {"acme", "client", "local acme", "local hospital"}),
        ("remove", set()),
    ],
)
def test_only_the_right_side_may_take_a_step(
    made: Any, people: dict[str, Principal], action: str, allowed: set[str]
) -> None:
    previous = asked(made, people)
    for name, principal in people.items():
        if name in allowed:
            assert (
                authorization.step(made(principal), previous, action, "why").resource["status"] == STEPS[action].after
            )
        else:
            with pytest.raises(Problem) as refusal:
                authorization.step(made(principal), previous, action, "why")
            assert refusal.value.status == 403


def test_a_request_and_a_rejection_need_a_reason(made: Any, people: dict[str, Principal]) -> None:
    with pytest.raises(Problem, match="reason"):
        authorization.request(made(people["acme"]), CLIENT, None, HOSPITAL, "  ")
    with pytest.raises(Problem, match="reason"):
        authorization.step(made(people["hospital"]), asked(made, people), "reject")
    with pytest.raises(Problem, match="2000"):
        authorization.step(made(people["hospital"]), asked(made, people), "reject", "x" * 3000)


def test_after_a_rejection_the_client_may_ask_again_but_not_twice_at_once(
    made: Any, people: dict[str, Principal]
) -> None:
    waiting = asked(made, people)
    with pytest.raises(Problem) as refusal:
        asked(made, people, existing=waiting)
    assert refusal.value.status == 409
    rejected = authorization.step(made(people["hospital"]), waiting, "reject", "no").resource
    again = asked(made, people, existing=rejected)
    assert again["status"] == "waiting-for-approval"
    assert [step["action"] for step in again["decision"]] == ["request", "reject", "request"]


def test_only_a_provider_organization_and_an_active_client_take_part(made: Any, people: dict[str, Principal]) -> None:
    context = made(people["acme"])
    for organization in ({**HOSPITAL, "type": [kind_concept("application")]}, {**HOSPITAL, "active": False}):
        with pytest.raises(Problem, match="active provider organization"):
            authorization.request(context, CLIENT, None, organization, "why")
    with pytest.raises(Problem, match="not active"):
        authorization.request(context, {**CLIENT, "active": False}, None, HOSPITAL, "why")


def test_the_resource_shows_at_most_fifty_decisions(made: Any, people: dict[str, Principal]) -> None:
    resource = authorization.step(made(people["hospital"]), asked(made, people), "approve").resource
    for _ in range(40):
        for action in ("disable", "enable"):
            resource = authorization.step(made(people["hospital"]), resource, action).resource
    assert len(resource["decision"]) == 50


def test_it_is_written_by_operations_only() -> None:
    refused = RULES["ClientAuthorization"].refused
    assert set(refused) == {"create", "update", "patch", "delete"}
    assert "$request-authorization" in refused["create"]


def test_an_approved_client_may_ask_for_more_and_keeps_what_it_has_meanwhile(
    made: Any, people: dict[str, Principal]
) -> None:
    approved = authorization.step(made(people["hospital"]), asked(made, people), "approve").resource
    wider = {**CLIENT, "scope": "system/*.rs"}
    more = authorization.request(made(people["acme"]), wider, approved, HOSPITAL, "More", "Acme").resource
    assert (more["status"], more["scope"], more["pendingScope"]) == ("approved", "system/Patient.rs", "system/*.rs")
    assert faults(more) == []
    with pytest.raises(Problem) as twice:
        authorization.request(made(people["acme"]), wider, more, HOSPITAL, "More", "Acme")
    assert twice.value.status == 409
    with pytest.raises(Problem) as wrong:
        authorization.step(made(people["acme"]), more, "approve")
    assert wrong.value.status == 403
    granted = authorization.step(made(people["hospital"]), more, "approve").resource
    assert granted["scope"] == "system/*.rs"
    assert "pendingScope" not in granted
    refused = authorization.step(made(people["hospital"]), more, "reject", "no").resource
    assert (refused["status"], refused["scope"]) == ("approved", "system/Patient.rs")
    assert "pendingScope" not in refused
    disabled = authorization.step(made(people["hospital"]), more, "disable").resource
    assert disabled["status"] == "disabled"


def test_a_client_registered_again_starts_anew(made: Any, people: dict[str, Principal]) -> None:
    approved = authorization.step(made(people["hospital"]), asked(made, people), "approve").resource
    again = {**CLIENT, "registered": "2026-01-02T00:00:00.000Z"}
    fresh = authorization.request(made(people["acme"]), again, approved, HOSPITAL, "Anew", "Acme").resource
    assert fresh["status"] == "waiting-for-approval"
    assert len(fresh["decision"]) == 1
