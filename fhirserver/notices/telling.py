"""Notices into the store: from the pending event of a step, in the transaction that takes the event off its document,
so that each step is told once; and from deliveries that were given up, in the transaction that says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256

from fhirserver.auth.access import everything
from fhirserver.auth.sandbox import is_sandbox
from fhirserver.fhir import Resource
from fhirserver.fhir.instants import instant_text
from fhirserver.interactions.model import Server
from fhirserver.interactions.versions import version_of
from fhirserver.notices import words
from fhirserver.notices.mail import Waiting
from fhirserver.rules import authorization, subscription
from fhirserver.rules.model import target
from fhirserver.store.database import Session
from fhirserver.store.model import REGISTRY, Change, Pending

TYPE = "Communication"


class Teller:
    """Tells the other side. `waiting` keeps what is to be sent by e-mail, None where no mail server is configured."""

    def __init__(self, server: Server, waiting: Waiting | None = None) -> None:
        self._server = server
        self._store = server.store
        self._waiting = waiting
        server.store.database.current(TYPE)  # a transaction cannot make it

    def tell(self, pending: Pending, session: Session) -> None:
        """Writes the notices of a pending event's changes, in the transaction that takes it off its document."""
        made: list[Change] = []
        for number, change in enumerate(pending.event.get("changes", ())):
            if change["type"] in (authorization.TYPE, subscription.TYPE) and change["action"] != "delete":
                source = f"{pending.event['id']} {number}"
                made += self._of_change(pending, change["id"], change["version"], change["type"], source)
        if made:
            self._store.commit(made, session)
            for each in made:
                self._wait(each, session)

    def gave_up(self, organization: str, deliveries: Sequence[Resource]) -> list[Change]:
        """What is to be written along with deliveries of one subscription that were given up: a notice an hour."""
        if not deliveries:
            return []
        now = self._server.now()
        id = target(deliveries[0]["subscription"], subscription.TYPE)
        source = f"dead letters {organization} {id} {now:%Y-%m-%d %H}"
        found = self._store.live(everything(organization), subscription.TYPE, id)
        if found is None:
            return []
        parties = self._parties(organization, found.resource())
        first = deliveries[0]
        note = str(first.get("statusReason", ""))
        made = [
            change
            for change in self._changes(words.DEAD_LETTERS, parties, self._about(organization, id), now, note, source)
            if self._store.read(everything(REGISTRY), TYPE, change.id) is None
        ]
        for each in made:
            self._wait(each)
        return made

    def _of_change(self, pending: Pending, id: str, version: int, type: str, source: str) -> list[Change]:
        whole = everything(pending.organization)
        now, before = (self._store.vread(whole, type, id, number) for number in (version, version - 1))
        if now is None or now.deleted:
            return []
        resource, previous = now.resource(), before.resource() if before and not before.deleted else None
        if type == authorization.TYPE:
            said, parties = words.of_authorization(resource, previous), words.parties_of(resource)
            if is_sandbox(parties.sides[words.PROVIDER]):
                return []  # nobody decides there
            about = f"{type}/{id}"
        else:
            said, about = words.of_subscription(resource, previous), self._about(pending.organization, id)
            parties = self._parties(pending.organization, resource) if said else words.Parties("", {})
        if said is None:
            return []
        kind, note = said
        return self._changes(kind, parties, about, pending.event["t"], note, source)

    def _parties(self, organization: str, resource: Resource) -> words.Parties:
        """The parties of a Subscription: its client and that one's organization, and the organization it lies with."""
        client = self._read("ClientApplication", subscription.owner(resource))
        provider = target(client.get("managingOrganization"), "Organization")
        names = {
            "client": str(client.get("name", "")),
            "provider": str(self._read("Organization", provider).get("name", "")),
            "organization": str(self._read("Organization", organization).get("name", "")),
        }
        sides = {words.APPLICATION: provider, words.PROVIDER: "" if is_sandbox(organization) else organization}
        return words.Parties(str(client.get("id", "")), sides, names)

    def _read(self, type: str, id: str) -> Resource:
        found = self._store.live(everything(REGISTRY), type, id) if id else None
        return found.resource() if found else {}

    def _about(self, organization: str, id: str) -> str:
        return f"{self._server.base(organization)}/{subscription.TYPE}/{id}"

    def _changes(
        self, kind: words.Kind, parties: words.Parties, about: str, sent: datetime, note: str, source: str
    ) -> list[Change]:
        return [
            self._change(resource, f"{source} {side}")
            for side, resource in words.notices(kind, parties, about, instant_text(sent), note)
            if resource.get("recipient") or side == words.APPLICATION
        ]

    def _change(self, resource: Resource, source: str) -> Change:
        now = self._server.now()
        instant = now.replace(microsecond=now.microsecond // 1000 * 1000)
        id = sha256(source.encode()).hexdigest()[:32]
        return version_of(self._server, REGISTRY, {**resource, "id": id}, None, instant)

    def _wait(self, change: Change, session: Session | None = None) -> None:
        if self._waiting and change.stored().resource().get("recipient"):
            self._waiting.add(change.id, self._server.now(), session)
