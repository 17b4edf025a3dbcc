"""The values of an interaction: what was asked, what is answered, and what the server is made of.

FHIR R4: http. None of them knows HTTP: a web request, a Bundle entry and a message look the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from fhirserver.auth.access import Access
from fhirserver.auth.principal import Principal
from fhirserver.fhir import Resource
from fhirserver.fhir.definitions import Definitions
from fhirserver.fhir.json import decode
from fhirserver.fhir.problem import Issue, Problem
from fhirserver.meters import Meter
from fhirserver.rules.model import Context, Rule
from fhirserver.store.database import Session
from fhirserver.store.model import Change
from fhirserver.store.resources import Store

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Preconditions:
    """If-Match and If-None-Match as version ids (`*` allowed), If-Modified-Since, and If-None-Exist as a search
    string.
    """

    if_match: str | None = None
    if_none_match: str | None = None
    if_modified_since: datetime | None = None
    if_none_exist: str | None = None


@dataclass(frozen=True, slots=True)
class Prefer:
    """The Prefer header: `return` (minimal | representation | OperationOutcome, "" where unsaid), `handling` and
    `respond-async`.
    """

    returned: str = ""
    strict: bool = False
    lenient: bool = False
    asynchronous: bool = False


@dataclass(slots=True)
class Unit:
    """A transaction under way: its session, and the changes not yet sent (together they need fewer round trips)."""

    store: Store
    session: Session
    changes: list[Change] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    """Type/id of every change so far, sent or not."""

    def add(self, change: Change) -> None:
        """Takes a change in."""
        self.changes.append(change)
        self.written.append(f"{change.type}/{change.id}")

    def flush(self) -> None:
        """Sends the changes, so that reads and searches in this transaction see them."""
        changes, self.changes = self.changes, []
        self.store.commit(changes, session=self.session)


@dataclass(frozen=True, slots=True)
class Request:
    """One interaction asked for. `organization` is the organization key of the base, `base` its absolute URL."""

    interaction: str
    organization: str
    base: str
    principal: Principal
    type: str | None = None
    id: str | None = None
    vid: str | None = None
    operation: str | None = None
    member: str | None = None
    query: Pairs = ()
    body: Any = None
    preconditions: Preconditions = field(default_factory=Preconditions)
    prefer: Prefer = field(default_factory=Prefer)
    explain: bool = False
    """Whether a search is to say how many resources each of its criteria matches."""
    unit: Unit | None = None
    assigned: str | None = None
    """The id a create is to use, where a transaction has given it one already."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What the audit record needs beside the rest: request id, method, url, remote address."""

    @property
    def session(self) -> Session | None:
        """The database session of the transaction this runs in, if any."""
        return self.unit.session if self.unit else None


@dataclass(frozen=True, slots=True)
class Response:
    """What is answered: a resource, or the JSON text of one as it is stored, or nothing."""

    status: int
    resource: Resource | None = None
    text: str | None = None
    version: int | None = None
    instant: datetime | None = None
    location: str | None = None
    warnings: Sequence[Issue] = ()
    once: bool = False
    """Whether the resource holds what is shown this once only (a secret), so that no preference may leave it out."""
    headers: Mapping[str, str] = field(default_factory=dict)
    data: bytes | None = None
    """What is no resource, compressed with gzip; its media type is in the headers."""
    seen: Sequence[str] = ()
    """What a search or an operation showed, as Type/id: its audit record names the patients concerned."""

    def content(self) -> Resource | None:
        """What is answered as a resource, whichever way it is held."""
        if self.resource is None and self.text is not None:
            found: Resource = decode(self.text)
            return found
        return self.resource


Operation = Callable[["Server", Request, Access], Response]


@dataclass(frozen=True, slots=True)
class OperationRow:
    """One operation: where it may be called and which function of which room answers it."""

    name: str
    types: tuple[str, ...]
    levels: tuple[str, ...]
    letter: str
    function: Operation
    affects_state: bool = True
    bases: tuple[str, ...] = ("registry", "organization")
    definition: str = ""
    """The canonical URL of its OperationDefinition."""


class Enqueue(Protocol):
    """Puts a job into the queue: its name and the ids it works on, never a resource."""

    def __call__(self, name: str, *ids: str) -> object: ...


class Decision(Protocol):
    """What somebody may do on a base; for one request alone, where that is given."""

    def __call__(
        self, server: Server, principal: Principal, organization: str, request: Request | None = None, /
    ) -> Access: ...


@dataclass(slots=True)
class Server:
    """What interactions work with. Built once by the composition root; `definitions` is replaced when the
    generation moves.
    """

    store: Store
    definitions: Definitions
    rebuild: Callable[[int], Definitions]
    rules: Mapping[str, Rule]
    operations: Mapping[str, OperationRow]
    access: Decision
    context: Callable[[Server, Principal, str], Context]
    enqueue: Enqueue
    now: Callable[[], datetime]
    new_id: Callable[[], str]
    audit: Callable[[Server, Request, Response | Problem], None]
    record: Callable[..., None]
    """Records what is no interaction: `record(kind, organization, status=..., who=..., ...)`, kinds and facts as in
    `auditing.security`. Costs one append to a file."""
    locate: Callable[[str, str], tuple[Any, dict[str, str]]]
    """The interactions table's router: method and path below the base -> row and the path's parts."""
    perform: Callable[[Server, Request, Access], Response]
    """Runs an interaction with an access already decided: an entry of a Bundle."""
    capability: Mapping[str, Resource]
    """The CapabilityStatements under capability/ by id: `registry` and `organization` say which types a base serves,
    `ihe-...` what a profile needs."""
    sandbox: Callable[[], Sequence[Resource]]
    """What a new sandbox organization is filled with."""
    public_url: str
    software: str
    cursor_key: bytes
    topics: Callable[[str], Sequence[str]] = lambda organization: ()
    """The canonical URLs of the topics that can be subscribed to at an organization now; "" stands for none of them."""
    mails: bool = False
    """Whether there is a mail server."""
    meter: Meter = field(default_factory=Meter)
    """What this process counts and times, for metrics."""
    page_size: int = 50
    page_size_limit: int = 1000
    total_bound: int = 10_000
    caches: dict[str, Any] = field(default_factory=dict)
    """What is compiled from the definitions, by name; emptied whenever they are rebuilt."""

    def refresh(self) -> None:
        """Rebuilds the definitions if another process (or this one) has changed what they are compiled from."""
        generation = self.store.generation()
        if generation != self.definitions.generation:
            self.definitions = self.rebuild(generation)
            # A new dictionary, not an emptied one: who still computes from the old definitions keeps the old one.
            self.caches = {}

    def base(self, organization: str) -> str:
        """The absolute base URL of an organization key."""
        if organization == "registry":
            return f"{self.public_url}/1/health/fhir/4"
        return f"{self.public_url}/1/health/organizations/{organization}/fhir/4"
