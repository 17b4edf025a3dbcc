"""The door: what goes wrong inside becomes an HTTP answer here, and nowhere else.

A Problem is its OperationOutcome; a refusal by the framework is one too; everything else is a fault of ours, logged
under an id that the caller gets.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Request as HttpRequest

from fhirserver.fhir.problem import Problem, problem
from fhirserver.web.http import Answer, failed, refuse, request_id

log = logging.getLogger(__name__)

# Werkzeug's own refusals -> FHIR issue type; the status stays theirs.
HTTP_ISSUES = {404: "not-found", 405: "not-supported", 413: "too-long", 415: "not-supported", 400: "invalid"}


def through(http: HttpRequest, new_id: str, work: Callable[[str], Answer]) -> Answer:
    """What `work` answers, or the answer to what it raises. It is given the request's id, which every answer
    carries.
    """
    id = request_id(http.environ.get("HTTP_X_REQUEST_ID"), new_id)
    try:
        answer = work(id)
    except Problem as error:
        answer = refuse(http, error)
    except HTTPException as error:
        answer = refuse(http, from_http(error))
    except Exception:
        log.exception("request failed", extra={"request_id": id})
        answer = failed(http, id)
    answer.headers.append(("X-Request-Id", id))
    return answer


def from_http(error: HTTPException) -> Problem:
    """The Problem of a refusal by the framework."""
    status = error.code or 500
    allow = {name: value for name, value in error.get_headers() if name in ("Allow", "Retry-After")}
    return problem(HTTP_ISSUES.get(status, "invalid"), error.description or error.name, status=status, headers=allow)
