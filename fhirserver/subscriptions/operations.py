"""The operations of Subscription and NotificationDelivery: what was sent, why, once more, and what would be.

Subscriptions R5 Backport: $status, $events, $get-ws-binding-token; the others are our own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from fhirserver.auth.access import Access, everything
from fhirserver.auth.secrets import signing_secret
from fhirserver.exchange.guests import is_guest
from fhirserver.exchange.operating import require_operator
from fhirserver.fhir import Resource
from fhirserver.fhir.instants import instant_text
from fhirserver.fhir.json import encode
from fhirserver.fhir.parameters import parameters_of
from fhirserver.fhir.problem import problem
from fhirserver.fhir.validation import validate
from fhirserver.interactions.indexing import entry_of
from fhirserver.interactions.model import OperationRow, Request, Response, Server
from fhirserver.interactions.operations import parameters, reference_parameter, text_parameter
from fhirserver.interactions.read import current
from fhirserver.interactions.versions import may_write, put, refuse_errors, stamped
from fhirserver.interactions.write import persist
from fhirserver.rules.model import REGISTRY, Prepared, target
from fhirserver.search.parse import parse
from fhirserver.store.model import Stored
from fhirserver.store.search import by_references, compile_search, find
from fhirserver.subscriptions import delivery, governing, notification, past, topics
from fhirserver.subscriptions.delivery import Delivery
from fhirserver.subscriptions.gate import OVERLAP, SEND, channel_of, client_access, gate
from fhirserver.subscriptions.lanes import Lanes
from fhirserver.subscriptions.match import Event, Subscriptions
from fhirserver.subscriptions.post import Endpoints
from fhirserver.subscriptions.signature import signed
from fhirserver.subscriptions.topics import CANONICAL, Catalogue
from fhirserver.subscriptions.versions import Parts
from fhirserver.subscriptions.watching import Watching, covers

_BACKPORT = "http://hl7.org/fhir/uv/subscriptions-backport/OperationDefinition/backport-subscription"
OFFICIAL = {name: f"{_BACKPORT}-{name}" for name in ("status", "events", "get-ws-binding-token")}

MOST_EVENTS = 100
MOST_REDELIVERED = 1000
MOST_PREVIEWED = 1000
LISTED = 20
TEST_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Operations:
    """The operations over one server; `endpoints` sends the test of $test, `decrypt` opens a Subscription's secrets."""

    catalogue: Catalogue
    endpoints: Endpoints
    decrypt: Callable[[str], str]

    def rows(self) -> tuple[OperationRow, ...]:
        """The rows for the operations table."""
        both, one = ("type", "instance"), ("instance",)
        return (
            _row("status", "Subscription", both, "r", status, affects_state=False),
            _row("events", "Subscription", one, "r", events, affects_state=False),
            _row("topics", "Subscription", ("type",), "r", self.topics, affects_state=False),
            _row("govern", topics.TYPE, ("type",), "r", self.govern),
            _row("get-ws-binding-token", "Subscription", both, "r", no_websockets, affects_state=False),
            _row("why", "Subscription", one, "r", self.why, affects_state=False),
            _row("preview", "Subscription", both, "r", self.preview, affects_state=False),
            _row("test", "Subscription", one, "u", self.test),
            _row("rotate-secret", "Subscription", one, "u", rotate_secret),
            _row("redeliver", "Subscription", one, "u", redeliver),
            _row("redeliver", delivery.TYPE, one, "r", redeliver_one),
            EVERYWHERE,
        )

    def why(self, server: Server, request: Request, access: Access) -> Response:
        """$why: whether an event or a version of a resource reached a subscription, or what stopped it, step by step.

        Raises Problem: required without `event` or `reference`, not-found where nothing is known of it.
        """
        values = parameters(request, "event", "reference")
        subscription = current(server, access, "Subscription", request.id or "", request)
        resource = subscription.resource()
        watching = Watching(server, self.catalogue)
        document = past.asked(server, request, _seeing(server, access, resource), values)
        event = watching.event(access.organization, document)
        compiled = Subscriptions.compiled(watching.compiler(access.organization), [resource])
        matched, reason = compiled.explain(resource["id"], event)
        steps = [("criteria", matched, reason), *self._checks(server, access.organization, resource, document, event)]
        sent = _deliveries_of(server, access.organization, resource["id"], str(document["id"]))
        parts = [_part("matched", valueBoolean=matched)]
        parts += [_check(name, good, said) for name, good, said in steps]
        parts += [_part("delivery", valueReference={"reference": f"{delivery.TYPE}/{one['id']}"}) for one in sent]
        return Response(200, parameters_of(parts))

    def preview(self, server: Server, request: Request, access: Access) -> Response:
        """$preview: how many of the last changes the criteria would have matched, and some of them. Of a Subscription
        that is there, or, on the type, of one that is in `subscription`, as a create would take it.
        """
        values = parameters(request, "count", "subscription")
        count = _number(values, "count", MOST_EVENTS, MOST_PREVIEWED)
        if request.id:
            subscription = current(server, access, "Subscription", request.id, request).resource()
        else:
            subscription = _draft(server, request, access, values.get("subscription"))
        seeing = _seeing(server, access, subscription)
        watching = Watching(server, self.catalogue)
        compiled = Subscriptions.compiled(watching.compiler(access.organization), [subscription])
        if compiled.refused:
            raise problem("business-rule", compiled.refused[subscription["id"]], "Subscription.criteria")
        matched = []
        events = past.latest(server, self.catalogue, seeing, compiled.keys(), compiled.types(), count)
        known = watching.changed(access.organization, events)
        for document in events:
            for match in compiled.matching(watching.event(access.organization, document, known)):
                told = [f"{change.reference}/_history/{change.version}" for change in match.changes]
                matched.append(told[0] if told else str(document["message"]))
        parts = [_part("events", valueInteger=len(events)), _part("matched", valueInteger=len(matched))]
        parts += [_part("match", valueReference={"reference": reference}) for reference in matched[:LISTED]]
        return Response(200, parameters_of(parts))

    def topics(self, server: Server, request: Request, access: Access) -> Response:
        """$topics: a collection of the SubscriptionTopics that can be subscribed to here, by title: those shipped, the
        registry's, and the organization's own, which replace others of the same URL. What is not active is left out,
        but for `all`: then each has the status that it has here.
        """
        whole = str(parameters(request, "all").get("all", "false")).lower() == "true"
        known = Watching(server, self.catalogue).compiler(access.organization).topics
        by_url = {topic["url"]: topic for topic in known.values() if whole or topic.get("status") == "active"}
        entries = [
            {"fullUrl": topic["url"], "resource": topic}
            for topic in sorted(by_url.values(), key=lambda topic: (str(topic.get("title", "")), topic["url"]))
        ]
        return Response(200, {"resourceType": "Bundle", "type": "collection", "entry": entries})

    def govern(self, server: Server, request: Request, access: Access) -> Response:
        """$govern: see `governing`."""
        return governing.govern(server, self.catalogue, request, access)

    def test(self, server: Server, request: Request, access: Access) -> Response:
        """$test: one signed POST without any event to the endpoint, and what came of it."""
        subscription = current(server, access, "Subscription", request.id or "", request)
        resource = subscription.resource()
        now = server.now()
        try:
            told = channel_of(resource, subscription.private, self.decrypt, now)
        except ValueError:
            raise problem("exception", "The subscription's secrets cannot be decrypted with the present key.") from None
        about = notification.About(server.base(access.organization), resource["id"], resource["status"], 0)
        id = server.new_id()
        body = encode(notification.history("handshake", about, [], instant_text(now), id))
        headers = notification.headers(told.payload, resource["id"], told.headers)
        headers |= signed(told.secrets, id, int(now.timestamp()), body)
        answer = self.endpoints.post(told.endpoint, headers, body, TEST_SECONDS)
        parts = [_part("accepted", valueBoolean=200 <= answer.status < 300)]
        parts += [_part("status", valueInteger=answer.status)] if answer.status else []
        parts += [_part("latency", valueInteger=answer.milliseconds)]
        parts += [_part("error", valueString=answer.error)] if answer.error else []
        return Response(200, parameters_of(parts))

    def _checks(
        self, server: Server, organization: str, subscription: Resource, document: dict[str, Any], event: Event
    ) -> Iterable[tuple[str, bool, str]]:
        good = covers(subscription, document["t"])
        yield "time", good, "" if good else "The change was before the approval, or after the end, of the subscription."
        opened = gate(server, self.decrypt, organization, subscription["id"])
        yield "permission", opened.action == SEND, opened.reason
        if opened.access:
            told = delivery.new(subscription["id"], "", 1, document, [change.reference for change in event.changes])
            refused = Parts(server, organization, [told]).told(told, opened.access).refused
            yield "scope", not refused, refused


def status(server: Server, request: Request, access: Access) -> Response:
    """$status: a searchset of SubscriptionStatus, of one subscription or of those that `id` and `status` name."""
    values = parameters(request, "id", "status")
    if request.id:
        found: Sequence[Stored] = [current(server, access, "Subscription", request.id, request)]
    else:
        pairs = [(name, ",".join(_texts(values, key))) for key, name in (("id", "_id"), ("status", "status"))]
        clauses = parse(server.definitions, "Subscription", [pair for pair in pairs if pair[1]], strict=True).clauses
        search = compile_search(server.store, access, "Subscription", clauses, None)
        found = find(server.store, search, (), MOST_EVENTS).matches if search else []
    entries = [_status_entry(server, access.organization, version) for version in found]
    bundle = {
        "resourceType": "Bundle",
        "type": "searchset",
        "total": len(entries),
        "timestamp": instant_text(server.now()),
    }
    return Response(200, {**bundle, **({"entry": entries} if entries else {})})


def events(server: Server, request: Request, access: Access) -> Response:
    """$events: what was told by number, `eventsSinceNumber` to `eventsUntilNumber` inclusive; the last hundred unless
    said.
    """
    values = parameters(request, "eventsSinceNumber", "eventsUntilNumber", "content")
    version = current(server, access, "Subscription", request.id or "", request)
    last = delivery.last_number(server, access.organization, version.id)
    until = min(_number(values, "eventsUntilNumber", last, None), last)
    since = max(_number(values, "eventsSinceNumber", max(until - MOST_EVENTS + 1, 1), None), 1)
    if until - since >= MOST_EVENTS:
        raise problem("too-costly", f"At most {MOST_EVENTS} events are answered at once; ask for a smaller range.")
    content = text_parameter(values, "content") or notification.content_of(version.resource()) or "id-only"
    if content not in notification.CONTENTS:
        raise problem("value", f"content is one of {', '.join(notification.CONTENTS)}.", "Parameters.parameter")
    told = _told(server, access, version.id, range(since, until + 1))
    about = _about(server, access.organization, version, content)
    id = server.new_id()
    return Response(200, notification.history("query-event", about, told, instant_text(server.now()), id))


def no_websockets(server: Server, request: Request, access: Access) -> Response:
    """$get-ws-binding-token: refused, with what to use."""
    raise problem("not-supported", "Notifications go to rest-hook endpoints only; there are no WebSockets to bind to.")


def rotate_secret(server: Server, request: Request, access: Access) -> Response:
    """$rotate-secret: a new signing secret, shown once; for a day both sign, so that the receiver can change over."""
    context = server.context(server, request.principal, request.organization)
    whole = everything(access.organization)

    def attempt() -> Response:
        previous = current(server, access, "Subscription", request.id or "", request)
        secret = signing_secret(context.new_secret())
        until = server.now() + timedelta(hours=OVERLAP)
        private = dict(previous.private)
        retiring = (
            {"retiring": private["signing"], "retiringUntil": instant_text(until)} if private.get("signing") else {}
        )
        private = {**private, **retiring, "signing": context.encrypt(secret)}
        put(
            server,
            request,
            whole,
            Prepared(previous.resource(), private),
            previous,
            f"Subscription/{previous.id}",
            "POST",
        )
        parts = [_part("secret", valueString=secret), _part("previousUntil", valueInstant=instant_text(until))]
        return Response(200, parameters_of(parts), once=True)

    return persist(replace(request), attempt)


def redeliver(server: Server, request: Request, access: Access) -> Response:
    """$redeliver on a Subscription: the deliveries numbered `from` to `to`, or all dead letters, are sent once more."""
    values = parameters(request, "from", "to")
    subscription = current(server, access, "Subscription", request.id or "", request)
    if "from" in values:
        first = _number(values, "from", 1, None)
        last = _number(values, "to", first, None)
        if not 0 <= last - first < MOST_REDELIVERED:
            raise problem("too-costly", f"At most {MOST_REDELIVERED} deliveries at once, the first number first.")
        found = _by_number(server, access.organization, subscription.id, range(first, last + 1))
    else:
        pairs = [("subscription", f"Subscription/{subscription.id}"), ("status", "dead-letter")]
        clauses = parse(server.definitions, delivery.TYPE, pairs, strict=True).clauses
        search = compile_search(server.store, everything(access.organization), delivery.TYPE, clauses, None)
        found = list(find(server.store, search, (), MOST_REDELIVERED).matches) if search else []
    return _again(server, access.organization, subscription.id, found)


def redeliver_one(server: Server, request: Request, access: Access) -> Response:
    """$redeliver on a NotificationDelivery: it is sent once more, outside the order."""
    found = current(server, access, delivery.TYPE, request.id or "", request)
    subscription = target(found.resource()["subscription"], "Subscription")
    current(server, access, "Subscription", subscription, request)
    access.require("Subscription", "u")
    return _again(server, access.organization, subscription, [found])


def redeliver_everywhere(server: Server, request: Request, access: Access) -> Response:
    """$redeliver on the registry: an operator has the dead letters of an `organization` sent once more, at most
    MOST_REDELIVERED of them; how many is all that is told.
    """
    require_operator(request)
    organization = reference_parameter(parameters(request, "organization"), "organization", "Organization")
    clauses = parse(server.definitions, delivery.TYPE, [("status", "dead-letter")], strict=True).clauses
    search = compile_search(server.store, everything(organization), delivery.TYPE, clauses, None)
    found = find(server.store, search, (), MOST_REDELIVERED).matches if search else ()
    by_subscription: dict[str, list[Stored]] = {}
    for version in found:
        id = target(version.resource()["subscription"], "Subscription")
        by_subscription.setdefault(id, []).append(version)
    for id, versions in by_subscription.items():
        _again(server, organization, id, versions)
    parts = [_part("found", valueInteger=len(found)), _part("subscriptions", valueInteger=len(by_subscription))]
    return Response(200, parameters_of(parts))


def _again(server: Server, organization: str, subscription: str, found: Sequence[Stored]) -> Response:
    now = server.now()
    changes = []
    for version in found:
        resource = version.resource()
        if resource["status"] not in delivery.UNFINISHED and "purged" not in resource:
            again = delivery.postponed(resource, "queued", now)
            again |= {"lane": f"{delivery.REDELIVERY}{version.id}", "queued": instant_text(now)}
            changes.append(delivery.change(server, organization, again, version, now))
    if changes:
        lanes = Lanes(server.store.database)
        lanes.prepare()
        lanes.touch([(organization, subscription)], now)
        server.store.commit(changes)
        lanes.touch([(organization, subscription)], now)  # a worker may have looked in between, and found nothing yet
        server.enqueue("deliver", organization, subscription)
    parts = [_part("queued", valueInteger=len(changes)), _part("found", valueInteger=len(found))]
    return Response(200, parameters_of(parts))


# What is told of


def _seeing(server: Server, access: Access, subscription: Resource) -> Access:
    """With what eyes the data is looked at: the caller's; the client's own for a person of its organization, who sees
    no data here. Raises Problem(forbidden) where the client may not be here now.
    """
    guest = is_guest(access.principal, access.organization)
    return client_access(server, access.organization, subscription) if guest else access


def _draft(server: Server, request: Request, access: Access, given: Any) -> Resource:
    """A Subscription as a create would store it. Raises Problem for all that a create would refuse."""
    if not isinstance(given, dict) or given.get("resourceType") != "Subscription":
        raise problem(
            "required", "Give the Subscription to try in the parameter `subscription`.", "Parameters.parameter"
        )
    context = server.context(server, request.principal, request.organization)
    prepared = server.rules["Subscription"].create(context, {**given, "id": "draft"})
    resource = stamped(prepared.resource, "draft", 1, server.now())
    refuse_errors(validate(server.definitions, resource))
    may_write(access, resource, "c", entry_of(server, resource, request.base), server.now())
    return resource


def _deliveries_of(server: Server, organization: str, subscription: str, event: str) -> list[Resource]:
    if not event:
        return []
    pairs = [("event", event), ("subscription", f"Subscription/{subscription}")]
    clauses = parse(server.definitions, delivery.TYPE, pairs, strict=True).clauses
    search = compile_search(server.store, everything(organization), delivery.TYPE, clauses, None)
    return [version.resource() for version in find(server.store, search, (), LISTED).matches] if search else []


def _by_number(server: Server, organization: str, subscription: str, numbers: Iterable[int]) -> list[Stored]:
    references = [f"{delivery.TYPE}/{delivery.delivery_id(subscription, number)}" for number in numbers]
    found = by_references(server.store, everything(organization), references)
    return sorted(found, key=lambda version: version.id)


def _told(server: Server, access: Access, subscription: str, numbers: Iterable[int]) -> list[notification.Notified]:
    """Deliveries as events, with what the caller may see of them now."""
    found = [
        Delivery(version, version.resource())
        for version in _by_number(server, access.organization, subscription, numbers)
    ]
    parts = Parts(server, access.organization, [one.resource for one in found])
    return [
        notification.Notified(one.number, one.resource["occurred"], parts.told(one.resource, access).parts)
        for one in found
    ]


def _status_entry(server: Server, organization: str, version: Stored) -> dict[str, Any]:
    about = _about(server, organization, version, "id-only")
    return {
        "fullUrl": f"{about.url}/$status",
        "resource": notification.status("query-status", about),
        "search": {"mode": "match"},
    }


def _about(server: Server, organization: str, version: Stored, content: str) -> notification.About:
    resource = version.resource()
    count = delivery.last_number(server, organization, version.id)
    criteria = str(resource.get("criteria", ""))
    topic = criteria if criteria.startswith(("http:", "https:", "urn:")) else ""
    error = str(resource.get("error", "")) if resource["status"] == "error" else ""
    return notification.About(server.base(organization), version.id, resource["status"], count, topic, content, error)


# Parameters


def _part(name: str, **value: Any) -> dict[str, Any]:
    return {"name": name, **value}


def _check(name: str, good: bool, said: str) -> dict[str, Any]:
    parts = [_part("name", valueCode=name), _part("passed", valueBoolean=good)]
    return {"name": "check", "part": parts + ([_part("reason", valueString=said)] if said else [])}


def _texts(values: dict[str, Any], name: str) -> list[str]:
    value = values.get(name, [])
    return [str(each) for each in (value if isinstance(value, list) else [value])]


def _number(values: dict[str, Any], name: str, default: int, most: int | None) -> int:
    value = values.get(name, default)
    try:
        number = int(str(value))
    except ValueError:
        number = -1
    if number < 0 or (most is not None and number > most):
        limit = "" if most is None else f" of at most {most}"
        raise problem("value", f"{name} must be a whole number{limit}.", "Parameters.parameter")
    return number


def _row(
    name: str,
    type: str,
    levels: tuple[str, ...],
    letter: str,
    function: Callable[[Server, Request, Access], Response],
    *,
    affects_state: bool = True,
) -> OperationRow:
    definition = OFFICIAL.get(name, f"{CANONICAL}/OperationDefinition/{type}-{name}")
    return OperationRow(name, (type,), levels, letter, function, affects_state, ("organization",), definition)


EVERYWHERE = OperationRow(
    "redeliver",
    (),
    ("system",),
    "",
    redeliver_everywhere,
    True,
    (REGISTRY,),
    f"{CANONICAL}/OperationDefinition/redeliver",
)
"""For operators, on the registry alone."""
