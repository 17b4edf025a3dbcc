"""An exchange in this process, over real MongoDB: a hospital, an application provider, their administrators, their
calls.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from fhirserver import app
from fhirserver.app import Installation
from fhirserver.auth.principal import Principal
from fhirserver.exchange.clients import CLIENTS
from fhirserver.interactions.dispatch import dispatch
from fhirserver.interactions.model import Request
from fhirserver.rules.organization import kind_concept
from fhirserver.settings import Secret, Settings
from fhirserver.web.accounts import lasting

REGISTRY = "/1/health/fhir/4"
ISSUER = "https://exchange.example"
PASSWORD = "correct-horse-battery-9"
OPERATOR = Principal("system", id="tests", operator=True, name="tests")


@dataclass
class Exchange:
    """An installation in this process, with a hospital, an application provider and their administrators' tokens."""

    installation: Installation
    http: FlaskClient
    hospital: str
    acme: str
    people: dict[str, str]

    def call(self, method: str, path: str, token: str, body: Any = None) -> TestResponse:
        return self.http.open(path, method=method, json=body, headers={"Authorization": f"Bearer {token}"})

    def operator(self) -> str:
        """A token of the local operator, issued for the application provider."""
        principal = Principal("operator", "local", self.acme, operator=True, scopes="system/*.cruds")
        return self.installation.tokens.issue(principal)

    def register(self, who: str = "acme", **elements: Any) -> dict[str, Any]:
        """A client registered by an administrator, with its secret."""
        client = {
            "resourceType": "ClientApplication",
            "name": "Results",
            "kind": "production",
            "grantType": ["client_credentials"],
            "scope": "system/*.cruds",
            **elements,
        }
        answer = self.call("POST", f"{REGISTRY}/ClientApplication", self.people[who], client)
        assert answer.status_code == 201, answer.text
        return dict(answer.json)  # type: ignore[arg-type]

    def add(self, by: str = "hospital", **elements: Any) -> dict[str, Any]:
        """A member added by the administrator of an organization; an element that is empty is left out."""
        user = {
            "resourceType": "User",
            "email": f"{uuid.uuid4().hex[:12]}@example.org",
            "name": "Ida",
            "role": "member",
            "password": PASSWORD,
            **elements,
        }
        given = {name: value for name, value in user.items() if value}
        answer = self.call("POST", f"{REGISTRY}/User", self.people[by], given)
        assert answer.status_code == 201, answer.text
        return dict(answer.json or {})

    def token(self, client: dict[str, Any], **form: str) -> TestResponse:
        given = {"grant_type": "client_credentials", "client_id": client["id"], "client_secret": client["secret"]}
        return self.http.post("/oauth2/token", data=given | form)

    def authorize(self, client: dict[str, Any]) -> str:
        """Requests and approves access to the hospital; answers the ClientAuthorization's id."""
        asked = {
            "resourceType": "Parameters",
            "parameter": [
                {"name": "organization", "valueReference": {"reference": f"Organization/{self.hospital}"}},
                {"name": "reason", "valueString": "To show results"},
            ],
        }
        path = f"{REGISTRY}/ClientApplication/{client['id']}/$request-authorization"
        answer = self.call("POST", path, self.people["acme"], asked)
        assert answer.status_code == 200, answer.text
        id: str = answer.json["id"]  # type: ignore[index]
        assert self.step(id, "approve").status_code == 200
        return id

    def step(self, id: str, action: str, who: str = "hospital", note: str = "because") -> TestResponse:
        body = {"resourceType": "Parameters", "parameter": [{"name": "note", "valueString": note}]}
        return self.call("POST", f"{REGISTRY}/ClientAuthorization/{id}/${action}", self.people[who], body)

    @property
    def base(self) -> str:
        return f"/1/health/organizations/{self.hospital}/fhir/4"


@contextmanager
def exchange_of(mongo_url: str, database: str, issuer: str = ISSUER) -> Iterator[Exchange]:
    """A new exchange in a database of its own."""
    folder = TemporaryDirectory()
    settings = Settings(
        data=Path(folder.name),
        mongo_url=Secret(mongo_url),
        mongo_database=database,
        master_key=Secret("m" * 40),
        public_url=issuer,
    )
    installation = _lasting(app.build(settings))
    try:
        yield _exchange(installation, app.create_app(installation).test_client())
    finally:
        installation.server.store.database.close()
        folder.cleanup()


def _exchange(installation: Installation, http: FlaskClient) -> Exchange:
    hospital, acme = (_create(installation, _organization(kind)) for kind in ("provider", "application"))
    people = {}
    for name, organization in (("hospital", hospital), ("acme", acme)):
        user = {
            "resourceType": "User",
            "email": f"{name}@example.org",
            "name": name.title(),
            "role": "admin",
            "organization": {"reference": f"Organization/{organization}"},
            "password": PASSWORD,
        }
        people[name] = installation.tokens.issue(Principal("user", _create(installation, user)))
    return Exchange(installation, http, hospital, acme, people)


def _lasting(installation: Installation) -> Installation:
    """The installation with everything that the authorization server can use."""
    installation.server.operations = {
        **installation.server.operations,
        **{f"{row.types[0]}/{row.name}": row for row in CLIENTS},
    }
    return replace(installation, tokens=lasting(installation.tokens, installation.server))


def _create(installation: Installation, resource: dict[str, Any]) -> str:
    server, type_ = installation.server, resource["resourceType"]
    made = dispatch(server, Request("create", "registry", server.base("registry"), OPERATOR, type=type_, body=resource))
    assert made.location
    return made.location.split("/_history/")[0].rpartition("/")[2]


def _organization(kind: str) -> dict[str, Any]:
    return {"resourceType": "Organization", "name": kind.title(), "type": [kind_concept(kind)]}
