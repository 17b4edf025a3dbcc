"""Makes a fresh mongod a one-node replica set with one user, or finds that it is one.

Used for the embedded server only; a real cluster is set up by its operators. MongoDB manual: deploy a replica set with
keyfile access control (the localhost exception lets the first caller initiate the set and create the first user).
"""

from __future__ import annotations

import time
from typing import Any

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

REPLICA_SET = "rs0"
USER = "fhirserver"

_UNAUTHORIZED = 13
_AUTHENTICATION_FAILED = 18
_NOT_YET_INITIALIZED = 94
_ALREADY_INITIALIZED = 23


class NotReady(Exception):
    """The server did not become PRIMARY in time; the text says what it last answered."""


def url(port: int, password: str) -> str:
    """The connection string of the embedded server; `password` must be safe in a URL."""
    return f"mongodb://{USER}:{password}@127.0.0.1:{port}/?replicaSet={REPLICA_SET}&authSource=admin"


def initiate(port: int, password: str, timeout: float = 60.0) -> None:
    """Wait for the mongod on the loopback `port`, make it PRIMARY with its user; what is done already stays.

    A replica set remembers its own address; where the port has changed since, the configuration is rewritten.
    Raises NotReady after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    with _direct(port) as stranger:
        _answering(stranger, deadline)
        _initiated(stranger, port)
        if not _has_user(port, password):
            _primary(stranger, deadline)
            roles = [{"role": "root", "db": "admin"}]
            stranger.admin.command("createUser", USER, pwd=password, roles=roles, mechanisms=["SCRAM-SHA-256"])
    with _direct(port, username=USER, password=password) as client:
        _moved(client, port, deadline)
        _primary(client, deadline)


def _direct(port: int, **options: Any) -> MongoClient[dict[str, Any]]:
    return MongoClient("127.0.0.1", port, directConnection=True, serverSelectionTimeoutMS=300, **options)


def _answering(client: MongoClient[dict[str, Any]], deadline: float) -> None:
    while True:
        try:
            client.admin.command("ping")
            return
        except PyMongoError as error:
            _wait(deadline, "does not answer", error)


def _initiated(client: MongoClient[dict[str, Any]], port: int) -> None:
    if not client.admin.command("hello").get("isreplicaset"):
        return
    config = {"_id": REPLICA_SET, "members": [{"_id": 0, "host": f"127.0.0.1:{port}"}]}
    try:
        client.admin.command("replSetInitiate", config)
    except OperationFailure as error:
        # Unauthorized: the localhost exception is closed, so a user and therefore a configuration exist.
        if error.code not in (_ALREADY_INITIALIZED, _UNAUTHORIZED):
            raise


def _has_user(port: int, password: str) -> bool:
    with _direct(port, username=USER, password=password) as client:
        try:
            client.admin.command("ping")
        except OperationFailure as error:
            if error.code == _AUTHENTICATION_FAILED:
                return False
            raise
        return True


def _moved(client: MongoClient[dict[str, Any]], port: int, deadline: float) -> None:
    here = f"127.0.0.1:{port}"
    config = _config(client, deadline)
    if config["members"][0]["host"] != here:
        config["members"] = [{"_id": config["members"][0]["_id"], "host": here}]
        config["version"] += 1
        client.admin.command("replSetReconfig", config, force=True)


def _config(client: MongoClient[dict[str, Any]], deadline: float) -> dict[str, Any]:
    while True:
        try:
            return dict(client.admin.command("replSetGetConfig")["config"])
        except OperationFailure as error:
            if error.code != _NOT_YET_INITIALIZED:
                raise
            _wait(deadline, "has not read its replica set configuration", error)


def _primary(client: MongoClient[dict[str, Any]], deadline: float) -> None:
    while not client.admin.command("hello").get("isWritablePrimary"):
        _wait(deadline, "is not PRIMARY", None)


def _wait(deadline: float, what: str, error: Exception | None) -> None:
    if time.monotonic() > deadline:
        raise NotReady(f"mongod {what} in time: see its log in the data folder") from error
    time.sleep(0.02)
