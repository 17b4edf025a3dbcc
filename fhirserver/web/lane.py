"""The short way: what is asked of a resource type goes beneath Flask's routing and contexts, which cost as much as half
of what the database does.

`Fhir.answer` does the same work for both ways, so that nothing but time depends on which one a request takes. Bundles,
metadata, the system level and every other path of the server go through Flask.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

from werkzeug.wrappers import Request, Response

from fhirserver.web.fhir import Fhir

_PATH = re.compile(r"/1/health/(?:organizations/(?P<organization>[^/]+)/)?fhir/4/(?P<path>[A-Z][A-Za-z]*(?:/[^/]*)*)\Z")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})

Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]


class Lane:
    """A WSGI application before another: takes what it can answer itself, passes on the rest. `finish` adds what an
    answer to a script of another origin needs.
    """

    def __init__(self, beyond: Wsgi, fhir: Fhir, finish: Callable[[Request, Response], Response]) -> None:
        self._beyond = beyond
        self._fhir = fhir
        self._finish = finish

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] in _METHODS:
            http = Request(environ)
            http.max_content_length = self._fhir.max_body
            found = _PATH.match(http.path)
            if found:
                answer = self._fhir.answer(http, found["organization"] or "registry", found["path"])
                if "HTTP_ORIGIN" not in environ:
                    return answer(environ, start_response)
                return self._finish(http, answer.response())(environ, start_response)
        return self._beyond(environ, start_response)
