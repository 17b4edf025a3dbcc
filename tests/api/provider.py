"""The console as an administrator of an application provider has it."""

from __future__ import annotations

from typing import Any

from werkzeug.test import TestResponse

from fhirserver.auth.principal import Principal
from tests.api.browser import Visitor
from tests.api.exchange import PASSWORD, REGISTRY, Exchange

ORGANIZATION = [
    {"coding": [{"system": "https://fhirserver.example/fhir/CodeSystem/organization-kind", "code": "application"}]}
]


def add(exchange: Exchange, name: str, organization: str, role: str) -> None:
    user = {
        "resourceType": "User",
        "email": f"{name}@example.org",
        "name": name.title(),
        "role": role,
        "organization": {"reference": f"Organization/{organization}"},
        "password": PASSWORD,
    }
    made = exchange.call("POST", f"{REGISTRY}/User", exchange.operator(), user)
    assert made.status_code == 201, made.text
    exchange.people[name] = exchange.installation.tokens.issue(Principal("user", made.json["id"]))  # type: ignore[index]


class Console(Visitor):
    """Somebody of an application provider in the console, without scripts."""

    def __init__(self, exchange: Exchange, who: str = "acme", organization: str = "") -> None:
        super().__init__(exchange)
        self.home = f"/console/application/{organization or exchange.acme}"
        assert self.sign_in(who).status_code == 303
        self.csrf = self.token()

    def see(self, path: str, status: int = 200, **headers: str) -> str:
        answer = self.get(self.home + path, **headers)
        assert answer.status_code == status, answer.text
        return answer.text

    def send(self, path: str, status: int = 303, **fields: Any) -> TestResponse:
        answer = self.post(self.home + path, {"csrf": self.csrf, **fields})
        assert answer.status_code == status, answer.text
        return answer
