"""Acknowledgment points: what a positive acknowledgment means to the sender of an Endpoint beyond "stored".

HL7 v2.8.2 chapter 2: 2.9.2, 2.9.3. `transformed`: the message was mapped, else AE says why. `persisted`: its resources
are committed. In enhanced mode the accept acknowledgment (CA) always means stored, and the application acknowledgment
that MSH-16 asks for follows when the message was processed.
"""

from __future__ import annotations

import base64
import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from fhirserver.auth.access import everything
from fhirserver.fhir import Resource
from fhirserver.fhir.problem import Issue, Problem, problem
from fhirserver.hl7v2 import ack
from fhirserver.hl7v2.inbound import AFTER, Inbound
from fhirserver.hl7v2.ingest import Intake
from fhirserver.hl7v2.kept import rewrite
from fhirserver.hl7v2.message import Message
from fhirserver.hl7v2.process import convert, process
from fhirserver.hl7v2.senders import Sender

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 25.0
PAUSE_SECONDS = 0.05
DONE = ("processed", "warning")
LATE = "The message is kept, and was not processed in time. Send it again unchanged to hear what became of it."


@dataclass(frozen=True, slots=True)
class Points:
    """What intake asks for endpoints whose acknowledgment says more than `stored`."""

    intake: Intake

    def check(self, raw: bytes, sender: Sender) -> Problem | None:
        """What is wrong with the mapping of a message; None where it can be mapped. Raises Problem(transient) where
        the store is away.
        """
        try:
            convert(self.intake, raw, sender.organization, sender)
        except Problem as fault:
            if fault.issues[0].code == "transient":
                raise
            return fault
        except Exception:
            log.exception("a message could not be mapped")
            return problem("exception", "The message could not be mapped because of a fault of the server.")
        return None

    def settle(self, message: Inbound) -> bytes | None:
        """Has a stored message processed, by whomever; answers the acknowledgment that says what became of it, None
        where the sender wants none. A message that waits too long for its turn gets AR.
        """
        server, organization, id = self.intake.server, message.organization, message.resource["id"]
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            current = server.store.live(everything(organization), "InboundMessage", id)
            if current is None:
                return message.acknowledgment
            resource = current.resource()
            if resource["status"] != "received" or time.monotonic() > deadline:
                break
            with suppress(Problem):
                process(self.intake, organization, message.lane)
            time.sleep(PAUSE_SECONDS)
        code, issues = _verdict(resource)
        answer, sent = _answer(message, resource, code, issues)
        if message.settles != AFTER and answer is not None and resource.get("acknowledgmentCode") != sent:
            told = {"acknowledgmentCode": sent, "acknowledgment": base64.b64encode(answer).decode()}
            with suppress(
                Problem
            ):  # somebody else has written it meanwhile; what the sender hears is true all the same
                rewrite(server, current, {**resource, **told})
        return answer


def settled(intake: Intake) -> Intake:
    """The intake, able to answer what endpoints want to know beyond "stored"."""
    intake.points = Points(intake)
    return intake


def _verdict(resource: Resource) -> tuple[str, list[Issue]]:
    """MSA-1 for what became of a message, and what is wrong with it."""
    if resource["status"] in DONE:
        return "AA", []
    if resource["status"] == "received":
        return "AR", [Issue("transient", LATE)]
    issues = [_issue(each) for each in resource.get("issue", ())] or [Issue("processing", "It was not processed.")]
    return "AR" if resource["status"] == "failed" else "AE", issues


def _issue(element: dict[str, Any]) -> Issue:
    expression = tuple(element.get("expression", ()))
    return Issue(element["code"], element.get("diagnostics", ""), expression, element["severity"])


def _answer(message: Inbound, resource: Resource, code: str, issues: list[Issue]) -> tuple[bytes | None, str]:
    """The acknowledgment; the one that was made when the message came, where that says it already."""
    said = resource.get("acknowledgment")
    if message.settles != AFTER and resource.get("acknowledgmentCode") == code and said:
        return base64.b64decode(said), code
    raw = base64.b64decode(resource["content"]["data"])
    received = Message.parse(raw, message.charset)
    mode = "application" if message.settles == AFTER else message.mode
    if not ack.is_wanted(received, code, mode):
        return None, code
    when = datetime.fromisoformat(resource.get("processed") or resource["received"])
    control = resource["id"][20:40].upper()
    return ack.acknowledge(received, code, issues, now=when, control_id=control, mode=mode), code
