"""The web server process: granian with several forked workers, each with several threads.

A worker that dies is forked again by granian; a granian that dies takes its workers with it and is started again by the
supervisor.
"""

from __future__ import annotations

import ctypes
import gc
import signal
from typing import Any

from granian import Granian
from granian.constants import Interfaces
from granian.log import LogLevels

from fhirserver import app, lifeline, metrics
from fhirserver.settings import Settings
from fhirserver.web.bodies import DIRECT, Bodies
from fhirserver.web.proxies import Proxies

# granian's own lines go where all others go; who asked for what is in the AuditEvents, not in an access log.
_LOGGERS = {name: {"handlers": [], "propagate": True} for name in ("_granian", "granian.access")}

_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h
LARGE_BYTES = 1024 * 1024


def web(settings: Settings, target: str = "fhirserver.serve:worker") -> None:
    """Serve what `target` makes in each worker until SIGTERM or SIGINT."""
    Granian(
        target,
        factory=True,
        interface=Interfaces.WSGI,
        address=settings.host,
        port=settings.port,
        workers=settings.workers,
        blocking_threads=settings.threads + DIRECT,  # those that read bodies for themselves may be held up
        websockets=False,
        respawn_failed_workers=True,
        respawn_interval=0.2,
        workers_kill_timeout=10,
        log_level=LogLevels.error,  # a worker that ended; the rest is of no use to an operator
        log_dictconfig={"loggers": _LOGGERS},
    ).serve()


def worker() -> Any:
    """What granian calls in each worker: the WSGI application."""
    tied()
    settings = Settings.from_env()
    installation = app.build(settings)
    metrics.counting(installation, "web")
    return bounded(app.create_app(installation), settings)


def tied() -> None:
    """Ties a worker to its parent, and lets signals end it while it still loads: granian hears them only later."""
    lifeline.tie()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, signal.SIG_DFL)


def bounded(application: Any, settings: Settings) -> Any:
    """The application behind what reads bodies and knows the proxies, within the bounds of the settings."""
    _give_back()
    gc.collect()
    gc.freeze()  # what is loaded stays, and need not be looked through again and again
    if settings.trusted_proxies:
        application = Proxies(application, settings.trusted_proxies)
    return Bodies(application, settings.max_body, max(1, settings.threads * 3 // 4))


def _give_back() -> None:
    """Has large blocks go back to the system when they are free, always: glibc, where that is the C library, learns
    from the first large body to keep blocks of its size, and a worker would never be as small again.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, LARGE_BYTES)
