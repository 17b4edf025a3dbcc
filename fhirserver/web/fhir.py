"""The FHIR endpoints: one view for both kinds of base, routed by the interactions table. FHIR R4: http."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import flask
from flask import Blueprint
from flask import Response as HttpResponse
from werkzeug.wrappers import Request as HttpRequest

from fhirserver.auth.principal import Principal
from fhirserver.fhir.problem import problem
from fhirserver.interactions.dispatch import dispatch
from fhirserver.interactions.model import Request, Response, Server
from fhirserver.interactions.table import locate
from fhirserver.web import binary
from fhirserver.web.door import through
from fhirserver.web.http import (
    Answer,
    body,
    negotiate,
    preconditions,
    prefer,
    query_pairs,
    render,
)

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
REGISTRY_PATH = "/1/health/fhir/4"
ORGANIZATION_PATH = "/1/health/organizations/<organization>/fhir/4"


@dataclass(slots=True)
class Asked:
    """What a request turned out to ask for, for metrics."""

    interaction: str = "none"
    type: str = ""


@dataclass(frozen=True, slots=True)
class Fhir:
    """The FHIR endpoints over a server. `authenticate` answers the Principal of a request, or raises
    Problem.
    """

    server: Server
    authenticate: Callable[[HttpRequest], Principal]
    max_body: int

    def blueprint(self) -> Blueprint:
        """The blueprint with both bases."""
        made = Blueprint("fhir", __name__)
        for base in (REGISTRY_PATH, ORGANIZATION_PATH):
            for rule in (base, f"{base}/", f"{base}/<path:path>"):
                made.add_url_rule(rule, "view", self.view, methods=METHODS, provide_automatic_options=False)
        return made

    def view(self, organization: str = "registry", path: str = "") -> HttpResponse:
        """Answers the HTTP request that Flask is at, to a FHIR base."""
        answer = self.answer(flask.request._get_current_object(), organization, path)  # type: ignore[attr-defined]
        return answer.response()

    def answer(self, http: HttpRequest, organization: str, path: str) -> Answer:
        """Answers one HTTP request to a FHIR base: `path` is what follows the base's."""
        begun, asked = time.perf_counter(), Asked()
        answer = through(http, self.server.new_id(), lambda id: self._answer(http, organization, path, id, asked))
        meter, base = self.server.meter, "registry" if organization == "registry" else "organization"
        # A type that there is not would be what a caller made up.
        type = asked.type if asked.type in self.server.definitions.resource_types else ""
        meter.count("requests", base, asked.interaction, type, str(answer.status))
        meter.time(time.perf_counter() - begun, "request_seconds", asked.interaction)
        return answer

    def _answer(self, http: HttpRequest, organization: str, path: str, id: str, asked: Asked) -> Answer:
        if http.method == "OPTIONS":
            return Answer(None, 204, [("Allow", ", ".join(METHODS))])
        query = query_pairs(http)
        method = "GET" if http.method == "HEAD" else http.method
        row, values = locate(method, path)
        asked.interaction = row.code
        raw = binary.wanted(http, row.code, values.get("type"), query)
        if not raw:
            negotiate(http, query)
        principal = self.authenticate(http)
        if principal.kind != "anonymous":  # a stranger does not choose how many series there are
            asked.type = values.get("type") or ""
        if organization == "registry" and not http.path.startswith(REGISTRY_PATH):
            raise problem("not-found", "There is no organization of that id.")
        request = Request(
            interaction=row.code,
            organization=organization,
            base=self.server.base(organization),
            principal=principal,
            type=values.get("type"),
            id=values.get("id"),
            vid=values.get("vid"),
            operation=values.get("operation"),
            member=values.get("member"),
            query=query,
            body=body(http, self.max_body),
            preconditions=preconditions(http),
            prefer=prefer(http),
            explain=http.environ.get("HTTP_X_EXPLAIN", "").lower() in ("true", "1", "yes"),
            facts={"request": id, "method": method, "path": path, "address": http.remote_addr or ""},
        )
        response: Response = dispatch(self.server, request)
        return binary.render(http, response) if raw else render(http, response)
