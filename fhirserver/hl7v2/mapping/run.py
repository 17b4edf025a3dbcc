"""What one mapping holds while it goes on: the message, the resources made so far, the trace, what could not be
mapped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from fhirserver.fhir import Resource
from fhirserver.fhir.problem import problem
from fhirserver.hl7v2.mapping.structure import Group
from fhirserver.hl7v2.message import Message

MOST_ENTRIES = 3_000
"""Resources of one message: they are one transaction, which a database gives up when it takes too long."""


@dataclass(frozen=True, slots=True)
class Context:
    """What a mapping needs to know beside the message.

    organization: the organization's id. namespace: the URI prefix (ending in `/`) for systems that a sender names only
    locally. timezone: IANA name of the endpoint's zone, "" for none. message: the reference of the InboundMessage, ""
    for none. received: when it came in, with a zone. authorities: namespace id (HD.1) -> system URI. software: our
    own name.
    """

    organization: str
    namespace: str
    received: datetime
    timezone: str = ""
    message: str = ""
    authorities: Mapping[str, str] = field(default_factory=dict)
    software: str = "fhirserver"


@dataclass(frozen=True, slots=True)
class Traced:
    """One element written: which resource (fullUrl) and element, from which field, by which rule."""

    full_url: str
    element: str
    field: str
    rule: str


@dataclass(frozen=True, slots=True)
class Unmapped:
    """A code that a table does not have. needed: whether the message is to wait until it has."""

    table: str
    code: str
    field: str
    rule: str
    needed: bool = False


@dataclass(slots=True, eq=False)
class Entry:
    """One resource in the making. `defaulted` are elements that no field filled; `seed` makes it one with others
    alike.
    """

    type: str
    resource: Resource
    number: int
    full_url: str = ""
    key: str = ""
    identity: str = ""
    subject: Entry | None = None
    coalesced: bool = False
    defaulted: set[str] = field(default_factory=set)
    deletes: list[str] = field(default_factory=list)
    references: list[dict[str, Any]] = field(default_factory=list)
    match: list[dict[str, str]] = field(default_factory=list)
    traces: list[tuple[str, str, str]] = field(default_factory=list)


class Run:
    """One mapping of one message. Rules write into `entry.resource`; `trace` is None when nobody asked for one."""

    __slots__ = (
        "_by_key",
        "authority",
        "component",
        "context",
        "decode",
        "effects",
        "entries",
        "entry",
        "escape",
        "field",
        "group",
        "hits",
        "joined",
        "late",
        "message",
        "periods",
        "prefix",
        "reading",
        "references",
        "repetition",
        "shared",
        "subcomponent",
        "trace",
        "unmapped",
        "variables",
        "warnings",
    )

    def __init__(self, message: Message, context: Context, variables: Mapping[str, str], trace: bool) -> None:
        self.message = message
        self.context = context
        self.variables = variables
        self.repetition, self.component, self.subcomponent = message.repetition, message.component, message.subcomponent
        self.escape = message.escape
        self.decode = message.escapes.decode
        self.effects: list[tuple[str, Entry, Entry | None]] = []
        self.entries: list[Entry] = []
        self.joined: set[tuple[int, str, int]] = set()
        self.late: list[Callable[[], None]] = []
        self.periods: list[tuple[dict[str, Any], list[str]]] = []
        self.references: dict[tuple[str, int, str], tuple[Entry | None, str]] = {}
        self.entry: Entry = Entry("", {}, 0)
        self.group: Group = Group.__new__(Group)
        self.shared: dict[str, Entry] = {}
        self.trace = trace
        self.hits: set[str] = set()
        self.prefix = ""
        self.field = ""
        self.warnings: list[str] = []
        self.unmapped: list[Unmapped] = []
        self.authority = message["MSH-4.1"] or message["MSH-3.1"] or "local"
        self.reading = _reading(message, self.authority, context)
        self._by_key: dict[tuple[str, str, str], Entry] = {}

    def new(self, type: str) -> Entry:
        """A new resource of a type. Raises Problem(too-long) where the message makes too many."""
        if len(self.entries) >= MOST_ENTRIES:
            text = f"The message makes more than {MOST_ENTRIES} resources, which are not stored at once: divide it."
            raise problem("too-long", text)
        entry = Entry(type, {"resourceType": type}, len(self.entries) + 1)
        self.entries.append(entry)
        return entry

    def known(self, type: str, resource: Resource) -> Entry | None:
        """The entry of a resource that names itself by an identifier: the one made before for that identifier, what it
        lacked filled in, or a new one. None where the resource has no identifier with a value."""
        identifiers = resource.get("identifier") or ()
        first = next((i for i in identifiers if i.get("value")), None)
        if first is None:
            return None
        key = (type, first.get("system", ""), first["value"])
        entry = self._by_key.get(key)
        if entry is None:
            entry = self.new(type)
            entry.coalesced = True
            self._by_key[key] = entry
            entry.resource.update(resource)
            return entry
        for name, value in resource.items():
            entry.resource.setdefault(name, value)
        return entry

    def warn(self, text: str) -> None:
        """Notes something the sender should mend; at most a hundred are kept."""
        if len(self.warnings) < 100:
            self.warnings.append(text)

    def local(self, kind: str, name: str) -> str:
        """The system URI of something the sender names only locally: `<namespace><kind>/<name>`."""
        return f"{self.context.namespace}{kind}/{quoted(name)}"


def _reading(message: Message, authority: str, context: Context) -> tuple[Hashable, ...]:
    """Everything that decides, beside the text itself, what a text means."""
    delimiters = (message.field, message.component, message.repetition, message.escape, message.subcomponent)
    known = tuple(sorted(context.authorities.items()))
    return (*delimiters, message.charset, authority, context.namespace, context.timezone, known)


def quoted(text: str) -> str:
    """Text as one URI path segment."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-._~") else _percent(c) for c in text.strip()[:200])


def _percent(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode())


def uuid_of(seed: str) -> str:
    """The urn:uuid (version 5 layout) of a seed: the same seed, the same URN."""
    digest = bytearray(hashlib.sha1(seed.encode(), usedforsecurity=False).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x50
    digest[8] = digest[8] & 0x3F | 0x80
    text = digest.hex()
    return f"urn:uuid:{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
