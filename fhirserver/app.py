"""The composition root: settings to a Server, the WSGI application, the other processes, and the local commands.

The only place that knows all rooms: it builds the operations table and the job table and hands them down.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import Any
from wsgiref.types import WSGIApplication

import yaml

from fhirserver import __version__
from fhirserver.auditing import sealed
from fhirserver.auditing.security import security_facts
from fhirserver.auth.access import everything
from fhirserver.auth.principal import Principal
from fhirserver.auth.secrets import Vault
from fhirserver.bulk.operations import OPERATIONS as BULK_OPERATIONS
from fhirserver.exchange import profiles, sandbox
from fhirserver.exchange.accesses import Accesses
from fhirserver.exchange.clients import CLIENTS
from fhirserver.exchange.operating import Instruments
from fhirserver.exchange.operating import operations as operating
from fhirserver.exchange.people import PEOPLE
from fhirserver.exchange.steps import STEPS
from fhirserver.fhir import Resource
from fhirserver.fhir.definitions import Definitions
from fhirserver.fhir.json import decode, encode
from fhirserver.fhir.problem import Problem, problem
from fhirserver.hl7v2.ingest import Intake
from fhirserver.hl7v2.mapping import Maps
from fhirserver.hl7v2.mapping.load import load as load_maps
from fhirserver.hl7v2.operations import operations as message_operations
from fhirserver.hl7v2.points import settled
from fhirserver.hl7v2.shipped import ruled
from fhirserver.interactions.audit import facts
from fhirserver.interactions.defining import rebuilding
from fhirserver.interactions.dispatch import perform
from fhirserver.interactions.ihe import pix
from fhirserver.interactions.model import OperationRow, Request, Response, Server
from fhirserver.interactions.reindex import OPERATIONS as REINDEX_OPERATIONS
from fhirserver.interactions.resource_operations import OPERATIONS as RESOURCE_OPERATIONS
from fhirserver.interactions.table import locate
from fhirserver.interactions.terminology import OPERATIONS as TERMINOLOGY_OPERATIONS
from fhirserver.jobs.queue import Queue
from fhirserver.messaging.process_message import OPERATIONS as MESSAGE_OPERATIONS
from fhirserver.notices.mail import Mailer, Waiting, smtp_of
from fhirserver.notices.operations import NOTICES
from fhirserver.notices.telling import Teller
from fhirserver.rules import RULES
from fhirserver.rules.model import Context
from fhirserver.settings import Settings, folder
from fhirserver.store import envelopes, formats
from fhirserver.store.database import Database
from fhirserver.store.ids import new_id
from fhirserver.store.keyring import Keyring
from fhirserver.store.model import REGISTRY
from fhirserver.store.resources import Store
from fhirserver.store.seal import Seals
from fhirserver.store.spool import Spool
from fhirserver.store.uses import Uses
from fhirserver.subscriptions.admission import admitting
from fhirserver.subscriptions.endpoint import Guard
from fhirserver.subscriptions.operations import Operations
from fhirserver.subscriptions.post import Endpoints
from fhirserver.subscriptions.topics import Catalogue
from fhirserver.subscriptions.watching import Watching
from fhirserver.web import oauth
from fhirserver.web.application import application
from fhirserver.web.bulk import Bulk
from fhirserver.web.console.blueprint import Console
from fhirserver.web.fhir import Fhir
from fhirserver.web.hl7v2 import Hl7v2
from fhirserver.web.keysets import KeySets
from fhirserver.web.recorded import recorded, recorded_refusals

OPERATIONS: tuple[OperationRow, ...] = (
    *RESOURCE_OPERATIONS,
    *TERMINOLOGY_OPERATIONS,
    *REINDEX_OPERATIONS,
    *STEPS,
    *CLIENTS,
    *NOTICES,
    *PEOPLE,
    *sandbox.OPERATIONS,
    *profiles.OPERATIONS,
    *pix.OPERATIONS,
    *MESSAGE_OPERATIONS,
    *BULK_OPERATIONS,
)
SPOOL = "spool"
"""The folder, in the data folder, of audit records on their way to the database."""
KEY_SET_SECONDS, MOST_KEY_SET = 5.0, 65_536
"""How long reading a client's key set may take, and how many bytes it may have."""


@dataclass(frozen=True, slots=True)
class Installation:
    """A Server and what stands beside it: the vault, the tokens, the queue, the settings it was built from."""

    settings: Settings
    server: Server
    vault: Vault
    tokens: oauth.Tokens
    queue: Queue | None
    intake: Callable[[], Intake]
    """What takes HL7v2 messages in. The maps are loaded when it is first asked for: a web worker starts without."""

    def close(self) -> None:
        """Ends its connections."""
        self.server.store.database.close()


@contextmanager
def opened(settings: Settings) -> Iterator[Installation]:
    """An installation for the length of a command."""
    installation = build(settings)
    try:
        yield installation
    finally:
        installation.close()


def build(settings: Settings) -> Installation:
    """Everything a process needs. Reads the signing keys and the generation from the database."""
    database = Database(settings.mongo_url.reveal(), settings.mongo_database, query_limit_ms=settings.query_time_limit)
    vault = _vault(settings, database)
    store = Store(database)
    shipped = _shipped()
    queue = Queue(settings.redis_url.reveal()) if settings.redis_url else None
    spool = Spool(settings.data / SPOOL)

    server = Server(
        store=store,
        definitions=shipped,
        rebuild=rebuilding(store, shipped),
        rules=RULES,
        operations={_operation_key(row): row for row in OPERATIONS},
        access=Accesses().access,
        context=_contexts(vault, settings),
        enqueue=queue.enqueue if queue else _no_queue,
        now=lambda: datetime.now(UTC),
        new_id=new_id,
        audit=_auditing(spool),
        record=_recording(spool),
        locate=locate,
        perform=perform,
        capability={resource["id"]: resource for resource in resources_in("capability")},
        sandbox=cache(lambda: sandbox.resources(resources_in("examples/sandbox"))),
        public_url=settings.public_url,
        software=__version__,
        cursor_key=vault.subkey("page cursors"),
        mails=bool(settings.smtp_url),
        page_size=settings.page_size,
        page_size_limit=settings.page_size_max,
    )
    put = queue.enqueue_many if queue else None
    intake = cache(lambda: settled(Intake(server, _maps(server.definitions), put)))
    endpoints = Endpoints(Guard(settings.webhook_allow))
    instruments = Instruments(queue, settings.data / SPOOL, lambda: _keyring(server, vault), settings.rows)
    _complete(server, endpoints, vault, intake, instruments)
    return Installation(settings, server, vault, _tokens(settings, server, vault, endpoints), queue, intake)


def _vault(settings: Settings, database: Database) -> Vault:
    """The vault under the master key, which also knows hashes made with former ones. Raises Problem: exception where
    the key is not the one of this database, not-supported for data that this version does not know.
    """
    former = (settings.former_master_key.reveal().encode(),) if settings.former_master_key else ()
    vault = Vault(settings.master_key.reveal().encode(), os.urandom, *former)
    try:
        formats.require(database)
        for id, envelope in envelopes.hashing_keys(database).items():
            vault.know(id, vault.decrypt(envelope, envelopes.HASHING))
        for envelope in envelopes.signing_keys(database):
            vault.decrypt(envelope, envelopes.SIGNING)
    except ValueError:
        text = (
            "The master key is not the one that this database was written with. Give that one in FHIRSERVER_MASTER_KEY "
            "or in the file master.key of the data folder; while it is changed, the one before in "
            "FHIRSERVER_FORMER_MASTER_KEY too."
        )
        database.close()
        raise problem("exception", text) from None
    except Problem:
        database.close()
        raise
    return vault


def loaded() -> None:
    """Reads what is shipped, the same for every installation: a process that is forked after it starts with it."""
    _maps(_shipped())


@cache
def _shipped() -> Definitions:
    return Definitions.load().extended(resources_in("profiles"), generation=-1)


@lru_cache(maxsize=4)
def _maps(definitions: Definitions) -> Maps:
    return load_maps(folder("mappings"), definitions)


def _complete(
    server: Server, endpoints: Endpoints, vault: Vault, intake: Callable[[], Intake], instruments: Instruments
) -> None:
    """Gives the server the rules and operations that need more than the server: topics, maps, keys, the queue."""
    topics = catalogue()
    server.rules = ruled(admitting(RULES, lambda: server, topics, endpoints.guard), lambda: intake().overlays)
    server.topics = Watching(server, topics).active
    told = Operations(topics, endpoints, vault.decrypt).rows()
    sealing = sealed.operations(lambda server: Seals(server.store.database, vault.seal, vault.matches))
    rows = (*told, *message_operations(lambda _: intake()), *sealing, *operating(instruments))
    server.operations = {**server.operations, **{_operation_key(row): row for row in rows}}


def catalogue() -> Catalogue:
    """The shipped topics, out of capability/topics."""
    text = (folder("capability") / "topics" / "topics.yaml").read_text()
    return Catalogue.read(yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))  # noqa: S506 - both are safe


def _tokens(settings: Settings, server: Server, vault: Vault, endpoints: Endpoints) -> oauth.Tokens:
    ring = _keyring(server, vault)
    ring.keys()  # a process without them does not start
    whole = everything(REGISTRY)

    def client(id: str) -> tuple[Resource, Mapping[str, Any]] | None:
        found = server.store.live(whole, "ClientApplication", id)
        return None if found is None else (found.resource(), found.private)

    def user(id: str) -> Resource | None:
        found = server.store.live(whole, "User", id)
        return None if found is None else found.resource()

    def get(url: str) -> tuple[int, bytes, str]:
        answer = endpoints.get(url, KEY_SET_SECONDS, MOST_KEY_SET)
        return answer.status, answer.body, answer.error

    made = oauth.Tokens(
        issuer=settings.public_url,
        keys=ring.keys,
        client=client,
        user=user,
        matches=vault.matches,
        types=lambda: server.definitions.resource_types,
        now=server.now,
        new_id=server.new_id,
        lifetime=settings.token_lifetime,
        fetch=KeySets(get).fetch,
        used=Uses(server.store.database).mark,
    )
    return oauth.lasting(made, server)


def _auditing(spool: Spool) -> Callable[[Server, Request, Response | Problem], None]:
    def audit(server: Server, request: Request, result: Response | Problem) -> None:
        kept = facts(request, result, server.now())
        if kept is not None:
            spool.append(encode(kept))

    return audit


def _recording(spool: Spool) -> Callable[..., None]:
    def record(kind: str, organization: str = REGISTRY, **facts: Any) -> None:
        spool.append(encode(security_facts(kind, datetime.now(UTC), organization, **facts)))

    return record


def resources_in(name: str) -> list[Resource]:
    """The resources in a folder of the project's data, in the order of their names."""
    return [decode(path.read_bytes()) for path in sorted(folder(name).rglob("*.json"))]


def create_app(installation: Installation) -> WSGIApplication:
    """The WSGI application of an installation."""
    server, settings = installation.server, installation.settings
    authenticate = recorded_refusals(server, installation.tokens.authenticate)

    def taken(raw: bytes, address: str, organization: str) -> bytes | None:
        return installation.intake().take(raw, address, organization)

    return application(
        server,
        Fhir(server, authenticate, settings.max_body),
        (
            recorded(oauth.blueprint(installation.tokens), server),
            Hl7v2(server, authenticate, taken).blueprint(),
            Bulk(server, authenticate).blueprint(),
            Console(server, installation.tokens).blueprint(),
        ),
        max_body=settings.max_body,
        cors_origins=settings.cors_origins,
    )


def seals(installation: Installation) -> Seals:
    """The seals on the audit records, keyed by the master key."""
    return Seals(installation.server.store.database, installation.vault.seal, installation.vault.matches)


def teller(installation: Installation) -> Teller:
    """What tells the other side of each step; by e-mail too where a mail server is configured."""
    return Teller(installation.server, _waiting(installation))


def mailer(installation: Installation) -> Mailer | None:
    """What sends notices by e-mail, None without a mail server."""
    settings, waiting = installation.settings, _waiting(installation)
    smtp = smtp_of(settings.smtp_url.reveal(), settings.mail_from)
    return Mailer(installation.server, waiting, smtp, installation.vault.decrypt) if waiting else None


def _waiting(installation: Installation) -> Waiting | None:
    kept = installation.tokens.kept
    return Waiting(kept) if kept and installation.settings.smtp_url else None


def _operation_key(row: OperationRow) -> str:
    """Operations of one type stand under Type/name, so that two types may have operations of the same name."""
    return f"{row.types[0]}/{row.name}" if len(row.types) == 1 and row.types != ("Resource",) else row.name


def keyring(installation: Installation) -> Keyring:
    """The keys that sign tokens."""
    return _keyring(installation.server, installation.vault)


def _keyring(server: Server, vault: Vault) -> Keyring:
    def encrypt(text: str) -> str:
        return vault.encrypt(text, envelopes.SIGNING)

    def decrypt(envelope: str) -> str:
        return vault.decrypt(envelope, envelopes.SIGNING)

    return Keyring(server.store.database, encrypt, decrypt, lambda: server.now())


def _contexts(vault: Vault, settings: Settings) -> Any:
    allow_http = bool(settings.webhook_allow)

    def context(server: Server, principal: Principal, organization: str) -> Context:
        return Context(
            principal=principal,
            organization=organization,
            now=server.now(),
            new_id=server.new_id,
            new_secret=vault.new_secret,
            seal=vault.seal,
            matches=vault.matches,
            encrypt=vault.encrypt,
            definitions=server.definitions,
            allow_http=allow_http,
            registry=server.base(REGISTRY),
        )

    return context


def _no_queue(name: str, *ids: str) -> None:
    """Without Redis nothing is enqueued: MongoDB is the truth, and the relay's sweep does it later."""
