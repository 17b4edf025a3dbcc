"""The queue and its workers, on a real Redis."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from fhirserver import embedded
from fhirserver.jobs import Queue, run_worker


@contextmanager
def worker(url: str, functions: Mapping[str, Callable[..., object]], threads: int = 4) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=run_worker, args=(url, functions, stop), kwargs={"threads": threads})
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)
        assert not thread.is_alive()


def until(condition: Callable[[], bool], seconds: float = 10) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.005)
    return False


@pytest.fixture
def queue(redis_url: str) -> Iterator[Queue]:
    with redis.Redis.from_url(redis_url) as connection:
        connection.flushall()
    queue = Queue(redis_url)
    yield queue
    queue.close()


def test_a_job_runs_with_the_ids_it_was_given(redis_url: str, queue: Queue) -> None:
    seen: list[tuple[str, ...]] = []
    with worker(redis_url, {"note": lambda *ids: seen.append(ids)}):
        assert queue.enqueue("note", "org", "a/b c")
        assert until(lambda: bool(seen))
    assert seen == [("org", "a/b c")]


def test_a_waiting_job_is_not_put_twice_but_a_running_one_is(redis_url: str, queue: Queue) -> None:
    release, calls = threading.Event(), []

    def hold(*ids: str) -> None:
        calls.append(ids)
        release.wait(10)

    assert queue.enqueue("hold", "x")
    assert not queue.enqueue("hold", "x")
    assert queue.enqueue_many("hold", [["x"], ["y"], ["y"]]) == 1
    assert queue.depth() == 2
    with worker(redis_url, {"hold": hold}):
        assert until(lambda: len(calls) == 2)
        assert queue.enqueue("hold", "x"), "it runs and may have looked too early"
        release.set()
        assert until(lambda: len(calls) == 3)


def test_a_job_that_raises_is_logged_and_the_next_one_runs(
    redis_url: str, queue: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []

    def fail(id: str) -> None:
        raise ValueError(id)

    with worker(redis_url, {"fail": fail, "note": seen.append}):
        queue.enqueue("fail", "1")
        queue.enqueue("unbound", "1")
        queue.enqueue("note", "2")
        assert until(lambda: seen == ["2"])
    assert "job fail failed" in caplog.text
    assert "no function is bound to the job unbound" in caplog.text


def test_a_slow_job_holds_one_thread_only(redis_url: str, queue: Queue) -> None:
    release, seen = threading.Event(), []
    with worker(redis_url, {"slow": lambda _: release.wait(10), "fast": seen.append}, threads=2):
        queue.enqueue("slow", "1")
        for number in range(20):
            queue.enqueue("fast", str(number))
        assert until(lambda: len(seen) == 20, 5)
        release.set()


def test_nothing_is_left_in_redis_by_finished_jobs(redis_url: str, queue: Queue) -> None:
    seen: list[str] = []
    with worker(redis_url, {"note": seen.append}):
        queue.enqueue_many("note", [[str(number)] for number in range(50)])
        assert until(lambda: len(seen) == 50)
    with redis.Redis.from_url(redis_url) as connection:
        left = {key.decode() for key in connection.scan_iter()}
    assert not [key for key in left if "waits" in key or key.startswith("rq:job:")]


def test_a_flush_between_put_and_take_loses_the_job_and_holds_back_no_later_one(redis_url: str, queue: Queue) -> None:
    queue.enqueue("note", "1")
    with redis.Redis.from_url(redis_url) as connection:
        connection.flushall()
    seen: list[str] = []
    with worker(redis_url, {"note": seen.append}):
        assert queue.enqueue("note", "1")
        assert until(lambda: seen == ["1"])


def test_an_absent_redis_fails_no_caller_and_the_worker_finds_it_again(tmp_path: Path) -> None:
    servers = embedded.remembered(tmp_path)
    queue = Queue(servers.redis_url)
    assert not queue.ping()
    assert not queue.enqueue("note", "1")
    seen: list[str] = []
    with worker(servers.redis_url, {"note": seen.append}):
        for turn in ("first", "second"):
            process = subprocess.Popen(embedded.redis(tmp_path, servers), stdout=subprocess.DEVNULL)
            try:
                assert until(lambda turn=turn: queue.enqueue("note", turn))
                assert until(lambda turn=turn: turn in seen)
            finally:
                process.kill()
                process.wait()
    queue.close()
