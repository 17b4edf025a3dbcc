"""Runs jobs, several at a time in threads of one process: a slow webhook holds one thread and nobody else.

RQ's own loops are not used: the forking one takes 572 ms to start a job, and the simple one runs one at a time and
spends 63 Redis commands on bookkeeping that MongoDB does for us. What remains is RQ's queue, its jobs and its list of
workers.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from redis import Redis
from redis.exceptions import RedisError
from rq import Queue as RqQueue
from rq import SimpleWorker
from rq.exceptions import DequeueTimeout, NoSuchJobError
from rq.job import Job
from rq.serializers import JSONSerializer

from fhirserver.jobs.queue import QUEUE, mark

log = logging.getLogger(__name__)

Function = Callable[..., object]

POLL_SECONDS = 1
BEAT_SECONDS = 30.0

_functions: Mapping[str, Function] = {}


def run(name: str, *ids: str) -> None:
    """The one function RQ is told to call: runs the function that this process has bound to `name`."""
    function = _functions.get(name)
    if function is None:
        log.error("no function is bound to the job %s", name)
        return
    function(*ids)


def run_worker(
    redis_url: str,
    functions: Mapping[str, Function],
    stop: threading.Event,
    *,
    threads: int = 32,
    name: str | None = None,
) -> None:
    """Takes jobs and runs them until `stop` is set, then lets running ones end. Survives a Redis that goes and returns.

    `functions` maps a job's name to what is called with its ids. A job that raises is logged and gone: the sweep that
    put it puts it again.
    """
    global _functions
    _functions = functions
    # One slot is free before a job is taken, so what this process cannot run yet stays on the queue for others.
    slots = threading.Semaphore(threads)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="job")
    pause = 0.1
    try:
        while not stop.is_set():
            try:
                _serve(redis_url, stop, slots, pool, name)
                pause = 0.1
            except RedisError as error:
                log.warning("queue unreachable, trying again: %s", type(error).__name__)
                stop.wait(pause)
                pause = min(pause * 2, 2.0)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _serve(
    redis_url: str, stop: threading.Event, slots: threading.Semaphore, pool: ThreadPoolExecutor, name: str | None
) -> None:
    redis = Redis.from_url(redis_url, socket_timeout=POLL_SECONDS + 2, socket_connect_timeout=POLL_SECONDS + 2)
    with redis:
        registration = SimpleWorker([QUEUE], name=name, connection=redis, serializer=JSONSerializer)
        registration.register_birth()  # type: ignore[no-untyped-call]  # RQ left it without annotations
        try:
            _take(redis, registration, stop, slots, pool)
        finally:
            with suppress(RedisError):  # The entry expires by itself.
                registration.register_death()  # type: ignore[no-untyped-call]  # the same


def _take(
    redis: Redis,
    registration: SimpleWorker,
    stop: threading.Event,
    slots: threading.Semaphore,
    pool: ThreadPoolExecutor,
) -> None:
    beat = time.monotonic()
    while not stop.is_set():
        if time.monotonic() - beat > BEAT_SECONDS:
            registration.heartbeat()
            beat = time.monotonic()
        if not slots.acquire(timeout=POLL_SECONDS):
            continue
        job = None
        try:
            job = _next(redis, registration.queues[0])
        finally:
            if job is None:
                slots.release()
        if job is not None:
            pool.submit(_perform, job, slots)


def _next(redis: Redis, queue: RqQueue) -> Job | None:
    try:
        popped = RqQueue.lpop([queue.key], POLL_SECONDS, connection=redis)
    except DequeueTimeout:
        return None
    if popped is None:
        return None
    try:
        job = Job.fetch(popped[1].decode(), connection=redis, serializer=JSONSerializer)
        arguments = [str(argument) for argument in job.args or ()]
    except (NoSuchJobError, ValueError):
        return None  # Emptied meanwhile, or not of our making.
    # The mark goes before the job runs: what happens from now on deserves a job of its own.
    with redis.pipeline(transaction=False) as pipeline:
        pipeline.delete(job.key)
        if arguments:
            pipeline.delete(mark(arguments[0], arguments[1:]))
        pipeline.execute()
    return job


def _perform(job: Job, slots: threading.Semaphore) -> None:
    try:
        job.perform()
    except Exception:  # A worker outlives any job; the sweep repeats the work.
        log.exception("job %s failed", (job.args or ["?"])[0])
    finally:
        slots.release()
