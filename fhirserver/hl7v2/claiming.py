"""Endpoints that were written before they claimed their senders claim them when the server starts."""

from __future__ import annotations

import logging

from fhirserver.interactions.model import Server
from fhirserver.rules.endpoint import claims
from fhirserver.store.claims import claim

log = logging.getLogger(__name__)


def claim_senders(server: Server) -> list[str]:
    """Answers the ids of the Endpoints whose sender an earlier one claims. They stay as they are: until now, too, the
    earlier one took the messages.
    """
    refused = claim(server.store.database, "Endpoint", claims)
    for id in refused:
        log.warning("an Endpoint claims the sender of an earlier one: change or delete it", extra={"facts": {"id": id}})
    return refused
