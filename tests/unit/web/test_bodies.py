"""Whose turn it is to have a body read."""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

from fhirserver.web.bodies import TURN_SECONDS, Bodies


class Slow(BytesIO):
    """A body that takes a moment to arrive."""

    def read(self, size: int | None = -1) -> bytes:
        time.sleep(0.2)
        return super().read(size)


def test_requests_that_come_together_after_a_quiet_time_wait_for_their_turn() -> None:
    def beyond(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        return [environ["wsgi.input"].read()]

    bodies = Bodies(beyond, most=100, waiting=1)
    time.sleep(TURN_SECONDS + 0.1)

    def ask(number: int) -> Iterable[bytes]:
        text = b"body %d" % number
        environ = {"CONTENT_LENGTH": str(len(text)), "wsgi.input": Slow(text), "REQUEST_METHOD": "POST"}
        return bodies(environ, lambda *given: None)

    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(ask, range(3)))

    assert answers == [[b"body 0"], [b"body 1"], [b"body 2"]]
