"""Request bodies are read before a request is worked on, by threads of their own and within a time.

A server thread that waits for a client who sends half a body and then nothing is lost to everybody else; a few such
clients would stop the server. So at most some of a worker's threads wait for bodies, none for long, and requests
without a body never wait for those with one. A body without a length gets one here, and is bounded as all are.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from io import BytesIO
from typing import Any

from werkzeug.wrappers import Request

from fhirserver.fhir.problem import problem
from fhirserver.web.http import refuse

BODY_SECONDS = 10.0
TURN_SECONDS = 1.0
"""How long a request waits for its turn to read, while as many as may are reading; it does not wait at all once those
have got nothing for as long.
"""

Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]


class _Reader:
    """A thread that reads one body after the other."""

    def __init__(self, idle: deque[_Reader]) -> None:
        self._idle = idle
        # Bare locks, taken by one thread and let go by the other: a third of what semaphores cost.
        self._asked, self._done = threading.Lock(), threading.Lock()
        self._asked.acquire()
        self._done.acquire()
        self._stream: Any = None
        self._most = 0
        self._data: bytes | None = None
        self._over = False
        threading.Thread(target=self._work, daemon=True, name="body").start()

    def read(self, stream: Any, most: int, seconds: float) -> bytes | None:
        """At most `most` bytes of the stream; None where they did not come in time. Then this reader is given up: its
        thread ends when the connection does.
        """
        self._stream, self._most = stream, most
        self._asked.release()
        if not self._done.acquire(timeout=seconds):
            self._over = True
            self._asked.release()
            return None
        data, self._data = self._data, None
        self._idle.append(self)
        return data

    def _work(self) -> None:
        while True:
            self._asked.acquire()
            if self._over:
                return
            try:
                self._data = self._stream.read(self._most)
            except Exception:  # noqa: BLE001 - the client has gone: whatever the server calls it, there is no body
                self._data = b""
            self._stream = None
            self._done.release()


class Bodies:
    """A WSGI application before another. `most` is the largest body in bytes, `waiting` how many threads may wait."""

    def __init__(self, beyond: Wsgi, most: int, waiting: int, seconds: float = BODY_SECONDS) -> None:
        self._beyond = beyond
        self._most = most
        self._seconds = seconds
        self._turn = threading.Semaphore(waiting)
        self._moved = time.monotonic()
        self._idle: deque[_Reader] = deque()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        chunked = "HTTP_TRANSFER_ENCODING" in environ
        if chunked or environ.get("CONTENT_LENGTH", "0") not in ("", "0"):
            trouble = None if self._too_long(environ) else self._take(environ)
            if trouble:
                status, code, text = trouble
                refusal = problem(code, text, status=status, headers={"Retry-After": "1", "Connection": "close"})
                return refuse(Request(environ), refusal)(environ, start_response)
        return self._beyond(environ, start_response)

    def _too_long(self, environ: dict[str, Any]) -> bool:
        """Whether the body says itself that it is too long: it is refused without being read."""
        length = environ.get("CONTENT_LENGTH", "")
        return length.isascii() and length.isdigit() and int(length) > self._most

    def _take(self, environ: dict[str, Any]) -> tuple[int, str, str] | None:
        if not self._may_read():
            return 503, "throttled", "Too many requests are waiting for their bodies. Try again."
        try:
            try:
                reader = self._idle.pop()
            except IndexError:
                reader = _Reader(self._idle)
            data = reader.read(environ["wsgi.input"], self._most + 1, self._seconds)
        finally:
            self._turn.release()
        if data is None:
            return 408, "timeout", f"The body did not arrive within {self._seconds:.0f} seconds."
        self._moved = time.monotonic()
        environ["wsgi.input"] = BytesIO(data)
        environ["CONTENT_LENGTH"] = str(len(data))
        environ.pop("HTTP_TRANSFER_ENCODING", None)
        return None

    def _may_read(self) -> bool:
        if self._turn.acquire(blocking=False):
            self._moved = time.monotonic()  # else whoever comes at once after a quiet time would be refused
            return True
        if time.monotonic() - self._moved > TURN_SECONDS:
            return False
        return self._turn.acquire(timeout=TURN_SECONDS)
