"""Search parameters added at run time: planned by the relay, indexed by a job, and not ready until all of what was
there is. FHIR R4: searchparameter.

A search that uses a parameter which is not ready says so: an OperationOutcome entry, or a refusal under
`handling=strict`.
"""

from __future__ import annotations

from collections.abc import Iterable

from fhirserver.auth.access import Access, everything
from fhirserver.fhir import Resource
from fhirserver.fhir.definitions import restates
from fhirserver.fhir.json import decode
from fhirserver.fhir.parameters import parameters_of
from fhirserver.fhir.problem import Issue, problem
from fhirserver.interactions.indexing import entry_of
from fhirserver.interactions.model import OperationRow, Request, Response, Server
from fhirserver.interactions.read import current
from fhirserver.rules.model import CANONICAL
from fhirserver.search.index import Entry
from fhirserver.search.query import Query
from fhirserver.store import reindex
from fhirserver.store.database import Document
from fhirserver.store.model import REGISTRY
from fhirserver.store.search import compile_search, find
from fhirserver.store.text import plain

JOB = "reindex"
LEASE_SECONDS = 60.0
MOST_PARAMETERS = 1_000


def plan(server: Server) -> int:
    """Makes a record for every parameter defined at run time that has none, and puts a job for each type that waits."""
    server.refresh()
    for resource in _defined(server):
        for type in _types(server, resource):
            reindex.begin(server.store.database, type, resource["code"], _version(resource), server.now())
    _plan_contained(server)
    types = reindex.waiting(server.store.database)
    for type in types:
        server.enqueue(JOB, type)
    return len(types)


def _plan_contained(server: Server) -> None:
    """Once in the life of an installation: what was stored before contained resources were indexed."""
    database = server.store.database
    made = server.store.singleton("contained", lambda: {"types": reindex.without_contained(database)})
    for type in made["types"]:
        reindex.begin(database, type, "_contained", "1", server.now())


def run(server: Server, type: str) -> None:
    """The job: indexes a type anew until nothing waits. One process at a time; another goes on where it stopped."""
    server.refresh()
    name, owner = f"reindex/{type}", server.new_id()
    if server.store.lease(name, owner, LEASE_SECONDS) is None:
        return

    def index(document: Document) -> Entry | None:
        entry = entry_of(server, decode(plain(document["d"])), server.base(document["o"]))
        server.store.containers.note_pairs((type, inside.type) for inside in entry.contained)
        return entry

    try:
        while reindex.step(server.store.database, type, index):
            server.store.renew(name, owner, LEASE_SECONDS)
    finally:
        server.store.release(name, owner)


def unready(server: Server, type: str, query: Query, *, strict: bool) -> list[Issue]:
    """A warning for every parameter of the query that is not ready on the type. Raises Problem(transient, 503) when
    strict.
    """
    added: dict[tuple[str, str], str] = server.caches.get("added") or _added(server)
    ids = {}
    for name, _ in query.used:
        code = name.partition(":")[0].partition(".")[0]
        if (type, code) in added:
            ids[reindex.record_id(type, code, added[(type, code)])] = code
    if not ids:
        return []
    known = reindex.progress(server.store.database, list(ids))
    issues = []
    for id, code in ids.items():
        found = known.get(id)
        if found is None or not found.ready:
            share = f"{100 * found.done // max(found.total, 1)} %" if found else "0 %"
            text = f"{code} of {type} is being indexed ({share}); until then not all that match are found."
            issues.append(Issue("incomplete", text, (f"http.{code}",), "warning"))
    if issues and strict:
        raise problem("transient", issues[0].diagnostics, headers={"Retry-After": "5"})
    return issues


def status(server: Server, request: Request, access: Access) -> Response:
    """$reindex-status of a SearchParameter: for each type it is on, how far it is."""
    resource = current(server, access, "SearchParameter", request.id or "", request).resource()
    ids = {type: reindex.record_id(type, resource["code"], _version(resource)) for type in _types(server, resource)}
    known = reindex.progress(server.store.database, list(ids.values()))
    parts = []
    for type, id in ids.items():
        found = known.get(id)
        parts.append(
            {
                "name": type,
                "part": [
                    {"name": "ready", "valueBoolean": bool(found and found.ready)},
                    {"name": "done", "valueInteger": found.done if found else 0},
                    {"name": "total", "valueInteger": found.total if found else 0},
                ],
            }
        )
    return Response(200, resource=parameters_of(parts))


OPERATIONS = (
    OperationRow(
        "reindex-status",
        ("SearchParameter",),
        ("instance",),
        "r",
        status,
        affects_state=False,
        bases=("registry",),
        definition=f"{CANONICAL}/OperationDefinition/SearchParameter-reindex-status",
    ),
)


def _defined(server: Server) -> list[Resource]:
    search = compile_search(server.store, everything(REGISTRY), "SearchParameter", (), None)
    found = find(server.store, search, (), MOST_PARAMETERS).matches if search else ()
    resources = [version.resource() for version in found]
    return [resource for resource in resources if not restates(resource)]


def _added(server: Server) -> dict[tuple[str, str], str]:
    """(type, code) of the parameters defined at run time -> their definition; kept until the generation moves."""
    added = {
        (type, resource["code"]): _version(resource)
        for resource in _defined(server)
        for type in _types(server, resource)
    }
    server.caches["added"] = added or {("", ""): ""}
    return added


def _types(server: Server, resource: Resource) -> Iterable[str]:
    """The types a SearchParameter is on, where the definitions have taken it up."""
    bases = resource.get("base", [])
    wide = {"Resource", "DomainResource"} & set(bases)
    types = server.definitions.resource_types if wide else server.definitions.resource_types.intersection(bases)
    code, url = resource.get("code", ""), resource.get("url", "")
    known = {type: server.definitions.search_parameters(type).get(code) for type in types}
    return sorted(type for type, parameter in known.items() if parameter and parameter.url == url)


def _version(resource: Resource) -> str:
    return f"{resource['id']}/{resource['meta']['versionId']}"
