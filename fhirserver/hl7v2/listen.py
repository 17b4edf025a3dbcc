"""The MLLP process: an Intake behind a listener, until SIGTERM or SIGINT, then a clean drain."""

from __future__ import annotations

import asyncio
import logging
import signal
import ssl
from collections.abc import Callable
from pathlib import Path

from fhirserver.hl7v2.ingest import Intake, Receiver
from fhirserver.hl7v2.mllp import Limits, serve

log = logging.getLogger(__name__)


def run(
    intake: Intake,
    host: str,
    port: int,
    *,
    limits: Limits | None = None,
    tls: ssl.SSLContext | None = None,
    ready: Callable[[int], None] = lambda port: None,
) -> None:
    """Listens and takes messages in until the process is told to end."""
    asyncio.run(_until_told(intake, host, port, limits or Limits(), tls, ready))


async def _until_told(
    intake: Intake, host: str, port: int, limits: Limits, tls: ssl.SSLContext | None, ready: Callable[[int], None]
) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    receiver = Receiver(intake)
    committing = asyncio.create_task(receiver.run())
    try:
        seen = await serve(
            host, port, receiver.receive, refuse=intake.too_long, limits=limits, ready=ready, stop=stop, tls=tls
        )
        log.info("the listener ended: %s", dict(seen))
    finally:
        committing.cancel()
        await asyncio.to_thread(receiver.close)


def server_context(certificate: Path, key: Path, clients: Path | None = None) -> ssl.SSLContext:
    """TLS 1.2 and later with our certificate; with `clients` (a file of CA certificates) a client must show one of
    theirs.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    if clients:
        context.load_verify_locations(clients)
        context.verify_mode = ssl.CERT_REQUIRED
    return context
