"""A Subscription to new patients, and a webhook that believes a notification only when its signature is right.

The webhook listens on this machine: start the server with FHIRSERVER_WEBHOOK_ALLOW=127.0.0.0/8.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import queue
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from exchange import access_token, base, fhir, fhirserver, parameters
from register_and_authorize import SCOPE, authorized, people, registered

SECRET = "https://fhirserver.example/fhir/StructureDefinition/subscription-signing-secret"
OLDEST_SECONDS = 300


def verified(secret: str, headers: Mapping[str, str], body: bytes) -> bool:
    """Whether a POST is what the exchange signed, and of now: Standard Webhooks 1.0.0."""
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    key = base64.b64decode(secret.removeprefix("whsec_"))
    expected = "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
    fresh = abs(time.time() - int(headers["webhook-timestamp"])) < OLDEST_SECONDS
    # There are two signatures while the secret is being changed.
    return fresh and any(hmac.compare_digest(expected, each) for each in headers["webhook-signature"].split())


class Webhook:
    """Takes notifications on a free port. Delivery is at least once: `webhook-id` tells a repetition."""

    def __init__(self) -> None:
        self.secret = ""
        self.bundles: queue.Queue[dict[str, Any]] = queue.Queue()
        self._seen: set[str] = set()
        webhook = self

        class Post(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(webhook._take(dict(self.headers), body))
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Silent: what arrived is printed below."""

        server = HTTPServer(("127.0.0.1", 0), Post)
        self.url = f"http://127.0.0.1:{server.server_port}/notifications"
        threading.Thread(target=server.serve_forever, daemon=True).start()

    def _take(self, headers: dict[str, str], body: bytes) -> int:
        lower = {name.lower(): value for name, value in headers.items()}
        if not verified(self.secret, lower, body):
            return 401
        if lower["webhook-id"] not in self._seen:
            self._seen.add(lower["webhook-id"])
            self.bundles.put(json.loads(body))
        return 204


def main() -> None:
    """Plays it and prints what arrived."""
    webhook = Webhook()
    hospital, provider_admin, hospital_admin = people()
    client, secret = registered(provider_admin)
    authorized(client, hospital, provider_admin, hospital_admin)
    token = access_token(client, secret, SCOPE)

    subscription = {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "Ward board: new patients",
        "criteria": "create.patient",
        "channel": {"type": "rest-hook", "endpoint": webhook.url, "payload": "application/fhir+json"},
    }
    made = fhir(token, "POST", f"{base(hospital)}/Subscription", subscription, status=201)
    (webhook.secret,) = (each["valueString"] for each in made["channel"]["extension"] if each["url"] == SECRET)
    print("subscription:", made["status"])

    approve = f"{base(hospital)}/Subscription/{made['id']}/$approve"
    print("subscription:", fhir(hospital_admin, "POST", approve, parameters())["status"])

    patient = {"resourceType": "Patient", "name": [{"family": "Bramwell"}]}
    operator = fhirserver("token", "--organization", hospital)
    fhir(operator, "POST", f"{base(hospital)}/Patient", patient, status=201)
    bundle = webhook.bundles.get(timeout=30)
    print("verified:    ", bundle["type"], [entry["fullUrl"] for entry in bundle["entry"]][1])


if __name__ == "__main__":
    main()
