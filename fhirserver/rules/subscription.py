"""Subscription on an organization's base: requested by a client, decided by the organization, then fixed but for its
status.

FHIR R4: subscription. Header values and the signing secret never stay in the resource: they are encrypted in its
private part.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from fhirserver.auth.access import CLIENT_SYSTEM
from fhirserver.auth.sandbox import is_sandbox, sandbox_of
from fhirserver.auth.secrets import signing_secret
from fhirserver.fhir import Resource
from fhirserver.fhir.definitions import Definitions
from fhirserver.fhir.instants import instant_text
from fhirserver.fhir.problem import problem
from fhirserver.rules.model import CANONICAL, REGISTRY, Context, Prepared, Rule, Step, allowed_step, wrong_side

TYPE = "Subscription"
CLIENT = f"{CANONICAL}/StructureDefinition/subscription-client"
SIGNING_SECRET = f"{CANONICAL}/StructureDefinition/subscription-signing-secret"
DECISION = f"{CANONICAL}/StructureDefinition/subscription-decision"
CONTENT = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-payload-content"

REQUESTED, ACTIVE, OFF, ERROR = "requested", "active", "off", "error"
STEPS: Mapping[str, Step] = {
    "approve": Step("approve", (REQUESTED,), ACTIVE, "provider"),
    "reject": Step("reject", (REQUESTED,), OFF, "provider"),
}

# What an owner may write as the status once the organization has approved: pause, resume, ask for reactivation.
_STATUS_AFTER_APPROVAL = {
    (ACTIVE, OFF): OFF,
    (ERROR, OFF): OFF,
    (OFF, ACTIVE): ACTIVE,
    (OFF, REQUESTED): ACTIVE,
    (ERROR, ACTIVE): ACTIVE,
    (ERROR, REQUESTED): ACTIVE,
    (ACTIVE, REQUESTED): ACTIVE,
    (REQUESTED, ACTIVE): REQUESTED,
    (REQUESTED, OFF): OFF,
}

MASK = "********"
MOST_HEADERS, MOST_HEADER = 20, 4096
MOST_URL, MOST_CRITERIA = 2048, 4096

NEVER_TOPICS = ("auditevent", "subscription", "notificationdelivery", "inboundmessage")
_EVENT = re.compile(r"(create|update|delete|merge|cancel)\.([A-Za-z]{1,64})")
_TRIGGER = re.compile(r"[A-Z]{3}_[A-Z][0-9]{2}")
_SEARCH = re.compile(r"([A-Z][A-Za-z]{0,63})(?:\?[^\s]*)?")
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}):[ \t]*([\t\x20-\x7e\x80-\uffff]*)")
_OURS = (
    "host",
    "content-length",
    "content-type",
    "transfer-encoding",
    "connection",
    "upgrade",
    "te",
    "trailer",
    "expect",
)


def create(context: Context, resource: Resource) -> Prepared:
    """A requested Subscription of the client that asks; `shown` carries the signing secret.

    Raises Problem naming the element: required, value or not-supported (400) for what cannot be delivered or matched.
    """
    if context.organization == REGISTRY:
        raise problem(
            "not-supported", "A Subscription belongs to an organization: write it at that organization's base."
        )
    subscription = _filled(context, resource)
    subscription["status"] = REQUESTED
    subscription = _decided(_owned(context, subscription, _owner(context, resource)), None)
    check(context, subscription)
    secret = signing_secret(context.new_secret())
    headers = _headers(context, subscription, ())
    private = {"headers": headers, "signing": context.encrypt(secret)}
    stored = _masked(subscription, headers)
    return Prepared(stored, private, _with_secret(stored, secret))


def update(context: Context, previous: Resource, private: Mapping[str, Any], resource: Resource) -> Prepared:
    """The changed Subscription: anything until the organization decides or after it refused, then only the status."""
    subscription = _filled(context, resource)
    subscription = _owned(context, subscription, owner(previous))
    subscription = _decided(subscription, decision(previous))
    decided = approved(previous)
    if decided:
        wanted = _status_after(previous["status"], str(resource.get("status", previous["status"])))
        subscription["status"] = _greeting(wanted, previous, private)
        if subscription["status"] == REQUESTED and previous.get("error"):
            subscription["error"] = previous["error"]  # until it is active again
    else:
        subscription["status"] = REQUESTED
        check(context, subscription)
        subscription = _decided(subscription, None)
    headers = _headers(context, subscription, private.get("headers", ()))
    stored = _masked(subscription, headers)
    if decided:
        _unchanged(previous, private, stored, headers)
        headers = list(private.get("headers", ()))
    return Prepared(stored, {**private, "headers": headers})


def step(context: Context, previous: Resource, private: Mapping[str, Any], action: str, note: str = "") -> Prepared:
    """The Subscription after the organization approved or rejected it; who, when and why go into its decision
    extension. An approved one whose endpoint gets a handshake stays `requested` until that was answered.

    Raises Problem: forbidden for anybody but an administrator of the organization, conflict in the wrong state.
    """
    if action not in STEPS:
        raise problem("not-supported", f"A Subscription has no step ${action}.")
    taken = STEPS[action]
    if not context.principal.admin(context.organization):
        raise wrong_side(taken, f"an administrator of organization {context.organization}")
    allowed_step(STEPS, action, previous["status"], note)
    by = context.principal.name or context.principal.id or context.principal.kind
    made = {"action": action, "when": instant_text(context.now), "who": by, "note": note.strip()}
    before = {name: value for name, value in private.items() if name != "handshake"}
    after = _decided({**previous, "status": _greeting(taken.after, previous, before)}, made)
    after.pop("error", None)
    return Prepared(after, before)


def owner(subscription: Mapping[str, Any]) -> str:
    """The id of the client whose Subscription this is; empty for one of the organization's own."""
    for extension in subscription.get("extension", ()):
        if extension.get("url") == CLIENT:
            return str(extension.get("valueReference", {}).get("identifier", {}).get("value", ""))
    return ""


def decision(subscription: Mapping[str, Any]) -> dict[str, str] | None:
    """What the organization decided: action, when, who, note; None while it has not."""
    for extension in subscription.get("extension", ()):
        if extension.get("url") == DECISION:
            parts = extension.get("extension", ())
            return {part["url"]: str(next(v for k, v in part.items() if k.startswith("value"))) for part in parts}
    return None


def approved(subscription: Mapping[str, Any]) -> bool:
    """Whether the organization's decision stands and is yes."""
    return (decision(subscription) or {}).get("action") == "approve"


def content_of(subscription: Mapping[str, Any]) -> str:
    """The payload content a Subscription of the Backport asks for, "" for one that gets message Bundles."""
    payload = _channel(subscription).get("_payload") or {}
    extensions = payload.get("extension", ()) if isinstance(payload, Mapping) else ()
    return next((str(e.get("valueCode", "")) for e in extensions if e.get("url") == CONTENT), "")


def _greeting(status: str, subscription: Mapping[str, Any], private: Mapping[str, Any]) -> str:
    """The status, but `requested` instead of `active` where the endpoint's answer to a handshake comes first."""
    waits = status == ACTIVE and content_of(subscription) and not private.get("handshake")
    return REQUESTED if waits else status


def _owner(context: Context, resource: Resource) -> str:
    """The client that asks. A person of its own organization, who has no role here, names it; so may he at its sandbox.
    Whether it is one of his is for the access to say.
    """
    principal = context.principal
    if principal.kind == "client" or principal.client:
        return principal.id if principal.kind == "client" else principal.client
    named = _named(resource) if principal.kind == "user" else ""
    if is_sandbox(context.organization):
        return named if named and sandbox_of(named) == context.organization else ""
    if principal.kind != "user" or context.organization in principal.roles:
        return ""
    if not named:
        text = f"Say whose Subscription it is: the identifier of your client in the extension {CLIENT}."
        raise problem("required", text, "Subscription.extension")
    return named


def _named(resource: Resource) -> str:
    """The client that a Subscription names, "" where that cannot be read: rules run before validation."""
    try:
        return owner(resource)
    except (AttributeError, TypeError):
        return ""


def _filled(context: Context, resource: Resource) -> Resource:
    subscription = dict(resource)
    channel = subscription.get("channel")
    if isinstance(channel, dict):
        subscription["channel"] = {"payload": "application/fhir+json", **channel}
    if not subscription.get("reason"):
        name = context.principal.name or context.principal.id or context.principal.kind
        subscription["reason"] = f"Requested by {name}, without a reason given."
    subscription.pop("error", None)
    return subscription


def check(context: Context, subscription: Resource) -> None:
    """Raises Problem for the first element that this server cannot serve, named in `expression`."""
    criteria = subscription.get("criteria")
    if not isinstance(criteria, str) or not criteria.strip():
        text = "Subscription.criteria is missing: say what to be notified of, for example create.patient."
        raise problem("required", text, "Subscription.criteria")
    _check_criteria(criteria, context.definitions)
    channel = subscription.get("channel")
    if not isinstance(channel, dict):
        text = "Subscription.channel is missing: say where to send notifications."
        raise problem("required", text, "Subscription.channel")
    if channel.get("type") != "rest-hook":
        code = "not-supported" if "type" in channel else "required"
        raise problem(code, "Subscription.channel.type must be rest-hook.", "Subscription.channel.type")
    if channel["payload"] != "application/fhir+json":
        text = "Subscription.channel.payload must be application/fhir+json."
        raise problem("not-supported", text, "Subscription.channel.payload")
    _check_endpoint(channel.get("endpoint"), context.allow_http)
    _check_end(subscription.get("end"), context.now)


def _check_criteria(criteria: str, definitions: Definitions) -> None:
    if len(criteria) > MOST_CRITERIA:
        text = f"Subscription.criteria has more than {MOST_CRITERIA} characters."
        raise problem("value", text, "Subscription.criteria")
    if _TRIGGER.fullmatch(criteria) or criteria.startswith(("http://", "https://", "urn:")):
        return
    event, search = _EVENT.fullmatch(criteria), _SEARCH.fullmatch(criteria)
    name = event[2].lower() if event else search[1].lower() if search else ""
    if name in NEVER_TOPICS:
        text = f"Nothing can be subscribed to about {name}: choose clinical data."
        raise problem("not-supported", text, "Subscription.criteria")
    known = definitions.resource_types
    if (event and name in {t.lower() for t in known}) or (search and search[1] in known):
        return
    raise problem(
        "value",
        "Subscription.criteria is an event like create.patient, a trigger like ADT_A01, a search like"
        " Observation?code=718-7, or the canonical URL of a topic.",
        "Subscription.criteria",
    )


def _check_endpoint(endpoint: Any, allow_http: bool) -> None:
    where = "Subscription.channel.endpoint"
    if not endpoint:
        raise problem("required", f"{where} is missing: give the https URL of your webhook.", where)
    try:
        parts = urlsplit(endpoint if isinstance(endpoint, str) else "")
        good = bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    plain = isinstance(endpoint, str) and len(endpoint) <= MOST_URL and endpoint.isprintable() and " " not in endpoint
    if not (good and plain) or parts.username is not None or parts.fragment:
        raise problem("value", f"{where} must be an absolute URL without user name or fragment.", where)
    if parts.scheme != "https" and not (allow_http and parts.scheme == "http"):
        raise problem("value", f"{where} must be an https URL.", where)


def _check_end(end: Any, now: datetime) -> None:
    try:
        passed = isinstance(end, str) and datetime.fromisoformat(end) <= now
    except (ValueError, TypeError):
        return  # validation says what is wrong with the instant
    if passed:
        raise problem("value", "Subscription.end has passed already.", "Subscription.end")


def _headers(context: Context, subscription: Resource, held: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """The channel's headers as they are kept: name, encrypted value, keyed hash; a masked value means the one held."""
    lines = _channel(subscription).get("header", [])
    where = "Subscription.channel.header"
    if not isinstance(lines, list) or len(lines) > MOST_HEADERS:
        raise problem("value", f"{where} is a list of at most {MOST_HEADERS} headers.", where)
    known = {entry["name"].lower(): dict(entry) for entry in held}
    kept = []
    for index, line in enumerate(lines):
        match = _HEADER.fullmatch(line) if isinstance(line, str) and len(line) <= MOST_HEADER else None
        if not match or match[1].lower() in _OURS or match[1].lower().startswith("webhook-"):
            text = f"{where} is written 'Name: value', and is none that the delivery itself sets."
            raise problem("value", text, f"{where}[{index}]")
        name, value = match[1], match[2].strip()
        there = known.get(name.lower())
        # Compared, not hashed anew: it may have been kept under an older master key.
        if there and (value == MASK or (there["name"] == name and context.matches(value, there["hash"]))):
            kept.append(there)
        else:
            kept.append({"name": name, "value": context.encrypt(value), "hash": context.seal(value)})
    return kept


def _channel(subscription: Mapping[str, Any]) -> Mapping[str, Any]:
    channel = subscription.get("channel")
    return channel if isinstance(channel, Mapping) else {}


def _masked(subscription: Resource, headers: Sequence[Mapping[str, str]]) -> Resource:
    """The Subscription with the values of its headers masked, and without any signing secret."""
    channel = dict(_channel(subscription))
    if headers:
        channel["header"] = [f"{entry['name']}: {MASK}" for entry in headers]
    return {**subscription, "channel": _extended(channel, SIGNING_SECRET, None)}


def _with_secret(subscription: Resource, secret: str) -> Resource:
    value = {"url": SIGNING_SECRET, "valueString": secret}
    return {**subscription, "channel": _extended(subscription["channel"], SIGNING_SECRET, value)}


def _owned(context: Context, subscription: Resource, client: str) -> Resource:
    """The Subscription with the client extension that the server sets, whatever the writer put there.

    The literal reference is for people; rights go by the identifier, which stays the same when the server's URL
    changes.
    """
    reference = {"type": "ClientApplication", "identifier": {"system": CLIENT_SYSTEM, "value": client}}
    if context.registry:
        reference = {"reference": f"{context.registry}/ClientApplication/{client}", **reference}
    return _extended(subscription, CLIENT, {"url": CLIENT, "valueReference": reference} if client else None)


def _decided(subscription: Resource, made: Mapping[str, str] | None) -> Resource:
    if made is None:
        return _extended(subscription, DECISION, None)
    types = {"action": "valueCode", "when": "valueInstant", "who": "valueString", "note": "valueString"}
    parts = [{"url": name, types[name]: made[name]} for name in types if made.get(name)]
    return _extended(subscription, DECISION, {"url": DECISION, "extension": parts})


def _extended(element: Resource, url: str, value: Mapping[str, Any] | None) -> Resource:
    """The element with this as its one extension of the URL, or none; its place among the others is the last."""
    given = element.get("extension", [])
    if not isinstance(given, list):
        return element  # validation says what is wrong with it
    kept = [e for e in given if not isinstance(e, dict) or e.get("url") != url]
    extensions = [*kept, *([value] if value else [])]
    rest = {name: part for name, part in element.items() if name != "extension"}
    return {**rest, "extension": extensions} if extensions else rest


def _status_after(status: str, wanted: str) -> str:
    if status == wanted:
        return status
    after = _STATUS_AFTER_APPROVAL.get((status, wanted))
    if after is None:
        text = f"The status of this Subscription cannot go from {status} to {wanted}."
        raise problem("business-rule", text, "Subscription.status")
    return after


def _unchanged(
    previous: Resource, private: Mapping[str, Any], stored: Resource, headers: Sequence[Mapping[str, str]]
) -> None:
    passing = ("meta", "id", "status", "error", "text")
    one, two = ({k: v for k, v in s.items() if k not in passing} for s in (previous, stored))
    hashes = [[entry["hash"] for entry in side] for side in (private.get("headers", ()), headers)]
    if one != two or hashes[0] != hashes[1]:
        raise problem(
            "business-rule",
            "After the organization's approval only the status can change (off, active); for anything else create a new"
            " Subscription.",
            "Subscription",
        )


RULE = Rule(TYPE, create=create, update=update, steps=STEPS)
