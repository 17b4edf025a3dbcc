"""HL7v2 over HTTP: a message in, its acknowledgment out. HAPI's HL7-over-HTTP: every acknowledgment code is 200, a
fault of transport is 4xx or 5xx.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from flask import Blueprint
from flask import Response as HttpResponse
from flask import request as http
from werkzeug.wrappers import Request as HttpRequest

from fhirserver.auth.access import Access
from fhirserver.auth.principal import Principal
from fhirserver.fhir.instants import instant_text
from fhirserver.fhir.problem import problem
from fhirserver.interactions.model import Server
from fhirserver.web.door import through
from fhirserver.web.http import Answer

MEDIA = ("application/hl7-v2", "x-application/hl7-v2+er7", "application/hl7-v2+er7", "text/plain")
PATH = "/1/health/organizations/<organization>/hl7v2"


@dataclass(frozen=True, slots=True)
class Hl7v2:
    """The endpoint of every organization. `take` keeps a message (bytes, remote address, organization) and answers
    its acknowledgment.
    """

    server: Server
    authenticate: Callable[[HttpRequest], Principal]
    take: Callable[[bytes, str, str], bytes | None]

    def blueprint(self) -> Blueprint:
        """The blueprint with the one route."""
        made = Blueprint("hl7v2", __name__)
        made.add_url_rule(PATH, "message", self.view, methods=["POST"])
        return made

    def view(self, organization: str) -> HttpResponse:
        """Answers one message: the scope system/InboundMessage.c, or the organization's administrator, may send it."""
        return through(http, self.server.new_id(), lambda id: self._answer(organization)).response()

    def _answer(self, organization: str) -> Answer:
        principal = self.authenticate(http)
        access: Access = self.server.access(self.server, principal, organization)
        access.about(self._told).require("InboundMessage", "c")
        if http.mimetype not in MEDIA:
            text = f"Send the message as Content-Type {MEDIA[0]}, not as {http.mimetype[:100] or 'nothing'}."
            raise problem("not-supported", text, "Content-Type", status=415)
        raw = http.get_data()
        if not raw.strip():
            raise problem("required", "The body is empty: send one HL7v2 message, or a batch of them.")
        acknowledgment = self.take(raw, http.remote_addr or "", organization)
        if not acknowledgment:
            return Answer(None, 204, [])
        return Answer(acknowledgment, 200, [("Content-Type", MEDIA[0])])

    def _told(self) -> dict[str, str]:
        """What policies see of it: what they see of the create that it is."""
        told = {"interaction": "create", "method": "POST", "address": http.remote_addr or ""}
        return {**told, "time": instant_text(self.server.now())}
