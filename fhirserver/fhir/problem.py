"""The one exception a caller hears about, the one status table, the one OperationOutcome.

FHIR R4: operationoutcome, valueset-issue-type; http#status-codes. The FHIR issue type decides the HTTP status, so code
below the web layer never names a status code except where one issue type serves two (405, 415).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

# Issue type -> HTTP status. 400: cannot be parsed or is structurally wrong; 422: understood, but breaks a profile
# or a rule.
STATUS: Mapping[str, int] = {
    "invalid": 400,
    "structure": 400,
    "required": 400,
    "value": 400,
    "code-invalid": 400,
    "not-supported": 400,
    "security": 403,
    "login": 401,
    "unknown": 401,
    "expired": 401,
    "forbidden": 403,
    "suppressed": 403,
    "not-found": 404,
    "deleted": 410,
    "duplicate": 409,
    "conflict": 409,
    "multiple-matches": 412,
    "too-long": 413,
    "too-costly": 400,
    "processing": 422,
    "invariant": 422,
    "extension": 422,
    "business-rule": 422,
    "incomplete": 422,
    "throttled": 429,
    "exception": 500,
    "transient": 503,
    "lock-error": 503,
    "no-store": 503,
    "timeout": 503,
}


@dataclass(frozen=True, slots=True)
class Issue:
    """One OperationOutcome.issue: FHIR issue type, text for the caller, FHIRPath to each element at fault."""

    code: str
    diagnostics: str
    expression: tuple[str, ...] = ()
    severity: str = "error"


@dataclass(eq=False)
class Problem(Exception):
    """Something the caller must hear about. Raised anywhere, rendered once: as HTTP, as a Bundle entry, as an HL7v2
    ACK.

    `status` overrides the table for the rare issue type that serves two codes; `headers` are HTTP headers the answer
    carries (`WWW-Authenticate`, `Retry-After`, `Allow`).
    """

    issues: tuple[Issue, ...]
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__("; ".join(issue.diagnostics for issue in self.issues))
        if not self.status:
            self.status = status_of(self.issues)


def problem(
    code: str, diagnostics: str, *expression: str, status: int = 0, headers: Mapping[str, str] | None = None
) -> Problem:
    """A Problem with one issue: `raise problem("required", "Subscription.criteria is missing",
    "Subscription.criteria")`.
    """
    return Problem((Issue(code, diagnostics, expression),), status=status, headers=headers or {})


def status_of(issues: Iterable[Issue]) -> int:
    """The HTTP status of a list of issues: that of the first error, 500 where its type is not in the table."""
    errors = [issue for issue in issues if issue.severity in ("error", "fatal")]
    return STATUS.get(errors[0].code, 500) if errors else 200


def outcome(issues: Iterable[Issue]) -> dict[str, Any]:
    """The OperationOutcome resource that says these issues."""
    return {"resourceType": "OperationOutcome", "issue": [_element(issue) for issue in issues]}


def _element(issue: Issue) -> dict[str, Any]:
    element: dict[str, Any] = {"severity": issue.severity, "code": issue.code, "diagnostics": issue.diagnostics}
    if issue.expression:
        element["expression"] = list(issue.expression)
    return element
