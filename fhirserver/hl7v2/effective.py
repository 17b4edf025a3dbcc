"""Which maps hold for a message: the shipped ones, under the overlays of its organization and of its sender.

Overlays are ConceptMaps on the organization's base. Each stack of them is compiled once and kept by the versions it is
made of, so that an overlay holds for the next message after it was written, in every process, for one small query.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import TypeVar

from fhirserver.auth.access import everything
from fhirserver.fhir import Resource
from fhirserver.fhir.json import encode
from fhirserver.fhir.problem import Problem, problem
from fhirserver.hl7v2.mapping import Maps
from fhirserver.hl7v2.mapping.conceptmaps import KIND, OVERLAY
from fhirserver.hl7v2.mapping.overlay import Overlay, overlay
from fhirserver.hl7v2.mapping.stack import ordered, stacked
from fhirserver.hl7v2.message import Message
from fhirserver.hl7v2.senders import Sender
from fhirserver.interactions.model import Server
from fhirserver.search.types import token
from fhirserver.store import shelf

log = logging.getLogger(__name__)
K = TypeVar("K")
V = TypeVar("V")

TYPE = "ConceptMap"
FIELD = "s.context"
MOST_OVERLAYS = 200
"""Overlays of one organization that are looked at."""
MOST_COMPILED = 64
MOST_READ = 2_000
MOST_TRIED = 4
UNUSABLE = "The mapping overlays of this organization cannot be used any more"


@dataclass(frozen=True, slots=True)
class Effective:
    """The maps that hold for a message, and how its text is read. required: tables whose unmapped codes hold a
    message back.
    """

    maps: Maps
    timezone: str
    charset: str
    authorities: Mapping[str, str]
    required: frozenset[str] = frozenset()

    def read(self, raw: bytes, parsed: Message, charset: str) -> Message:
        """The message as these overlays want it read; `charset` is what it was read with."""
        return Message.parse(raw, self.charset) if self.charset not in ("", charset) else parsed


class Overlays:
    """The overlays of all organizations, compiled when they are first needed. Threads may share it."""

    def __init__(self, server: Server, shipped: Maps) -> None:
        self._server, self._shipped = server, shipped
        self._read: OrderedDict[tuple[str, str, int], Overlay | None] = OrderedDict()
        self._compiled: OrderedDict[tuple[object, ...], Maps | Problem] = OrderedDict()
        self._trials: OrderedDict[tuple[object, ...], Maps] = OrderedDict()
        self._good: OrderedDict[tuple[str, ...], Maps] = OrderedDict()
        self._recent: OrderedDict[str, tuple[float, tuple[Overlay, ...]]] = OrderedDict()
        self._lock = threading.Lock()

    def effective(
        self,
        organization: str,
        sender: Sender | None,
        message: Message,
        instead: Resource | None = None,
        *,
        stored: Sequence[Overlay] | None = None,
    ) -> Effective:
        """What holds for a message of a sender. `instead` is an overlay to try: it stands for the stored one of its
        id, and for a new one where there is none. `stored`: what `of` has just answered.

        Raises Problem(invalid) where the overlays cannot be compiled, and never could be in this process.
        """
        said = self.of(organization) if stored is None else stored
        if instead is not None:
            tried = self._tried(instead)
            said = [*(each for each in said if each.id != tried.id), tried]
        stack = _applying(said, sender.endpoint if sender else "", *_names(message))
        return self._effective(organization, sender, stack, instead is not None)

    def reading(self, sender: Sender, message: Message, age: float, *, at_once: bool = False) -> Sender | None:
        """The sender with the time zone, character set and assigning authorities that its overlays say, as they were
        at most `age` seconds ago. None where `at_once` and the store would have to be asked. Raises Problem where the
        store is away.
        """
        read, said = self._recent.get(sender.organization, (0.0, ()))
        if time.monotonic() - read > age:
            if at_once:
                return None
            said = tuple(self.of(sender.organization))
            with self._lock:
                _keep(self._recent, sender.organization, (time.monotonic(), said))
        if not said:
            return sender
        stack = _applying(said, sender.endpoint, *_names(message))
        timezone, charset, authorities = _reading(stack, sender)
        return replace(sender, timezone=timezone, charset=charset, authorities=authorities)

    def maps(self, organization: str, endpoint: str, application: str, facility: str) -> Maps:
        """The maps of a sender by its names. Raises Problem as `effective` does."""
        stack = _applying(self.of(organization), endpoint, (application,), (facility,))
        return self._maps(organization, stack, False) if stack else self._shipped

    def of(self, organization: str) -> list[Overlay]:
        """The active overlays of an organization, as they are stored now."""
        found = (self._one(organization, id, version) for id, version in self._versions(organization).items())
        return [each for each in found if each is not None]

    def state(self, organization: str) -> Mapping[str, int]:
        """The overlays of an organization by id, with their versions: what is compared to see whether any changed."""
        return self._versions(organization)

    def check(self, organization: str, changed: Resource | None, id: str) -> None:
        """Whether all that applies together can be compiled once the overlay `id` is as `changed` (None: gone).

        Raises Problem(invalid) with the element at fault.
        """
        others = [each for each in self.of(organization) if each.id != id]
        own = [overlay(changed, "new")] if changed is not None else []
        said = [*others, *own]
        if len(said) > MOST_OVERLAYS:
            raise problem("too-costly", f"An organization has at most {MOST_OVERLAYS} overlays in use.")
        for stack in _stacks(said, own):
            stacked(self._shipped.source, stack, self._server.definitions)

    def _versions(self, organization: str) -> dict[str, int]:
        store = self._server.store
        store.indexes.ensure(TYPE, [(FIELD,)])
        filter = {FIELD: token.stored(KIND, OVERLAY), "s.status": "active"}
        found = shelf.versions(store.database, TYPE, organization, filter)
        return dict(sorted(found.items())[:MOST_OVERLAYS])

    def _one(self, organization: str, id: str, version: int) -> Overlay | None:
        key = (organization, id, version)
        with self._lock:
            if key in self._read:
                return self._read[key]
        stored = self._server.store.vread(everything(organization), TYPE, id, version)
        read: Overlay | None = None
        if stored is not None and not stored.deleted:
            try:
                read = overlay(stored.resource(), str(version))
            except Problem as fault:  # loaded beside the API, or written before what it was checked by
                log.error("ConceptMap/%s of %s is no overlay: %s", id, organization, fault)
        with self._lock:
            self._read[key] = read
            while len(self._read) > MOST_READ:
                self._read.popitem(last=False)
        return read

    def _effective(self, organization: str, sender: Sender | None, stack: Sequence[Overlay], tried: bool) -> Effective:
        maps = self._maps(organization, stack, tried) if stack else self._shipped
        timezone, charset, authorities = _reading(stack, sender)
        required = frozenset[str]().union(*(each.required for each in stack))
        return Effective(maps, timezone, charset, authorities, required)

    def _tried(self, resource: Resource) -> Overlay:
        """An overlay that is not stored, named by what is in it: many messages may be tried with one."""
        return overlay(resource, f"tried-{sha256(encode(resource)).hexdigest()[:16]}")

    def _maps(self, organization: str, stack: Sequence[Overlay], tried: bool) -> Maps:
        definitions = self._server.definitions
        if tried:
            return self._trial((organization, definitions.generation, *(each.reference for each in stack)), stack)
        key = (organization, definitions.generation, *(each.reference for each in stack))
        with self._lock:
            found = self._compiled.get(key)
            if found is not None:
                self._compiled.move_to_end(key)
        if found is None:
            found = self._compile(organization, stack)
            with self._lock:
                _keep(self._compiled, key, found)
        if isinstance(found, Problem):
            raise found
        return found

    def _trial(self, key: tuple[object, ...], stack: Sequence[Overlay]) -> Maps:
        """The maps of a stack with an overlay that is tried: kept while its messages are mapped, apart from those in
        use.
        """
        with self._lock:
            found = self._trials.get(key)
        if found is None:
            found = stacked(self._shipped.source, stack, self._server.definitions)
            with self._lock:
                self._trials[key] = found
                while len(self._trials) > MOST_TRIED:
                    self._trials.popitem(last=False)
        return found

    def _compile(self, organization: str, stack: Sequence[Overlay]) -> Maps | Problem:
        """The maps of a stack; where it cannot be compiled any more, because definitions or shipped maps changed
        under it, the last that could.
        """
        name = (organization, *(each.id for each in stack))
        try:
            maps = stacked(self._shipped.source, stack, self._server.definitions)
        except Problem as fault:
            with self._lock:
                good = self._good.get(name)
            log.error("%s (%s): %s", UNUSABLE, organization, fault, extra={"facts": {"last": bool(good)}})
            texts = "; ".join(issue.diagnostics for issue in fault.issues[:5])
            return good or problem("invalid", f"{UNUSABLE}: {texts}. Mend them, then $reprocess the message.")
        with self._lock:
            _keep(self._good, name, maps)
        return maps


def _keep(kept: OrderedDict[K, V], key: K, value: V) -> None:
    kept[key] = value
    kept.move_to_end(key)
    while len(kept) > MOST_COMPILED:
        kept.popitem(last=False)


def _stacks(said: Sequence[Overlay], own: Sequence[Overlay]) -> list[list[Overlay]]:
    """All that can apply together and has to do with `own` (with nothing said: all)."""
    whole = [each for each in said if each.level == 1]
    everybody = not own or own[0].level == 1
    stacks = [ordered(whole)] if whole and everybody else []
    for target in dict.fromkeys(_target(each) for each in said if each.level == 2):
        beside = [each for each in said if each.level == 2 and _target(each) == target]
        if everybody or own[0] in beside:
            stacks.append(ordered([*whole, *beside]))
    return stacks


def _target(one: Overlay) -> tuple[str, str, str]:
    return one.endpoint, one.application, one.facility


def _names(message: Message) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What MSH-3 and MSH-4 may be called."""
    application, facility = (
        tuple(filter(None, (message[f"{path}.1"], message[f"{path}.2"]))) for path in ("MSH-3", "MSH-4")
    )
    return application, facility


def _reading(stack: Sequence[Overlay], sender: Sender | None) -> tuple[str, str, dict[str, str]]:
    """Time zone, character set and assigning authorities: an Endpoint stands between the overlays of its organization
    and those of the sender.
    """
    timezone = charset = ""
    authorities: dict[str, str] = {}
    between = (sender,) if sender else ()
    for each in (*(one for one in stack if one.level == 1), *between, *(one for one in stack if one.level == 2)):
        timezone, charset = each.timezone or timezone, each.charset or charset
        authorities |= each.authorities
    return timezone, charset, authorities


def _applying(
    said: Sequence[Overlay], endpoint: str, applications: Sequence[str], facilities: Sequence[str]
) -> list[Overlay]:
    return ordered([each for each in said if each.applies(endpoint, applications, facilities)])
