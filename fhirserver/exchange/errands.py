"""What a write makes necessary beyond itself, done to its end by a job: see `ending`, `following` and `giving`.

The errand is noted in the transaction that takes the write's event off its document, so none is lost; a sweep enqueues
it until it is done, and its work stands being done twice.
"""

from __future__ import annotations

from fhirserver.exchange import ending, following, giving
from fhirserver.interactions.model import Server
from fhirserver.store import errands
from fhirserver.store.database import Session
from fhirserver.store.model import Pending

JOB = "errand"
_KINDS = {kind.ERRAND: kind for kind in (ending, following, giving)}


def note(server: Server, pending: Pending, session: Session) -> None:
    """Keeps the errands that an event makes necessary."""
    for kind in _KINDS.values():
        for errand in kind.errands_of(pending):
            errands.add(server.store.database, errand, session)


def sweep(server: Server) -> None:
    """Enqueues what is to be done, again where it has not been done to its end."""
    for errand in errands.waiting(server.store.database):
        server.enqueue(JOB, errand.id)


def finish(server: Server, id: str) -> None:
    """Does an errand to its end; what is done already is found done."""
    errand = errands.get(server.store.database, id)
    if errand is not None:
        server.refresh()
        _KINDS[errand.kind].work(server, errand.facts)
        errands.done(server.store.database, id)
