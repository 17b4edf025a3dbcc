"""The browser: every resource of any type that a base serves, as a list, as JSON, with its versions.

Operators have it for the registry; administrators of a provider organization for their own base.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

from flask import Response as HttpResponse
from flask import request as http

from fhirserver.auth.access import REGISTRY
from fhirserver.fhir import Resource
from fhirserver.fhir.problem import problem
from fhirserver.interactions.capabilities import served_types
from fhirserver.web.console.here import Here
from fhirserver.web.console.listing import SIZE, Listing, listing_of
from fhirserver.web.console.operator.shown import brief, columns, difference, label, lines

MOST_QUERY = 2_000
VERSIONS = 50
OURS = (
    "AccessPolicy", "ClientApplication", "ClientAuthorization", "InboundMessage", "NotificationDelivery",
    "Subscription", "SubscriptionTopic", "User",
)  # fmt: skip
"""The types that the exchange itself is about: they come first."""


def base_of(here: Here) -> str:
    """The base of the address: the registry, an organization's id; on an organization's own screens that one."""
    return here.values.get("base") or here.organization or REGISTRY


def to(here: Here, screen: str, **values: Any) -> str:
    """The address of one of these screens, on the side where the caller is."""
    if here.audience == "hospital":
        return here.url(f"operator.own-{screen}", **values)
    return here.url(f"operator.{screen}", base=base_of(here), **values)


def type_of(here: Here) -> str:
    """The type of the address. Raises Problem(not-found) for one that the base does not serve."""
    type = here.values["type"]
    if type not in served_types(here.server, base_of(here)):
        raise problem("not-found", here.t("operator.list.no_type", type=type[:64]))
    names = {here.t("operator.list.title"): type, here.t("operator.resource.title"): here.values.get("id", "")}
    here.trail = [replace(crumb, title=names.get(crumb.title) or crumb.title) for crumb in here.trail]
    return type


def types(here: Here) -> HttpResponse:
    """The types that a base serves."""
    wanted = here.asked.get("q", "").strip()[:64]
    found = [name for name in sorted(served_types(here.server, base_of(here))) if wanted.lower() in name.lower()]
    groups = (
        ("ours", [name for name in found if name in OURS]),
        ("others", [name for name in found if name not in OURS]),
    )
    return here.page("operator/types.html", groups=groups, wanted=wanted, base=base_of(here), to=to)


def list_(here: Here) -> HttpResponse:
    """The resources of a type that a FHIR search finds, with columns out of the type's summary."""
    type, base = type_of(here), base_of(here)
    text = here.asked.get("q", "").strip()[:MOST_QUERY]
    found = Listing(http.path, find=text, searchable=True)
    notes: list[str] = []
    with here.trying():
        found, notes = _found(here, type, base, text)
    known = here.server.definitions.search_parameters(type)
    return here.page(
        "operator/list.html",
        title=type,
        type=type,
        base=base,
        to=to,
        brief=brief,
        label=label,
        dashed=lambda names: [f"-{name}" for name in names],
        found=found,
        notes=notes,
        columns=columns(here.server.definitions, type, found.entries),
        parameters=[known[code] for code in sorted(known)],
        may=here.may("create", type, base=base),
    )


def _found(here: Here, type: str, base: str, text: str) -> tuple[Listing, list[str]]:
    asked = [pair for pair in parse_qsl(text.lstrip("?"), keep_blank_values=True) if pair[0] != "_cursor"]
    summary = any(each.summary for each in here.server.definitions.types[type].properties.values())
    pairs = [*asked, ("_count", str(SIZE)), *([("_summary", "true")] if summary else [])]
    cursor = here.asked.get("page", "")
    bundle = here.search(type, *pairs, *([("_cursor", cursor)] if cursor else []), base=base)
    notes = [
        issue["diagnostics"]
        for entry in bundle.get("entry", ())
        if entry["search"]["mode"] == "outcome"
        for issue in entry["resource"]["issue"]
    ]
    return listing_of(bundle, http.path, find=text, searchable=True), notes


def resource(here: Here) -> HttpResponse:
    """One resource as JSON."""
    type, base = type_of(here), base_of(here)
    return shown(here, here.read(type, here.values["id"], base=base))


def shown(here: Here, found: Resource) -> HttpResponse:
    """The page of a resource."""
    type, base = found["resourceType"], base_of(here)
    title = brief(found.get("name") or found.get("title") or "") or f"{type}/{found['id']}"
    return here.page(
        "operator/resource.html",
        title=title,
        resource=found,
        base=base,
        to=to,
        url=f"{here.server.base(base)}/{type}/{found['id']}",
        may_edit=here.may("update", type, base=base),
        may_delete=here.may("delete", type, base=base),
    )


def history(here: Here) -> HttpResponse:
    """The versions of a resource, the newest first."""
    type, base, id = type_of(here), base_of(here), here.values["id"]
    bundle = here.ask("history-instance", type, id, base=base, query=(("_count", str(VERSIONS)),)).content() or {}
    versions = [_version(entry) for entry in bundle.get("entry", ())]
    return here.page("operator/history.html", type=type, id=id, base=base, to=to, versions=versions)


def _version(entry: Resource) -> dict[str, Any]:
    etag = str(entry.get("response", {}).get("etag", "")).removeprefix("W/").strip('"')
    return {
        "version": etag or entry.get("resource", {}).get("meta", {}).get("versionId", ""),
        "when": entry.get("response", {}).get("lastModified", ""),
        "method": entry.get("request", {}).get("method", ""),
        "there": "resource" in entry,
    }


def versions(here: Here) -> HttpResponse:
    """One version, or what differs between two."""
    type, base, id = type_of(here), base_of(here), here.values["id"]
    old, new = here.asked.get("from", ""), here.asked.get("to", "")
    after = _vread(here, type, id, base, new)
    before = _vread(here, type, id, base, old) if old else None
    changed = list(difference(lines(before), lines(after))) if before is not None else []
    return here.page(
        "operator/version.html",
        title=here.t("operator.version.two", old=old, new=new) if old else here.t("operator.version.one", new=new),
        type=type,
        id=id,
        base=base,
        to=to,
        after=after,
        changed=changed,
        old=old,
    )


def _vread(here: Here, type: str, id: str, base: str, version: str) -> Resource:
    return here.ask("vread", type, id, vid=version, base=base).content() or {}
