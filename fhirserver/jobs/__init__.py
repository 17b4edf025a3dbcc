"""The queue: `enqueue(name, ids)` and the workers that run what was enqueued. The only room that knows RQ and Redis."""

from fhirserver.jobs.queue import Queue
from fhirserver.jobs.worker import run_worker

__all__ = ["Queue", "run_worker"]
