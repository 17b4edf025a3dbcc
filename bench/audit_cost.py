"""What one audit record costs after its request was answered: processor time of shipping and of sealing, and of mongod.

    python -m bench.audit_cost [records]

The records are those of reads of a Patient, then of searches that showed twenty Observations. They are shipped with
their seals, as the relay does it with many, then without, and sealed by themselves. All of it runs in this process, one
after the other, so that other load on the machine changes no figure much.
"""

from __future__ import annotations

import gc
import random
import sys
import time
from collections.abc import Callable

from bench import people
from bench.figures import OUT, line
from bench.installation import Servers
from fhirserver import app, local
from fhirserver.auditing.recording import ship
from fhirserver.auth.principal import SYSTEM, Principal
from fhirserver.fhir.json import encode
from fhirserver.interactions.audit import facts
from fhirserver.interactions.dispatch import dispatch
from fhirserver.interactions.model import Request, Response
from fhirserver.settings import Secret, Settings
from fhirserver.store.spool import Spool

PATIENTS, OBSERVATIONS, SHOWN = 500, 5_000, 20


class Recorded:
    """An installation with some people in it, and the records of a client's requests in its spool."""

    def __init__(self, servers: Servers) -> None:
        self.servers = servers
        self.settings = Settings(
            data=servers.data,
            public_url="http://127.0.0.1",
            mongo_url=Secret(servers.known.mongo_url),
            redis_url=Secret(servers.known.redis_url),
            mongo_database="audit_cost",
            master_key=Secret("a master key for measuring, not for people"),
            log_level="error",
        )
        self.installation = app.build(self.settings)
        self.server = self.installation.server
        self.server.store.database.client.drop_database("audit_cost")
        self.base = local.create_organization(self.settings, "General", "provider")
        path = people.write(servers.data / "people.ndjson.gz", PATIENTS, OBSERVATIONS)
        local.load(self.settings, [path], self.base, True, lambda so_far: None)
        self.chance = random.Random(5)
        self.client = Principal("client", self._client(), scopes="system/*.rs", name="Bench")

    def _client(self) -> str:
        """The id of a client that an application provider has."""
        owner = local.create_organization(self.settings, "Applications", "application")
        body = {
            "resourceType": "ClientApplication", "name": "Bench", "kind": "production", "scope": "system/*.rs",
            "grantType": ["client_credentials"], "managingOrganization": {"reference": f"Organization/{owner}"},
        }  # fmt: skip
        base = self.server.base("registry")
        asked = Request("create", "registry", base, SYSTEM, type="ClientApplication", body=body)
        return str((dispatch(self.server, asked).content() or {})["id"])

    def read(self) -> tuple[Request, Response]:
        """A read of one of the patients."""
        id = f"p{self.chance.randrange(PATIENTS):07d}"
        return self._request("read", "Patient", id), Response(200, seen=(f"Patient/{id}",))

    def search(self) -> tuple[Request, Response]:
        """A search that showed some observations."""
        seen = tuple(f"Observation/o{n:08d}" for n in self.chance.sample(range(OBSERVATIONS), SHOWN))
        return self._request("search-type", "Observation", None), Response(200, seen=seen)

    def _request(self, interaction: str, type: str, id: str | None) -> Request:
        told = {"request": self.server.new_id(), "method": "GET", "path": f"{type}/{id or ''}", "address": "192.0.2.7"}
        query = () if id else (("code", "http://loinc.org|8867-4"), ("_count", str(SHOWN)))
        base = self.server.base(self.base)
        return Request(interaction, self.base, base, self.client, type=type, id=id, query=query, facts=told)

    def fill(self, request: Callable[[], tuple[Request, Response]], records: int) -> None:
        """Has that many requests in the spool."""
        spool = Spool(self.settings.data / app.SPOOL)
        for _ in range(records):
            kept = facts(*request(), self.server.now())
            assert kept is not None
            spool.append(encode(kept))
        spool.close()

    def ship(self, sealed: bool = False) -> int:
        """Stores what the spool holds."""
        total, seals = 0, app.seals(self.installation) if sealed else None
        while some := ship(self.server, self.settings.data / app.SPOOL, seals):
            total += some
        return total

    def seal(self) -> int:
        """Seals what is stored."""
        return app.seals(self.installation).work()

    def ship_sealed(self) -> int:
        """Stores what the spool holds and seals it with that, as the relay does."""
        return self.ship(sealed=True)


def run(records: int) -> None:
    """Measures on servers of its own."""
    servers = Servers(OUT / "data-audit-cost", 0.5)
    servers.start()
    try:
        recorded = Recorded(servers)
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)  # as the command line does
        recorded.ship()
        recorded.seal()
        for name, request, count in (("read", recorded.read, records), ("search", recorded.search, records // 4)):
            for steps in ((recorded.ship_sealed,), (recorded.ship, recorded.seal)):
                recorded.fill(request, count)
                for step in steps:
                    _measured(recorded, name, step, count)
    finally:
        servers.stop()


def _measured(recorded: Recorded, name: str, step: Callable[[], int], records: int) -> None:
    ours, mongod, began = time.process_time(), recorded.servers.mongod_cpu(), time.monotonic()
    done = step()
    cpu = [each / done * 1e6 for each in (time.process_time() - ours, recorded.servers.mongod_cpu() - mongod)]
    said = {"records": done, "missing": records - done, "records/s": round(done / (time.monotonic() - began))}
    line(f"audit.cost.{name}.{step.__name__}", sum(cpu), "us CPU/record", None, None, (cpu[0], cpu[1]), said)


if __name__ == "__main__":
    run(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
