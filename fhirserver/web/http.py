"""HTTP to a Request, a Response to HTTP. FHIR R4: http#headers, http#mime-type, http#ops (content negotiation).

Everything about headers, media types and encodings is here; nothing below the web layer knows them.
"""

from __future__ import annotations

import gzip
import re
import zlib
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

import zstandard
from flask import Response as HttpResponse
from werkzeug.wrappers import Request as HttpRequest

from fhirserver.fhir.json import decode, encode, pretty
from fhirserver.fhir.parameters import parameters_of
from fhirserver.fhir.problem import Issue, Problem, outcome, problem
from fhirserver.interactions.model import Pairs, Preconditions, Prefer, Response

FHIR_JSON = "application/fhir+json"
MEDIA = f"{FHIR_JSON}; charset=utf-8; fhirVersion=4.0"
ACCEPTED = frozenset(
    {FHIR_JSON, "application/json", "text/json", "application/*", "*/*", "json", "application/json+fhir"}
)
BODIES = frozenset({FHIR_JSON, "application/json", "text/json", "application/json+fhir"})
PATCHES = BODIES | {"application/json-patch+json", "application/merge-patch+json"}
HL7V2 = frozenset({"application/hl7-v2", "x-application/hl7-v2+er7", "application/hl7-v2+er7"})
OF_MESSAGES = ("/$convert", "/$validate-v2")
"""Operations that take an HL7v2 message as it is."""
FORM = "application/x-www-form-urlencoded"
Named = list[tuple[str, str]]
PRIVATE: Named = [("Cache-Control", "no-cache, private"), ("X-Content-Type-Options", "nosniff")]
JSON: Named = [("Content-Type", MEDIA), ("Vary", "Accept, Accept-Encoding, Authorization")]
MOST_WARNINGS = 5
COMPRESS_FROM = 1_400  # Below one network packet compression only costs.
MOST_PARAMETERS = 1_000
"""What is taken apart at all; a search may have fewer."""
REQUEST_ID = re.compile(r"[A-Za-z0-9._\-]{1,64}\Z")
# Quotes are often forgotten, and a version id cannot be mistaken for anything else.
_VERSION_TAG = re.compile(r'(?:W/)?(?:"([^"]{0,64})"|([A-Za-z0-9\-.]{1,64}))\Z')
_NEVER = re.compile(r";\s*q\s*=\s*0(?:\.0{0,3})?\s*(?:;|\Z)", re.IGNORECASE)
WILDCARDS = frozenset({"*/*", "application/*"})
_LINES = {each.value: f"{each.value} {each.phrase}" for each in HTTPStatus}
_BODILESS = frozenset({204, 304})
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_CONDITIONS = frozenset({"HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH", "HTTP_IF_MODIFIED_SINCE", "HTTP_IF_NONE_EXIST"})
_NO_CONDITIONS = Preconditions()
_NO_PREFERENCE = Prefer()
_RETURNS = ("minimal", "representation", "OperationOutcome")


def request_id(given: str | None, new_id: str) -> str:
    """The caller's X-Request-Id where it is well formed, else a new one."""
    return given if given and REQUEST_ID.match(given) else new_id


def negotiate(http: HttpRequest, query: Pairs) -> None:
    """Raises Problem(not-supported, 406) unless JSON may be answered. `_format` wins over Accept."""
    wanted = (dict(query).get("_format") if query else None) or http.environ.get("HTTP_ACCEPT") or "*/*"
    if wanted not in ACCEPTED and not _taken(wanted) & ACCEPTED:
        raise problem(
            "not-supported", f"Only JSON is served: ask for {FHIR_JSON}, not for {wanted[:200]}.", "Accept", status=406
        )


def _taken(wanted: str) -> set[str]:
    """The media types that Accept takes: not those with the weight 0, whatever a wildcard says (RFC 9110 12.5.1)."""
    parts = wanted.split(",")
    never = {_kind(part) for part in parts if _NEVER.search(part)} if ";" in wanted else set[str]()
    taken = {_kind(part) for part in parts} - never
    return taken - WILDCARDS if FHIR_JSON in never else taken


def _kind(part: str) -> str:
    return part.split(";")[0].strip().replace(" ", "+")


def query_pairs(http: HttpRequest) -> Pairs:
    """The query's pairs in order, repeated names kept, and those of a form body behind them."""
    text = http.query_string.decode("utf-8", "replace")
    pairs = _pairs(text) if text else []
    if http.method == "POST" and http.environ.get("CONTENT_TYPE") != FHIR_JSON and http.mimetype == FORM:
        try:
            pairs += _pairs(http.get_data().decode())
        except UnicodeDecodeError:
            raise problem("invalid", "The form body is not UTF-8.") from None
    return tuple(pairs)


def _pairs(text: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(text, keep_blank_values=True, max_num_fields=MOST_PARAMETERS)
    except ValueError:
        raise problem("too-costly", f"A request may have at most {MOST_PARAMETERS} parameters.") from None


def body(http: HttpRequest, limit: int) -> Any:
    """The decoded JSON body, None where there is none; an HL7v2 message, where an operation takes one, as its parameter
    `content`. Raises Problem: 415 for another media type, 413, structure.
    """
    if http.method not in ("POST", "PUT", "PATCH"):
        return None
    if http.environ.get("CONTENT_TYPE") == FHIR_JSON and "HTTP_CONTENT_ENCODING" not in http.environ:
        data = http.get_data()
        return decode(data) if data.strip() else None
    if http.mimetype == FORM:
        return None
    data = _unpacked(http.get_data(), http.headers.get("Content-Encoding", ""), limit)
    if not data.strip():
        return None
    if http.mimetype in HL7V2 and http.path.endswith(OF_MESSAGES):
        part = {"name": "content", "valueBase64Binary": b64encode(data).decode()}
        return parameters_of([part])
    allowed = PATCHES if http.method == "PATCH" else BODIES
    if http.mimetype not in allowed:
        sent = http.headers.get("Content-Type", "nothing")[:100]
        raise problem(
            "not-supported", f"Send the body as Content-Type {FHIR_JSON}, not as {sent}.", "Content-Type", status=415
        )
    return decode(data)


def _unpacked(data: bytes, encoding: str, limit: int) -> bytes:
    if encoding in ("", "identity"):
        return data
    if encoding != "gzip":
        raise problem(
            "not-supported", "A request body may be compressed with gzip only.", "Content-Encoding", status=415
        )
    try:
        unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
        plain = unpacker.decompress(data, limit + 1)
    except zlib.error:
        raise problem("invalid", "The body is not valid gzip.", "Content-Encoding") from None
    if len(plain) > limit:
        raise problem("too-long", f"The body is larger than {limit} bytes.")
    if not unpacker.eof or unpacker.unused_data:
        raise problem("invalid", "The body is not one whole gzip stream.", "Content-Encoding")
    return plain


def preconditions(http: HttpRequest) -> Preconditions:
    """If-Match, If-None-Match, If-Modified-Since and If-None-Exist. Raises Problem(invalid) for malformed ones."""
    if _CONDITIONS.isdisjoint(http.environ):
        return _NO_CONDITIONS
    headers = http.headers
    since = headers.get("If-Modified-Since")
    return Preconditions(
        if_match=_version(headers.get("If-Match"), "If-Match"),
        if_none_match=_version(headers.get("If-None-Match"), "If-None-Match"),
        if_modified_since=http_date(since) if since else None,
        if_none_exist=headers.get("If-None-Exist"),
    )


def prefer(http: HttpRequest) -> Prefer:
    """The Prefer header; what it does not say, or says in a way we do not know, is the default."""
    found = _NO_PREFERENCE
    said = http.environ.get("HTTP_PREFER")
    for part in re.split("[,;]", said) if said else ():
        name, _, value = part.strip().partition("=")
        if name == "return" and value in _RETURNS:
            found = replace(found, returned=value)
        if name == "handling":
            found = replace(found, strict=value == "strict", lenient=value == "lenient")
        if name == "respond-async":
            found = replace(found, asynchronous=True)
    return found


def http_date(text: str) -> datetime | None:
    """The instant of an HTTP date, None where it is not one (RFC 9110: then the header is ignored)."""
    try:
        instant = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


@dataclass(slots=True)
class Answer:
    """An answer that is whole: its bytes (None where there is no body), status and headers, which go to the server
    in one piece. Werkzeug's response, made of the same, costs as much as reading the resource's document.
    """

    data: bytes | None
    status: int
    headers: Named

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answers as a WSGI application. Raises ValueError for a header with a line end in it."""
        headers = self.headers
        if self.status not in _BODILESS:
            headers = [*headers, ("Content-Length", str(len(self.data or b"")))]
        if any("\n" in value or "\r" in value for _, value in headers):
            raise ValueError("a header must not contain a line end")
        start_response(_LINES[self.status], headers)
        return [self.data] if self.data and environ["REQUEST_METHOD"] != "HEAD" else []

    def response(self) -> HttpResponse:
        """The same as a response that Flask and its extensions can change."""
        made = HttpResponse(self.data, self.status, self.headers)
        if not any(name == "Content-Type" for name, _ in self.headers):
            made.headers.pop("Content-Type", None)
        return made


def render(http: HttpRequest, response: Response) -> Answer:
    """The HTTP answer of an interaction."""
    headers: Named = []
    if response.version is not None:
        headers.append(("ETag", f'W/"{response.version}"'))
    if response.instant is not None:
        headers.append(("Last-Modified", date_text(response.instant)))
    if response.location:
        headers.append(("Location", response.location))
    said = [issue.diagnostics for issue in response.warnings if issue.code == "business-rule"][:MOST_WARNINGS]
    headers += [("Warning", f'199 - "{_plain(text)}"') for text in said]
    headers += response.headers.items()
    return finish(http, response.status, headers, _text(response))


def date_text(instant: datetime) -> str:
    """An instant as an HTTP date (RFC 9110), which knows no fraction of a second."""
    at = instant.astimezone(UTC)
    day = f"{_DAYS[at.weekday()]}, {at.day:02d} {_MONTHS[at.month - 1]} {at.year:04d}"
    return f"{day} {at.hour:02d}:{at.minute:02d}:{at.second:02d} GMT"


def _plain(text: str) -> str:
    """A text as a quoted string of a header takes it."""
    return "".join(c if " " <= c <= "~" and c not in '"\\' else "'" for c in text[:300])


def refuse(http: HttpRequest, error: Problem) -> Answer:
    """The HTTP answer of a Problem: its OperationOutcome."""
    return finish(http, error.status, list(error.headers.items()), encode(outcome(error.issues)))


def failed(http: HttpRequest, incident: str) -> Answer:
    """The HTTP answer of a fault of ours: an id that the log has too, and nothing else."""
    issue = Issue(
        "exception", f"The server failed to answer this. Tell its operator the incident id {incident}.", (), "fatal"
    )
    return finish(http, 500, [], encode(outcome([issue])))


def finish(http: HttpRequest, status: int, headers: Named, data: bytes | None) -> Answer:
    """The answer with this JSON text: indented if asked, compressed if the caller takes it."""
    headers += PRIVATE
    if data is None or status in (204, 304):
        return Answer(None, status, headers)
    if http.query_string and http.args.get("_pretty") == "true":
        data = pretty(data)
    headers += JSON
    if len(data) >= COMPRESS_FROM:
        data = _packed(http.headers.get("Accept-Encoding", ""), headers, data)
    return Answer(data, status, headers)


def _packed(accepted: str, headers: Named, data: bytes) -> bytes:
    if "zstd" in accepted:
        headers.append(("Content-Encoding", "zstd"))
        return zstandard.ZstdCompressor(level=3).compress(data)
    if "gzip" in accepted:
        headers.append(("Content-Encoding", "gzip"))
        return gzip.compress(data, compresslevel=1, mtime=0)
    return data


def _text(response: Response) -> bytes | None:
    if response.text is not None:
        return response.text.encode()
    if response.resource is not None:
        return encode(response.resource)
    return None


def _version(header: str | None, name: str) -> str | None:
    """The version of a tag; those of a list (If-None-Match of a read) with commas between."""
    if header is None or header.strip() == "*":
        return header and "*"
    found = [_VERSION_TAG.match(part.strip()) for part in header.split(",")]
    versions = [tag.group(1) if tag.group(2) is None else tag.group(2) for tag in found if tag]
    if len(versions) < len(found) or (len(versions) > 1 and name != "If-None-Match"):
        raise problem("invalid", f'{name} must be a version as in W/"3", or *.', name)
    return ",".join(versions)
