"""The capabilities interaction: the CapabilityStatement, made from the tables that the server runs on. FHIR R4:
http#capabilities.

`capability/` says which types a base serves; the interactions come from the table, the refusals from the rules, the
search parameters from the definitions, the operations from the operations table. Nothing here is kept by hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fhirserver.auth.access import Access
from fhirserver.fhir import Resource
from fhirserver.fhir.problem import problem
from fhirserver.interactions.model import OperationRow, Request, Response, Server

TYPE_CODES = ("read", "vread", "update", "patch", "delete", "history-instance", "history-type", "create", "search-type")
SYSTEM_CODES = ("transaction", "batch", "search-system", "history-system")
SMART = "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris"
TOPIC = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/capability-subscriptiontopic-canonical"
FHIR_VERSION = "4.0.1"
MODES = ("full", "normative", "terminology")


def capabilities(server: Server, request: Request, access: Access) -> Response:
    """The CapabilityStatement of this base. `mode=terminology` is not served: Problem(not-supported)."""
    mode = dict(request.query).get("mode", "full")
    if mode not in MODES:
        raise problem("invalid", f"mode is one of {', '.join(MODES)}.", "mode")
    if mode == "terminology":
        raise problem("not-supported", "This server is not a terminology server.", "mode")
    statements = server.caches.setdefault("capabilities", {})
    statement = statements.get(request.base)
    if statement is None:
        statement = statements[request.base] = _statement(server, request)
    if dict(request.query).get("_summary") == "true":
        statement = {name: value for name, value in statement.items() if name not in _DETAIL}
        statement["meta"] = {"tag": [_SUBSETTED]}
    elif request.organization != "registry":
        # Who is nobody is told what holds where an organization has said nothing: not which organizations there are.
        whose = "" if request.principal.kind == "anonymous" else request.organization
        statement = _with_topics(statement, server.topics(whose))
    return Response(200, resource=statement)


_DETAIL = ("rest", "implementationGuide", "messaging", "document")
_SUBSETTED = {"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED"}


def _with_topics(statement: Resource, topics: Sequence[str]) -> Resource:
    """The statement with what can be subscribed to, which an organization may change at any time."""
    rest = statement["rest"][0]
    told = [{"url": TOPIC, "valueCanonical": url} for url in topics]
    listed = [each if each["type"] != "Subscription" else {"extension": told, **each} for each in rest["resource"]]
    return {**statement, "rest": [{**rest, "resource": listed}]} if told else statement


def served_types(server: Server, organization: str) -> Mapping[str, Resource]:
    """The types that a base serves -> their entry in its CapabilityStatement under capability/."""
    kind = "registry" if organization == "registry" else "organization"
    served = server.caches.get("served")
    if served is None:
        served = server.caches["served"] = {
            name: _listed(server, server.capability[name]) for name in ("registry", "organization")
        }
    types: Mapping[str, Resource] = served[kind]
    return types


def _listed(server: Server, statement: Resource) -> dict[str, Resource]:
    """The types a statement lists; those of the definitions made at run time are served by the organizations' bases."""
    listed = {entry["type"]: entry for entry in statement["rest"][0]["resource"]}
    if statement["id"] == "organization":
        kept = {entry["type"] for entry in server.capability["registry"]["rest"][0]["resource"]}
        added = server.definitions.resource_types - kept - set(listed)
        listed |= {name: {"type": name} for name in sorted(added)}
    return {name: entry for name, entry in listed.items() if name in server.definitions.resource_types}


def _statement(server: Server, request: Request) -> Resource:
    kind = "registry" if request.organization == "registry" else "organization"
    base = server.capability[kind]
    system = [row for row in _operations(server, kind) if "system" in row.levels]
    rest: dict[str, Any] = {
        "mode": "server",
        "documentation": base["rest"][0].get("documentation", ""),
        "security": _security(server),
        "resource": [
            _resource(server, kind, name, entry)
            for name, entry in sorted(served_types(server, request.organization).items())
        ],
        "interaction": [{"code": code} for code in SYSTEM_CODES],
    }
    if system:
        rest["operation"] = [_operation(row) for row in system]
    return {
        "resourceType": "CapabilityStatement",
        "id": kind,
        "url": f"{request.base}/metadata",
        "version": server.software,
        "name": base["name"],
        "title": base["title"],
        "status": "active",
        "date": base["date"],
        "publisher": base["publisher"],
        "kind": "instance",
        "software": {"name": "fhirserver", "version": server.software},
        "implementation": {"description": base["title"], "url": request.base},
        "fhirVersion": FHIR_VERSION,
        "format": ["application/fhir+json", "json"],
        "patchFormat": ["application/json-patch+json", "application/fhir+json", "application/merge-patch+json"],
        "rest": [rest],
    }


def _security(server: Server) -> Resource:
    url = server.public_url
    return {
        "extension": [
            {
                "url": SMART,
                "extension": [{"url": name, "valueUri": f"{url}/oauth2/{name}"} for name in ("authorize", "token")],
            },
        ],
        "cors": True,
        "service": [
            {
                "coding": [
                    {
                        "system": "http://terminology.hl7.org/CodeSystem/restful-security-service",
                        "code": "SMART-on-FHIR",
                    }
                ],
                "text": "OAuth2 using SMART scopes; see .well-known/smart-configuration below this base",
            }
        ],
    }


def _resource(server: Server, kind: str, name: str, entry: Resource) -> Resource:
    rule = server.rules.get(name)
    refused = rule.refusals(kind) if rule else {}
    parameters = server.definitions.search_parameters(name)
    row: dict[str, Any] = {
        "type": name,
        "profile": server.definitions.types[name].url,
        "interaction": [{"code": code} for code in TYPE_CODES if code not in refused],
        "versioning": "versioned-update",
        "readHistory": True,
        "updateCreate": "update" not in refused,
        "conditionalCreate": "create" not in refused,
        "conditionalRead": "full-support",
        "conditionalUpdate": "update" not in refused,
        "conditionalDelete": "not-supported" if "delete" in refused else "multiple",
        "referencePolicy": ["literal", "logical"],
        "searchInclude": ["*", *(f"{name}:{code}" for code, each in parameters.items() if each.type == "reference")],
        "searchParam": [
            {"name": code, "definition": each.url, "type": each.type}
            for code, each in sorted(parameters.items())
            if each.expression or code in ("_id", "_lastUpdated")
        ],
    }
    if "supportedProfile" in entry:
        row["supportedProfile"] = entry["supportedProfile"]
    rows = [row for row in _operations(server, kind) if name in row.types or "Resource" in row.types]
    rows = [each for each in rows if {"type", "instance"} & set(each.levels)]
    if rows:
        row["operation"] = [_operation(each) for each in rows]
    return row


def _operations(server: Server, kind: str) -> list[OperationRow]:
    return [row for row in server.operations.values() if kind in row.bases]


def _operation(row: OperationRow) -> Resource:
    return {"name": row.name, "definition": row.definition}
