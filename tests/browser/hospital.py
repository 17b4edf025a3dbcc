"""What the hospital's screens show: clients that ask, were approved, want more; subscriptions; messages; a topic."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import requests

from tests.browser.conftest import ROOT, Installed
from tests.running import wait_until

CLIENT = "https://fhirserver.example/fhir/StructureDefinition/subscription-client"
CLIENT_SYSTEM = "https://fhirserver.example/fhir/NamingSystem/client-id"
HOSTILE = "<img src=x onerror=alert(1)>"
"""What somebody puts wherever text goes."""
ADMISSION = (
    "MSH|^~\\&|ADT1|LAKESIDE|EXCHANGE|HUB|20260915080000-0700||ADT^A01|{control}|P|2.5\r"
    "EVN|A01|20260915080000-0700\r"
    "PID|1||{number}^^^LAKESIDE^MR||{family}^Ines||19700101|{sex}|||1 Quay^^Port Ellery^WA^98003^USA^H|||||{marital}\r"
    "PV1|1|I|ICU^2^1^LAKESIDE||||1190^Oyelaran^Tunde|||MED||||||||||LS-V-{number}\r"
)


@dataclass
class Hospital:
    """Ids of what was made."""

    installed: Installed
    clients: dict[str, str] = field(default_factory=dict)
    authorizations: dict[str, str] = field(default_factory=dict)
    subscriptions: dict[str, str] = field(default_factory=dict)

    def client(self, name: str, scope: str, **elements: Any) -> None:
        """Registers a client of the application provider, which asks the hospital."""
        body = {
            "resourceType": "ClientApplication",
            "name": name,
            "description": f"What {name} is for",
            "kind": "production",
            "grantType": ["client_credentials"],
            "scope": scope,
            **elements,
        }
        self.clients[name] = self.installed.api("POST", "ClientApplication", "application", body)["id"]
        self.request(name, f"{name} shows your ward staff what they need at the bedside.")

    def request(self, name: str, reason: str) -> None:
        """Asks the hospital to let a client in."""
        asked = parameters(
            {"name": "organization", "valueReference": {"reference": f"Organization/{self.organization}"}},
            {"name": "reason", "valueString": reason},
        )
        path = f"ClientApplication/{self.clients[name]}/$request-authorization"
        self.authorizations[name] = self.installed.api("POST", path, "application", asked)["id"]

    def step(self, name: str, action: str, note: str = "Agreed with the ward.") -> None:
        """The hospital decides."""
        path = f"ClientAuthorization/{self.authorizations[name]}/${action}"
        self.installed.api("POST", path, "hospital", parameters({"name": "note", "valueString": note}))

    def subscribe(self, name: str, criteria: str, reason: str) -> str:
        """Asks for a subscription of a client."""
        owner = {"type": "ClientApplication", "identifier": {"system": CLIENT_SYSTEM, "value": self.clients[name]}}
        body = {
            "resourceType": "Subscription",
            "status": "requested",
            "extension": [{"url": CLIENT, "valueReference": owner}],
            "reason": reason,
            "criteria": criteria,
            "channel": {
                "type": "rest-hook",
                "endpoint": "http://127.0.0.1:9/notifications",
                "payload": "application/fhir+json",
                "header": ["Authorization: Bearer very-secret"],
            },
        }
        self.subscriptions[criteria] = self.installed.api("POST", "Subscription", "application", body, base="hospital")[
            "id"
        ]
        return self.subscriptions[criteria]

    def send(self, raw: bytes) -> str:
        """Sends a message over HTTP; answers the acknowledgment."""
        token = self.installed.tokens["hospital"]
        answer = requests.post(
            f"{self.installed.url}/1/health/organizations/{self.organization}/hl7v2",
            data=raw,
            headers={"Authorization": f"Bearer {token}", "Content-Type": "application/hl7-v2"},
            timeout=60,
        )
        assert answer.status_code == 200, answer.text
        return answer.text

    @property
    def organization(self) -> str:
        return self.installed.organizations["hospital"]

    def found(self, query: str, base: str = "hospital") -> list[dict[str, Any]]:
        """The resources that a search as the hospital finds."""
        bundle = self.installed.api("GET", query, "hospital", base=base)
        return [entry["resource"] for entry in bundle.get("entry", ())]


def parameters(*parts: dict[str, Any]) -> dict[str, Any]:
    """A Parameters resource."""
    return {"resourceType": "Parameters", "parameter": list(parts)}


def stocked(installed: Installed) -> Hospital:
    """Makes everything, once."""
    made = Hospital(installed)
    endpoint = {
        "resourceType": "Endpoint",
        "status": "active",
        "connectionType": {
            "system": "http://terminology.hl7.org/CodeSystem/endpoint-connection-type",
            "code": "hl7v2-mllp",
        },
        "name": "Lakeside ADT",
        "managingOrganization": {"reference": f"Organization/{made.organization}"},
        "identifier": [
            {"system": "https://fhirserver.example/fhir/NamingSystem/hl7v2-sending-facility", "value": "LAKESIDE"}
        ],
        "payloadType": [{"text": "HL7v2"}],
        "address": "mllp://127.0.0.1",
    }
    installed.api("POST", "Endpoint", "hospital", endpoint)
    narrow = "system/Patient.rs system/Encounter.rs system/Observation.rs?category=laboratory system/Subscription.cruds"
    made.client("Ward Board", narrow, iheProfile=["pdqm-consumer", "qedm-encounter"])
    made.client("Results viewer", "system/*.rs", iheProfile=["mhd-consumer"])
    made.client("Bed planner", "system/Encounter.rs system/Location.cruds")
    made.client("Fax bridge", "system/DocumentReference.cruds")
    made.client(f"Notes {HOSTILE}", "system/Patient.rs")
    made.step("Ward Board", "approve")
    made.step("Bed planner", "approve")
    made.step("Bed planner", "disable", "The contract has ended.")
    made.step("Fax bridge", "reject", "We do not fax any more.")
    client = installed.api("GET", f"ClientApplication/{made.clients['Ward Board']}", "application")
    wider = {**client, "scope": f"{narrow} system/Condition.rs system/Patient.cruds"}
    installed.api("PUT", f"ClientApplication/{client['id']}", "application", wider)
    draft = {
        "resourceType": "SubscriptionTopic",
        "id": "discharges",
        "status": "draft",
        "title": f"Discharges {HOSTILE}",
    }
    draft |= {"url": "https://riverside.example/SubscriptionTopic/discharges"}
    encounter = "http://hl7.org/fhir/StructureDefinition/Encounter"
    draft |= {"resourceTrigger": [{"resource": encounter, "supportedInteraction": ["update"]}]}
    installed.api("PUT", "SubscriptionTopic/discharges", "hospital", draft, base="hospital")
    made.subscribe("Ward Board", "create.patient", f"Show new patients {HOSTILE}")
    installed.api(
        "POST", f"Subscription/{made.subscribe('Ward Board', 'Encounter?class=IMP', 'Inpatients')}/$approve",
        "hospital", parameters(), base="hospital",
    )  # fmt: skip
    _messages(made)
    return made


def _messages(made: Hospital) -> None:
    for path in sorted((ROOT / "examples" / "hl7v2").glob("[0-9]*.hl7"))[:6]:
        made.send(path.read_bytes())
    made.send(admission("RV-1", "770001", HOSTILE.replace("|", ""), marital="QQ"))
    made.send(ADMISSION.format(control="RV-2", number="", family="", sex="", marital="").split("PID")[0].encode())
    wait_until(lambda: not made.found("InboundMessage?status=received"), timeout=60)
    wait_until(lambda: made.found("Task?code=map-code&status=requested"), timeout=60)


def admission(control: str, number: str, family: str, sex: str = "F", marital: str = "M") -> bytes:
    """An ADT^A01 of the sender that the hospital's Endpoint names."""
    return ADMISSION.format(control=control, number=number, family=family, sex=sex, marital=marital).encode()
