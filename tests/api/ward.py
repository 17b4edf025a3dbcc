"""A ward whose messages come one after the other: what is sent, what is stored of it."""

from __future__ import annotations

import itertools
from typing import Any

from fhirserver import app
from fhirserver.hl7v2.message import Message
from fhirserver.hl7v2.process import process
from tests.api.client import Api

NUMBERS = itertools.count(1)


class Ward:
    """A hospital whose messages are taken in and processed at once."""

    def __init__(self, api: Api, installation: app.Installation) -> None:
        self.api, self.intake = api, installation.intake()

    def all(self, search: str) -> list[dict[str, Any]]:
        return self.api.get(search).resources

    def take(self, event: str, *segments: str) -> str:
        """Takes a message in; answers its MSA-1."""
        control = f"M{next(NUMBERS)}"
        lines = (f"MSH|^~\\&|ADT1|LAKESIDE|X|Y|20260101120000+0000||ADT^{event}|{control}|P|2.5", f"EVN|{event}")
        answer = self.intake.take("\r".join((*lines, *segments)).encode() + b"\r", "", self.api.organization)
        assert answer is not None
        return Message.parse(answer)["MSA-1"]

    def drain(self) -> None:
        """Processes what waits, lane by lane, until nothing does."""
        for _ in range(10):
            waiting = self.all("InboundMessage?status=received&_sort=sequence")
            if not waiting:
                return
            for kept in waiting:
                process(self.intake, self.api.organization, kept["lane"])
        raise AssertionError("messages wait for ever")

    def send(self, event: str, *segments: str) -> None:
        assert self.take(event, *segments) == "AA"
        self.drain()

    def admit(self, number: str, family: str = "Marlowe", visit: str = "") -> dict[str, Any]:
        """Admits a patient, who has an allergy and a visit then."""
        visit = visit or f"V{number}"
        self.send("A01", pid(number, family), f"PV1|1|I|W7|||||||||||||||||{visit}", f"AL1|1||A{number}^Nuts^L")
        return self.patient(number)

    def patient(self, number: str) -> dict[str, Any]:
        [found] = self.all(f"Patient?identifier={number}")
        return found

    def merge(self, survivor: str, prior: str) -> None:
        self.send("A40", pid(survivor), f"MRG|{prior}^^^LAKESIDE^MR")

    def part(self, one: str, other: str) -> None:
        self.send("A37", pid(one), pid(other).replace("PID|1", "PID|2"))

    def of(self, patient: dict[str, Any]) -> dict[str, int]:
        """How many resources of each kind are about a patient."""
        kinds = {"Encounter": "subject", "AllergyIntolerance": "patient", "Basic": "subject"}
        found = {type: self.all(f"{type}?{name}=Patient/{patient['id']}") for type, name in kinds.items()}
        return {type: len(each) for type, each in found.items() if each}


def pid(number: str, family: str = "Marlowe") -> str:
    return f"PID|1||{number}^^^LAKESIDE^MR||{family}^Iris||19800214|F"
