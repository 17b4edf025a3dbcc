"""The definitions of this installation: what is shipped, and what was added on the registry at run time."""

from __future__ import annotations

import logging
from collections.abc import Callable

from fhirserver.fhir import Resource
from fhirserver.fhir.definitions import VERSION, Definitions, Shelf, official_urls
from fhirserver.rules.definition import compiled
from fhirserver.store import shelf
from fhirserver.store.database import Document
from fhirserver.store.resources import Store

log = logging.getLogger(__name__)
_CONSTRAINT = "constraint"
_COMPILED: tuple[tuple[str, Document], ...] = (
    ("StructureDefinition", {"s.derivation": {"$ne": _CONSTRAINT}}),
    ("SearchParameter", {}),
    ("CompartmentDefinition", {}),
)


def rebuilding(store: Store, shipped: Definitions) -> Callable[[int], Definitions]:
    """What makes the definitions of a generation out of the shipped ones and what the registry has."""

    def rebuild(generation: int) -> Definitions:
        kept = _shelf(store)
        found, left = compiled(lambda added: shipped.extended(added, generation, kept), _defining(store))
        for url in left:
            log.error("the definition %s cannot be used any more and is left out", url)
        return found

    return rebuild


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
