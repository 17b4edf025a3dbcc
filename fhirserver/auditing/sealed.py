"""AuditEvent/$verify-seals: whether the last seals on an organization's audit records hold. IHE ATNA (integrity of the
repository); the chain is `store.seal`.

The whole chain is verified by `fhirserver audit verify`; here is what an administrator may ask for at any time.
"""

from __future__ import annotations

from collections.abc import Callable

from fhirserver.auth.access import Access
from fhirserver.fhir import Resource
from fhirserver.fhir.parameters import parameters_of
from fhirserver.fhir.problem import problem
from fhirserver.interactions.model import OperationRow, Request, Response, Server
from fhirserver.interactions.operations import parameters
from fhirserver.rules.model import CANONICAL
from fhirserver.store.seal import Report, Seals

TYPE = "AuditEvent"
USUAL, MOST = 10, 100
"""Seals; each names up to 500 records."""


def operations(seals: Callable[[Server], Seals]) -> tuple[OperationRow, ...]:
    """The rows of the operations table. `seals` gives those of a server, with its key."""

    def verify(server: Server, request: Request, access: Access) -> Response:
        if not request.principal.admin(request.organization):
            raise problem("forbidden", "The seals are verified by an administrator of the organization.")
        count = _count(parameters(request, "count").get("count", USUAL))
        return Response(200, resource=_told(seals(server).recent(request.organization, count)))

    definition = f"{CANONICAL}/OperationDefinition/{TYPE}-verify-seals"
    bases = ("organization",)
    return (OperationRow("verify-seals", (TYPE,), ("type",), "r", verify, False, bases, definition),)


def _count(value: object) -> int:
    text = str(value)
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0
    if not 1 <= number <= MOST:
        text = f"count is a number of seals from 1 to {MOST}."
        raise problem("value", text, "Parameters.parameter.where(name='count')")
    return number


def _told(report: Report) -> Resource:
    parts: list[Resource] = [
        {"name": "holds", "valueBoolean": not report.findings},
        {"name": "seals", "valueInteger": report.seals},
        {"name": "records", "valueInteger": report.records},
        {"name": "unsealed", "valueInteger": report.unsealed},
    ]
    parts += [{"name": "head", "valueString": report.head}] if report.head else []
    parts += [{"name": "finding", "valueString": text} for text in report.findings]
    return parameters_of(parts)
