"""Templates to answers: whole pages, or the one block that htmx asks for; the headers that all of them carry.

No page runs a script or uses a style that is not a file of ours, none is framed, none is kept by a cache.
"""

from __future__ import annotations

import hashlib
import mimetypes
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flask import Response as HttpResponse
from flask import has_request_context
from flask import request as http
from jinja2 import ChainableUndefined, Environment, FileSystemLoader
from jinja2.utils import missing

from fhirserver.fhir.json import encode, pretty
from fhirserver.web.console import cookies
from fhirserver.web.console.texts import Catalogue

HERE = Path(__file__).parent
STATIC = HERE / "static"
WANTED = ("vendor/pico.css", "vendor/htmx.js", "vendor/uplot.js", "vendor/uplot.css")
MISSING = (
    "The console's style sheets and scripts are not installed. In a checkout run `make setup` (or tools/assets.sh);"
    " a wheel has them in it."
)
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:;"
    " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
NO_STORE = {"Cache-Control": "no-store", "Vary": "HX-Request, Cookie"}


class Absent(ChainableUndefined):
    """What is not there: an element that a resource does not have is nothing, however far a template looks into it; a
    name that nobody gave the template is a fault.
    """

    __slots__ = ()

    def __str__(self) -> str:
        self._check()
        return ""

    def __iter__(self) -> Iterator[Any]:
        self._check()
        return iter(())

    def __bool__(self) -> bool:
        self._check()
        return False

    def _check(self) -> None:
        if self._undefined_obj is missing:
            self._fail_with_undefined_error()


class Pages:
    """The templates with the texts, and the files that they load."""

    def __init__(self, texts: Catalogue, address: Any) -> None:
        self._files = {path.relative_to(STATIC).as_posix(): path.read_bytes() for path in _files()}
        self.missing = [name for name in WANTED if name not in self._files]
        self.environment = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=Absent,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.environment.globals |= {
            "t": texts.text,
            "word": texts.word,
            "language": texts.language,
            "asset": self.asset,
            "at": address,
        }
        self.environment.filters |= {"instant": instant, "sentence": sentence}
        self.environment.filters["pretty"] = lambda value: pretty(encode(value)).decode()
        self.environment.globals["ui"] = self.environment.get_template("ui.html").module

    def asset(self, name: str) -> str:
        """The address of a file that pages load; it changes with what is in the file."""
        return f"/console/static/{name}?v={hashlib.sha256(self._files.get(name, b'')).hexdigest()[:12]}"

    def file(self, name: str) -> HttpResponse:
        """A file that pages load."""
        found = self._files.get(name)
        if found is None:
            return HttpResponse("There is no such file.", 404, HEADERS, mimetype="text/plain")
        answer = HttpResponse(found, 200, HEADERS, mimetype=mimetypes.guess_type(name)[0])
        answer.headers["Cache-Control"] = "public, max-age=31536000, immutable"
        return answer

    def render(self, template: str, part: str = "", *, status: int = 200, **values: Any) -> HttpResponse:
        """A page; where `part` names a block of it, that block alone."""
        found = self.environment.get_template(template)
        if part and part in found.blocks:
            text = "".join(found.blocks[part](found.new_context(values)))
        else:
            text = found.render(values)
        return HttpResponse(text, status, HEADERS | NO_STORE, mimetype="text/html")


def instant(text: str) -> str:
    """An instant of FHIR in the viewer's zone, in UTC where the browser has not told it; scripts write it as the
    viewer's language does.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return text
    zone = cookies.zone(http.cookies) if has_request_context() else UTC
    return found.astimezone(zone).strftime("%Y-%m-%d %H:%M %Z") if found.tzinfo else text


def sentence(text: Any) -> str:
    """A text that begins with a capital."""
    said = str(text)
    return said[:1].upper() + said[1:]


def _files() -> list[Path]:
    return [path for path in STATIC.rglob("*") if path.suffix in (".css", ".js", ".svg") and path.is_file()]
