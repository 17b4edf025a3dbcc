"""The history interactions on an instance, a type and the system. FHIR R4: http#history."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlencode

from fhirserver.auth.access import Access
from fhirserver.fhir import Resource
from fhirserver.fhir.instants import instant_text
from fhirserver.fhir.json import decode
from fhirserver.fhir.problem import problem
from fhirserver.interactions.capabilities import served_types
from fhirserver.interactions.cursor import open_cursor, seal_cursor
from fhirserver.interactions.model import Request, Response, Server
from fhirserver.interactions.read import current
from fhirserver.search.types.date import bounds
from fhirserver.store.history import Span, versions
from fhirserver.store.model import Stored

PARAMETERS = ("_count", "_since", "_at", "_cursor", "_format", "_pretty", "_summary", "_elements")


@dataclass(frozen=True, slots=True)
class Asked:
    count: int
    span: Span
    after: tuple[datetime, str, int] | None


def history_instance(server: Server, request: Request, access: Access) -> Response:
    """All versions of a resource, the newest first; a deleted one's too. Raises Problem(not-found)."""
    assert request.type
    assert request.id
    if server.store.read(access, request.type, request.id, session=request.session) is None:
        current(server, access, request.type, request.id, request)
    return _page(server, request, access, [request.type])


def history_type(server: Server, request: Request, access: Access) -> Response:
    """All versions of all resources of a type, the newest first."""
    assert request.type
    return _page(server, request, access, [request.type])


def history_system(server: Server, request: Request, access: Access) -> Response:
    """All versions on this base of the types that the caller may search."""
    types = [type for type in served_types(server, request.organization) if access.clauses(type, "s") is not None]
    if not types:
        access.require("Resource", "s")
    return _page(server, request, access, types)


def _page(server: Server, request: Request, access: Access, types: list[str]) -> Response:
    asked = _asked(server, request)
    letter = "r" if request.id else "s"
    found = versions(
        server.store, access, types, letter, request.id, asked.span, asked.after, asked.count + 1, request.session
    )
    page = found[: asked.count]
    path = "/".join(part for part in (request.type, request.id, "_history") if part)
    given = dict(request.query).get("_cursor")
    links = [{"relation": "self", "url": _url(request, path, asked, given)}]
    if given:
        links.append({"relation": "first", "url": _url(request, path, asked, None)})
    if len(found) > asked.count and page:
        last = page[-1]
        after = seal_cursor(server, f"{request.base}/{path}", [last.instant, f"{last.type}/{last.id}", last.version])
        links.append({"relation": "next", "url": _url(request, path, asked, after)})
    bundle: Resource = {"resourceType": "Bundle", "type": "history", "link": links}
    if page:
        bundle["entry"] = [_entry(server, request, version) for version in page]
    return Response(200, resource=bundle, seen=[f"{version.type}/{version.id}" for version in page])


def _entry(server: Server, request: Request, version: Stored) -> Resource:
    url = f"{version.type}/{version.id}"
    entry: Resource = {"fullUrl": f"{request.base}/{url}"}
    if version.text is not None:
        resource = decode(version.text)
        rule = server.rules.get(version.type)
        entry["resource"] = rule.present(resource, request.principal) if rule and rule.present else resource
    entry["request"] = {"method": version.method, "url": version.type if version.method == "POST" else url}
    entry["response"] = {
        "status": "204" if version.deleted else "201" if version.version == 1 else "200",
        "etag": f'W/"{version.version}"',
        "lastModified": instant_text(version.instant),
    }
    return entry


def _asked(server: Server, request: Request) -> Asked:
    values = dict(request.query)
    for name in values:
        if name not in PARAMETERS:
            raise problem(
                "not-supported", f"{name} is not a parameter of history; possible: {', '.join(PARAMETERS[:3])}.", name
            )
    count = values.get("_count", str(server.page_size))
    if not (count.isascii() and count.isdigit() and len(count) < 10):
        raise problem("invalid", "_count must be a whole number.", "_count")
    path = "/".join(part for part in (request.type, request.id, "_history") if part)
    after = open_cursor(server, f"{request.base}/{path}", values["_cursor"]) if "_cursor" in values else None
    return Asked(max(1, min(int(count), server.page_size_limit)), _span(values), tuple(after) if after else None)


def _span(values: dict[str, str]) -> Span:
    """The instants asked for: `_since` from that instant on, `_at` what was current at some time in that period."""
    since = until = at = None
    if "_since" in values:
        since = bounds(values["_since"], "_since")[0]
    if "_at" in values:
        at, end = bounds(values["_at"], "_at")
        until = end
    return Span(since, until, at)


def _url(request: Request, path: str, asked: Asked, cursor: str | None) -> str:
    kept = [(name, value) for name, value in request.query if name in ("_since", "_at")]
    pairs = [*kept, ("_count", str(asked.count)), *([("_cursor", cursor)] if cursor else [])]
    return f"{request.base}/{path}?{urlencode(pairs)}"
