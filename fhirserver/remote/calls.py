"""Calls to one FHIR server, and its refusals in words. FHIR R4: http, operationoutcome.

JSON is printed as it was sent, set out in lines: no number is read and written again.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from urllib.parse import quote, urljoin

import click
import msgspec

from fhirserver.remote.authentication import authorization, plain, renewable
from fhirserver.remote.profiles import Profile
from fhirserver.remote.wire import Answer, Wire, same_server

FHIR_JSON = "application/fhir+json"
Pairs = Sequence[tuple[str, str]]


class Refused(click.ClickException):
    """The server refused; the message is what it said."""

    exit_code = 1


@dataclass(frozen=True, slots=True)
class Calls:
    """Calls to the server of a profile."""

    profile: Profile
    wire: Wire

    def ask(
        self,
        method: str,
        path: str,
        pairs: Pairs = (),
        body: bytes | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> Answer:
        """One call below the base URL; empty headers are left out. Raises Refused, Unreachable."""
        query = "&".join(f"{quote(name, safe=':._-')}={quote(value, safe=':._-,/|$')}" for name, value in pairs)
        url = f"{self.profile.base_url}/{path}".rstrip("/") + (f"?{query}" if query else "")
        return self._sent(method, url, body, headers)

    def pages(self, first: Answer) -> Iterator[Answer]:
        """An answer that is a Bundle, and those that its next links lead to. Raises Refused, Unreachable."""
        seen: set[str] = set()
        answer = first
        while True:
            yield answer
            links = as_object(answer).get("link")
            named = [each for each in links if isinstance(each, dict)] if isinstance(links, list) else []
            link = next((each.get("url") for each in named if each.get("relation") == "next"), None)
            if not link:
                return
            url = urljoin(f"{self.profile.base_url}/", str(link))
            if not same_server(url, self.profile.base_url) or url in seen:
                wrong = "again to a page seen before" if url in seen else f"to another server: {plain(url)}"
                raise Refused(f"The next link leads {wrong}.")
            seen.add(url)
            answer = self._sent("GET", url, None, {})

    def _sent(self, method: str, url: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        given = {"Accept": FHIR_JSON} | ({"Content-Type": FHIR_JSON} if body is not None else {})
        given |= {name: value for name, value in headers.items() if value}
        answer = self.wire.send(method, url, given | authorization(self.profile, self.wire), body)
        if answer.status == 401 and renewable(self.profile):
            answer = self.wire.send(method, url, given | authorization(self.profile, self.wire, fresh=True), body)
        if not 200 <= answer.status < 300:
            raise Refused(words(answer))
        return answer


def words(answer: Answer) -> str:
    """A refusal as people read it: the status, and a line for each issue of its OperationOutcome."""
    lines = [f"{answer.status} {plain(answer.reason)}".strip()]
    if 300 <= answer.status < 400:
        lines.append(f"it redirects to {plain(answer.headers.get('location', 'nowhere'))}: use that as the base URL")
    try:
        outcome = json.loads(answer.body)
    except ValueError:
        outcome = None
    found = outcome if isinstance(outcome, dict) else {}
    for issue in found.get("issue", ()) if isinstance(found.get("issue"), list) else ():
        if isinstance(issue, dict):
            lines.append(_issue(issue))
    if found.get("error"):
        lines.append(plain(f"{found['error']}: {found.get('error_description', '')}"))
    if answer.status in (429, 503) and answer.headers.get("retry-after"):
        lines.append(f"try again in {plain(answer.headers['retry-after'])} s")
    return "\n  ".join(lines)


def _issue(issue: Mapping[str, Any]) -> str:
    details = issue.get("details")
    text = issue.get("diagnostics") or (details.get("text") if isinstance(details, dict) else "") or ""
    where = issue.get("expression") or issue.get("location")
    place = f" ({', '.join(map(str, where))})" if isinstance(where, list) else ""
    return plain(f"{issue.get('severity', 'error')} {issue.get('code', '')}: {text}{place}")


def as_object(answer: Answer) -> dict[str, Any]:
    """The JSON object that was answered. Raises Refused for anything else."""
    try:
        found = json.loads(answer.body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Refused(f"The answer is not a FHIR resource in JSON: {plain(answer.headers.get('content-type', ''))}")
    return found


def show(answer: Answer) -> None:
    """Prints what was answered, set out in lines; where there is no body, where the resource is."""
    if not answer.body:
        where = answer.headers.get("location") or answer.headers.get("content-location")
        if where:
            click.echo(plain(where))
        return
    try:
        _print(msgspec.json.format(answer.body, indent=2))
    except msgspec.DecodeError:
        _print(answer.body)


def show_entries(answer: Answer) -> None:
    """Prints each entry's resource as one line, as it was sent; an entry without one (a deletion) as a whole."""
    try:
        bundle = msgspec.json.decode(answer.body, type=dict[str, msgspec.Raw])
        for entry in msgspec.json.decode(bundle.get("entry", b"[]"), type=list[msgspec.Raw]):
            members = msgspec.json.decode(entry, type=dict[str, msgspec.Raw])
            _print(msgspec.json.format(bytes(members.get("resource", entry)), indent=-1))
    except msgspec.DecodeError:
        raise Refused("The answer is not a Bundle in JSON.") from None


def _print(data: bytes) -> None:
    stream = sys.stdout.buffer
    stream.write(data if data.endswith(b"\n") else data + b"\n")
    stream.flush()
