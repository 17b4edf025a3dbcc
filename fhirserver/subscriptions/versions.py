"""The versions that deliveries tell of, read together, and what of them a client may see now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fhirserver.auth.access import Access, everything
from fhirserver.fhir import Resource
from fhirserver.fhir.json import verbatim
from fhirserver.interactions.indexing import entry_of
from fhirserver.interactions.model import Server
from fhirserver.search.match import matches
from fhirserver.search.query import Ids
from fhirserver.store.model import Stored
from fhirserver.store.search import by_references, compile_search, find
from fhirserver.subscriptions.notification import Part


@dataclass(frozen=True, slots=True)
class Told:
    """What a delivery may tell: parts, or why it may tell nothing of what matched."""

    parts: tuple[Part, ...] = ()
    refused: str = ""


class Parts:
    """The versions named by some deliveries of one organization. encoded: their resources go into the parts as
    `fhir.json.verbatim` texts, for Bundles that are only sent.
    """

    def __init__(
        self, server: Server, organization: str, deliveries: Sequence[Resource], *, encoded: bool = False
    ) -> None:
        self._server = server
        self._encoded = encoded
        self._whole = everything(organization)
        self._base = server.base(organization)
        wanted = {change["reference"]["reference"] for one in deliveries for change in one.get("change", ())}
        self._current = {f"{v.type}/{v.id}": v for v in by_references(server.store, self._whole, wanted)}

    def told(self, resource: Resource, access: Access) -> Told:
        """What a delivery may tell with this access: no focus may be left out, other changes are."""
        parts = []
        for change in resource.get("change", ()):
            type, _, id = change["reference"]["reference"].partition("/")
            clauses = access.clauses(type, "r")
            version = self._version(type, id, change["version"])
            if clauses is None or (version is not None and not self._visible(version, access)):
                if change["focus"]:
                    return Told(refused=f"The client may not read {type}/{id}.")
                continue
            told = None if version is None or version.text is None else self._shown(version)
            parts.append(Part(type, id, change["action"], told, change["focus"]))
        return Told(tuple(parts))

    def _shown(self, version: Stored) -> Resource:
        shown: Resource = verbatim(version.text or "") if self._encoded else version.resource()
        return shown

    def _version(self, type: str, id: str, number: int) -> Stored | None:
        current = self._current.get(f"{type}/{id}")
        if current is not None and current.version == number:
            return current
        found = self._server.store.vread(self._whole, type, id, number)
        return None if found is None or found.deleted else found

    def _visible(self, version: Stored, access: Access) -> bool:
        """Whether granular scopes and policies let this version be seen."""
        clauses = access.clauses(version.type, "r") or ()
        if not clauses:
            return True
        entry = entry_of(self._server, version.resource(), self._base)
        try:
            return all(matches(clause, entry, version.id, version.instant) for clause in clauses)
        except TypeError:  # A clause about other resources: only the store can say.
            search = compile_search(self._server.store, access, version.type, [Ids(frozenset({version.id}))], None)
            return search is not None and bool(find(self._server.store, search, (), 1).matches)
