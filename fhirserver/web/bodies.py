"""Request bodies are read before a request is worked on, within a time.

A server thread that waits for a client who sends half a body and then nothing is lost to everybody else; a few such
clients would stop the server. So at most some of a worker's threads wait for bodies, none for long, and requests
without a body never wait for those with one. A body without a length gets one here, and is bounded as all are.

There are two ways. Nearly every body is there at once: as many server threads as the server has beyond those that are
counted on (`DIRECT`) read for themselves, and a watch answers in the place of one who waits too long. A body that was
given up keeps such a thread until its connection ends; while none is free, bodies are read by threads of this module,
which a server thread can leave. That costs two changes of threads, a tenth of a create.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import lru_cache
from io import BytesIO
from types import CodeType, FrameType
from typing import Any

from werkzeug.wrappers import Request

from fhirserver.fhir.problem import problem
from fhirserver.web.http import Answer, refuse

BODY_SECONDS = 10.0
TURN_SECONDS = 1.0
"""How long a request waits for its turn to read, while as many as may are reading; it does not wait at all once those
have got nothing for as long.
"""
DIRECT = 2
"""Server threads that may read for themselves; the server has as many more than the settings say."""
PROTOCOL = "proto"
"""What granian's caller of a WSGI application names the object that answers a request, from whichever thread."""

Trouble = tuple[int, str, str]
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


class _Watch:
    """Who reads for himself, and since when. Whoever takes an entry out answers the request: its reader when the body
    has come, the watch when it has not come in time.
    """

    def __init__(self, seconds: float, late: Callable[[FrameType, dict[str, Any]], None]) -> None:
        self._seconds = seconds
        self._late = late
        self._reading: dict[object, tuple[float, FrameType, dict[str, Any]]] = {}
        self._begun = threading.Lock()  # taken by the first reader, who starts the watch, and never given back

    def read(self, environ: dict[str, Any], most: int, caller: FrameType) -> bytes | None:
        """At most `most` bytes of the body; None where the request has been answered meanwhile."""
        key = object()
        self._reading[key] = (time.monotonic(), caller, environ)
        if self._begun.acquire(blocking=False):
            threading.Thread(target=self._look, daemon=True, name="late bodies").start()
        try:
            data: bytes = environ["wsgi.input"].read(most)
        except Exception:  # noqa: BLE001 - the client has gone: whatever the server calls it, there is no body
            data = b""
        return data if self._reading.pop(key, None) is not None else None

    def _look(self) -> None:
        while True:
            time.sleep(self._seconds / 10)
            now = time.monotonic()
            for key, (since, caller, environ) in list(self._reading.items()):
                if now - since > self._seconds and self._reading.pop(key, None) is not None:
                    self._late(caller, environ)


class Bodies:
    """A WSGI application before another. `most` is the largest body in bytes, `waiting` how many threads may wait,
    `direct` how many more may read for themselves.
    """

    def __init__(
        self, beyond: Wsgi, most: int, waiting: int, seconds: float = BODY_SECONDS, direct: int = DIRECT
    ) -> None:
        self._beyond = beyond
        self._most = most
        self._seconds = seconds
        self._direct = threading.Semaphore(direct)
        self._watch = _Watch(seconds, self._answer_late)
        self._turn = threading.Semaphore(waiting)
        self._moved = time.monotonic()
        self._idle: deque[_Reader] = deque()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        chunked = "HTTP_TRANSFER_ENCODING" in environ
        if chunked or environ.get("CONTENT_LENGTH", "0") not in ("", "0"):
            caller = sys._getframe(1)
            if not self._too_long(environ) and _can_answer(caller.f_code) and self._direct.acquire(blocking=False):
                if not self._read(environ, caller):
                    return []  # it has been answered
            elif trouble := None if self._too_long(environ) else self._take(environ):
                return self._refusal(environ, trouble)(environ, start_response)
        return self._beyond(environ, start_response)

    def _refusal(self, environ: dict[str, Any], trouble: Trouble) -> Answer:
        status, code, text = trouble
        refused = problem(code, text, status=status, headers={"Retry-After": "1", "Connection": "close"})
        return refuse(Request(environ), refused)

    def _read(self, environ: dict[str, Any], caller: FrameType) -> bool:
        """Reads the body in this thread; whether the request is still to be answered."""
        try:
            data = self._watch.read(environ, self._most + 1, caller)
        finally:
            self._direct.release()
        if data is not None:
            _put(environ, data)
        return data is not None

    def _answer_late(self, caller: FrameType, environ: dict[str, Any]) -> None:
        answer = self._refusal(environ, self._late())
        headers = [*answer.headers, ("Content-Length", str(len(answer.data or b"")))]
        caller.f_locals[PROTOCOL].response_bytes(answer.status, headers, answer.data or b"")

    def _late(self) -> Trouble:
        return 408, "timeout", f"The body did not arrive within {self._seconds:.0f} seconds."

    def _too_long(self, environ: dict[str, Any]) -> bool:
        """Whether the body says itself that it is too long: it is refused without being read."""
        length = environ.get("CONTENT_LENGTH", "")
        return length.isascii() and length.isdigit() and int(length) > self._most

    def _take(self, environ: dict[str, Any]) -> Trouble | None:
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
            return self._late()
        self._moved = time.monotonic()
        _put(environ, data)
        return None

    def _may_read(self) -> bool:
        if self._turn.acquire(blocking=False):
            self._moved = time.monotonic()  # else whoever comes at once after a quiet time would be refused
            return True
        if time.monotonic() - self._moved > TURN_SECONDS:
            return False
        return self._turn.acquire(timeout=TURN_SECONDS)


@lru_cache(maxsize=8)
def _can_answer(code: CodeType) -> bool:
    """Whether who calls the application holds what answers the request: granian does, others need not."""
    return PROTOCOL in code.co_varnames


def _put(environ: dict[str, Any], data: bytes) -> None:
    """Gives the request a body that has been read."""
    environ["wsgi.input"] = BytesIO(data)
    environ["CONTENT_LENGTH"] = str(len(data))
    environ.pop("HTTP_TRANSFER_ENCODING", None)
