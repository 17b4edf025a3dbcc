"""A caller of the FHIR API: the real WSGI application over a real MongoDB, without a socket between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from flask import Flask

from fhirserver.fhir.json import decode, encode

FHIR_JSON = "application/fhir+json"


@dataclass(frozen=True)
class Answer:
    """What was answered: status, headers, the bytes of the body."""

    status: int
    headers: Any
    data: bytes

    @property
    def json(self) -> Any:
        """The body decoded; numbers with a fraction are Decimal."""
        return decode(self.data)

    @property
    def issue(self) -> dict[str, Any]:
        """The first issue of the OperationOutcome in the body."""
        body = self.json
        assert body["resourceType"] == "OperationOutcome", body
        first: dict[str, Any] = body["issue"][0]
        return first

    @property
    def resources(self) -> list[dict[str, Any]]:
        """The resources of a Bundle that are matches (of a history: all), in order."""
        entries = self.json.get("entry", [])
        return [each["resource"] for each in entries if each.get("search", {}).get("mode", "match") == "match"]

    @property
    def ids(self) -> list[str]:
        """The ids of the matches, in order."""
        return [each["id"] for each in self.resources]

    @property
    def included(self) -> list[str]:
        """Type/id of what a search included, sorted."""
        entries = [each["resource"] for each in self.json.get("entry", []) if each["search"]["mode"] == "include"]
        return sorted(f"{each['resourceType']}/{each['id']}" for each in entries)

    @property
    def notes(self) -> str:
        """The diagnostics of a Bundle's OperationOutcome entries."""
        entries = [each["resource"] for each in self.json.get("entry", []) if each["search"]["mode"] == "outcome"]
        return " ".join(issue["diagnostics"] for each in entries for issue in each["issue"])

    def link(self, relation: str) -> str | None:
        """The URL of a Bundle's link."""
        return next((each["url"] for each in self.json.get("link", []) if each["relation"] == relation), None)


@dataclass(frozen=True)
class Api:
    """One caller of one base: `base` is its path, `token` an access token ("" for nobody)."""

    app: Flask
    base: str
    token: str = ""
    origin: str = "http://api.test"

    @property
    def organization(self) -> str:
        """The key of the organization whose base this is."""
        return self.base.split("/")[4]

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request. `path` is below the base or a whole URL; header names have _ for -; a body that is not bytes is
        sent as JSON."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.token:
            given.setdefault("Authorization", f"Bearer {self.token}")
        data = body if body is None or isinstance(body, bytes) else encode(body)
        if data is not None:
            given.setdefault("Content-Type", FHIR_JSON)
        with self.app.test_client() as client:
            reply = client.open(self._url(path), method=method, data=data, headers=given, base_url=self.origin)
            return Answer(reply.status_code, reply.headers, reply.data)

    def _url(self, path: str) -> str:
        if path.startswith(self.origin):
            parts = urlsplit(path)
            return f"{parts.path}?{parts.query}" if parts.query else parts.path
        return f"{self.base}/{path}" if path and path[0] != "?" else f"{self.base}{path}"

    def get(self, path: str, **headers: str) -> Answer:
        return self.call("GET", path, **headers)

    def post(self, path: str, body: Any = None, **headers: str) -> Answer:
        return self.call("POST", path, body, **headers)

    def put(self, path: str, body: Any = None, **headers: str) -> Answer:
        return self.call("PUT", path, body, **headers)

    def patch(self, path: str, body: Any = None, **headers: str) -> Answer:
        return self.call("PATCH", path, body, **headers)

    def delete(self, path: str, **headers: str) -> Answer:
        return self.call("DELETE", path, **headers)

    def create(self, resource: dict[str, Any], **headers: str) -> dict[str, Any]:
        """The resource as it was stored; fails if it was not."""
        answer = self.post(resource["resourceType"], resource, **headers)
        assert answer.status == 201, answer.data
        made: dict[str, Any] = answer.json
        return made

    def store(self, resource: dict[str, Any]) -> dict[str, Any]:
        """The resource as it was stored under its own id."""
        answer = self.put(f"{resource['resourceType']}/{resource['id']}", resource)
        assert answer.status in (200, 201), answer.data
        made: dict[str, Any] = answer.json
        return made

    def found(self, path: str) -> list[str]:
        """The ids that a search matches, sorted; fails if it was refused or a parameter ignored."""
        answer = self.get(path, Prefer="handling=strict")
        assert answer.status == 200, answer.data
        return sorted(answer.ids)

    def pages(self, path: str) -> list[list[str]]:
        """The ids of every page of a search, following its next links."""
        found, url = [], path
        while url:
            answer = self.get(url)
            assert answer.status == 200, answer.data
            found.append(answer.ids)
            url = answer.link("next") or ""
        return found
