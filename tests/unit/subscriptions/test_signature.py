"""What we sign, an independent implementation of Standard Webhooks must verify."""

from __future__ import annotations

import base64
import time

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from fhirserver.subscriptions.signature import signature, signed

FIRST = "whsec_" + base64.b64encode(b"a" * 32).decode()
SECOND = "whsec_" + base64.b64encode(b"b" * 32).decode()
BODY = '{"resourceType":"Bundle","note":"Grüße"}'.encode()


def test_the_reference_implementation_verifies_it() -> None:
    headers = signed([FIRST], "msg_1", int(time.time()), BODY)
    assert Webhook(FIRST).verify(BODY, headers)["resourceType"] == "Bundle"


def test_while_a_secret_is_rotated_both_verify() -> None:
    headers = signed([SECOND, FIRST], "msg_1", int(time.time()), BODY)
    assert Webhook(FIRST).verify(BODY, headers)
    assert Webhook(SECOND).verify(BODY, headers)


@pytest.mark.parametrize("tampered", [BODY + b" ", BODY.replace(b"Bundle", b"bundle")])
def test_a_changed_body_does_not_verify(tampered: bytes) -> None:
    headers = signed([FIRST], "msg_1", int(time.time()), BODY)
    with pytest.raises(WebhookVerificationError):
        Webhook(FIRST).verify(tampered, headers)


def test_a_changed_id_and_another_secret_do_not_verify() -> None:
    headers = signed([FIRST], "msg_1", int(time.time()), BODY)
    with pytest.raises(WebhookVerificationError):
        Webhook(FIRST).verify(BODY, {**headers, "webhook-id": "msg_2"})
    with pytest.raises(WebhookVerificationError):
        Webhook(SECOND).verify(BODY, headers)


def test_the_example_of_the_specification_gives_its_signature() -> None:
    given = signature(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
    )
    assert given == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_without_secrets_no_signature_is_sent() -> None:
    assert signed([], "msg_1", 1, BODY) == {"webhook-id": "msg_1", "webhook-timestamp": "1"}


def test_a_secret_that_is_not_base64_is_refused() -> None:
    with pytest.raises(ValueError, match="whsec_"):
        signature("whsec_not base64!", "msg_1", 1, BODY)
