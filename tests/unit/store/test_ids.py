"""Ids: of their time, and never twice, whatever process makes them."""

from __future__ import annotations

import multiprocessing
import re
import threading
from typing import Any

from fhirserver.store.ids import new_id


def test_an_id_is_one_of_fhir_and_begins_with_its_time() -> None:
    ids = [new_id() for _ in range(1000)]

    assert len(set(ids)) == 1000
    assert all(re.fullmatch(r"[0-9a-f]{32}", id) for id in ids)
    assert [id[:12] for id in ids] == sorted(id[:12] for id in ids)


def test_threads_do_not_make_the_same() -> None:
    made: list[str] = []
    threads = [threading.Thread(target=lambda: made.extend(new_id() for _ in range(500))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({id[12:] for id in made}) == 4000


def _send(end: Any) -> None:
    end.send([new_id() for _ in range(100)])


def test_a_forked_process_does_not_go_on_with_the_chance_of_its_parent() -> None:
    new_id()
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe()
    child = fork.Process(target=_send, args=(there,))
    child.start()
    theirs = here.recv()
    child.join()
    for end in (here, there):
        end.close()

    assert not {id[12:] for id in theirs} & {new_id()[12:] for _ in range(100)}
