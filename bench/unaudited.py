"""The web server without audit records, to measure what they cost. No installation can run so."""

from __future__ import annotations

from typing import Any

from fhirserver import app, logs, serve
from fhirserver.settings import Settings


def worker() -> Any:
    """The WSGI application of a worker, as `serve.worker` makes it, but that nothing is recorded."""
    serve.tied()
    settings = Settings.from_env()
    installation = app.build(settings)
    installation.server.audit = lambda *_: None
    return serve.bounded(app.create_app(installation), settings)


if __name__ == "__main__":
    settings = Settings.from_env()
    logs.configure(settings.log_level, settings.log_format, "web")
    serve.web(settings, "bench.unaudited:worker")
