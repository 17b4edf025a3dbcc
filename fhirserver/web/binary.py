"""A Binary as what it is: its bytes in its own media type, unless the caller asks for FHIR. FHIR R4: binary#rest; IHE
MHD, ITI-68.

The bytes are a stranger's: a browser is told to run nothing of it, and to take it for nothing else than it says.
"""

from __future__ import annotations

import re
from base64 import b64decode
from datetime import UTC
from email.utils import format_datetime

from werkzeug.wrappers import Request as HttpRequest

from fhirserver.fhir import Resource
from fhirserver.fhir.problem import problem
from fhirserver.interactions.model import Pairs, Response
from fhirserver.web.http import ACCEPTED, PRIVATE, Answer, Named

READS = ("read", "vread")
FHIR = frozenset(kind for kind in ACCEPTED if "*" not in kind)
PARTS = ("_format", "_summary", "_elements")
"""Parameters of who wants the resource and not its bytes."""
OCTETS = "application/octet-stream"
_MEDIA = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,127}/[A-Za-z0-9!#$&^_.+-]{1,127}(;[ -:<-~]{1,127}){0,8}\Z")
SAFE: Named = [("Content-Security-Policy", "default-src 'none'; sandbox"), ("Vary", "Accept, Authorization")]


def wanted(http: HttpRequest, code: str, type: str | None, query: Pairs) -> bool:
    """Whether a request is for the bytes of a Binary: nothing in it names FHIR's own media types."""
    if type != "Binary" or code not in READS or any(name in PARTS for name, _ in query):
        return False
    return not FHIR & _kinds(http)


def render(http: HttpRequest, response: Response) -> Answer:
    """The HTTP answer with the bytes. Raises Problem(not-supported, 406) where their media type is not accepted."""
    headers: Named = []
    if response.version is not None:
        headers.append(("ETag", f'W/"{response.version}"'))
    if response.instant is not None:
        headers.append(("Last-Modified", format_datetime(response.instant.astimezone(UTC), usegmt=True)))
    headers += [*PRIVATE, *SAFE]
    resource = response.content()
    if resource is None:  # not modified
        return Answer(None, response.status, headers)
    media = media_type(resource)
    if not _accepts(http, media.partition(";")[0].strip().lower()):
        raise problem("not-supported", f"This Binary is {media}: accept that, or FHIR JSON.", "Accept", status=406)
    return Answer(b64decode(str(resource.get("data", ""))), 200, [*headers, ("Content-Type", media)])


def media_type(resource: Resource) -> str:
    """The media type of a Binary, that of any bytes where what it says cannot stand in a header."""
    said = str(resource.get("contentType", ""))
    return said if _MEDIA.match(said) else OCTETS


def _kinds(http: HttpRequest) -> set[str]:
    accepted = http.headers.get("Accept") or "*/*"
    return {part.split(";")[0].strip().replace(" ", "+").lower() for part in accepted.split(",")}


def _accepts(http: HttpRequest, media: str) -> bool:
    return bool(_kinds(http) & {"*/*", f"{media.partition('/')[0]}/*", media})
