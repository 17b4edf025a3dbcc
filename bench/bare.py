"""The ceiling beside each figure: Flask on the same WSGI server, the same MongoDB calls, and nothing around them.

No authentication, no audit, no validation, no FHIR: what is measured against it is the cost of all those.
"""

from __future__ import annotations

import os
import secrets
import time
from datetime import UTC, datetime
from typing import Any

import pymongo
from flask import Flask, Response, request
from granian import Granian
from granian.constants import Interfaces
from granian.log import LogLevels
from pymongo import MongoClient, WriteConcern
from pymongo.client_session import ClientSession

from fhirserver.store.database import HISTORY_INDEXES

FHIR_JSON = "application/fhir+json"
PROJECTION = {"s": 0, "k": 0, "ev": 0}
OPTIONS = ("name", "partialFilterExpression")


def worker() -> Flask:
    """The application of one worker."""
    client: MongoClient[dict[str, Any]] = MongoClient(os.environ["BARE_URL"], tz_aware=True)
    majority = WriteConcern("majority", j=True)
    database = client.get_database(os.environ["BARE_DATABASE"], write_concern=majority)
    organization = os.environ["BARE_ORGANIZATION"]
    patients = database["Patient"]
    model = patients.find_one({"o": organization, "i": "p0000000"}) or {}
    created, history = database["bare"], database["bare.history"]
    history.create_indexes(list(HISTORY_INDEXES))
    indexes = [each.to_dict() for each in patients.list_indexes() if each["name"] != "_id_"]
    for each in indexes:
        created.create_index(list(each["key"].items()), **{name: each[name] for name in OPTIONS if name in each})
    made = Flask("bare", static_folder=None)

    @made.get("/ping")
    def ping() -> str:
        return "pong"

    @made.get("/Patient/<id>")
    def read(id: str) -> Response:
        document = patients.find_one({"_id": f"{organization}/{id}"}, PROJECTION) or {}
        return Response(document["d"], mimetype=FHIR_JSON)

    @made.get("/Patient")
    def search() -> Response:
        prefix = request.args["family"].lower()
        filter = {"o": organization, "x": None, "s.family": {"$gte": prefix, "$lt": prefix + "\U0010ffff"}}
        documents = patients.find(filter, PROJECTION).sort("_id", 1).limit(20)
        entries = ",".join('{"resource":' + document["d"] + "}" for document in documents)
        return Response('{"resourceType":"Bundle","entry":[' + entries + "]}", mimetype=FHIR_JSON)

    @made.get("/Observation")
    def observations() -> Response:
        value = f"{request.args['code']}"
        filter = {"o": organization, "x": None, "s.code": value}
        documents = database["Observation"].find(filter, PROJECTION).sort("_id", 1).limit(20)
        entries = ",".join('{"resource":' + document["d"] + "}" for document in documents)
        return Response('{"resourceType":"Bundle","entry":[' + entries + "]}", mimetype=FHIR_JSON)

    @made.post("/Patient")
    def create() -> Response:
        text = request.get_data().decode()
        id = f"{int(time.time() * 1000):012x}{secrets.token_hex(10)}"
        now = datetime.now(UTC)
        event = {"id": id, "t": now, "changes": [{"type": "Patient", "id": id, "version": 1, "action": "create"}]}
        created.insert_one({**model, "_id": f"{organization}/{id}", "i": id, "t": now, "d": text, "ev": [event]})
        return Response(text, 201, mimetype=FHIR_JSON)

    @made.put("/Patient/<id>")
    def update(id: str) -> Response:
        text = request.get_data().decode()
        previous = patients.find_one({"_id": f"{organization}/{id}"}) or {}
        version = {name: previous[name] for name in ("o", "i", "v", "t", "m", "d")}
        now = datetime.now(UTC)
        change = {"type": "Patient", "id": id, "version": previous["v"] + 1, "action": "update"}
        event = {"id": id, "t": now, "changes": [change]}
        fields = {"d": text, "v": previous["v"] + 1, "t": now, "m": "PUT", "s": previous["s"], "k": previous["k"]}

        def work(session: ClientSession) -> None:
            patients.update_one(
                {"_id": previous["_id"], "v": previous["v"]}, {"$set": fields, "$push": {"ev": event}}, session=session
            )
            history.insert_one({"_id": f"{previous['_id']}/{previous['v']}", **version}, session=session)

        with client.start_session() as session:
            session.with_transaction(
                work, read_concern=pymongo.read_concern.ReadConcern("snapshot"), write_concern=majority
            )
        return Response(text, 200, mimetype=FHIR_JSON)

    return made


if __name__ == "__main__":
    Granian(
        "bench.bare:worker",
        factory=True,
        interface=Interfaces.WSGI,
        port=int(os.environ["BARE_PORT"]),
        workers=int(os.environ["BARE_WORKERS"]),
        blocking_threads=int(os.environ["BARE_THREADS"]),
        websockets=False,
        log_level=LogLevels.error,
    ).serve()
