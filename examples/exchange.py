"""What the examples share: the command line beside the installation, and JSON over HTTP."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

URL = os.environ.get("EXCHANGE_URL", "http://127.0.0.1:8080")
MLLP_PORT = int(os.environ.get("EXCHANGE_MLLP_PORT", "2575"))
COMMAND = shlex.split(os.environ.get("EXCHANGE_COMMAND", ".venv/bin/fhirserver"))
REGISTRY = f"{URL}/1/health/fhir/4"


def base(organization: str) -> str:
    """The FHIR base of a provider organization."""
    return f"{URL}/1/health/organizations/{organization}/fhir/4"


def fhirserver(*words: str) -> str:
    """What the command line prints; it works beside the database only."""
    return subprocess.run([*COMMAND, *words], check=True, capture_output=True, text=True).stdout.strip()


def fhir(token: str, method: str, url: str, resource: Any = None, *, status: int = 200) -> Any:
    """One FHIR call: the resource in the answer. Ends the example where the status is not the one expected."""
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/fhir+json"}
    data = None
    if resource is not None:
        data = json.dumps(resource).encode()
        headers["Content-Type"] = "application/fhir+json"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers, method=method), timeout=30) as answer:
            got, body = answer.status, answer.read()
    except urllib.error.HTTPError as refusal:
        got, body = refusal.code, refusal.read()
    if got != status:
        raise SystemExit(f"{method} {url} answered {got}, not {status}: {body.decode()}")
    return json.loads(body)


def access_token(client: str, secret: str, scope: str) -> str:
    """An access token for a client: OAuth 2.0 client credentials, id and secret in the form."""
    form = {"grant_type": "client_credentials", "client_id": client, "client_secret": secret, "scope": scope}
    with urllib.request.urlopen(f"{URL}/oauth2/token", urllib.parse.urlencode(form).encode(), timeout=30) as answer:
        return str(json.load(answer)["access_token"])


def parameters(**values: Any) -> dict[str, Any]:
    """A Parameters resource: texts become valueString, {"reference": ...} valueReference."""
    parts = [
        {"name": name, "valueString" if isinstance(value, str) else "valueReference": value}
        for name, value in values.items()
    ]
    return {"resourceType": "Parameters", "parameter": parts} if parts else {"resourceType": "Parameters"}
