"""What signing in needs from the rest of the server: accounts, the names of organizations, the patients a user may
choose.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fhirserver.auth.access import REGISTRY, everything
from fhirserver.auth.principal import Principal
from fhirserver.exchange.people import set_password
from fhirserver.fhir import Resource
from fhirserver.fhir.problem import Problem
from fhirserver.interactions.dispatch import dispatch
from fhirserver.interactions.model import Request, Server
from fhirserver.web.tokens import Private, Tokens

MOST_PATIENTS = 10


def lasting(tokens: Tokens, server: Server) -> Tokens:
    """The tokens with everything that outlives a request: revocation, users who sign in, patients to choose from."""

    def account(id_: str) -> tuple[Resource, Private] | None:
        found = server.store.live(everything(REGISTRY), "User", id_)
        return None if found is None else (found.resource(), found.private)

    def organization(id_: str) -> Resource | None:
        found = server.store.live(everything(REGISTRY), "Organization", id_)
        return None if found is None else found.resource()

    def patients(principal: Principal, organization_: str, find: str) -> list[tuple[str, str]]:
        found = {resource["id"]: _label(resource) for resource in _found(server, principal, organization_, find)}
        return list(found.items())[:MOST_PATIENTS]

    def create(principal: Principal, resource: Resource) -> Resource:
        type_ = resource["resourceType"]
        made = dispatch(
            server, Request("create", REGISTRY, server.base(REGISTRY), principal, type=type_, body=resource)
        )
        return made.content() or {}

    return replace(
        tokens,
        kept=server.store.kept,
        attempts=server.store.attempts,
        set_password=lambda link, password, facts: set_password(server, link, password, facts),
        account=account,
        organization=organization,
        patients=patients,
        create=create,
    )


def _found(server: Server, principal: Principal, organization: str, find: str) -> Iterator[Resource]:
    """The patients with this id, name or identifier, as the user may see them; looked at like by any other call."""
    asked = Request("read", organization, server.base(organization), principal, type="Patient", id=find)
    try:
        found = server.store.live(server.access(server, principal, organization), "Patient", find)
        if found is not None:
            dispatch(server, asked)
            yield found.resource()
            return
        for name in ("name", "identifier"):
            query = ((name, find.replace(",", r"\,")), ("_count", str(MOST_PATIENTS)))
            searched = replace(asked, interaction="search-type", id=None, query=query)
            bundle = dispatch(server, searched).content() or {}
            yield from (entry["resource"] for entry in bundle.get("entry", []) if entry["search"]["mode"] == "match")
    except Problem:
        return


def _label(patient: Resource) -> str:
    """Name, birth date and first identifier: enough for a clinician to tell patients apart."""
    name = (patient.get("name") or [{}])[0]
    words = [*name.get("given", []), name.get("family", "")] if "text" not in name else [name["text"]]
    identifier = (patient.get("identifier") or [{}])[0].get("value", "")
    parts = (" ".join(filter(None, words)) or f"Patient {patient['id']}", patient.get("birthDate", ""), identifier)
    return ", ".join(filter(None, parts))
