"""What is asked of a Subscription or SubscriptionTopic when it is written, beyond its own content: can its criteria be
matched here, may its endpoint be reached; and of a client, whether its keys may be fetched. The rules for the rest are
pure; these look at topics and at the network.

Subscriptions R5 Backport: a server refuses what it cannot honour.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from fhirserver.fhir import Resource
from fhirserver.fhir.problem import Problem, problem
from fhirserver.interactions.model import Server
from fhirserver.rules.model import REGISTRY, Context, Prepared, Rule
from fhirserver.subscriptions import delivery, shape
from fhirserver.subscriptions.criteria import Compiler
from fhirserver.subscriptions.endpoint import Guard
from fhirserver.subscriptions.gate import RETRY_HOURS, WHILE_STOPPED
from fhirserver.subscriptions.notification import (
    BACKPORT,
    CONTENT,
    CONTENTS,
    HEARTBEAT,
    MAX_COUNT,
    TIMEOUT,
    channel_number,
)
from fhirserver.subscriptions.relay import ORDER
from fhirserver.subscriptions.topics import TOPIC, Catalogue
from fhirserver.subscriptions.watching import Watching

CHANNEL_TYPE = f"{BACKPORT}/backport-channel-type"
MOST_RETRY_HOURS = 720
CROSS_VERSION = "http://hl7.org/fhir/5.0/StructureDefinition/"

# Extension of the channel -> the codes it may have.
CODES: Mapping[str, tuple[str, ...]] = {WHILE_STOPPED: ("keep", "skip"), ORDER: ("patient", "subscription")}

SHIPPED = "This topic is shipped with the server: an organization activates or changes it on its own base."
# Extension of the channel -> the numbers it may have, from and to.
NUMBERS = {
    HEARTBEAT: (1, 86_400),
    TIMEOUT: (1, 86_400),
    MAX_COUNT: (1, 1_000_000),
    RETRY_HOURS: (0, MOST_RETRY_HOURS),
}
NOT_WRITTEN = "A NotificationDelivery is written by the server only; $redeliver sends one again."


def admitting(
    rules: Mapping[str, Rule], server: Callable[[], Server], catalogue: Catalogue, guard: Guard
) -> dict[str, Rule]:
    """The rules, with what is asked here added to those of Subscription, SubscriptionTopic, NotificationDelivery and
    ClientApplication.

    `server` is asked for when a rule runs, since a server is built with its rules.
    """

    def compiler(context: Context) -> Compiler:
        return Watching(server(), catalogue).compiler(context.organization)

    def admit(context: Context, resource: Resource) -> None:
        extensions_hold(resource)
        guard.check(resource["channel"]["endpoint"])
        compiler(context).triggers(resource)

    def admit_topic(context: Context, resource: Resource) -> None:
        if context.organization == REGISTRY and str(resource.get("url", "")).startswith(TOPIC):
            raise problem("business-rule", SHIPPED, "SubscriptionTopic.url")
        made = compiler(context)
        made.check_topic(resource)
        shape.check(made.definitions, resource)
        shape.prepare(server(), resource)

    def admit_keys(context: Context, resource: Resource) -> None:
        try:
            if resource.get("jwksUri"):
                guard.check(str(resource["jwksUri"]))
        except Problem as refusal:
            text = f"ClientApplication.jwksUri cannot be fetched. {refusal.issues[0].diagnostics}"
            raise problem("value", text, "ClientApplication.jwksUri") from None

    topic = rules.get("SubscriptionTopic", Rule("SubscriptionTopic"))
    return {
        **rules,
        "Subscription": _with(rules["Subscription"], admit),
        "SubscriptionTopic": _with(topic, admit_topic),
        "ClientApplication": _with(rules["ClientApplication"], admit_keys),
        delivery.TYPE: Rule(delivery.TYPE, refused=dict.fromkeys(("create", "update", "patch", "delete"), NOT_WRITTEN)),
    }


def _with(rule: Rule, admit: Callable[[Context, Resource], None]) -> Rule:
    """The rule that asks `admit` about what it prepared; of an update, only where it changed more than the status."""

    def create(context: Context, resource: Resource) -> Prepared:
        prepared = rule.create(context, resource)
        admit(context, prepared.resource)
        return prepared

    def update(context: Context, previous: Resource, private: Mapping[str, Any], resource: Resource) -> Prepared:
        prepared = rule.update(context, previous, private, resource)
        if _substance(prepared.resource) != _substance(previous):
            admit(context, prepared.resource)
        return prepared

    return replace(rule, create=create, update=update)


def _substance(resource: Resource) -> Resource:
    passing = ("id", "meta", "status", "error") if resource["resourceType"] == "Subscription" else ("id", "meta")
    return {name: value for name, value in resource.items() if name not in passing}


def _urls(element: Any) -> Iterator[str]:
    """The URLs of all extensions in an element."""
    for part in element if isinstance(element, list) else element.values() if isinstance(element, dict) else ():
        yield from _urls(part)
    if isinstance(element, dict):
        yield from (str(each.get("url", "")) for each in element.get("extension", ()) if isinstance(each, dict))


def extensions_hold(resource: Resource) -> None:
    """Raises Problem for an extension of a Subscription that asks for what this server does not do."""
    channel = resource["channel"]
    for url in _urls(resource):
        if url.startswith(CROSS_VERSION):
            raise problem(
                "not-supported", f"{url[:200]} is not supported: use the Backport's extensions.", "Subscription"
            )
    for extension in channel.get("extension", ()):
        url, code = extension.get("url"), extension.get("valueCode")
        if url == CHANNEL_TYPE:
            raise problem("not-supported", "The only channel is rest-hook.", "Subscription.channel.type")
        if url in NUMBERS:
            (least, most), number = NUMBERS[url], channel_number(resource, url)
            if number is None or not least <= number <= most:
                text = f"{url} is a whole number from {least} to {most}."
                raise problem("value", text, "Subscription.channel.extension")
        if url in CODES and code not in CODES[url]:
            text = f"{url} is one of {', '.join(CODES[url])}."
            raise problem("value", text, "Subscription.channel.extension")
    for extension in (channel.get("_payload") or {}).get("extension", ()):
        if extension.get("url") == CONTENT and extension.get("valueCode") not in CONTENTS:
            text = f"The payload content is one of {', '.join(CONTENTS)}."
            raise problem("not-supported", text, "Subscription.channel.payload.extension")
