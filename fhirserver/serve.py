"""The web server process: granian with several forked workers, each with several threads.

A worker that dies is forked again by granian; a granian that dies takes its workers with it and is started again by the
supervisor.
"""

from __future__ import annotations

import signal
from typing import Any

from granian import Granian
from granian.constants import Interfaces
from granian.log import LogLevels

from fhirserver import app, lifeline
from fhirserver.settings import Settings
from fhirserver.web.bodies import Bodies

# granian's own lines go where all others go; who asked for what is in the AuditEvents, not in an access log.
_LOGGERS = {name: {"handlers": [], "propagate": True} for name in ("_granian", "granian.access")}


def web(settings: Settings) -> None:
    """Serve `app.wsgi` until SIGTERM or SIGINT."""
    Granian(
        "fhirserver.serve:worker",
        factory=True,
        interface=Interfaces.WSGI,
        address=settings.host,
        port=settings.port,
        workers=settings.workers,
        blocking_threads=settings.threads,
        websockets=False,
        respawn_failed_workers=True,
        respawn_interval=0.2,
        workers_kill_timeout=10,
        log_level=LogLevels.error,  # a worker that ended; the rest is of no use to an operator
        log_dictconfig={"loggers": _LOGGERS},
    ).serve()


def worker() -> Any:
    """What granian calls in each worker: the WSGI application."""
    lifeline.tie()
    # Until granian hears these here, they end a worker that is still loading.
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_DFL)
    settings = Settings.from_env()
    return Bodies(app.wsgi(), settings.max_body, max(1, settings.threads * 3 // 4))
