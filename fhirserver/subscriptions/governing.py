"""Whether an organization governs its topic catalogue: then only what it has activated can be subscribed to by name."""

from __future__ import annotations

from fhirserver.auth.access import Access, everything
from fhirserver.fhir import Resource
from fhirserver.fhir.parameters import parameters_of
from fhirserver.fhir.problem import problem
from fhirserver.interactions.model import Request, Response, Server
from fhirserver.interactions.operations import parameters
from fhirserver.interactions.versions import put
from fhirserver.interactions.write import persist
from fhirserver.rules.model import REGISTRY, Prepared
from fhirserver.rules.subscription import approved
from fhirserver.search.parse import parse
from fhirserver.subscriptions.match import Subscriptions
from fhirserver.subscriptions.topics import Catalogue
from fhirserver.subscriptions.watching import GOVERNED, Watching, governed

MOST_STOPPED = 1000


def govern(server: Server, catalogue: Catalogue, request: Request, access: Access) -> Response:
    """$govern: an administrator begins (`governed` true) or ends it; without the parameter, how it is. Answers the
    Subscriptions whose criteria name nothing that is active here now: they are told of nothing.

    Raises Problem: forbidden for anybody but an administrator of the organization, value for what is no boolean.
    """
    said, organization = parameters(request, "governed").get("governed"), request.organization
    if said is not None:
        wanted = {True: True, False: False, "true": True, "false": False}.get(said)
        if wanted is None:
            raise problem("value", "governed is true or false.", "Parameters.parameter")
        if not request.principal.admin(organization):
            raise problem("forbidden", f"Only an administrator of organization {organization} may decide this.")
        _decide(server, request, wanted)
    parts: list[Resource] = [{"name": "governed", "valueBoolean": governed(server, organization)}]
    if access.clauses("Subscription", "s") == ():  # clients and guests, who see their own alone, are told none
        parts += [
            {"name": "stopped", "valueReference": {"reference": f"Subscription/{id}"}}
            for id in _stopped(server, catalogue, organization)
        ]
    return Response(200, parameters_of(parts))


def _decide(server: Server, request: Request, wanted: bool) -> None:
    organization, whole = request.organization, everything(REGISTRY)

    def attempt() -> Response:
        previous = server.store.live(whole, "Organization", organization)
        if previous is None:
            raise problem("not-found", "The organization is not on the registry any more.")
        resource = previous.resource()
        kept = [each for each in resource.get("extension", ()) if each.get("url") != GOVERNED]
        extension = [*kept, *([{"url": GOVERNED, "valueBoolean": True}] if wanted else [])]
        rest = {name: value for name, value in resource.items() if name != "extension"}
        if governed(server, organization) != wanted:
            made = Prepared({**rest, **({"extension": extension} if extension else {})})
            put(server, request, whole, made, previous, f"Organization/{organization}", "PUT")
        return Response(200)

    persist(request, attempt)


def _stopped(server: Server, catalogue: Catalogue, organization: str) -> list[str]:
    watching = Watching(server, catalogue)
    clauses = parse(server.definitions, "Subscription", [("status", "active,error,requested")]).clauses
    found = watching.every(organization, "Subscription", clauses)
    compiled = Subscriptions.compiled(watching.compiler(organization), (each for each in found if approved(each)))
    return sorted(compiled.refused)[:MOST_STOPPED]
