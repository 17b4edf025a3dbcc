"""A real HTTPS receiver of notifications, with a certificate of a test authority."""

from __future__ import annotations

import http.server
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trustme

Reply = Callable[[http.server.BaseHTTPRequestHandler], None]


@dataclass
class Receiver:
    """What arrived, and what is answered: `reply` may do anything with the connection."""

    port: int = 0
    authority: str = ""
    reply: Reply | None = None
    arrived: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    connections: int = 0

    def url(self, host: str = "hooks.example", path: str = "/in") -> str:
        return f"https://{host}:{self.port}{path}"

    @staticmethod
    def answering(status: int, body: bytes = b"", **headers: str) -> Reply:
        def reply(request: http.server.BaseHTTPRequestHandler) -> None:
            request.send_response(status)
            for name, value in headers.items():
                request.send_header(name.replace("_", "-"), value)
            request.send_header("Content-Length", str(len(body)))
            request.end_headers()
            request.wfile.write(body)

        return reply


class _Quiet(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is part of the tests."""


@contextmanager
def receiving(folder: Path) -> Iterator[Receiver]:
    """A receiver that runs for the length of a `with`; its authority's certificate goes into the folder."""
    received = Receiver()
    authority = trustme.CA()

    class Request(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            received.connections += 1
            super().setup()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.arrived.append((self.path, dict(self.headers.items()), body))
            (received.reply or received.answering(200))(self)

        def do_GET(self) -> None:
            received.arrived.append((self.path, dict(self.headers.items()), b""))
            (received.reply or received.answering(200))(self)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = _Quiet(("127.0.0.1", 0), Request)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("hooks.example", "localhost").configure_cert(context)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    received.port = server.server_address[1]
    received.authority = str(folder / "authority.pem")
    authority.cert_pem.write_to_path(received.authority)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield received
    server.shutdown()
    server.server_close()
