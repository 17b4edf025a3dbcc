"""The batch and transaction interactions. FHIR R4: http#transaction, http#trules, http#brules.

A batch runs its entries one by one, each standing for itself. A transaction runs them in the order DELETE, POST, PUT
and PATCH, GET inside one database transaction: all or nothing, and the refusal names the entry.
"""

from __future__ import annotations

import re
import time
from base64 import b64decode
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl, unquote

from fhirserver.auth.access import Access
from fhirserver.fhir import Resource
from fhirserver.fhir.instants import instant_text
from fhirserver.fhir.json import decode
from fhirserver.fhir.problem import Issue, Problem, outcome, problem
from fhirserver.fhir.references import texts
from fhirserver.interactions import conditional
from fhirserver.interactions.ihe import mhd
from fhirserver.interactions.model import Pairs, Preconditions, Request, Response, Server, Unit
from fhirserver.interactions.readiness import ensure_indexes, ready
from fhirserver.interactions.search import matching, selection

MOST_ENTRIES = 5_000
BATCH_SECONDS = 300
"""How long a batch may hold a thread: each of its entries may be a search, which may take seconds."""
MOST_PATH = 1_000
"""Characters of an entry's path that its audit record keeps."""
ORDER = {"DELETE": 0, "POST": 1, "PUT": 2, "PATCH": 2, "GET": 3, "HEAD": 3}
READS = 3
REASONS = {200: "200 OK", 201: "201 Created", 204: "204 No Content", 304: "304 Not Modified"}
LOCAL = re.compile(r"urn:(uuid|oid):")
CONDITIONAL = re.compile(r"([A-Z][A-Za-z]{1,60})\?(.+)\Z", re.DOTALL)


@dataclass(slots=True)
class Entry:
    """One entry: its index in the Bundle, its request, and the fullUrl that others refer to it by."""

    index: int
    request: Request
    full_url: str
    assigned: str | None = None
    response: Response | None = None


def bundle(server: Server, request: Request, access: Access) -> Response:
    """Runs a Bundle of type batch or transaction and answers the Bundle of responses, in the order of the entries."""
    given = request.body
    if not isinstance(given, dict) or given.get("resourceType") != "Bundle":
        raise problem("structure", "POST to the base takes a Bundle of type batch or transaction.", "resourceType")
    kind = given.get("type")
    if kind not in ("batch", "transaction"):
        hint = " Send messages to $process-message." if kind == "message" else ""
        raise problem(
            "value", f"The Bundle's type is {kind!r}; batch and transaction are possible here.{hint}", "Bundle.type"
        )
    listed = given.get("entry", [])
    if not isinstance(listed, list):
        raise problem("structure", "Bundle.entry must be an array.", "Bundle.entry")
    if len(listed) > MOST_ENTRIES:
        raise problem("too-long", f"A Bundle may have at most {MOST_ENTRIES} entries.", "Bundle.entry")
    if kind == "batch":
        responses = _batch(server, request, access, listed)
    else:
        beside = mhd.provide(given)
        responses = _transaction(server, request, access, [*listed, *beside])[: len(listed)]
    answer: Resource = {"resourceType": "Bundle", "type": f"{kind}-response"}
    if responses:
        answer["entry"] = responses
    return Response(200, resource=answer)


def _batch(server: Server, request: Request, access: Access, listed: list[Any]) -> list[Resource]:
    answers: list[Resource] = []
    end = time.monotonic() + BATCH_SECONDS
    for index, element in enumerate(listed):
        asked = request
        try:
            if time.monotonic() > end:
                raise problem("timeout", f"The batch took {BATCH_SECONDS} seconds: send this entry again.", status=503)
            entry = _entry(server, request, element, index)
            asked = entry.request
            response = server.perform(server, entry.request, access)
            answers.append(_answer(request, entry, response))
        except Problem as error:
            server.audit(server, asked, error)
            answers.append({"response": {"status": str(error.status), "outcome": outcome(error.issues)}})
    return answers


def _transaction(server: Server, request: Request, access: Access, listed: list[Any]) -> list[Resource]:
    entries = [_entry(server, request, element, index) for index, element in enumerate(listed)]
    _refuse_twice(entries)
    _prepare(server, access, entries)

    def work(session: Any) -> list[Entry]:
        unit = Unit(server.store, session)
        return _run(server, replace(request, unit=unit), access, entries, unit)

    done: list[Entry] = server.store.transaction(work)
    for entry in done:
        # Not while it runs: a transaction may run several times before it commits, or never does.
        server.audit(server, entry.request, entry.response or Response(200))
    return [_answer(request, entry, entry.response or Response(200)) for entry in done]


def _prepare(server: Server, access: Access, entries: list[Entry]) -> None:
    """Makes what cannot be made inside a transaction: collections, indexes, and the locks of conditional entries."""
    for type in {entry.request.type for entry in entries if entry.request.type}:
        if type in server.definitions.resource_types:
            server.store.database.current(type)
            server.store.database.history(type)
    for entry in entries:
        asked = entry.request
        try:
            criteria = conditional.asked_criteria(asked)
            if criteria:
                conditional.prepare(server, asked, access, asked.type or "", criteria)
            for type, pairs in _conditional_references(asked.body):
                access.require(type, "s")
                ensure_indexes(server, access, selection(server, asked, type, pairs))
            ready(server, asked, access)
        except Problem as error:
            raise _in_entry(error, entry.index) from None


def _conditional_references(value: Any) -> set[tuple[str, Pairs]]:
    """Type and criteria of every conditional reference in a resource."""
    asked = (CONDITIONAL.match(text) for text in texts(value))
    return {(parts[1], tuple(parse_qsl(parts[2], keep_blank_values=True))) for parts in asked if parts}


def _run(server: Server, request: Request, access: Access, entries: list[Entry], unit: Unit) -> list[Entry]:
    """Runs the entries in the specification's order and answers them in the Bundle's."""
    entries = [replace(entry, request=replace(entry.request, unit=unit)) for entry in entries]
    names: Names | None = None
    written: set[str] = set()
    for entry in sorted(entries, key=lambda each: (_turn(each.request), each.index)):
        if names is None and entry.request.facts["method"] != "DELETE":
            unit.flush()  # what is deleted here is not there any more for the others' criteria
            names = _assign(server, request, access, entries)
        try:
            asked = replace(entry.request, body=_resolved(server, request, access, entry.request.body, names or {}))
            if _turn(entry.request) == READS:
                unit.flush()
            entry.response = server.perform(server, replace(asked, assigned=entry.assigned), access)
            _refuse_overlap(unit.written, written)
            _found_elsewhere(entry, names, unit)
        except Problem as error:
            raise _in_entry(error, entry.index) from None
        except RecursionError:
            raise _in_entry(problem("structure", "The resource is nested too deeply."), entry.index) from None
    unit.flush()
    return entries


def _turn(request: Request) -> int:
    """When an entry has its turn: a search by POST reads like one by GET."""
    return READS if request.interaction.startswith("search-") else ORDER[request.facts["method"]]


class Names(dict[str, str]):
    """fullUrl -> Type/id, with those that a reference has been resolved by."""

    def __init__(self) -> None:
        super().__init__()
        self.used: set[str] = set()

    def __getitem__(self, full_url: str) -> str:
        self.used.add(full_url)
        return super().__getitem__(full_url)


def _assign(server: Server, request: Request, access: Access, entries: list[Entry]) -> Names:
    """The name of every entry that creates or names a resource; creates get their ids before anything is created, and
    those with the same criteria the same one, as the first will be what the second finds.
    """
    names, of_criteria = Names(), dict[str, str]()
    for entry in entries:
        asked = entry.request
        if asked.interaction in ("create", "conditional-update"):
            entry.assigned = _assigned(server, asked, access, of_criteria)
        id = entry.assigned or asked.id
        if entry.full_url and asked.type and id:
            names[entry.full_url] = f"{asked.type}/{id}"
    return names


def _assigned(server: Server, asked: Request, access: Access, of_criteria: dict[str, str]) -> str:
    criteria, given = asked.preconditions.if_none_exist, None
    if asked.interaction == "conditional-update":
        criteria = "&".join(f"{name}={value}" for name, value in asked.query)
        given = asked.body.get("id") if isinstance(asked.body, dict) else None
    if criteria is None:
        return server.new_id()
    key = f"{asked.type}?{criteria.rpartition('?')[2]}"
    if key not in of_criteria:
        of_criteria[key] = _existing(server, asked, access, criteria) or str(given or server.new_id())
    return of_criteria[key]


def _found_elsewhere(entry: Entry, names: Names | None, unit: Unit) -> None:
    """Names the resource that an entry turned out to be, where it is not the one it was taken for: its criteria match
    what another entry has made. Raises Problem(conflict) where a reference has been resolved by the name already.
    """
    if names is None or entry.full_url not in names or entry.response is None or entry.assigned is None:
        return
    url = entry.response.location
    landed = "/".join(url.split("/")[-4:-2]) if url else unit.written[-1]
    if landed == names.get(entry.full_url):
        return
    if entry.full_url in names.used:
        raise problem(
            "conflict",
            f"{entry.full_url[:200]} turned out to be {landed}, after another entry had been given another id for it:"
            " put this entry before those that refer to it, or let them refer to what it matches.",
        )
    names[entry.full_url] = landed


def _existing(server: Server, request: Request, access: Access, criteria: str | None) -> str | None:
    if criteria is None:
        return None
    pairs = tuple(parse_qsl(criteria.rpartition("?")[2], keep_blank_values=True))
    query = selection(server, request, request.type or "", pairs)
    found = matching(server, access, query, request.session, limit=2)
    return found[0].id if len(found) == 1 else None


def _resolved(server: Server, request: Request, access: Access, value: Any, names: dict[str, str]) -> Any:
    """The value with references to other entries, and conditional references, replaced by Type/id."""
    if isinstance(value, str):
        return names[value] if value in names and LOCAL.match(value) else value
    if isinstance(value, list):
        return [_resolved(server, request, access, each, names) for each in value]
    if not isinstance(value, dict):
        return value
    resolved = dict(value)
    for key, each in value.items():
        if isinstance(each, str):
            if key == "reference":
                resolved[key] = _reference(server, request, access, each, names)
            elif each in names and LOCAL.match(each):
                resolved[key] = names[each]
        elif isinstance(each, (dict, list)):
            resolved[key] = _resolved(server, request, access, each, names)
    return resolved


def _reference(server: Server, request: Request, access: Access, text: str, names: dict[str, str]) -> str:
    url, hash, fragment = text.partition("#")
    if url in names:
        return names[url] + hash + fragment
    conditional = CONDITIONAL.match(text)
    if not conditional:
        return text
    type, criteria = conditional.groups()
    access.require(type, "s")
    pairs = tuple(parse_qsl(criteria, keep_blank_values=True))
    if request.unit:
        request.unit.flush()
    found = matching(server, access, selection(server, request, type, pairs), request.session, limit=2)
    if len(found) != 1:
        how = "nothing matches" if not found else "more than one resource matches"
        raise problem(
            "multiple-matches", f"The conditional reference {type}?... cannot be resolved: {how}.", status=412
        )
    return f"{type}/{found[0].id}"


def _entry(server: Server, outer: Request, element: Any, index: int) -> Entry:
    where = f"Bundle.entry[{index}]"
    asked = element.get("request") if isinstance(element, dict) else None
    if not isinstance(asked, dict):
        raise problem("required", f"Entry {index} has no request with method and url.", f"{where}.request")
    method, url = asked.get("method"), asked.get("url")
    if not isinstance(method, str) or method not in ORDER or not isinstance(url, str):
        raise problem(
            "value",
            f"Entry {index}: request.method must be one of {', '.join(ORDER)} and request.url a text.",
            f"{where}.request",
        )
    try:
        request = _request(server, outer, element, asked, "GET" if method == "HEAD" else method, url)
    except Problem as error:
        raise _in_entry(error, index) from None
    full_url = element.get("fullUrl")
    return Entry(index, request, full_url if isinstance(full_url, str) else "")


def _request(server: Server, outer: Request, element: Any, asked: Any, method: str, url: str) -> Request:
    path, _, search = url.removeprefix(outer.base).partition("?")
    row, values = server.locate(method, unquote(path))
    if row.code == "transaction":
        raise problem("not-supported", "A Bundle inside a Bundle is not run.")
    query: Pairs = tuple(parse_qsl(search, keep_blank_values=True))
    criteria = _text(asked, "ifNoneExist")
    if criteria is None and row.code == "create":
        criteria = search or None
    conditions = Preconditions(
        if_match=_tag(asked, "ifMatch"),
        if_none_match=_tag(asked, "ifNoneMatch"),
        if_none_exist=criteria,
    )
    return replace(
        outer,
        interaction=row.code,
        type=values.get("type"),
        id=values.get("id"),
        vid=values.get("vid"),
        operation=values.get("operation"),
        member=values.get("member"),
        query=query,
        body=_patch_body(element.get("resource")) if method == "PATCH" else element.get("resource"),
        preconditions=conditions,
        facts={**outer.facts, "method": method, "path": path[:MOST_PATH]},
    )


def _patch_body(resource: Any) -> Any:
    """A JSON Patch travels in a Bundle as a Binary (http#patch); a FHIRPath Patch as Parameters."""
    if not isinstance(resource, dict) or resource.get("resourceType") != "Binary":
        return resource
    try:
        data = b64decode(str(resource.get("data", "")))
    except ValueError:
        raise problem("value", "The data of a Binary that is a patch must be base64.", "data") from None
    return decode(data)


def _refuse_twice(entries: list[Entry]) -> None:
    """Two entries may not write the same resource (http#trules), nor carry the same fullUrl."""
    written: set[str] = set()
    for entry in entries:
        asked = entry.request
        names = [f"{asked.type}/{asked.id}"] if asked.id and asked.facts["method"] in ("PUT", "PATCH", "DELETE") else []
        if entry.full_url and asked.interaction == "create":
            names.append(entry.full_url)
        for name in names:
            if name in written:
                raise _in_entry(
                    problem("duplicate", f"{name} is written twice in this transaction.", status=400), entry.index
                )
            written.add(name)


def _refuse_overlap(written: list[str], known: set[str]) -> None:
    """Conditional entries may turn out to write what another one writes (http#trules)."""
    for name in written[len(known) :]:
        if name in known:
            raise problem("duplicate", f"{name} is written twice in this transaction.", status=400)
        known.add(name)


def _in_entry(error: Problem, index: int) -> Problem:
    """The Problem with the entry named in each issue: in its text, and before its expression."""
    where = f"Bundle.entry[{index}]"
    issues = tuple(
        Issue(
            issue.code,
            f"Entry {index}: {issue.diagnostics}",
            tuple(_below(where, path) for path in issue.expression) or (where,),
            issue.severity,
        )
        for issue in error.issues
    )
    return Problem(issues, status=error.status, headers=error.headers)


def _below(where: str, path: str) -> str:
    """A place in the entry: what is said of a parameter (`http.name`, `_list`) is about its URL."""
    return f"{where}.request.url" if path.startswith(("http.", "_")) else f"{where}.resource.{path}"


def _answer(request: Request, entry: Entry, response: Response) -> Resource:
    said: Resource = {"status": REASONS.get(response.status, str(response.status))}
    if response.location:
        said["location"] = response.location
    if response.version is not None:
        said["etag"] = f'W/"{response.version}"'
    if response.instant is not None:
        said["lastModified"] = instant_text(response.instant)
    answer: Resource = {"response": said}
    asked = _turn(entry.request) == READS or entry.request.interaction == "operation"
    wanted = asked or request.prefer.returned in ("representation", "OperationOutcome")
    shown = response.content() if wanted else response.resource
    if shown and shown.get("resourceType") == "OperationOutcome" and entry.request.facts["method"] != "GET":
        said["outcome"] = shown
    elif shown and (wanted or response.once):
        answer = {"resource": shown, **answer}
    return answer


def _text(asked: dict[str, Any], name: str) -> str | None:
    value = asked.get(name)
    if value is not None and not isinstance(value, str):
        raise problem("structure", f"request.{name} must be a text.", f"request.{name}")
    return value


def _tag(asked: dict[str, Any], name: str) -> str | None:
    text = _text(asked, name)
    return text.removeprefix("W/").strip('"') if text else None
