"""`fhirserver up`: every process of an installation under one parent, in the foreground.

Starts the embedded databases where no other is named, then the web server, the queue workers, the relay and the MLLP
listener; starts again whatever dies; stops all of them in order. When the supervisor itself is killed the kernel ends
its children.
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TypeVar

from fhirserver import embedded, lifeline, masterkey
from fhirserver.forked import Forked, fork
from fhirserver.settings import Secret, Settings, bare_environ
from fhirserver.store import bootstrap

_log = logging.getLogger(__name__)
T = TypeVar("T")

_STEADY = 10.0  # seconds after which a child that dies is no longer thought to be dying at once
_LONGEST_PAUSE = 5.0  # seconds between two starts of a child that keeps dying
_TICK = 0.1
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_START_PATIENCE = 90.0


class CannotRun(Exception):
    """`up` cannot start or go on; the text says why and what to do."""


class Stop(BaseException):
    """SIGINT, SIGTERM or SIGHUP has come."""


@dataclass(frozen=True, slots=True)
class Child:
    """A process to keep running. Children of a higher stage stand on those of a lower one, and are stopped first."""

    name: str
    argv: Sequence[str]  # empty for one of ours: it is forked, and does `work`
    environ: Mapping[str, str]
    stage: int
    last: signal.Signals = signal.SIGKILL  # what it gets when the supervisor is killed
    output: Path | None = None  # the file that gets what it prints; ours if there is none
    patience: float = 10.0  # seconds it may take to stop
    work: Callable[[], object] | None = None


@dataclass(slots=True)
class _Kept:
    child: Child
    process: subprocess.Popen[bytes] | Forked
    since: float
    deaths: int = 0
    again_at: float = 0.0


@dataclass
class Children:
    """The child processes of this supervisor."""

    changed: Callable[[dict[str, int]], None] = lambda pids: None  # told name -> pid after every start
    _kept: dict[str, _Kept] = field(default_factory=dict)
    _untold: bool = False

    def start(self, child: Child) -> None:
        self._kept[child.name] = _Kept(child, _spawn(child), time.monotonic())
        self._tell()

    def ended(self, name: str) -> int | None:
        """The exit code of a child, None while it runs."""
        return self._kept[name].process.poll()

    def tend(self) -> None:
        """Start again every child that has died, after a pause that grows while it keeps dying. A full disk is no
        reason to end: what could not be done is done later.
        """
        if self._untold:
            self._tell()
        for kept in self._kept.values():
            code = kept.process.poll()
            if code is None:
                continue
            now = time.monotonic()
            if not kept.again_at:
                _mourn(kept, code, now)
            elif now >= kept.again_at:
                _end_group(kept.process.pid)
                try:
                    kept.process, kept.since, kept.again_at = _spawn(kept.child), now, 0.0
                except (OSError, subprocess.SubprocessError) as error:
                    kept.again_at = now + _LONGEST_PAUSE
                    facts = {"child": kept.child.name, "why": str(error)}
                    _log.error("a child process could not be started and is tried again", extra={"facts": facts})
                self._tell()

    def stop(self) -> None:
        """Stop all of them, the highest stage first; one that does not listen is killed."""
        for stage in sorted({kept.child.stage for kept in self._kept.values()}, reverse=True):
            group = [kept for kept in self._kept.values() if kept.child.stage == stage]
            for kept in group:
                if kept.process.poll() is None:
                    kept.process.terminate()
            for kept in group:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    kept.process.wait(kept.child.patience)
                _end_group(kept.process.pid)
                kept.process.wait()
        self._kept.clear()

    def _tell(self) -> None:
        try:
            self.changed({name: kept.process.pid for name, kept in self._kept.items()})
        except OSError as error:
            if not self._untold:
                _log.error("what runs could not be written down: %s", error)
            self._untold = True
        else:
            self._untold = False


def _spawn(child: Child) -> subprocess.Popen[bytes] | Forked:
    if child.work:
        return fork(child.work, child.environ, child.name, child.last)
    with contextlib.ExitStack() as held:
        printed = held.enter_context(open(child.output, "ab")) if child.output else sys.stderr
        # A session of its own: Ctrl-C in the terminal reaches the supervisor only, which stops the others in order.
        return subprocess.Popen(
            child.argv,
            env=child.environ,
            stdin=subprocess.DEVNULL,
            stdout=printed.fileno(),
            stderr=printed.fileno(),
            start_new_session=True,
            preexec_fn=partial(lifeline.tie, child.last, os.getpid()),  # safe: the supervisor has one thread
        )


def _mourn(kept: _Kept, code: int, now: float) -> None:
    kept.deaths = 0 if now - kept.since > _STEADY else kept.deaths + 1
    pause = min(_LONGEST_PAUSE, 0.1 * 2**kept.deaths)
    kept.again_at = now + pause
    facts = {"child": kept.child.name, "exit": code, "pause": pause}
    _log.warning("a child process has ended and will be started again", extra={"facts": facts})


def _end_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


@dataclass(frozen=True, slots=True)
class Ours:
    """Our own child processes: `load` imports and compiles what they need, `run` is the life of one, by its name."""

    load: Callable[[], object]
    run: Callable[[str], object]

    def child(self, name: str, environ: Mapping[str, str], stage: int, patience: float = 10.0) -> Child:
        """The child of this name; worker-1 and worker-2 are workers."""
        work = partial(self.run, name.partition("-")[0])
        return Child(name, (), environ, stage, patience=patience, work=work)


def up(settings: Settings, say: Callable[[str], None], ours: Ours) -> None:
    """Run the installation until SIGINT or SIGTERM. `say` prints a line for who started it. Raises CannotRun."""
    settings = replace(settings, data=settings.data.resolve())
    settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _alone(settings.data), _signals():
        _refuse_taken_ports(settings)
        children = Children()
        try:
            settings = _databases(settings, children, ours.load)
            children.changed = partial(_remember, settings)
            credentials = _prepared(settings, ours)
            if masterkey.present(settings.data) == (settings.master_key.reveal(), settings.former_master_key.reveal()):
                settings = _changed(settings)
            for child in _children(settings, ours):
                children.start(child)
            _until_ready(settings, children)
            for line in _greeting(settings, credentials):
                say(line)
            while True:
                children.tend()
                time.sleep(_TICK)
        except Stop:
            say("stopping ...")
        finally:
            _deaf()
            children.stop()
            (settings.data / "run.json").unlink(missing_ok=True)
    say("stopped")


def _changed(settings: Settings) -> Settings:
    """The settings once `prepare` has encrypted everything with the present master key of the data folder."""
    if not settings.former_master_key:
        return settings
    aside = masterkey.finish(settings.data)
    _log.warning("the master key was changed; the former one is put aside", extra={"facts": {"file": aside.name}})
    return replace(settings, former_master_key=Secret())


def with_databases(settings: Settings, work: Callable[[Settings], T]) -> T:
    """What `work` answers while the databases of a data folder run, and nothing else does. Raises CannotRun."""
    settings = replace(settings, data=settings.data.resolve())
    with _alone(settings.data), _signals():
        children = Children()
        try:
            return work(_databases(settings, children, lambda: None))
        except Stop:
            raise CannotRun("interrupted") from None
        finally:
            _deaf()
            children.stop()


def running(data: Path) -> Settings | None:
    """The settings of the installation that runs on this data folder now, None if none does."""
    try:
        remembered = json.loads((data / "run.json").read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    with open(data / "lock") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return Settings.from_env(remembered["settings"])
    return None


def with_master_key(settings: Settings, make: bool) -> Settings:
    """The settings with the key of the data folder where none is given; made there if `make`. Raises CannotRun."""
    if settings.master_key:
        return settings
    if make and not masterkey.present(settings.data)[0]:
        masterkey.make(settings.data)
    key, former = masterkey.present(settings.data)
    if not key:
        raise CannotRun(f"there is no {settings.data / masterkey.KEY} and FHIRSERVER_MASTER_KEY is not set")
    return replace(settings, master_key=Secret(key), former_master_key=Secret(former))


def change_master_key(settings: Settings) -> str:
    """Makes a new master key in the data folder; says what is to be done now. Raises CannotRun while it is in use."""
    if not masterkey.present(settings.data)[0]:
        raise CannotRun(f"there is no {settings.data / masterkey.KEY}: `fhirserver up` makes one at its first start")
    with _alone(settings.data):
        fresh = masterkey.change(settings.data)
    begun = "a new master key is made" if fresh else "a change of the master key has begun already"
    return f"{begun}: start `fhirserver up`, which encrypts everything with it and puts the former one aside"


@contextlib.contextmanager
def _alone(data: Path) -> Iterator[None]:
    with open(data / "lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotRun(
                f"another `fhirserver up` runs on the data folder {data}; stop it or name another"
            ) from None
        yield


def _refuse_taken_ports(settings: Settings) -> None:
    for what, host, port, option in (
        ("web server", settings.host, settings.port, "--port"),
        ("MLLP listener", settings.mllp_host, settings.mllp_port, "--mllp-port"),
    ):
        # Right after a supervisor was killed its children may need a moment to go.
        if not _within(5.0, partial(embedded.is_free, port, host)):
            raise CannotRun(f"the {what} cannot listen on {host}:{port}: it is in use; name another with {option}")


def _databases(settings: Settings, children: Children, meanwhile: Callable[[], object]) -> Settings:
    """Start the databases that are not given, and say where they are. `meanwhile` is done while they start."""
    settings = with_master_key(settings, make=True)
    if settings.mongo_url and settings.redis_url:
        meanwhile()
        return settings
    known = embedded.remembered(settings.data)
    environ = bare_environ()
    if not settings.mongo_url:
        argv = embedded.mongod(settings.data, known, settings.mongo_cache_gb)
        log = settings.data / "log" / "mongod.log"  # its own: what it says before it opens that goes there too
        children.start(Child("mongod", argv, environ, stage=0, last=signal.SIGTERM, output=log, patience=30.0))
    if not settings.redis_url:
        children.start(Child("redis", embedded.redis(settings.data, known), environ, stage=1, last=signal.SIGTERM))
    meanwhile()
    if not settings.mongo_url:
        _ready(children, "mongod", partial(bootstrap.initiate, known.mongo_port, known.password, timeout=1.0))
        settings = replace(settings, mongo_url=Secret(known.mongo_url))
    if not settings.redis_url:
        _ready(children, "redis", partial(embedded.wait_for_redis, known, timeout=1.0))
        settings = replace(settings, redis_url=Secret(known.redis_url))
    return settings


def _ready(children: Children, name: str, wait: Callable[[], None]) -> None:
    deadline = time.monotonic() + _START_PATIENCE
    while True:
        try:
            return wait()
        except (bootstrap.NotReady, TimeoutError) as error:
            code = children.ended(name)
            if code is not None:
                raise CannotRun(
                    f"{name} ended with exit code {code} instead of starting: see {name}.log in log/"
                ) from error
            if time.monotonic() > deadline:
                raise CannotRun(str(error)) from error


def _prepared(settings: Settings, ours: Ours) -> str:
    """Let a process of its own lay the ground in the database before the others come; the first credentials."""
    reading, writing = os.pipe()
    with open(reading, "rb") as said:
        process = fork(partial(ours.run, "prepare"), settings.environ(), "prepare", signal.SIGKILL, writing)
        os.close(writing)
        credentials = said.read()
    if process.wait():
        raise CannotRun("the database could not be prepared; the log above says why")
    return credentials.decode()


def _children(settings: Settings, ours: Ours) -> Iterable[Child]:
    environ = settings.environ()
    for number in range(1, settings.queue_workers + 1):
        yield ours.child(f"worker-{number}", environ, stage=2)
    yield ours.child("relay", environ, stage=2)
    yield ours.child("mllp", environ, stage=3)
    yield ours.child("web", environ, stage=3, patience=15.0)


def _until_ready(settings: Settings, children: Children) -> None:
    def ready() -> bool:
        children.tend()
        return _healthy({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host), settings.port)  # noqa: S104

    if not _within(_START_PATIENCE, ready):
        raise CannotRun("the web server does not answer 200 to GET /healthz; the log above says why")


def _healthy(host: str, port: int) -> bool:
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", "/healthz")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _remember(settings: Settings, pids: dict[str, int]) -> None:
    facts = {"pid": os.getpid(), "children": pids, "settings": settings.variables()}
    embedded.write_private(settings.data / "run.json", json.dumps(facts))


def _greeting(settings: Settings, credentials: str) -> Iterator[str]:
    yield "fhirserver is up"
    yield f"  console          {settings.public_url}/console"
    yield f"  FHIR registry    {settings.public_url}/1/health/fhir/4"
    yield f"  organizations    {settings.public_url}/1/health/organizations/{{id}}/fhir/4"
    yield f"  HL7v2 over MLLP  {settings.mllp_host}:{settings.mllp_port}"
    yield f"  data and logs    {settings.data}"
    yield from (f"  {line}" for line in credentials.rstrip().splitlines())
    yield "Ctrl-C stops everything."


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    def heard(number: int, frame: FrameType | None) -> None:
        _deaf()
        raise Stop

    nohup = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    before = {each: signal.signal(each, heard) for each in _SIGNALS if not (nohup and each == signal.SIGHUP)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _deaf() -> None:
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)


def _within(seconds: float, true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(_TICK)
    return True
