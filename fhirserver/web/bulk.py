"""Exports over HTTP: the address that tells how one stands and ends it, and those of its files. FHIR Bulk Data Access
2.0: export#bulk-data-status-request, #bulk-data-delete-request, #bulk-data-output-file-request.

Below an organization's base, `bulk/{id}` and `bulk/{id}/{number}`; what they do are operations on BulkExport.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass

from flask import Blueprint
from flask import Response as HttpResponse
from flask import request as http
from werkzeug.wrappers import Request as HttpRequest

from fhirserver.auth.principal import Principal
from fhirserver.fhir.json import encode
from fhirserver.fhir.problem import problem
from fhirserver.interactions.dispatch import dispatch
from fhirserver.interactions.model import Request, Response, Server
from fhirserver.web.door import through
from fhirserver.web.fhir import ORGANIZATION_PATH
from fhirserver.web.http import PRIVATE, Answer, Named, query_pairs

OPERATIONS = {"GET": "$status", "DELETE": "$cancel"}
"""By method, of the address of an export."""
NDJSON = frozenset({"application/fhir+ndjson", "application/ndjson", "application/*", "*/*"})


@dataclass(frozen=True, slots=True)
class Bulk:
    """The addresses of exports. `authenticate` answers the Principal of a request, or raises Problem."""

    server: Server
    authenticate: Callable[[HttpRequest], Principal]

    def blueprint(self) -> Blueprint:
        """The blueprint with both routes."""
        made = Blueprint("bulk", __name__)
        path = f"{ORGANIZATION_PATH}/bulk/<id>"
        made.add_url_rule(path, "export", self.export, methods=["GET", "DELETE"])
        made.add_url_rule(f"{path}/<part>", "file", self.file, methods=["GET"])
        return made

    def export(self, organization: str, id: str) -> HttpResponse:
        """How an export stands, or its end."""
        return through(http, self.server.new_id(), lambda asked: self._stands(organization, id, asked)).response()

    def file(self, organization: str, id: str, part: str) -> HttpResponse:
        """One file of an export."""
        return through(http, self.server.new_id(), lambda asked: self._file(organization, id, part, asked)).response()

    def _stands(self, organization: str, id: str, asked: str) -> Answer:
        name = OPERATIONS["GET" if http.method == "HEAD" else http.method]
        response = self._dispatched(organization, id, name, query_pairs(http), asked)
        headers: Named = [*response.headers.items(), *PRIVATE]
        if response.resource is None:
            return Answer(b"", response.status, headers)
        return Answer(encode(response.resource), response.status, [*headers, ("Content-Type", "application/json")])

    def _file(self, organization: str, id: str, part: str, asked: str) -> Answer:
        accepted = {
            each.split(";")[0].strip().replace(" ", "+") for each in http.headers.get("Accept", "*/*").split(",")
        }
        if not accepted & NDJSON:
            raise problem("not-supported", "The file is NDJSON: accept application/fhir+ndjson.", "Accept", status=406)
        response = self._dispatched(organization, id, "$output", (("part", part),), asked)
        data = response.data or b""
        headers: Named = [*response.headers.items(), *PRIVATE, ("Vary", "Accept-Encoding, Authorization")]
        if "gzip" in http.headers.get("Accept-Encoding", ""):
            return Answer(data, 200, [*headers, ("Content-Encoding", "gzip")])
        return Answer(gzip.decompress(data), 200, headers)

    def _dispatched(
        self, organization: str, id: str, operation: str, query: tuple[tuple[str, str], ...], asked: str
    ) -> Response:
        method = "POST" if operation == "$cancel" else "GET"
        request = Request(
            "operation",
            organization,
            self.server.base(organization),
            self.authenticate(http),
            type="BulkExport",
            id=id,
            operation=operation,
            query=query,
            facts={"request": asked, "method": method, "path": http.path, "address": http.remote_addr or ""},
        )
        return dispatch(self.server, request)
