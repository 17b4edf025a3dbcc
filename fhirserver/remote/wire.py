"""HTTP for the command line: one connection for each server that is called, bounded in time and size.

Nothing is followed: a redirect is told, and credentials go nowhere but where the profile says.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from urllib.parse import urlsplit

import click

MOST_BYTES = 256 * 1024 * 1024
CHUNK = 1024 * 1024


class Unreachable(click.ClickException):
    """The server could not be reached, or did not answer in time."""

    exit_code = 3


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered; names of headers are in lower case."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes


class Wire:
    """Calls to servers; `timeout` is the longest that one of them may take, in seconds."""

    def __init__(self, timeout: float, ca_file: str = "") -> None:
        self._timeout = timeout
        self._ca_file = ca_file
        self._open: dict[tuple[str, str, int | None], HTTPConnection] = {}

    def send(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None) -> Answer:
        """One request. Raises Unreachable."""
        parts = urlsplit(url)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        deadline = time.monotonic() + self._timeout
        try:
            connection = self._connection(parts.scheme, parts.hostname or "", parts.port)
            connection.request(method, path, body, {"User-Agent": "fhirserver-cli", **headers})
            return _read(connection.getresponse(), deadline)
        except TimeoutError:
            raise Unreachable(f"{_origin(url)} did not answer within {self._timeout:g} s.") from None
        except (OSError, HTTPException) as error:
            said = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise Unreachable(f"{_origin(url)}: {said}") from None

    def _connection(self, scheme: str, host: str, port: int | None) -> HTTPConnection:
        held = self._open.get((scheme, host, port))
        if held is None:
            if scheme == "https":
                context = ssl.create_default_context(cafile=self._ca_file or None)
                held = HTTPSConnection(host, port, timeout=self._timeout, context=context)
            else:
                held = HTTPConnection(host, port, timeout=self._timeout)
            self._open[scheme, host, port] = held
        return held


def same_server(one: str, two: str) -> bool:
    """Whether two URLs lead to the same scheme, host and port."""
    return _origin(one).lower() == _origin(two).lower()


def _origin(url: str) -> str:
    parts = urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return f"{parts.scheme}://{parts.hostname}:{port}"


def _read(response: HTTPResponse, deadline: float) -> Answer:
    body = bytearray()
    while chunk := response.read(CHUNK):
        body += chunk
        if len(body) > MOST_BYTES:
            raise Unreachable(f"The answer is larger than {MOST_BYTES // 1024 // 1024} MB: ask for less at a time.")
        if time.monotonic() > deadline:
            raise TimeoutError
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, response.reason, headers, bytes(body))
