"""Who may do what on the registry, as a table: one function per kind of principal gives its rows."""

from __future__ import annotations

from collections.abc import Iterable

from fhirserver.auth.layers import Row
from fhirserver.auth.principal import Principal
from fhirserver.auth.sandbox import TAG, TAG_SYSTEM, sandbox_of
from fhirserver.search.query import Ids, Leaf, Not, Nothing, Or, References

CONFORMANCE = (
    "CapabilityStatement",
    "CodeSystem",
    "CompartmentDefinition",
    "ConceptMap",
    "ExampleScenario",
    "GraphDefinition",
    "ImplementationGuide",
    "MessageDefinition",
    "NamingSystem",
    "OperationDefinition",
    "SearchParameter",
    "StructureDefinition",
    "StructureMap",
    "SubscriptionTopic",
    "TerminologyCapabilities",
    "ValueSet",
)
"""The types that describe the installation; everybody who is known may read them."""

_COMMON = (
    Row(CONFORMANCE, "rs"),
    # A sandbox has the name of its client, which is nobody else's business.
    Row(("Organization",), "rs", Not(Leaf("_tag", "token", (f"{TAG_SYSTEM}|{TAG}",)))),
    # The registry's own records are for operators; others are turned to those of their own clients.
    Row(("AuditEvent",), "rs", Nothing()),
)


def registry_rows(principal: Principal) -> tuple[Row, ...]:
    """The rows for a principal on the registry; none for somebody unknown."""
    if principal.operator or principal.kind == "operator":
        return (Row(("*",), "cruds"),)
    if principal.kind == "client":
        return (*_COMMON, *_client(principal))
    if principal.kind == "user":
        return (*_COMMON, *_user(principal))
    return ()


def _client(principal: Principal) -> tuple[Row, ...]:
    return (
        Row(("ClientApplication",), "rs", Ids(frozenset({principal.id}))),
        Row(("Organization",), "rs", Ids(frozenset({sandbox_of(principal.id)}))),
        Row(("ClientAuthorization",), "rs", References("client", frozenset({f"ClientApplication/{principal.id}"}))),
        Row(("Communication",), "rs", References("about", frozenset({f"ClientApplication/{principal.id}"}))),
    )


def _user(principal: Principal) -> tuple[Row, ...]:
    member = [organization for organization, role in principal.roles.items() if role in ("admin", "member")]
    admin = [organization for organization, role in principal.roles.items() if role == "admin"]
    return (
        Row(("User",), "r", Ids(frozenset({principal.id}))),
        *_organizations(member, "rs"),
        *_organizations(admin, "cud"),
    )


def _organizations(organizations: Iterable[str], letters: str) -> tuple[Row, ...]:
    own = frozenset(f"Organization/{organization}" for organization in organizations)
    if not own:
        return ()
    rows = [
        Row(("ClientApplication",), letters, References("managing-organization", own)),
        Row(("Endpoint",), letters, References("organization", own)),
        Row(("User",), letters, References("organization", own)),
        Row(("AccessPolicy",), letters, References("organization", own)),
    ]
    if letters == "rs":  # an authorization is written by its operations alone, each of which asks for its own side
        both = Or((References("provider", own), References("organization", own)))
        rows.append(Row(("ClientAuthorization",), letters, both))
        rows.append(Row(("Communication",), letters, References("recipient", own)))
    return tuple(rows)
