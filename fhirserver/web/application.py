"""The Flask application: FHIR, OAuth, HL7v2 over HTTP, health. Every blueprint is handed what it needs; none reads
settings.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from flask import Blueprint, Flask, Response
from flask import request as http
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Request
from werkzeug.wrappers import Response as HttpResponse

from fhirserver.interactions.model import Server
from fhirserver.web.fhir import Fhir
from fhirserver.web.lane import Lane
from fhirserver.web.lobby import lobby, refused

R = TypeVar("R", bound=HttpResponse)
ALLOWED_HEADERS = (
    "Authorization, Content-Type, Accept, Prefer, If-Match, If-None-Match, If-None-Exist, If-Modified-Since, "
    "X-Request-Id, X-Explain, Content-Encoding"
)
EXPOSED_HEADERS = "ETag, Location, Last-Modified, Content-Location, X-Request-Id, Retry-After, WWW-Authenticate"
ALLOWED_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"


def application(
    server: Server, fhir: Fhir, blueprints: Sequence[Blueprint], *, max_body: int, cors_origins: Sequence[str]
) -> Flask:
    """The WSGI application over a server: its FHIR endpoints and the blueprints."""
    made = Flask("fhirserver", static_folder=None)
    made.config["MAX_CONTENT_LENGTH"] = max_body
    made.config["MAX_FORM_MEMORY_SIZE"] = max_body
    made.url_map.merge_slashes = False
    for blueprint in (fhir.blueprint(), lobby(server), *blueprints):
        made.register_blueprint(blueprint)
    made.register_error_handler(HTTPException, lambda error: refused(server, error))
    cors = _Cors(frozenset(cors_origins))
    made.after_request(lambda response: cors.add(http, response))
    made.after_request(lambda response: _counted(server, response))
    made.wsgi_app = Lane(made.wsgi_app, fhir, cors.add)  # type: ignore[method-assign]  # Flask's way to wrap an application
    return made


def _counted(server: Server, response: Response) -> Response:
    """FHIR counts its own requests, and most of them do not come this way."""
    area = http.blueprint or "none"
    if area != "fhir":
        server.meter.count("http_requests", area, str(response.status_code))
    return response


class _Cors:
    """Cross-origin calls from browsers, for the configured origins. No cookies are involved, so no credentials are
    allowed.
    """

    def __init__(self, origins: frozenset[str]) -> None:
        self._origins = origins

    def add(self, http: Request, response: R) -> R:
        """Adds the headers that let a permitted origin's script read the answer."""
        origin = http.headers.get("Origin")
        if origin and ("*" in self._origins or origin in self._origins):
            response.headers["Access-Control-Allow-Origin"] = "*" if "*" in self._origins else origin
            response.headers["Access-Control-Expose-Headers"] = EXPOSED_HEADERS
            response.headers.add("Vary", "Origin")
            if http.method == "OPTIONS":
                response.headers["Access-Control-Allow-Methods"] = ALLOWED_METHODS
                response.headers["Access-Control-Allow-Headers"] = ALLOWED_HEADERS
                response.headers["Access-Control-Max-Age"] = "600"
        return response
