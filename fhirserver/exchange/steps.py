"""Operations that take one step of a state machine: request, approve, reject, withdraw, disable, enable.

The steps are tables in `rules`; here they are read, taken and written as the next version, so that who, when and
why are in the history.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fhirserver.auth.access import Access, everything
from fhirserver.fhir.problem import problem
from fhirserver.interactions.model import OperationRow, Request, Response, Server
from fhirserver.interactions.operations import parameters, reference_parameter, text_parameter
from fhirserver.interactions.read import answer as show
from fhirserver.interactions.read import current
from fhirserver.interactions.versions import put
from fhirserver.interactions.write import answer, persist
from fhirserver.rules import authorization, organization, subscription
from fhirserver.rules.model import CANONICAL, Context, Prepared, target
from fhirserver.store.model import REGISTRY, Stored

Take = Callable[[Context, Stored, str], Prepared]


def request_authorization(server: Server, request: Request, access: Access) -> Response:
    """$request-authorization: the ClientAuthorization of a client and an organization, waiting for approval.

    Raises Problem: not-found for the client or organization, conflict where it is not the time to ask.
    """
    values = parameters(request, "organization", "reason")
    asked = reference_parameter(values, "organization", "Organization")
    reason = text_parameter(values, "reason")
    client = current(server, access, "ClientApplication", request.id or "", request).resource()
    whole = everything(REGISTRY)
    found = server.store.live(whole, "Organization", asked)
    if found is None or organization.kind(found.resource()) != "provider":
        raise problem("not-found", f"There is no provider organization {asked[:64]}.", "Parameters.parameter")
    provider = _display(server, client)
    id = authorization.authorization_id(client["id"], asked)

    def attempt() -> Response:
        previous = server.store.read(whole, authorization.TYPE, id)
        existing = previous.resource() if previous and not previous.deleted else None
        context = server.context(server, request.principal, REGISTRY)
        prepared = authorization.request(context, client, existing, found.resource(), reason, provider)
        written = put(server, request, whole, prepared, previous, f"{authorization.TYPE}/{id}", "POST")
        return answer(server, request, written, 200)

    return persist(request, attempt)


def _display(server: Server, client: dict[str, object]) -> str:
    """The name of the client's own organization, for the hospital's eyes."""
    id = target(client.get("managingOrganization"), "Organization")
    own = server.store.live(everything(REGISTRY), "Organization", id) if id else None
    return str(own.resource().get("name", "")) if own else ""


def _step(type: str, take: Take) -> Callable[[Server, Request, Access], Response]:
    """The operation that takes a step on an instance of a type and answers the new version."""

    def operation(server: Server, request: Request, access: Access) -> Response:
        note = text_parameter(parameters(request, "note"), "note")
        whole = everything(request.organization)

        def attempt() -> Response:
            previous = current(server, access, type, request.id or "", request)
            prepared = take(server.context(server, request.principal, request.organization), previous, note)
            written = put(server, request, whole, prepared, previous, f"{type}/{previous.id}", "POST")
            return show(server, request, written.version)

        return persist(replace(request), attempt)

    return operation


def _authorization(action: str) -> Take:
    return lambda context, previous, note: authorization.step(context, previous.resource(), action, note)


def _subscription(action: str) -> Take:
    return lambda context, previous, note: subscription.step(
        context, previous.resource(), dict(previous.private), action, note
    )


def _row(name: str, type: str, function: Callable[[Server, Request, Access], Response], base: str) -> OperationRow:
    definition = f"{CANONICAL}/OperationDefinition/{type}-{name}"
    return OperationRow(name, (type,), ("instance",), "r", function, bases=(base,), definition=definition)


STEPS = (
    _row("request-authorization", "ClientApplication", request_authorization, "registry"),
    *(
        _row(action, authorization.TYPE, _step(authorization.TYPE, _authorization(action)), "registry")
        for action in authorization.STEPS
        if action not in ("request", "remove")  # the server's own step, when a client is deleted
    ),
    *(
        _row(action, subscription.TYPE, _step(subscription.TYPE, _subscription(action)), "organization")
        for action in subscription.STEPS
    ),
)
"""The operations of the state machines; in the operations table they stand under `Type/name`, as several types
share a name.
"""
