"""What the end of a client ends: its consents and refresh tokens, its authorizations, its subscriptions, its sandbox.

Its access ends with the deletion itself, since every request looks at the client. The rest is an errand (`errands`),
done step by step, and again where a process died in the middle. A client that is registered anew under the same id
meanwhile keeps what is its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fhirserver.auth.access import CLIENT_SYSTEM, everything
from fhirserver.auth.principal import SYSTEM
from fhirserver.auth.sandbox import sandbox_of
from fhirserver.exchange import sandbox
from fhirserver.fhir import Resource
from fhirserver.fhir.instants import instant_text
from fhirserver.fhir.problem import Problem
from fhirserver.interactions.model import Request, Server
from fhirserver.interactions.versions import put, remove
from fhirserver.rules import authorization
from fhirserver.rules.model import REGISTRY, Prepared
from fhirserver.search.parse import parse
from fhirserver.store.erase import erase
from fhirserver.store.errands import Errand
from fhirserver.store.kept import Kept, of_client
from fhirserver.store.model import Pending, Stored
from fhirserver.store.search import compile_search, find

ERRAND = "end-client"
TYPE = "ClientApplication"
PAGE = 200
ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Ended:
    """A client that was deleted: its id, when (an instant of FHIR), and who did it, as they are shown."""

    client: str
    when: str
    by: str

    @property
    def reason(self) -> str:
        """Why all the rest ends."""
        return f"The client was deleted{f' by {self.by}' if self.by else ''}."


def errands_of(pending: Pending) -> Iterator[Errand]:
    """The errand of a client's deletion, where this event is one."""
    for change in pending.event.get("changes", ()):
        if pending.organization == REGISTRY and change["type"] == TYPE and change["action"] == "delete":
            who = pending.event.get("request", {}).get("who", {})
            facts = {
                "client": change["id"],
                "when": instant_text(pending.event["t"]),
                "by": str(who.get("name") or who.get("id") or ""),
            }
            yield Errand(f"{ERRAND}/{change['id']}/{change['version']}", ERRAND, facts)


def work(server: Server, facts: Mapping[str, Any]) -> None:
    """Ends what hung on a client, step by step; what has ended already stays as it is."""
    ended = Ended(**facts)
    for step in STEPS:
        step(server, ended)


def _tokens(server: Server, ended: Ended) -> None:
    """Codes, refresh tokens and remembered consents go; access tokens of their families end."""
    kept, group, now = Kept(server.store.database), of_client(ended.client), server.now()
    while True:
        values = kept.of_group(group, now)
        kept.end_families({value["family"] for value in values if value.get("family")}, now)
        if kept.drop_group(group) == 0:
            return


def _authorizations(server: Server, ended: Ended) -> None:
    """Each authorization is removed, in a version that says why: both sides see what became of it."""
    for held in every(server, REGISTRY, authorization.TYPE, [("client", f"{TYPE}/{ended.client}")]):
        if held.resource().get("requested", "") <= ended.when:
            rewrite(server, held, lambda version: _removed(server, version, ended))


def _removed(server: Server, version: Stored, ended: Ended) -> Prepared | None:
    resource = version.resource()
    if resource["status"] == authorization.REMOVED:
        return None
    context = server.context(server, replace(SYSTEM, name=ended.by), REGISTRY)
    return authorization.step(context, resource, "remove", ended.reason)


def _subscriptions(server: Server, ended: Ended) -> None:
    """Its subscriptions are off at every organization: nothing is kept for it, and nothing is sent any more."""
    again = _client(server, ended) is not None
    criteria = [("client:identifier", f"{CLIENT_SYSTEM}|{ended.client}"), ("status:not", "off")]
    for organization in every(server, REGISTRY, "Organization", []):
        for held in every(server, organization.id, "Subscription", criteria):
            if not again or instant_text(held.instant) <= ended.when:
                rewrite(server, held, lambda version: _off(version, ended))


def _off(version: Stored, ended: Ended) -> Prepared | None:
    resource = version.resource()
    if resource["status"] == "off":
        return None
    return Prepared({**resource, "status": "off", "error": ended.reason})


def _sandbox(server: Server, ended: Ended) -> None:
    """The sandbox goes with everything in it. Where the client is there again, it gets fresh data instead."""
    organization = sandbox_of(ended.client)
    erase(server.store.database, organization)
    client = _client(server, ended)
    if client is not None:
        sandbox.refill(server, client)
        return
    found = server.store.live(everything(REGISTRY), "Organization", organization)
    if found is not None:
        remove(server, _request(server, found), everything(REGISTRY), found)


STEPS = (_tokens, _authorizations, _subscriptions, _sandbox)


def rewrite(server: Server, held: Stored, change: Callable[[Stored], Prepared | None]) -> None:
    """Writes what `change` makes of a version; of the newer one, where somebody else has written in between."""
    whole = everything(held.organization)
    version: Stored | None = held
    for attempt in range(ATTEMPTS):
        if version is None or version.deleted:
            return
        prepared = change(version)
        if prepared is None:
            return
        request = _request(server, version)
        try:
            put(server, request, whole, prepared, version, f"{version.type}/{version.id}", "PUT")
        except Problem as trouble:
            if trouble.issues[0].code != "conflict" or attempt == ATTEMPTS - 1:
                raise
            version = server.store.read(whole, held.type, held.id)
        else:
            return


def _request(server: Server, version: Stored) -> Request:
    base = server.base(version.organization)
    return Request("update", version.organization, base, SYSTEM, type=version.type, id=version.id)


def every(server: Server, organization: str, type: str, pairs: Iterable[tuple[str, str]]) -> Iterator[Stored]:
    """Every resource that a search finds, read page by page."""
    query = parse(server.definitions, type, list(pairs), strict=True)
    search = compile_search(server.store, everything(organization), type, query.clauses, None)
    after: Sequence[Any] | None = None
    while search is not None:
        page = find(server.store, search, (), PAGE, after=after)
        yield from page.matches
        after = page.after
        if after is None:
            return


def _client(server: Server, ended: Ended) -> Resource | None:
    """The client that has been registered under the same id since, if any."""
    found = server.store.live(everything(REGISTRY), TYPE, ended.client)
    return None if found is None else found.resource()
