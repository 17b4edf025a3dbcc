"""The composition root: settings to a Server, the WSGI application, the other processes, and the local commands.

The only place that knows all rooms: it builds the operations table and the job table and hands them down.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import Any
from wsgiref.types import WSGIApplication

import yaml

from fhirserver import __version__
from fhirserver.auditing import sealed
from fhirserver.auditing.security import security_facts
from fhirserver.auth import policies
from fhirserver.auth.access import Access, decide, everything
from fhirserver.auth.policies import Policy
from fhirserver.auth.principal import Principal
from fhirserver.auth.sandbox import sandbox_of
from fhirserver.auth.secrets import Vault
from fhirserver.exchange import profiles, sandbox
from fhirserver.exchange.clients import CLIENTS
from fhirserver.exchange.guests import guest_of
from fhirserver.exchange.operating import Instruments
from fhirserver.exchange.operating import operations as operating
from fhirserver.exchange.people import PEOPLE
from fhirserver.exchange.steps import STEPS
from fhirserver.fhir import Resource
from fhirserver.fhir.definitions import VERSION, Definitions, Shelf, official_urls
from fhirserver.fhir.json import decode, encode
from fhirserver.fhir.problem import Problem, problem
from fhirserver.hl7v2.ingest import Intake
from fhirserver.hl7v2.mapping import Maps
from fhirserver.hl7v2.mapping.load import load as load_maps
from fhirserver.hl7v2.operations import operations as message_operations
from fhirserver.hl7v2.points import settled
from fhirserver.hl7v2.shipped import ruled
from fhirserver.interactions.audit import facts
from fhirserver.interactions.dispatch import perform
from fhirserver.interactions.ihe import pix
from fhirserver.interactions.model import OperationRow, Request, Response, Server
from fhirserver.interactions.reindex import OPERATIONS as REINDEX_OPERATIONS
from fhirserver.interactions.resource_operations import OPERATIONS as RESOURCE_OPERATIONS
from fhirserver.interactions.table import locate
from fhirserver.interactions.visiting import visitor
from fhirserver.jobs.queue import Queue
from fhirserver.messaging.process_message import OPERATIONS as MESSAGE_OPERATIONS
from fhirserver.notices.mail import Mailer, Waiting, smtp_of
from fhirserver.notices.operations import NOTICES
from fhirserver.notices.telling import Teller
from fhirserver.rules import RULES
from fhirserver.rules.authorization import authorization_id
from fhirserver.rules.definition import compiled
from fhirserver.rules.model import Context
from fhirserver.settings import Settings, folder
from fhirserver.store import shelf
from fhirserver.store.database import Database, Document
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
from fhirserver.web import oauth
from fhirserver.web.application import application
from fhirserver.web.console.blueprint import Console
from fhirserver.web.fhir import Fhir
from fhirserver.web.hl7v2 import Hl7v2
from fhirserver.web.keysets import KeySets
from fhirserver.web.recorded import recorded, recorded_refusals

OPERATIONS: tuple[OperationRow, ...] = (
    *RESOURCE_OPERATIONS,
    *REINDEX_OPERATIONS,
    *STEPS,
    *CLIENTS,
    *NOTICES,
    *PEOPLE,
    *sandbox.OPERATIONS,
    *profiles.OPERATIONS,
    *pix.OPERATIONS,
    *MESSAGE_OPERATIONS,
)
MOST_ACCESSES = 2_000
log = logging.getLogger(__name__)
SPOOL = "spool"
"""The folder, in the data folder, of audit records on their way to the database."""
MOST_ANSWERS = 500
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
    vault = Vault(settings.master_key.reveal().encode(), os.urandom)
    database = Database(settings.mongo_url.reveal(), settings.mongo_database, query_limit_ms=settings.query_time_limit)
    store = Store(database)
    shipped = _shipped()
    queue = Queue(settings.redis_url.reveal()) if settings.redis_url else None
    spool = Spool(settings.data / SPOOL)

    def rebuild(generation: int) -> Definitions:
        kept = _shelf(store)
        found, left = compiled(lambda added: shipped.extended(added, generation, kept), _defining(store))
        for url in left:
            log.error("the definition %s cannot be used any more and is left out", url)
        return found

    server = Server(
        store=store,
        definitions=shipped,
        rebuild=rebuild,
        rules=RULES,
        operations={_operation_key(row): row for row in OPERATIONS},
        access=_Accesses().access,
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
    _complete(server, endpoints, vault, intake)
    instruments = Instruments(queue, settings.data / SPOOL, lambda: _keyring(server, vault), settings.rows)
    server.operations = {**server.operations, **{row.name: row for row in operating(instruments)}}
    return Installation(settings, server, vault, _tokens(settings, server, vault, endpoints), queue, intake)


def loaded() -> None:
    """Reads what is shipped, the same for every installation: a process that is forked after it starts with it."""
    _maps(_shipped())


@cache
def _shipped() -> Definitions:
    return Definitions.load().extended(resources_in("profiles"), generation=-1)


@lru_cache(maxsize=4)
def _maps(definitions: Definitions) -> Maps:
    return load_maps(folder("mappings"), definitions)


def _complete(server: Server, endpoints: Endpoints, vault: Vault, intake: Callable[[], Intake]) -> None:
    """Gives the server what needs the server: the rules and operations of subscriptions, the operations on messages."""
    topics = catalogue()
    server.rules = ruled(admitting(RULES, lambda: server, topics, endpoints.guard), lambda: intake().overlays)
    told = Operations(topics, endpoints, vault.decrypt).rows()
    sealing = sealed.operations(lambda server: Seals(server.store.database, vault.seal, vault.matches))
    rows = (*told, *message_operations(lambda _: intake()), *sealing)
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
        found = server.store.read(whole, "ClientApplication", id)
        return None if found is None or found.deleted else (found.resource(), found.private)

    def user(id: str) -> Resource | None:
        found = server.store.read(whole, "User", id)
        return None if found is None or found.deleted else found.resource()

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


def new_id() -> str:
    """A new id: 48 bits of milliseconds, then 80 random ones, so that resources made together lie together in the
    index.
    """
    stamp = int(time.time() * 1000) & ((1 << 48) - 1)
    while True:
        try:
            return f"{stamp:012x}{_chance.pop()}"
        except IndexError:
            # Many at once: each call of the system lets another thread go first, and a create makes three ids.
            drawn = os.urandom(_DRAWN * 10).hex()
            _chance.extend(drawn[at : at + 20] for at in range(0, len(drawn), 20))


_DRAWN = 64
_chance: deque[str] = deque()
os.register_at_fork(after_in_child=_chance.clear)  # or parent and child would make the same ids


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


def wsgi() -> WSGIApplication:
    """The WSGI application of the settings in the environment: what each web worker runs."""
    return create_app(build(Settings.from_env()))


def _operation_key(row: OperationRow) -> str:
    """Operations of one type stand under Type/name, so that two types may have operations of the same name."""
    return f"{row.types[0]}/{row.name}" if len(row.types) == 1 and row.types != ("Resource",) else row.name


_CONSTRAINT = "constraint"
_COMPILED: tuple[tuple[str, Document], ...] = (
    ("StructureDefinition", {"s.derivation": {"$ne": _CONSTRAINT}}),
    ("SearchParameter", {}),
    ("CompartmentDefinition", {}),
)


def _defining(store: Store) -> list[Resource]:
    """What was added at run time and the definitions are compiled from, on the registry."""
    # R4's own, said again, would be most of what a package of R4 has, and add nothing.
    new: Document = {"$nor": [{"s.version": VERSION, "s.url": {"$in": sorted(official_urls())}}]}
    return [each for type, filter in _COMPILED for each in shelf.resources(store.database, type, filter | new)]


def _shelf(store: Store) -> Shelf:
    """What validation looks up by its URL, on the registry."""
    return Shelf(
        profiles=shelf.Canonicals(store.database, "StructureDefinition", {"s.derivation": _CONSTRAINT}),
        value_sets=shelf.Canonicals(store.database, "ValueSet", {}),
        code_systems=shelf.Canonicals(store.database, "CodeSystem", {}),
    )


def keyring(installation: Installation) -> Keyring:
    """The keys that sign tokens."""
    return _keyring(installation.server, installation.vault)


def _keyring(server: Server, vault: Vault) -> Keyring:
    def encrypt(text: str) -> str:
        return vault.encrypt(text, "signing key")

    def decrypt(envelope: str) -> str:
        return vault.decrypt(envelope, "signing key")

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
            encrypt=vault.encrypt,
            definitions=server.definitions,
            allow_http=allow_http,
            registry=server.base(REGISTRY),
        )

    return context


class _Accesses:
    """Decides with the client and authorization as the database has them now; what is compiled from them is kept by
    version.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Any, ...], Access] = OrderedDict()
        self._lock = threading.Lock()

    def access(self, server: Server, principal: Principal, organization: str) -> Access:
        """The Access of a principal on a base. Raises Problem: login, forbidden, not-found for a base that is not
        there.
        """
        server.refresh()
        principal = visitor(server, principal, organization)
        id = principal.id if principal.kind == "client" else principal.client
        client = server.store.deciding("ClientApplication", id) if id else None
        authorization = None
        if id and organization != REGISTRY:
            asked = authorization_id(id, organization)
            authorization = server.store.deciding("ClientAuthorization", asked)
            if authorization is None and client and organization == sandbox_of(id) and _tries(client.resource()):
                sandbox.ensure(server, client.resource())
                authorization = server.store.deciding("ClientAuthorization", asked)
        # Whoever is nobody is told so, not which organizations there are.
        if organization != REGISTRY and authorization is None and principal.kind != "anonymous":
            require_organization(server, organization)
        guest = guest_of(server, principal, organization)
        key = (
            principal.token or id_of(principal),
            organization,
            server.definitions.generation,
            client.version if client else 0,
            authorization.version if authorization else 0,
            guest,
        )
        with self._lock:
            kept = self._kept.get(key)
        if kept is not None and kept.principal == principal:
            return kept
        access = decide(
            principal,
            organization,
            definitions=server.definitions,
            client=client.resource() if client else None,
            authorization=authorization.resource() if authorization else None,
            policies=_policies(server),
            guest=guest,
        )
        # The layers are pure: what each says of a type and a letter is worked out once.
        layers = (replace(layer, permits=lru_cache(MOST_ANSWERS)(layer.permits)) for layer in access.layers)
        access = replace(access, layers=tuple(layers))
        with self._lock:
            self._kept[key] = access
            while len(self._kept) > MOST_ACCESSES:
                self._kept.popitem(last=False)
        return access


def _policies(server: Server) -> tuple[Policy, ...]:
    """The AccessPolicies in force, kept with the generation they were read in: none read late replaces a newer one."""
    generation = server.definitions.generation
    kept: tuple[int, tuple[Policy, ...]] | None = server.caches.get(policies.TYPE)
    if kept is None or kept[0] != generation:
        written = shelf.resources(server.store.database, policies.TYPE, {})
        found = policies.in_force(written, server.definitions)
        kept = server.caches[policies.TYPE] = (generation, found)
    return kept[1]


def _tries(client: Resource) -> bool:
    """Whether a client has a sandbox, and may use it."""
    return client.get("kind") == "test" and client.get("active") is not False


def id_of(principal: Principal) -> str:
    """A text that names a principal without a token."""
    return f"{principal.kind} {principal.id}"


def require_organization(server: Server, organization: str) -> None:
    known: set[str] = server.caches.setdefault("organizations", set())
    if organization in known:
        return
    found = server.store.read(everything(REGISTRY), "Organization", organization)
    if found is None or found.deleted:
        raise problem("not-found", f"There is no organization {organization[:64]} here.")
    known.add(organization)


def _no_queue(name: str, *ids: str) -> None:
    """Without Redis nothing is enqueued: MongoDB is the truth, and the relay's sweep does it later."""
