"""The long-running processes beside the web server: queue worker, relay, MLLP listener. Each binds the rooms it
needs and runs until SIGTERM.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import random
import resource
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from fhirserver import app, metrics
from fhirserver.auditing import owners
from fhirserver.auditing.pace import Pace
from fhirserver.auditing.recording import record, ship
from fhirserver.bulk import work as bulk
from fhirserver.exchange import errands, profiles, retention
from fhirserver.fhir.problem import Problem
from fhirserver.hl7v2 import mllp, process
from fhirserver.hl7v2.abreast import Abreast
from fhirserver.hl7v2.ingest import Receiver
from fhirserver.interactions import reindex
from fhirserver.interactions.publishing import publish
from fhirserver.jobs.worker import run_worker
from fhirserver.notices.mail import JOB
from fhirserver.settings import Settings
from fhirserver.store.database import Session
from fhirserver.store.model import Pending
from fhirserver.store.spool import unshipped
from fhirserver.subscriptions.deliver import Deliverer
from fhirserver.subscriptions.endpoint import Guard
from fhirserver.subscriptions.post import Endpoints
from fhirserver.subscriptions.relay import Relay
from fhirserver.subscriptions.topics import TOPIC

log = logging.getLogger(__name__)
SHIP_SECONDS = 0.25
SEAL_SECONDS = 2.0
RETIRE_SECONDS = 3600.0
M_ARENA_MAX, ARENAS = -8, 2
"""Of mallopt(3): threads share this many pools of memory."""
PURGE_SECONDS = 10.0


def worker(settings: Settings) -> None:
    """Runs jobs from the queue: maps messages, delivers notifications."""
    _few_arenas()
    installation = app.build(settings)
    counts = metrics.counting(installation, "worker")
    intake = installation.intake()
    deliverer = Deliverer(
        installation.server,
        Endpoints(Guard(settings.webhook_allow)),
        installation.vault.decrypt,
        installation.server.enqueue,
        random.random,
        gave_up=app.teller(installation).gave_up,
    )
    mailer = app.mailer(installation)

    lanes = Abreast(intake)

    functions: Mapping[str, Callable[..., object]] = {
        "process": lanes.process,
        "deliver": deliverer.deliver,
        reindex.JOB: lambda type: reindex.run(installation.server, type),
        bulk.JOB: lambda organization, id: bulk.work(installation.server, organization, id),
        errands.JOB: lambda errand: errands.finish(installation.server, errand),
        **({JOB: mailer.send} if mailer else {}),
    }
    try:
        run_worker(settings.redis_url.reveal(), functions, _until_signalled())
    finally:
        deliverer.close()
        counts.close()


def relay(settings: Settings) -> None:
    """Turns pending events into deliveries and jobs, and enqueues again what the queue has lost."""
    installation = app.build(settings)
    counts = metrics.counting(installation, "relay")
    intake = installation.intake()
    assert installation.queue, "the relay needs a queue"
    profiles.lay_out(installation.server)
    publish(installation.server, app.catalogue().drafts(), TOPIC)
    stop = _until_signalled()
    beside = [
        threading.Thread(target=work, args=(installation, stop), name=name)
        for name, work in (("audit", _ship), ("seals", _seal))
    ]
    if any(_retained(settings).values()):
        beside.append(threading.Thread(target=_purge, args=(installation, stop), name="retention"))
    for thread in beside:
        thread.start()
    put, teller, mailer = installation.queue.enqueue_many, app.teller(installation), app.mailer(installation)
    ring = app.keyring(installation)

    def watcher(pending: Pending, session: Session) -> None:
        record(installation.server, pending, session)
        teller.tell(pending, session)
        errands.note(installation.server, pending, session)

    relaying = Relay(
        installation.server,
        app.catalogue(),
        put,
        owner=installation.server.new_id(),
        watcher=watcher,
        sweeps=(
            intake.holding.sweep,
            lambda: process.sweep(intake),
            lambda: reindex.plan(installation.server),
            lambda: errands.sweep(installation.server),
            lambda: bulk.sweep(installation.server),
            lambda: mailer.sweep(put) if mailer else None,
            lambda: ring.tend(settings.key_rotation_days),
        ),
    )
    with metrics.served(installation):
        relaying.run(stop)
    for thread in beside:
        thread.join()
    counts.close()


def _ship(installation: app.Installation, stop: threading.Event) -> None:
    """Ships the audit spool of this machine; what is there when the process ends is shipped by the next."""
    folder, seals = installation.settings.data / app.SPOOL, app.seals(installation)
    pace = Pace(lambda: unshipped(folder), stop.wait)
    while not stop.wait(SHIP_SECONDS):
        try:
            pace.begin()
            while ship(installation.server, folder, seals, pace.rest) and not stop.is_set():
                pass
        except Problem as trouble:
            log.warning("audit records wait: %s", trouble)
        except Exception:
            log.exception("audit records could not be stored")
            stop.wait(1.0)


def _seal(installation: app.Installation, stop: threading.Event) -> None:
    """Chains the audit records, in one process at a time; takes away those that are older than they are to be kept."""
    store, owner = installation.server.store, installation.server.new_id()
    seals, retired = app.seals(installation), float("-inf")
    days = installation.settings.audit_retention_days
    while not stop.wait(SEAL_SECONDS):
        try:
            if store.lease("seals", owner, 10 * SEAL_SECONDS) is None:
                continue
            owners.begin(installation.server)
            seals.work()
            if days and time.monotonic() - retired > RETIRE_SECONDS:
                retired = time.monotonic()
                before = installation.server.now() - timedelta(days=days)
                for organization in seals.organizations():
                    seals.retire(organization, before)
        except Problem as trouble:
            log.warning("audit records are not sealed: %s", trouble)
        except Exception:
            log.exception("audit records could not be sealed")
    with suppress(Problem):  # else it ends by itself
        store.release("seals", owner)


def _retained(settings: Settings) -> Mapping[str, int]:
    """For how many days the content of what is kept, by type; 0 for ever."""
    return {
        "InboundMessage": settings.message_retention_days,
        "NotificationDelivery": settings.delivery_retention_days,
    }


def _purge(installation: app.Installation, stop: threading.Event) -> None:
    """Takes out of what is done and old enough its content, in one process at a time, every hour."""
    server, owner = installation.server, installation.server.new_id()
    while not stop.wait(PURGE_SECONDS):
        try:
            if server.store.lease("retention", owner, 2 * RETIRE_SECONDS) is not None:
                for type, days in _retained(installation.settings).items():
                    if days:
                        retention.purge(server, type, days, stop.is_set)
                server.store.release("retention", owner)
                stop.wait(RETIRE_SECONDS)
        except Problem as trouble:
            log.warning("what is old enough is not purged: %s", trouble)
        except Exception:
            log.exception("what is old enough could not be purged")


def listener(settings: Settings) -> None:
    """Listens for HL7v2 messages over MLLP."""
    asyncio.run(_listen(settings))


async def _listen(settings: Settings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    _more_files()
    installation = app.build(settings)
    counts = metrics.counting(installation, "mllp")
    intake = installation.intake()
    receiver = Receiver(intake)
    certificate = _certificate(settings)
    beside = [asyncio.create_task(receiver.run())]
    if certificate:
        beside.append(asyncio.create_task(certificate.watch()))
    try:
        seen = await mllp.serve(
            settings.mllp_host,
            settings.mllp_port,
            receiver.receive,
            refuse=intake.too_long,
            limits=mllp.Limits(
                message=settings.mllp_max_message,
                connections=settings.mllp_connections,
                connections_per_peer=settings.mllp_connections_per_peer,
                idle=settings.mllp_idle,
            ),
            ready=lambda port: log.info("listening for HL7v2 on %s:%s", settings.mllp_host, port),
            stop=stop,
            tls=certificate.context if certificate else None,
        )
        log.info("listener ends: %s", dict(seen))
    finally:
        for task in beside:
            task.cancel()
        receiver.close()
        counts.close()


def _certificate(settings: Settings) -> mllp.Certificate | None:
    if not settings.mllp_certificate:
        return None
    certificate, clients = Path(settings.mllp_certificate), settings.mllp_client_ca
    key = Path(settings.mllp_key) if settings.mllp_key else certificate
    return mllp.Certificate(certificate, key, Path(clients) if clients else None)


def _few_arenas() -> None:
    """With a pool for each of its many threads a process grows for hours: what one frees is no use to another."""
    with suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS)


def _more_files() -> None:
    """As many open files as are allowed: a connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65_536 if hard == resource.RLIM_INFINITY else hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _until_signalled() -> threading.Event:
    """An event that SIGTERM and SIGINT set."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop
