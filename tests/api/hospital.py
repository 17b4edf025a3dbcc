"""The console as an administrator of a hospital has it."""

from __future__ import annotations

from typing import Any

from fhirserver.hl7v2.process import process
from tests.api.browser import Visitor
from tests.api.exchange import REGISTRY, Exchange

HOSTILE = "<img src=x onerror=alert(1)>"
NARROW = "system/Patient.rs system/Observation.rs?category=laboratory system/Subscription.cruds"
CLIENT = "https://fhirserver.example/fhir/StructureDefinition/subscription-client"
CLIENT_SYSTEM = "https://fhirserver.example/fhir/NamingSystem/client-id"
MESSAGE = (
    "MSH|^~\\&|ADT1|LAKESIDE|X|Y|20260915080000-0700||ADT^A01|{control}|P|2.5\rEVN|A01|20260915080000-0700\r"
    f"PID|1||{{number}}^^^LAKESIDE^MR||{HOSTILE}^Ines||19700101|F||||||||{{marital}}\rPV1|1|I|ICU^2^1\r"
)


class Hospital:
    """The exchange with its hospital's administrator at the console, and things for that to be about."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange, self.visitor = exchange, Visitor(exchange)
        assert self.visitor.sign_in("hospital").status_code == 303
        self.csrf = self.visitor.token()

    def path(self, path: str) -> str:
        return f"/console/hospital/{self.exchange.hospital}{path}"

    def get(self, path: str, status: int = 200) -> str:
        answer = self.visitor.get(self.path(path))
        assert answer.status_code == status, (path, answer.status_code, answer.text[-1500:])
        return answer.text

    def post(self, path: str, expected: int = 303, **form: Any) -> str:
        answer = self.visitor.post(self.path(path), {"csrf": self.csrf, **form})
        assert answer.status_code == expected, (path, answer.status_code, answer.text[-1500:])
        return answer.text if expected != 303 else str(answer.headers["Location"])

    def asked(self, **elements: Any) -> tuple[dict[str, Any], str]:
        """A client that asked the hospital to be let in, and the id of its authorization."""
        client = self.exchange.register(**{"scope": NARROW, **elements})
        return client, self.request(client["id"])

    def request(self, client: str) -> str:
        """Asks the hospital to let a client in, for the scopes it has now."""
        body = {
            "resourceType": "Parameters",
            "parameter": [
                {"name": "organization", "valueReference": {"reference": f"Organization/{self.exchange.hospital}"}},
                {"name": "reason", "valueString": f"To show results {HOSTILE}"},
            ],
        }
        path = f"{REGISTRY}/ClientApplication/{client}/$request-authorization"
        answer = self.exchange.call("POST", path, self.exchange.people["acme"], body)
        assert answer.status_code == 200, answer.text
        return str(answer.json["id"])  # type: ignore[index]

    def subscribed(self, client: dict[str, Any]) -> str:
        owner = {"type": "ClientApplication", "identifier": {"system": CLIENT_SYSTEM, "value": client["id"]}}
        body = {
            "resourceType": "Subscription",
            "status": "requested",
            "reason": f"New patients {HOSTILE}",
            "criteria": "create.patient",
            "extension": [{"url": CLIENT, "valueReference": owner}],
            "channel": {"type": "rest-hook", "endpoint": "https://1.1.1.1/x", "payload": "application/fhir+json"},
        }
        answer = self.exchange.call("POST", f"{self.exchange.base}/Subscription", self.exchange.people["acme"], body)
        assert answer.status_code == 201, answer.text
        return str(answer.json["id"])  # type: ignore[index]

    def api(self, method: str, path: str, body: Any = None, base: str = "") -> Any:
        answer = self.exchange.call(
            method, f"{base or self.exchange.base}/{path}", self.exchange.people["hospital"], body
        )
        assert answer.status_code < 300, answer.text
        return answer.json

    def taken(self, control: str, number: str = "1", marital: str = "M") -> str:
        """A message that was taken in and processed: its id."""
        intake = self.exchange.installation.intake()
        raw = MESSAGE.format(control=control, number=number, marital=marital).encode()
        assert intake.take(raw, "", self.exchange.hospital)
        found = self.api("GET", f"InboundMessage?control-id={control}")["entry"][0]["resource"]
        process(intake, self.exchange.hospital, found["lane"])
        return str(found["id"])
