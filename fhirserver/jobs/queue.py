"""Puts jobs on the queue: a function's name and ids, never a resource.

Redis is a wake-up, not a record: what has to be done stands in MongoDB and is swept, so an emptied or absent Redis
delays work by one sweep and loses none. That is why putting a job never fails its caller.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import rq
from redis import Redis
from redis.exceptions import RedisError
from rq.serializers import JSONSerializer

log = logging.getLogger(__name__)

QUEUE = "fhirserver"
ENTRY = "fhirserver.jobs.worker.run"
MARK_SECONDS = 60  # How long a lost job can hold back the next one of the same name and ids.
SILENCE_SECONDS = 1.0  # How long nobody tries again after Redis failed to answer.
SOCKET_SECONDS = 2.0


def mark(name: str, ids: Iterable[str]) -> str:
    """The key that exists while a job of this name and ids waits on the queue."""
    return f"{QUEUE}:waits:{'/'.join((name, *ids))}"


class Queue:
    """The sending end of the queue. Threads may share it; a child process must make its own."""

    def __init__(self, redis_url: str) -> None:
        self._redis = Redis.from_url(redis_url, socket_timeout=SOCKET_SECONDS, socket_connect_timeout=SOCKET_SECONDS)
        self._queue = rq.Queue(QUEUE, connection=self._redis, serializer=JSONSerializer)
        self._silent_until = 0.0

    def enqueue(self, name: str, *ids: str, unique: bool = True) -> bool:
        """Puts one job; see `enqueue_many`."""
        return self.enqueue_many(name, [ids], unique=unique) == 1

    def enqueue_many(self, name: str, jobs: Iterable[Sequence[str]], *, unique: bool = True) -> int:
        """Puts jobs of one function, each given by its ids, and answers how many were put.

        With `unique` a job that waits already is not put twice; one that runs already is, since it may have looked too
        early. Where Redis does not answer nothing is put and nothing raised: the sweep puts them later.
        """
        wanted = list(dict.fromkeys(tuple(ids) for ids in jobs))
        if not wanted or time.monotonic() < self._silent_until:
            return 0
        try:
            if unique:
                wanted = self._not_waiting(name, wanted)
            self._put(name, wanted)
        except RedisError as error:
            self._silent_until = time.monotonic() + SILENCE_SECONDS
            log.warning("queue unreachable, %d %s jobs left to the sweep: %s", len(wanted), name, type(error).__name__)
            return 0
        return len(wanted)

    def ping(self) -> bool:
        """Whether Redis answers."""
        try:
            return bool(self._redis.ping())
        except RedisError:
            return False

    def depth(self) -> int | None:
        """How many jobs wait, None when Redis does not answer."""
        try:
            return int(self._redis.llen(self._queue.key))
        except RedisError:
            return None

    def workers(self) -> list[tuple[str, datetime | None]]:
        """The worker processes by name, each with when it last said that it lives; none when Redis does not answer."""
        try:
            found = rq.Worker.all(connection=self._redis, serializer=JSONSerializer)
        except RedisError:
            return []
        return sorted((each.name, _aware(each.last_heartbeat)) for each in found)

    def close(self) -> None:
        """Ends the connections."""
        self._redis.close()

    def _not_waiting(self, name: str, wanted: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
        with self._redis.pipeline(transaction=False) as pipeline:
            for ids in wanted:
                pipeline.set(mark(name, ids), b"1", nx=True, ex=MARK_SECONDS)
            fresh = pipeline.execute()
        return [ids for ids, is_fresh in zip(wanted, fresh, strict=True) if is_fresh]

    def _put(self, name: str, wanted: Sequence[tuple[str, ...]]) -> None:
        if wanted:
            self._queue.enqueue_many(
                [
                    rq.Queue.prepare_data(ENTRY, args=[name, *ids], timeout=-1, result_ttl=0, description=name)
                    for ids in wanted
                ]
            )


def _aware(instant: datetime | None) -> datetime | None:
    return instant.replace(tzinfo=UTC) if instant is not None and instant.tzinfo is None else instant
