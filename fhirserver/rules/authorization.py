"""ClientAuthorization: an organization's decision about a client. A state machine in a table; each step is a version.

It is written by its operations only, because each step belongs to one of the two sides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from fhirserver.auth import scopes
from fhirserver.auth.principal import Principal
from fhirserver.auth.sandbox import require_same_world
from fhirserver.fhir import Resource
from fhirserver.fhir.instants import instant_text
from fhirserver.fhir.problem import problem
from fhirserver.rules.model import (
    Context,
    Prepared,
    Rule,
    Step,
    allowed_step,
    only_on_registry,
    reference,
    target,
    wrong_side,
)
from fhirserver.rules.organization import kind

TYPE = "ClientAuthorization"
WAITING, APPROVED, REJECTED = "waiting-for-approval", "approved", "rejected"
DISABLED, WITHDRAWN, REMOVED = "disabled", "withdrawn", "removed"

STEPS: Mapping[str, Step] = {
    step.name: step
    for step in (
        Step("request", ("", REJECTED, WITHDRAWN, REMOVED), WAITING, "application", needs_note=True),
        Step("approve", (WAITING,), APPROVED, "provider"),
        Step("reject", (WAITING,), REJECTED, "provider", needs_note=True),
        Step("withdraw", (WAITING,), WITHDRAWN, "application"),
        Step("disable", (APPROVED,), DISABLED, "provider"),
        Step("enable", (DISABLED,), APPROVED, "provider"),
        Step("remove", (WAITING, APPROVED, REJECTED, DISABLED, WITHDRAWN), REMOVED, "system"),
    )
}
MORE: Mapping[str, Step] = {
    step.name: step
    for step in (
        Step("request", (APPROVED,), APPROVED, "application", needs_note=True),
        Step("approve", (APPROVED,), APPROVED, "provider"),
        Step("reject", (APPROVED,), APPROVED, "provider", needs_note=True),
    )
}
"""The steps that decide on `pendingScope`: what an approved client asks for beyond what it may. It stays approved
meanwhile.
"""

MOST_DECISIONS = 50
"""How many decisions the resource shows; older ones are in its history."""

_BY_OPERATION = (
    "A ClientAuthorization is written by its operations only: POST ClientApplication/{id}/$request-authorization, then"
    " POST ClientAuthorization/{id}/$approve, $reject, $withdraw, $disable or $enable."
)


def authorization_id(client: str, organization: str) -> str:
    """The id of the one ClientAuthorization of a client and an organization."""
    return hashlib.sha256(f"{client}/{organization}".encode()).hexdigest()[:32]


def request(
    context: Context,
    client: Resource,
    existing: Resource | None,
    organization: Resource,
    reason: str,
    provider_name: str = "",
) -> Prepared:
    """The ClientAuthorization that asks `organization` to let `client` in, for the scopes registered now.

    `existing` is the one of an earlier request, None for the first; `provider_name` the name of the client's own
    organization. Raises Problem: forbidden for anybody but the client's side, business-rule for a client or
    organization that cannot take part, conflict where a request is already waiting or was approved.
    """
    only_on_registry(context, TYPE)
    if existing is not None and existing.get("requested", "") < client.get("registered", ""):
        existing = None  # it was about a client of the same id that has been deleted since
    more = _wants_more(client, existing)
    step = allowed_step(MORE if more else STEPS, "request", str((existing or {}).get("status", "")), reason)
    provider = target(client.get("managingOrganization"), "Organization")
    _require_side(step, context.principal, client["id"], provider, organization["id"])
    if client.get("active") is False:
        raise problem("business-rule", "The client is not active: activate it before it asks for authorization.")
    if kind(organization) != "provider" or organization.get("active") is False:
        text = f"Organization/{organization['id']} is not an active provider organization, so it has no data to permit."
        raise problem("business-rule", text)
    require_same_world(client, organization["id"])
    resource = {
        **(existing or {"resourceType": TYPE, "id": authorization_id(client["id"], organization["id"])}),
        "client": reference("ClientApplication", client["id"], str(client.get("name", ""))),
        "clientName": client.get("name", ""),
        "organization": reference("Organization", organization["id"], str(organization.get("name", ""))),
        "organizationName": organization.get("name"),
        "provider": reference("Organization", provider, provider_name) if provider else None,
        "providerName": provider_name or None,
        "kind": client.get("kind"),
        "iheProfile": client.get("iheProfile"),
        **({"pendingScope": client["scope"]} if more else {"scope": client.get("scope"), "pendingScope": None}),
        "reason": reason,
        "requested": instant_text(context.now),
    }
    return Prepared(_after(context, resource, step, reason))


def step(context: Context, previous: Resource, action: str, note: str = "") -> Prepared:
    """The ClientAuthorization after a step. Raises Problem: forbidden for the wrong side, conflict in the wrong
    state.
    """
    if action not in STEPS or action == "request":
        raise problem("not-supported", f"A ClientAuthorization has no step ${action}.")
    client = target(previous.get("client"), "ClientApplication")
    provider = target(previous.get("provider"), "Organization")
    _require_side(STEPS[action], context.principal, client, provider, target(previous["organization"], "Organization"))
    if previous["status"] == APPROVED and previous.get("pendingScope") and action in MORE:
        taken = allowed_step(MORE, action, APPROVED, note)
        scope = previous["pendingScope"] if action == "approve" else previous.get("scope")
        return Prepared(_after(context, {**previous, "scope": scope, "pendingScope": None}, taken, note))
    return Prepared(_after(context, previous, allowed_step(STEPS, action, previous["status"], note), note))


def _wants_more(client: Resource, existing: Resource | None) -> bool:
    """Whether an approved client has registered another scope since, and asks for that."""
    if existing is None or existing["status"] != APPROVED or not client.get("scope"):
        return False
    if client["scope"] == existing.get("pendingScope"):
        # It is pending since the client changed; asking for it, with a reason, may be done once.
        return bool(existing.get("decision")) and bool(existing["decision"][-1]["action"] != "request")
    return bool(client["scope"] != existing.get("scope"))


def follow(existing: Resource, client: Resource, types: frozenset[str]) -> Resource:
    """The ClientAuthorization as its client's new scope leaves it: what an approved production client registers beyond
    what it may is pending; what is within that needs no decision.
    """
    if existing["status"] != APPROVED or client.get("kind") != "production":
        return existing
    wanted, held = str(client.get("scope", "")), str(existing.get("scope", ""))
    within = scopes.parse(held, types).covers(scopes.parse(wanted, types))
    after = {**existing, "pendingScope": None if within else wanted, "iheProfile": client.get("iheProfile")}
    return {name: value for name, value in after.items() if value not in (None, "")}


def _require_side(step: Step, principal: Principal, client: str, provider: str, organization: str) -> None:
    if principal.kind == "system":
        return
    if step.side == "provider" and not principal.admin(organization):
        raise wrong_side(step, f"an administrator of organization {organization}")
    if step.side == "application" and not _is_owner(principal, client, provider):
        raise wrong_side(step, f"the client {client} or an administrator of its own organization")
    if step.side == "system":
        raise wrong_side(step, "the server itself")


def _is_owner(principal: Principal, client: str, provider: str) -> bool:
    """The client itself, an administrator of its organization, or the local operator, who stands in for any
    application.
    """
    if principal.kind == "client":
        return principal.id == client
    return principal.kind == "operator" or bool(provider and principal.admin(provider))


def _after(context: Context, resource: Resource, step: Step, note: str) -> Resource:
    decision = {
        "action": step.name,
        "status": step.after,
        "when": instant_text(context.now),
        "who": _who(context.principal),
        "note": note.strip() or None,
    }
    history = [*resource.get("decision", ()), {name: value for name, value in decision.items() if value}]
    after = {**resource, "status": step.after, "decision": history[-MOST_DECISIONS:]}
    return {name: value for name, value in after.items() if value not in (None, "")}


def _who(principal: Principal) -> dict[str, Any]:
    display = principal.name or principal.id or principal.kind
    return {**({"reference": principal.reference} if principal.reference else {}), "display": display}


RULE = Rule(TYPE, refused=dict.fromkeys(("create", "update", "patch", "delete"), _BY_OPERATION), steps=STEPS)
