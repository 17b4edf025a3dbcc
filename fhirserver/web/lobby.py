"""What stands at the host itself, and at paths where nothing does: a person is led on, a program is told where to go.
Probes too.
"""

from __future__ import annotations

from flask import Blueprint, Response, redirect
from flask import request as http
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.wrappers import Request
from werkzeug.wrappers import Response as HttpResponse

from fhirserver.fhir.json import encode
from fhirserver.fhir.problem import Problem, problem
from fhirserver.interactions.model import Server
from fhirserver.rules.model import REGISTRY
from fhirserver.web.door import from_http
from fhirserver.web.http import refuse
from fhirserver.web.pages import page

CONSOLE = "/console"
ORGANIZATION = "{organization}"
NOWHERE = (
    "There is nothing at this path. FHIR bases are {registry} and {organization}, the console is at {console}; "
    "each base has its CapabilityStatement at metadata below it."
)


def lobby(server: Server) -> Blueprint:
    """The blueprint of what is no room's."""
    made = Blueprint("lobby", __name__)
    made.add_url_rule("/", "root", lambda: _root(server))
    made.add_url_rule("/robots.txt", "robots", _robots)
    made.add_url_rule("/healthz", "healthz", lambda: _ready(server))
    made.add_url_rule("/livez", "livez", lambda: _alive(server))
    return made


def refused(server: Server, error: HTTPException) -> HttpResponse:
    """The answer to a refusal by the framework: of a path that there is not, where to go instead."""
    if not isinstance(error, NotFound):
        return refuse(http, from_http(error)).response()
    if _is_person(http) and not http.path.startswith("/1/"):
        return page("nowhere", "There is no such page", status=404)
    return refuse(http, problem("not-found", NOWHERE.format(**_places(server)))).response()


def _root(server: Server) -> HttpResponse:
    """A browser goes to the console; a program is told the places."""
    answer: HttpResponse
    if not http.headers.get("Accept") or _is_person(http):
        answer = redirect(CONSOLE)
    else:
        places = _places(server)
        told = {
            "registry": places["registry"],
            "organization": places["organization"],
            "metadata": f"{places['registry']}/metadata",
            "smart-configuration": f"{places['registry']}/.well-known/smart-configuration",
            "console": places["console"],
        }
        answer = _json(told)
    answer.headers["Vary"] = "Accept"
    return answer


def _places(server: Server) -> dict[str, str]:
    return {
        "registry": server.base(REGISTRY),
        "organization": server.base(ORGANIZATION),
        "console": server.public_url + CONSOLE,
    }


def _is_person(http: Request) -> bool:
    """Whether a browser asks, for a page."""
    return "text/html" in http.headers.get("Accept", "")


def _robots() -> Response:
    """Nothing here is for search engines."""
    return Response("User-agent: *\nDisallow: /\n", mimetype="text/plain")


def _ready(server: Server) -> HttpResponse:
    """200 when the database answers, else the Problem's 503."""
    try:
        server.store.ping()
    except Problem as trouble:
        return refuse(http, trouble).response()
    return _alive(server)


def _alive(server: Server) -> Response:
    """200 whatever the database does: who is restarted because of the database comes back to no other one."""
    return _json({"status": "ok", "version": server.software})


def _json(told: dict[str, str]) -> Response:
    return Response(encode(told), mimetype="application/json")
