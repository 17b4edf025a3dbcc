"""What the relay does with pending events, one after the other, as far as a test asks for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fhirserver.auditing.recording import record, ship
from fhirserver.interactions.model import Server
from fhirserver.store.database import Session
from fhirserver.store.model import Pending


def relay_events(server: Server, *watchers: Callable[[Pending, Session], object]) -> None:
    """Shows each pending event to the watchers and takes it off its document, in one transaction."""
    for pending in server.store.pending(10_000):

        def work(session: Session, pending: Pending = pending) -> None:
            for watcher in watchers:
                watcher(pending, session)
            server.store.clear_events([pending], session)

        server.store.transaction(work)


def record_events(server: Server, spool: Path) -> None:
    """Makes AuditEvents of what the spool holds and of pending events."""
    while ship(server, spool):
        pass
    relay_events(server, lambda pending, session: record(server, pending, session))
