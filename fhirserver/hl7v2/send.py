"""An MLLP client: sends messages over one connection, waits for each acknowledgment. For people, the demo and tests."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable, Iterator
from types import TracebackType

from fhirserver.fhir.problem import problem
from fhirserver.hl7v2.framing import Deframer, Frame, frame


class Connection:
    """One connection to an MLLP listener; a context manager."""

    def __init__(self, host: str, port: int, *, timeout: float = 30.0, tls: ssl.SSLContext | None = None) -> None:
        plain = socket.create_connection((host, port), timeout=timeout)
        self._socket = tls.wrap_socket(plain, server_hostname=host) if tls else plain
        self._deframer = Deframer()
        self._waiting: list[bytes] = []

    def send(self, message: bytes) -> bytes:
        """Sends a message and answers its acknowledgment. Raises Problem(transient) where none comes."""
        self.post(message)
        return self.answer()

    def post(self, message: bytes) -> None:
        """Sends a message without waiting for the acknowledgment."""
        self._socket.sendall(frame(message))

    def answer(self) -> bytes:
        """The next acknowledgment. Raises Problem(transient) where the peer hangs up or stays silent."""
        while not self._waiting:
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                raise problem("timeout", "No acknowledgment came in time.") from None
            if not data:
                raise problem("transient", "The listener closed the connection without an acknowledgment.")
            self._waiting += [event.body for event in self._deframer.feed(data) if isinstance(event, Frame)]
        return self._waiting.pop(0)

    def raw(self, data: bytes) -> None:
        """Sends bytes as they are, frames or not."""
        self._socket.sendall(data)

    def close(self) -> None:
        """Hangs up."""
        self._socket.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def send(messages: Iterable[bytes], host: str, port: int, *, timeout: float = 30.0) -> Iterator[bytes]:
    """Sends messages over one connection; yields each acknowledgment. Raises Problem, OSError."""
    with Connection(host, port, timeout=timeout) as connection:
        for message in messages:
            yield connection.send(message)
