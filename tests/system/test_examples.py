"""The programs in examples/ run as they stand against a real installation."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import Running

ROOT = Path(__file__).resolve().parents[2]
PYTHON = (sys.executable, "-W", "error")


def _run(running: Running, *words: str) -> str:
    environ = {
        "PATH": os.environ["PATH"],
        **running.environ(),
        "EXCHANGE_URL": running.base_url,
        "EXCHANGE_MLLP_PORT": str(running.mllp_port),
        "EXCHANGE_COMMAND": f"{sys.executable} -m fhirserver",
    }
    done = subprocess.run(words, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(not shutil.which("curl"), reason="the example uses curl")
def test_the_first_patient_is_created_changed_and_found(running: Running) -> None:
    printed = _run(running, "examples/first-patient.sh")

    assert '"versionId":"2"' in printed
    assert '"type":"searchset","total":1' in printed
    assert '"request":{"method":"POST","url":"Patient"}' in printed


def test_a_client_is_registered_and_authorized(running: Running) -> None:
    before, approved, disabled, enabled = _run(running, *PYTHON, "examples/register_and_authorize.py").splitlines()

    assert "is not authorized by organization" in before
    assert approved == "approved: 0 patients"
    assert "its ClientAuthorization is disabled" in disabled
    assert enabled == "enabled:  0 patients"


def test_a_webhook_verifies_what_it_receives(running: Running) -> None:
    requested, active, arrived = _run(running, *PYTHON, "examples/subscribe_and_verify.py").splitlines()

    assert requested == "subscription: requested"
    assert active == "subscription: active"
    assert arrived.startswith(f"verified:     message {running.base_url}/1/health/organizations/")
    assert "/Patient/" in arrived


def test_a_webhook_believes_no_forgery() -> None:
    code = (
        "import sys; sys.path.insert(0, 'examples')\n"
        "import base64, hashlib, hmac, time\n"
        "from subscribe_and_verify import verified\n"
        "def post(key, body, at):\n"
        "    signature = base64.b64encode(hmac.digest(key, f'1.{at}.'.encode() + body, hashlib.sha256)).decode()\n"
        "    return {'webhook-id': '1', 'webhook-timestamp': str(at), 'webhook-signature': 'v1,' + signature}\n"
        "secret, now = 'whsec_' + base64.b64encode(b'k' * 32).decode(), int(time.time())\n"
        "assert verified(secret, post(b'k' * 32, b'{}', now), b'{}')\n"
        "assert not verified(secret, post(b'x' * 32, b'{}', now), b'{}')\n"
        "assert not verified(secret, post(b'k' * 32, b'{}', now), b'{ }')\n"
        "assert not verified(secret, post(b'k' * 32, b'{}', now - 3600), b'{}')\n"
    )
    done = subprocess.run([*PYTHON, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def test_an_hl7v2_message_becomes_resources(running: Running) -> None:
    printed = _run(running, *PYTHON, "examples/send_hl7v2.py")

    assert "\nMSA|AA|" in printed
    assert re.search("\nInboundMessage: (processed|warning)\n", printed)
    for type in ("Patient", "Encounter", "Provenance"):
        assert f"\n{type}: {running.base_url}/1/health/organizations/" in printed
