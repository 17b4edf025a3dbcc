"""The local commands: what people beside the database with its credentials may do. The command line, the supervisor
and the demo call them.

What they write goes through the same interactions as everybody's; only the right to do it comes from standing here.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from fhirserver import __version__, app
from fhirserver.auth.access import everything
from fhirserver.auth.principal import Principal
from fhirserver.auth.secrets import Vault
from fhirserver.exchange.accesses import require_organization
from fhirserver.fhir import Resource, package
from fhirserver.fhir.instants import instant_text
from fhirserver.fhir.json import encode
from fhirserver.fhir.problem import Problem, problem
from fhirserver.hl7v2 import process, shipped
from fhirserver.hl7v2.batch import messages_in
from fhirserver.hl7v2.claiming import claim_senders
from fhirserver.hl7v2.mapping.overlay import is_overlay
from fhirserver.hl7v2.senders import endpoint_resource
from fhirserver.interactions import packages
from fhirserver.interactions.capabilities import served_types
from fhirserver.interactions.dispatch import dispatch
from fhirserver.interactions.model import Request, Response, Server
from fhirserver.interactions.packages import PackageLoaded
from fhirserver.interactions.versions import SILENT
from fhirserver.rules import RULES
from fhirserver.rules.organization import kind_concept
from fhirserver.rules.user import check_new_password, user_id
from fhirserver.settings import Settings
from fhirserver.store import backup, envelopes, formats
from fhirserver.store.backup import Carried
from fhirserver.store.database import Database
from fhirserver.store.envelopes import Renewed
from fhirserver.store.keyring import Held
from fhirserver.store.load import Loaded, Loading
from fhirserver.store.load import load as load_files
from fhirserver.store.model import REGISTRY
from fhirserver.store.seal import Report
from fhirserver.web import oauth

log = logging.getLogger(__name__)
OPERATOR = Principal("system", id="local", operator=True, name="the local operator")
FIRST_OPERATOR = "operator@localhost"


def first_credentials(settings: Settings) -> str:
    """Lays the ground in a fresh database and answers what the operator needs to begin, the password on the first
    start only. Takes data of an older version to the format of this one. Raises Problem(not-supported) for data of a
    newer one.
    """
    database = Database(settings.mongo_url.reveal(), settings.mongo_database)
    try:
        formats.settle(database, __version__)
    finally:
        database.close()
    with app.opened(settings) as installation:
        if settings.former_master_key:
            _renewed(installation)
        shipped.lay_out(installation.server, installation.intake().maps.source)
        claim_senders(installation.server)
        return _first_operator(installation.server)


def _first_operator(server: Server) -> str:
    if server.store.read(everything(REGISTRY), "User", user_id(FIRST_OPERATOR)):
        return f"operator         {FIRST_OPERATOR} (forgotten? `fhirserver user link {FIRST_OPERATOR}`)"
    password = _new_password()
    user = {
        "resourceType": "User",
        "email": FIRST_OPERATOR,
        "name": "Operator",
        "role": "operator",
        "password": password,
    }
    _create(server, user)
    return f"operator         {FIRST_OPERATOR}, password {password} (shown this once)"


def _new_password() -> str:
    """A random password that the rule for passwords accepts; a drawn one may repeat a character too often."""
    while True:
        password = f"{secrets.token_urlsafe(18)}-{secrets.randbelow(10)}"
        with suppress(Problem):
            check_new_password(password)
            return password


def create_organization(settings: Settings, name: str, kind: str) -> str:
    """Creates an Organization (kind provider or application) and answers its id."""
    resource = {"resourceType": "Organization", "active": True, "type": [kind_concept(kind)], "name": name}
    with app.opened(settings) as installation:
        return _create(installation.server, resource)


def create_user(settings: Settings, email: str, organization: str, role: str) -> str:
    """Creates a User of an organization, or gives an existing one this role, and answers the id.

    Raises Problem(not-found) where there is no such organization.
    """
    resource = {
        "resourceType": "User",
        "email": email,
        "organization": {"reference": f"Organization/{organization}"},
        "role": role,
    }
    with app.opened(settings) as installation:
        server = installation.server
        require_organization(server, organization)
        existing = server.store.live(everything(REGISTRY), "User", user_id(email))
        if existing is None:
            return _create(server, resource)
        _run(server, "update", "User", {**existing.resource(), **resource}, id=existing.id)
        return existing.id


def password_link(settings: Settings, email: str) -> str:
    """A link with which the User of this address sets a password. Raises Problem(not-found) where there is none."""
    with app.opened(settings) as installation:
        server, id = installation.server, user_id(email)
        base = server.base(REGISTRY)
        asked = Request("operation", REGISTRY, base, OPERATOR, type="User", id=id, operation="reset-password")
        made = dispatch(server, asked).content() or {}
    return str(next(part["valueUri"] for part in made["parameter"] if part["name"] == "link"))


def create_endpoint(
    settings: Settings,
    organization: str,
    *,
    sending_application: str,
    sending_facility: str,
    default: bool,
    timezone: str = "",
) -> str:
    """Creates the Endpoint that says which organization a sender's messages belong to, and answers its id.

    Raises Problem: not-found where there is no such organization, value for a time zone that is none.
    """
    resource = endpoint_resource(organization, sending_application, sending_facility, default, timezone)
    with app.opened(settings) as installation:
        require_organization(installation.server, organization)
        return _create(installation.server, resource)


def operator_token(settings: Settings, organization: str, scope: str) -> str:
    """An access token of the local operator for the base of an organization and the registry.

    Raises Problem(not-found) where there is no such organization.
    """
    principal = Principal(
        "operator", id="operator", organization=organization, operator=True, scopes=scope, name="local operator"
    )
    with app.opened(settings) as installation:
        if organization != REGISTRY:
            require_organization(installation.server, organization)
        return installation.tokens.issue(principal)


def user_token(settings: Settings, email: str) -> str:
    """An access token that acts as a user. Raises Problem(not-found) where there is no active user of that address."""
    with app.opened(settings) as installation:
        found = installation.server.store.live(everything(REGISTRY), "User", user_id(email))
        if found is None or found.resource().get("active") is False:
            raise problem("not-found", f"There is no active user {email}.")
        return installation.tokens.issue(Principal("user", id=found.id, **oauth.person(found.resource())))


def list_keys(settings: Settings) -> list[str]:
    """A line for each signing key that is known, the one that signs first."""
    with app.opened(settings) as installation:
        held = app.keyring(installation).held()
    return [_span(each) for each in held]


def _span(held: Held) -> str:
    until = instant_text(held.until) if held.until else "replaced"
    return f"{held.key.kid}  from {instant_text(held.since)}  until {until}"


def rotate_keys(settings: Settings, at_once: bool, revoke: bool) -> str:
    """A new signing key: a line with its id and from when it signs."""
    with app.opened(settings) as installation:
        made = app.keyring(installation).rotate(at_once=at_once, revoke=revoke)
        who = {"kind": "operator", "name": "operator on the command line"}
        installation.server.record("keys", who=who, address="127.0.0.1")
    return f"{made.key.kid}  from {instant_text(made.since)}"


def back_up(settings: Settings, stream: IO[bytes]) -> Carried:
    """Writes the whole database, as of one instant, into a stream."""
    with app.opened(settings) as installation:
        return backup.dump(installation.server.store.database, stream, __version__, installation.vault.key_id)


def restore(settings: Settings, stream: IO[bytes]) -> Carried:
    """Puts a backup into an empty database, takes it to the format of this version, and looks whether it can be used.
    Raises Problem where it cannot.
    """
    keys = [key.reveal().encode() for key in (settings.master_key, settings.former_master_key) if key]
    database = Database(settings.mongo_url.reveal(), settings.mongo_database)
    try:
        done = backup.restore(database, stream, frozenset(Vault(key, os.urandom).key_id for key in keys))
        formats.settle(database, __version__)
    finally:
        database.close()
    with app.opened(settings) as installation:
        installation.server.refresh()
    return done


def rotate_master_key(settings: Settings) -> Renewed:
    """Encrypts with the present master key what the former one encrypted, and keeps of that what hashes are compared
    with. Doing it again, or after half of it, does the rest.
    """
    with app.opened(settings) as installation:
        return _renewed(installation)


def _renewed(installation: app.Installation) -> Renewed:
    vault, database = installation.vault, installation.server.store.database
    hashing = vault.hashing_keys().items()
    envelopes.keep_hashing_keys(database, {id: vault.encrypt(key, envelopes.HASHING) for id, key in hashing})

    def anew(envelope: str, purpose: str) -> str:
        return vault.encrypt(vault.decrypt(envelope, purpose), purpose)

    done = envelopes.renew(database, vault.older, anew)
    if done.count:
        who = {"kind": "operator", "name": "operator on the command line"}
        installation.server.record("keys", who=who, address="127.0.0.1")
    log.info("the master key was changed", extra={"facts": {"encrypted": done.count, "lost": len(done.lost)}})
    return done


def load(
    settings: Settings, files: Sequence[Path], organization: str, validated: bool, progress: Callable[[Loaded], None]
) -> Loaded:
    """Stores the resources in NDJSON and Bundle files on an organization's base, beside the API.

    Types with rules of their own (clients, subscriptions, ...) are not loaded: they come to be through the API only.
    Mapping overlays are written last, and checked.
    Raises Problem(not-found) where there is no such organization.
    """
    with app.opened(settings) as installation:
        server = installation.server
        server.refresh()
        require_organization(server, organization)
        loading = Loading(
            open=lambda: Database(settings.mongo_url.reveal(), settings.mongo_database),
            definitions=server.definitions,
            organization=organization,
            base=server.base(organization),
            types=frozenset(served_types(server, organization)) - set(RULES) - SILENT,
            now=server.now,
            new_id=server.new_id,
            validated=validated,
            ruled=lambda each: each["resourceType"] == "ConceptMap" and is_overlay(each),
        )
        done = load_files(loading, files, max(2, os.cpu_count() or 2), progress)
        for overlay in done.aside:
            _load_overlay(server, organization, overlay, done)
        return done


def _load_overlay(server: Server, organization: str, overlay: Resource, done: Loaded) -> None:
    """Writes a mapping overlay as the API does, which checks it with all that applies beside it."""
    id = str(overlay.get("id") or server.new_id())
    if server.store.read(everything(organization), "ConceptMap", id) is not None:
        done.there += 1
        return
    base = server.base(organization)
    request = Request("update", organization, base, OPERATOR, type="ConceptMap", id=id, body={**overlay, "id": id})
    try:
        dispatch(server, request)
        done.stored += 1
    except Problem as fault:
        done.refuse(f"ConceptMap/{id}: {fault}")


def take_messages(settings: Settings, files: Sequence[Path], organization: str) -> Counter[str]:
    """Takes the HL7v2 messages in files for an organization, as if they had come over HTTP. Counts them by what became
    of them (`received`, `parse-error`, `failed`) and by what their senders would be told (`AA`, `AE`, `AR`, ...).

    Raises Problem: not-found where there is no such organization, transient where the database is away.
    """
    seen: Counter[str] = Counter()
    with app.opened(settings) as installation:
        require_organization(installation.server, organization)
        intake = installation.intake()
        for path in files:
            for taken in intake.take_all(messages_in(path.read_bytes()), "local", organization):
                seen[taken.resource["status"]] += 1
                seen[taken.resource.get("acknowledgmentCode") or "none"] += 1
    return seen


def convert(settings: Settings, file: bytes, organization: str) -> Iterator[str]:
    """The Bundle, as JSON, that each HL7v2 message in a file would become for an organization; nothing is stored.

    Raises Problem(not-found) where there is no such organization, others where a message cannot be read or mapped.
    """
    with app.opened(settings) as installation:
        require_organization(installation.server, organization)
        intake = installation.intake()
        for message in messages_in(file):
            yield encode(process.convert(intake, message, organization, None).bundle).decode()


def load_package(settings: Settings, file: Path) -> PackageLoaded:
    """Stores the definitions and terminology of a FHIR package (.tgz) on the registry. Raises Problem(invalid) for a
    file that is none.
    """
    with app.opened(settings) as installation, file.open("rb") as archive:
        server = installation.server
        request = Request("create", REGISTRY, server.base(REGISTRY), OPERATOR)
        return packages.load(server, request, package.resources(archive))


def verify_audit(settings: Settings, organization: str, head: str) -> Iterator[Report]:
    """What verifying the audit records of an organization (empty: of each) finds; `head` must be in its chain."""
    with app.opened(settings) as installation:
        seals = app.seals(installation)
        for each in [organization] if organization else seals.organizations():
            yield seals.verify(each, head)


def check(settings: Settings) -> list[tuple[str, str]]:
    """What was looked at and what is wrong with it ("" when nothing): settings, database, definitions, mappings,
    queue.
    """
    with app.opened(settings) as installation:
        queue = installation.queue
        looks: Sequence[tuple[str, Callable[[], object]]] = (
            ("database", installation.server.store.ping),
            ("definitions", installation.server.refresh),
            ("mappings", installation.intake),
            ("queue", queue.ping if queue else _no_queue),
        )
        return [(name, _fault(look)) for name, look in looks]


def _fault(look: Callable[[], object]) -> str:
    try:
        return "" if look() is not False else "does not answer"
    except (Problem, OSError, ValueError, KeyError) as error:
        return str(error)


def _no_queue() -> None:
    raise problem("transient", "no Redis is configured")


def _create(server: Server, resource: Resource) -> str:
    response = _run(server, "create", resource["resourceType"], resource)
    assert response.location
    return response.location.split("/_history/")[0].rpartition("/")[2]


def _run(server: Server, interaction: str, type: str, resource: Resource, id: str | None = None) -> Response:
    """One interaction by the local operator, who stands beside the database with its credentials."""
    request = Request(interaction, REGISTRY, server.base(REGISTRY), OPERATOR, type=type, id=id, body=resource)
    return dispatch(server, request)
