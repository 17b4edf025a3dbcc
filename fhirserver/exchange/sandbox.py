"""The sandbox of a test client: an organization of its own, filled with made-up data, that has approved it.

It comes to be with the first request to its base, or with $sandbox, and goes with the client (`ending`). Every id is
derived from the client's, and the authorization is written last: whoever comes second, or after a crash, finds what is
there and does the rest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fhirserver.auth.access import Access, everything
from fhirserver.auth.principal import SYSTEM, Principal
from fhirserver.auth.sandbox import TAG, TAG_SYSTEM, sandbox_of
from fhirserver.fhir import Resource
from fhirserver.fhir.parameters import parameters_of
from fhirserver.fhir.problem import Problem, problem
from fhirserver.interactions.model import OperationRow, Request, Response, Server
from fhirserver.interactions.operations import parameters
from fhirserver.interactions.read import current
from fhirserver.interactions.versions import next_instant, put, version_of
from fhirserver.rules import authorization
from fhirserver.rules.model import CANONICAL, REGISTRY, Prepared, target
from fhirserver.rules.organization import kind_concept
from fhirserver.store.model import Change

REASON = "The sandbox of this test client."


def sandbox(server: Server, request: Request, access: Access) -> Response:
    """$sandbox: which organization a test client's sandbox is, and its base. Makes it where it is not there yet.

    Raises Problem: business-rule for a production client, forbidden for strangers.
    """
    parameters(request)
    client = current(server, access, "ClientApplication", request.id or "", request).resource()
    if client.get("kind") != "test":
        raise problem("business-rule", "Only a test client has a sandbox: register one.", "ClientApplication.kind")
    if not _is_own_side(request.principal, client):
        raise problem("forbidden", "Only the client's own side may ask for its sandbox.")
    organization = ensure(server, client)
    parts: list[dict[str, Any]] = [
        {"name": "organization", "valueReference": {"reference": f"Organization/{organization}"}},
        {"name": "base", "valueUrl": server.base(organization)},
    ]
    return Response(200, resource=parameters_of(parts))


def ensure(server: Server, client: Resource) -> str:
    """Makes the sandbox of a test client, or what is missing of it; answers its organization's id."""
    organization = sandbox_of(client["id"])
    id = authorization.authorization_id(client["id"], organization)
    held = server.store.deciding(authorization.TYPE, id)
    if held is None or held.resource().get("requested", "") < client.get("registered", ""):
        _fill(server, organization)
        described = _organization(server, client, organization)
        _authorize(server, client, described, id)
    return organization


def refill(server: Server, client: Resource) -> None:
    """Fills the sandbox of a client once more: what was in it has been erased."""
    id = authorization.authorization_id(client["id"], sandbox_of(client["id"]))
    if client.get("kind") == "test" and server.store.deciding(authorization.TYPE, id) is not None:
        _fill(server, sandbox_of(client["id"]))


def _fill(server: Server, organization: str) -> None:
    """Stores the data, a type at a time; what is there already stays as it is. Nobody is notified of it."""
    now = next_instant(server, None)
    by_type: dict[str, list[Change]] = {}
    for resource in server.sandbox():
        change = version_of(server, organization, resource, None, now)
        by_type.setdefault(change.type, []).append(change)
    for changes in by_type.values():
        server.store.insert_messages(changes)


def _organization(server: Server, client: Resource, id: str) -> Resource:
    resource = {
        "resourceType": "Organization",
        "id": id,
        "meta": {"tag": [{"system": TAG_SYSTEM, "code": TAG}]},
        "active": True,
        "type": [kind_concept("provider")],
        "name": f"Sandbox of {client.get('name', client['id'])}",
    }
    found = server.store.live(everything(REGISTRY), "Organization", id)
    if found is None:
        _put(server, Prepared(resource, {"client": client["id"]}), f"Organization/{id}")
    return resource


def _authorize(server: Server, client: Resource, organization: Resource, id: str) -> None:
    context = server.context(server, SYSTEM, REGISTRY)
    asked = authorization.request(context, client, None, organization, REASON).resource
    decided = authorization.step(context, asked, "approve")
    _put(server, decided, f"{authorization.TYPE}/{id}")


def _put(server: Server, prepared: Prepared, reference: str) -> None:
    """Writes for the server itself; where somebody else has just written the same, nothing."""
    type, _, id = reference.partition("/")
    whole = everything(REGISTRY)
    request = Request("update", REGISTRY, server.base(REGISTRY), SYSTEM, type=type, id=id)
    previous = server.store.read(whole, type, id)
    try:
        put(server, request, whole, prepared, previous, reference, "PUT")
    except Problem as trouble:
        if trouble.issues[0].code != "conflict":
            raise


def _is_own_side(principal: Principal, client: Resource) -> bool:
    owner = target(client.get("managingOrganization"), "Organization")
    itself = principal.kind == "client" and principal.id == client["id"]
    return itself or principal.operator or principal.kind == "operator" or principal.admin(owner)


def resources(bundles: Sequence[Resource]) -> list[Resource]:
    """The resources in Bundles."""
    return [entry["resource"] for bundle in bundles for entry in bundle.get("entry", ())]


OPERATIONS = (
    OperationRow(
        "sandbox",
        ("ClientApplication",),
        ("instance",),
        "r",
        sandbox,
        bases=("registry",),
        definition=f"{CANONICAL}/OperationDefinition/ClientApplication-sandbox",
    ),
)
