"""A new subscription of a client: to a topic, to what a search matches, or to what a FHIRPath condition says; tried
while it is written, asked for, and its signing secret shown once.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from flask import Response as HttpResponse

from fhirserver.auth.access import CLIENT_SYSTEM
from fhirserver.fhir import Resource
from fhirserver.fhir.problem import problem
from fhirserver.rules.subscription import CLIENT, SIGNING_SECRET
from fhirserver.web.console.application.answers import parameters, values
from fhirserver.web.console.application.clients import named
from fhirserver.web.console.application.subscriptions import FHIRPATH, places
from fhirserver.web.console.days import last_instant
from fhirserver.web.console.here import Here

WAYS = ("topic", "search", "fhirpath")
CONTENT = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-payload-content"
CONTENTS = ("", "empty", "id-only", "full-resource")
_ID = re.compile(r"[A-Za-z0-9-]{16,64}")


def subscribe(here: Here) -> HttpResponse:
    """The form; what is in it is tried as it is written, and asked for when it is sent."""
    client = named(here)
    known = places(here, client["id"], "approved")
    by = here.asked.get("by", "") if here.asked.get("by") in WAYS else WAYS[0]
    at = here.form.get("organization", here.asked.get("at", ""))
    at = at if at in dict(known) else known[0][0] if known else ""
    tried: Mapping[str, Any] | None = None
    if here.posted:
        with here.trying():
            draft = _draft(here, client, by)
            if here.part == "check" or here.form.get("do") == "check":
                tried = _tried(here, at, draft)
            else:
                return _asked_for(here, at, draft)
    return here.page(
        "application/subscribe.html",
        client=client,
        by=by,
        ways=WAYS,
        places=known,
        base=at,
        topics=_topics(here, at) if at and by == "topic" and here.part != "check" else [],
        contents=CONTENTS,
        id=_id(here),
        tried=tried,
    )


def _id(here: Here) -> str:
    """The subscription's id, made with the form: sent twice, it is the same subscription."""
    given = here.form.get("id", "")
    return given if _ID.fullmatch(given) else here.server.new_id()


def _topics(here: Here, at: str) -> list[tuple[str, str]]:
    """What can be subscribed to there by name: canonical URL and text, in order of the text."""
    bundle = here.operate("Subscription", None, "topics", base=at, method="GET")
    topics = [entry["resource"] for entry in bundle.get("entry", ())]
    return [(each["url"], f"{each.get('title', '')} ({each['url'].rpartition('/')[2]})") for each in topics]


def _draft(here: Here, client: Resource, by: str) -> Resource:
    """The Subscription that the form says. Raises Problem(required) for a form without what it is about."""
    text = {name: here.form.get(name, "").strip() for name in ("criteria", "condition", "endpoint", "reason", "end")}
    if not text["criteria"]:
        raise problem("required", here.t("application.subscribe.missing"), "criteria")
    if by == "fhirpath" and not text["condition"]:
        raise problem("required", here.t("application.subscribe.missing_condition"), "condition")
    if text["end"]:
        with suppress(ValueError, OverflowError):  # what is no day is said by the server
            text["end"] = last_instant(text["end"], here.zone)
    named_ = {"type": "ClientApplication", "identifier": {"system": CLIENT_SYSTEM, "value": client["id"]}}
    extension = [{"url": CLIENT, "valueReference": named_}]
    extension += [{"url": FHIRPATH, "valueString": text["condition"]}] if by == "fhirpath" else []
    channel: dict[str, Any] = {"type": "rest-hook", "payload": "application/fhir+json"}
    channel |= {"endpoint": text["endpoint"]} if text["endpoint"] else {}
    content = here.form.get("content", "")
    if content in CONTENTS[1:]:
        channel["_payload"] = {"extension": [{"url": CONTENT, "valueCode": content}]}
    header = [line.strip() for line in here.form.get("header", "").splitlines() if line.strip()]
    return {
        "resourceType": "Subscription",
        "id": _id(here),
        "extension": extension,
        "status": "requested",
        "criteria": text["criteria"],
        "channel": {**channel, **({"header": header} if header else {})},
        **{name: text[name] for name in ("reason", "end") if text[name]},
    }


def _tried(here: Here, at: str, draft: Resource) -> dict[str, Any]:
    """What the criteria would have matched."""
    told = here.operate("Subscription", None, "preview", base=at, subscription=_resource(draft))
    matches = [each["valueReference"]["reference"] for each in parameters(told, "match")]
    return {**values(told.get("parameter", ())), "matches": matches}


def _resource(draft: Resource) -> Resource:
    return {name: value for name, value in draft.items() if name != "id"}


def _asked_for(here: Here, at: str, draft: Resource) -> HttpResponse:
    """Asks for it; its signing secret, if it has just been made."""
    answer = here.ask("update", "Subscription", draft["id"], base=at, body=draft)
    to = here.url("application.subscription", at=at, subscription=draft["id"])
    if answer.status != 201:
        return here.go(to, said="application.secret.known", tone="info")
    channel = (answer.content() or {}).get("channel", {})
    secret = next((each["valueString"] for each in channel.get("extension", ()) if each["url"] == SIGNING_SECRET), "")
    return here.page(
        "application/subscription_secret.html", title=here.t("application.secret.title"), secret=secret, until="",
        to=to, made=True,
    )  # fmt: skip
